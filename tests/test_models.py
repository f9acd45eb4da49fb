"""Each model: shapes, the loss at the start, that it learns, how it generates, how it trains."""

import copy
import dataclasses
import math
from typing import get_args

import pytest
import torch
from conftest import SCRIPTS, STEPS, has, small_config, small_model

CPU = torch.device("cpu")
BIGRAM, *TRANSFORMERS = STEPS
PLAIN = [step for step in STEPS if step.__name__ < "10"]  # train with AdamW and nothing else
PARAMETERS = [4_225, 7_553, 7_553, 8_609, 16_865, 42_369, *5 * [10_788_929]]
PARAMETERS += [10_690_625, *4 * [10_693_697]]


@pytest.mark.parametrize(("script", "count"), list(zip(SCRIPTS, PARAMETERS, strict=False)))
def test_parameter_count_on_tiny_shakespeare(script, count):
    step = STEPS[SCRIPTS.index(script)]
    with torch.device("meta"):  # shapes without numbers
        model = step.LanguageModel(step.Config(), 65)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("T", [1, 5, 8])
def test_shapes(step, T):
    model = small_model(step)
    idx = torch.randint(65, (3, T))
    logits, loss = model(idx)
    assert logits.shape == (3, T, 65)
    assert loss is None
    logits, loss = model(idx, idx)
    assert logits.shape == (3, T, 65)
    assert loss.shape == ()


def test_loss_is_the_mean_negative_log_probability_in_nats(step):
    model = small_model(step).eval()
    idx, targets = torch.randint(65, (2, 2, 8))
    logits, loss = model(idx, targets)
    p = logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)
    wanted = -p.gather(-1, targets[..., None]).log().mean()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize("step", TRANSFORMERS)
def test_an_untrained_model_is_nearly_uniform(step):
    x, y = torch.randint(65, (2, 64, 8))
    _, loss = small_model(step).eval()(x, y)
    assert abs(loss.item() - math.log(65)) < 0.3


@pytest.mark.parametrize("step", [step for step in STEPS if "07" <= step.__name__ < "13"])
def test_from_step_7_on_weights_start_small_and_biases_at_zero(step):
    torch.manual_seed(0)
    model = step.LanguageModel(step.Config(n_layer=1), 65)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert p.abs().max() == 0
        elif p.dim() == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(p.mean().item()) < 0.001
        else:
            assert (p == 1).all()  # the gains of layer norm


# --- Generating ---


@pytest.mark.parametrize("length", [1, 8, 30])
def test_generate_continues_a_prompt_of_any_length(step, length):
    model = small_model(step)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    tokens = list(model.generate(torch.randint(65, (2, length)), 20))
    assert len(tokens) == 20
    assert all(token.shape == (2, 1) and token.dtype == torch.int64 for token in tokens)
    most = 1 if step is BIGRAM else 8  # all that it may see, and not more
    wanted = [min(length + i, most) for i in range(20)]
    if hasattr(step, "Cache"):  # which has all but the new character
        wanted[1:] = [1] * 19
    assert seen == wanted


def test_generate_hands_the_model_the_last_characters(step):
    model = small_model(step)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    prompt = torch.randint(65, (2, 11))
    text = torch.cat([prompt, *model.generate(prompt, 5)], dim=1)
    for i, idx in enumerate(seen):
        assert torch.equal(idx, text[:, 11 + i - idx.shape[1] : 11 + i])


def test_generate_hands_out_each_character_as_it_is_drawn(step):
    model = small_model(step)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    sampling = model.generate(torch.zeros((1, 1), dtype=torch.long), 10)
    next(sampling)
    assert len(calls) == 1
    next(sampling)
    assert len(calls) == 2


def test_generate_samples_in_evaluation_mode(step):
    model = small_model(step).train()
    modes = []
    model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    list(model.generate(torch.zeros((1, 1), dtype=torch.long), 2))
    assert modes == [False, False]


def test_generate_keeps_no_gradients(step):
    model = small_model(step)
    modes = []
    model.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    list(model.generate(torch.zeros((1, 1), dtype=torch.long), 2))
    assert modes == [False, False]


def test_a_learned_cycle_is_sampled_in_order(step):
    """The loss comes down, and each character drawn is fed back."""
    model = small_model(step, 6, n_layer=1, dropout=0.0)
    x = (torch.arange(9) + torch.arange(6)[:, None]) % 6  # (B, T+1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        _, loss = model(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1  # ln(6) = 1.8 by chance
    start = torch.full((50, 1), 3)
    tokens = torch.cat([start, *model.generate(start, 20)], dim=1)
    follows = (tokens[:, 1:] == (tokens[:, :-1] + 1) % 6).float().mean()
    assert follows > 0.5  # 1/6 by chance


# --- Losses and training ---


