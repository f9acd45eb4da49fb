"""Each model: shapes, the loss at the start, that it learns, and how it generates."""

import dataclasses
import math
from typing import get_args

import pytest
import torch
from conftest import STEPS, small_config, small_model

PARAMETERS = [4_225, 7_553, 7_553, 8_609, 16_865, 42_369, 10_788_929]


@pytest.mark.parametrize(("step", "count"), list(zip(STEPS, PARAMETERS, strict=True)))
def test_parameter_count_on_tiny_shakespeare(step, count):
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


@pytest.mark.parametrize("step", STEPS[1:])
def test_an_untrained_model_is_nearly_uniform(step):
    x, y = torch.randint(65, (2, 64, 8))
    _, loss = small_model(step).eval()(x, y)
    assert abs(loss.item() - math.log(65)) < 0.3


def test_a_few_dozen_steps_on_one_batch_bring_the_loss_down(step, corpus):
    model = small_model(step, corpus.vocab_size)
    x, y = corpus.batch("train", 4, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("length", [1, 8, 30])
def test_generate_continues_a_prompt_of_any_length(step, length):
    model = small_model(step)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    tokens = list(model.generate(torch.randint(65, (2, length)), 20))
    assert len(tokens) == 20
    assert all(token.shape == (2, 1) and token.dtype == torch.int64 for token in tokens)
    assert seen[-1] == max(seen) == (1 if step is STEPS[0] else 8)  # all it may see, not more


def test_generate_hands_out_each_character_as_it_is_drawn(step):
    model = small_model(step)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    sampling = model.generate(torch.zeros((1, 1), dtype=torch.long), 10)
    next(sampling)
    assert len(calls) == 1
    next(sampling)
    assert len(calls) == 2


def test_generate_feeds_its_own_characters_back(step):
    """Once the model has learned a cycle, its samples run through the cycle in order."""
    model = small_model(step, 6)
    x = (torch.arange(9) + torch.arange(6)[:, None]) % 6  # (B, T+1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(500):
        _, loss = model(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    start = torch.full((50, 1), 3)
    tokens = torch.cat([start, *model.generate(start, 20)], dim=1)
    follows = (tokens[:, 1:] == (tokens[:, :-1] + 1) % 6).float().mean()
    assert follows > 0.5  # 1/6 by chance


def test_estimate_loss_leaves_the_model_training_and_unchanged(step, corpus):
    model = small_model(step, corpus.vocab_size)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = small_config(step, eval_iters=260)  # 1,040 sequences, the last 16 by themselves
    torch.manual_seed(0)
    losses = step.estimate_loss(model, corpus, config, torch.device("cpu"))
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.eval()
    torch.manual_seed(0)
    for split in ("train", "val"):
        batches = [corpus.batch(split, config.batch_size, config.block_size) for _ in range(260)]
        with torch.no_grad():
            wanted = sum(model(x, y)[1].item() for x, y in batches) / 260
        assert losses[split] == pytest.approx(wanted, abs=1e-5)


def test_train_takes_max_iters_steps(step, corpus, monkeypatch, capsys, tmp_path):
    steps = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: (steps.append(1), real(*a, **k)))
    settings = {"max_iters": 7, "eval_interval": 3, "eval_iters": 1}
    config = small_config(step, **settings, checkpoint=tmp_path / "gpt.pt")
    step.train(small_model(step, corpus.vocab_size), corpus, config, torch.device("cpu"))
    assert len(steps) == 7
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "step 0",
        "step 3",
        "step 6",
        "step 7",
    ]


def test_every_field_of_a_config_is_a_flag(step):
    for field in dataclasses.fields(step.Config):
        kind = get_args(field.type)[0]
        if kind in (int, float) and field.name != "dropout":
            value = kind(field.default * 2 or 2)
            config = step.parse_args([f"--{field.name.replace('_', '-')}", str(value)])
            assert getattr(config, field.name) == value


def test_step_7_starts_from_small_weights_and_no_biases():
    torch.manual_seed(0)
    model = STEPS[6].LanguageModel(STEPS[6].Config(n_layer=1), 65)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert p.abs().max() == 0
        elif p.dim() == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(p.mean().item()) < 0.001
        else:
            assert (p == 1).all()  # the gains of layer norm


SIZES = {  # full, laptop
    "batch_size": (64, 16),
    "block_size": (256, 64),
    "n_embd": (384, 96),
    "n_head": (6, 3),
    "n_layer": (6, 6),
    "dropout": (0.2, 0.0),
    "learning_rate": (3e-4, 1.5e-3),
    "min_lr": (3e-4, 0.0),
    "max_iters": (5000, 2000),
    "eval_interval": (500, 500),
    "eval_iters": (200, 50),
}


def test_step_7_has_two_sizes_and_picks_the_one_for_the_device(monkeypatch):
    def sizes(*argv):
        config = STEPS[6].parse_args(list(argv))
        return {name: getattr(config, name) for name in SIZES}

    full = {name: size[0] for name, size in SIZES.items()}
    laptop = {name: size[1] for name, size in SIZES.items()}
    assert sizes("--size", "full") == full
    assert sizes("--size", "laptop") == sizes("--device", "cpu") == laptop
    assert sizes("--size", "laptop", "--n-layer", "2") == laptop | {"n_layer": 2}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert sizes() == sizes("--device", "mps") == full
    assert sizes("--device", "cpu") == laptop


def test_the_learning_rate_of_step_7_does_not_rise(capsys):
    with pytest.raises(SystemExit):
        STEPS[6].parse_args(["--size", "full", "--learning-rate", "1e-4"])
    assert "min_lr must not exceed learning_rate" in capsys.readouterr().err


def test_the_learning_rate_of_step_7_falls_on_half_a_cosine(corpus, monkeypatch, tmp_path):
    rates = []
    real = torch.optim.AdamW.step

    def step(optimizer, *args):
        rates.append(optimizer.param_groups[0]["lr"])
        return real(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    settings = {"max_iters": 10, "eval_iters": 1, "checkpoint": tmp_path / "gpt.pt"}
    config = small_config(STEPS[6], learning_rate=1.0, min_lr=0.0, **settings)
    STEPS[6].train(small_model(STEPS[6], corpus.vocab_size), corpus, config, torch.device("cpu"))
    wanted = [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]
    assert rates == pytest.approx(wanted)