def test_estimate_loss_is_the_mean_over_its_batches(step, corpus):
    model = small_model(step, corpus.vocab_size, dropout=0.2)
    before = copy.deepcopy(model.state_dict())
    config = small_config(step, batch_size=7, eval_iters=9, eval_batch_size=5, float32=True)
    modes = []
    model.register_forward_pre_hook(
        lambda m, _: modes.append((m.training, torch.is_grad_enabled()))
    )
    torch.manual_seed(0)
    losses = step.estimate_loss(model, corpus, config, CPU)
    assert modes == [(False, False)] * 18
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    model.eval()
    torch.manual_seed(0)
    assert list(losses) == ["train", "val"]
    for split in losses:
        wanted = [model(*corpus.batch(split, 5, 8))[1].item() for _ in range(9)]
        assert losses[split] == pytest.approx(sum(wanted) / 9, abs=1e-5)


def test_train_takes_max_iters_steps(step, corpus, monkeypatch, capsys, tmp_path):
    taken = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args: (taken.append(1), real(*args))[1])
    settings = {"max_iters": 7, "eval_interval": 3, "eval_iters": 1}
    config = small_config(step, **settings, checkpoint=tmp_path / "model.pt")
    step.train(small_model(step, corpus.vocab_size), corpus, config, CPU)
    assert len(taken) == 7
    printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["step 0", "step 3", "step 6", "step 7"]


@pytest.mark.parametrize("step", PLAIN)
def test_train_is_adamw_on_the_batches_of_the_seed(step, corpus, monkeypatch, tmp_path):
    """Three steps against a loop of our own: the same weights to the last bit."""
    settings = {"learning_rate": 3e-3, "max_iters": 3, "dropout": 0.1}
    config = small_config(step, **settings, checkpoint=tmp_path / "model.pt")
    ours = small_model(step, corpus.vocab_size, **settings)
    theirs = copy.deepcopy(ours)
    monkeypatch.setattr(step, "estimate_loss", lambda *_: {"train": 1.0, "val": 1.0})
    torch.manual_seed(7)
    step.train(theirs, corpus, config, CPU)

    torch.manual_seed(7)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3, fused=True)
    tokens = corpus.splits["train"].long()
    for _ in range(3):
        starts = torch.randint(len(tokens) - 8, (4, 1)).flatten().tolist()
        x = torch.stack([tokens[i : i + 8] for i in starts])
        y = torch.stack([tokens[i + 1 : i + 9] for i in starts])
        for p in ours.parameters():
            p.grad = None
        ours(x, y)[1].backward()
        optimizer.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name


def gradient_ratios(step, corpus):
    """How long the first block's gradient is beside the last's in the first step, by seed."""
    config, ratios = step.Config(), []
    for seed in range(20):
        torch.manual_seed(seed)
        model = step.LanguageModel(config, corpus.vocab_size)
        model(*corpus.batch("train", config.batch_size, config.block_size))[1].backward()
        norms = [sum(p.grad.square().sum() for p in b.parameters()).sqrt() for b in model.blocks]
        ratios.append((norms[0] / norms[-1]).item())
    return ratios


def test_residual_connections_bring_the_gradient_to_the_first_block(corpus):
    """In step 5 it has about a sixth of the length of the last block's, in step 6 the same."""
    five, six = (gradient_ratios(step, corpus) for step in STEPS[4:6])
    assert 0.1 < sum(five) / len(five) < 0.25
    assert max(five) < 0.5 < min(six)
    assert max(six) < 2


# --- Settings ---


def test_every_field_of_a_config_is_a_flag(step):
    for field in dataclasses.fields(step.Config):
        kind, note = get_args(field.type)
        assert note
        flag = "--" + field.name.replace("_", "-")
        if kind is bool:
            assert getattr(step.parse_args([flag]), field.name) is True
            continue
        value = {"device": "cpu", "size": "laptop", "dropout": 0.5}.get(field.name)
        if value is None:
            value = kind(field.default * 2 or 2) if kind in (int, float) else kind("any")
        config = step.parse_args([flag, str(value)])
        assert getattr(config, field.name) == value
        assert type(getattr(config, field.name)) is type(value)


SIZES = {  # full, laptop
    "batch_size": (64, 16),
    "block_size": (256, 64),
    "n_embd": (384, 96),
    "n_head": (6, 3),
    "n_layer": (6, 6),
    "dropout": (0.2, 0.0),
    "learning_rate": (3e-4, 1e-3),
    "max_iters": (5000, 2000),
    "eval_interval": (500, 500),
    "eval_iters": (50, 5),
    "eval_batch_size": (128, 128),
}


@pytest.mark.parametrize("step", [step for step in STEPS if has(step, "size")])
def test_from_step_7_on_the_size_is_the_one_for_the_device(step, monkeypatch):
    def sizes(*argv):
        config = step.parse_args(list(argv))
        return {name: getattr(config, name) for name in full}

    full = {name: getattr(step.Config(), name) for name in SIZES}
    laptop = full | step.LAPTOP
    if step in PLAIN:
        assert full == {name: size[0] for name, size in SIZES.items()}
        assert laptop == {name: size[1] for name, size in SIZES.items()}
    assert sizes("--size", "full") == sizes("--size", "full", "--device", "cpu") == full
    assert sizes("--size", "laptop") == sizes("--device", "cpu") == laptop
    assert sizes("--size", "laptop", "--n-layer", "2") == laptop | {"n_layer": 2}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert sizes() == sizes("--device", "mps") == full
    assert sizes("--device", "cpu") == sizes("--size", "laptop", "--device", "mps") == laptop
