"""The models compute what they say: against torch's own layers, each other, and arithmetic."""

import inspect
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, STEPS, has, small_config, small_model
from torch import nn

STEP1, STEP2, STEP3, STEP4, STEP5, STEP6, STEP7, STEP8, STEP9 = STEPS[:9]
TRANSFORMERS = STEPS[1:]
DROPPING = [step for step in STEPS if has(step, "dropout")]
# Whose attention is written out, with its weights to be seen.
VISIBLE = [step for step in DROPPING if "F.softmax(scores" in inspect.getsource(step)]
EXACT = {"rtol": 0, "atol": 1e-10}
B, T, C, H = 3, SMALL["block_size"], SMALL["n_embd"], SMALL["n_head"]


@pytest.fixture(autouse=True)
def float64_and_a_seed():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def future():
    """True where a position would look at a later one: torch's form of the causal mask."""
    return torch.ones(T, T, dtype=torch.bool).triu(1)


def shaken(model):
    """No weight at 0 or 1, where what it does could not be seen."""
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model


# --- Against torch's own layers, with the same weights ---


def test_head_is_scaled_dot_product_attention():
    head = STEP2.Head(small_config(STEP2), head_size=16)
    x = torch.randn(B, T, C)
    q, k, v = (x @ layer.weight.T for layer in (head.query, head.key, head.value))
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(head(x), wanted, **EXACT)


def qkv_weight(attention):
    """The projections to all queries, then keys, then values, head by head, (3C, C)."""
    if hasattr(attention, "qkv"):
        return attention.qkv.weight
    weights = [
        getattr(head, name).weight for name in ("query", "key", "value") for head in attention.heads
    ]
    return torch.cat(weights)


def fill_torch_attention(theirs, ours):
    with torch.no_grad():
        theirs.in_proj_weight.copy_(qkv_weight(ours))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(ours.proj.weight if hasattr(ours, "proj") else torch.eye(C))
        theirs.out_proj.bias.copy_(ours.proj.bias if hasattr(ours, "proj") else torch.zeros(C))


@pytest.mark.parametrize("step", STEPS[2:11])
def test_multi_head_attention_is_torchs(step):
    ours = shaken(step.MultiHeadAttention(small_config(step, dropout=0.0)))
    theirs = nn.MultiheadAttention(C, H, batch_first=True)
    fill_torch_attention(theirs, ours)
    x = torch.randn(B, T, C)
    wanted, _ = theirs(x, x, x, attn_mask=future(), need_weights=False)
    torch.testing.assert_close(ours(x), wanted, **EXACT)


@pytest.mark.parametrize("step", STEPS[5:11])
def test_block_is_torchs_encoder_layer_with_the_norm_first(step):
    ours = shaken(step.Block(small_config(step, dropout=0.0)))
    theirs = nn.TransformerEncoderLayer(
        C, H, 4 * C, dropout=0.0, activation="relu", batch_first=True, norm_first=True
    )
    fill_torch_attention(theirs.self_attn, ours.attention)
    pairs = [
        (theirs.norm1, ours.norm1),
        (theirs.norm2, ours.norm2),
        (theirs.linear1, ours.feed_forward.net[0]),
        (theirs.linear2, ours.feed_forward.net[2]),
    ]
    for layer, source in pairs:
        layer.load_state_dict(source.state_dict())
    x = torch.randn(B, T, C)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=future()), **EXACT)


# --- Against each other ---


def test_step_3_with_one_head_is_step_2():
    model2, model3 = small_model(STEP2), small_model(STEP3, n_head=1)
    names = {name: name.replace("heads.0.", "") for name in model3.state_dict()}
    model3.load_state_dict({name: model2.state_dict()[old] for name, old in names.items()})
    idx = torch.randint(65, (B, T))
    assert torch.equal(model3(idx)[0], model2(idx)[0])


def test_step_5_with_one_block_is_step_4():
    model4, model5 = small_model(STEP4), small_model(STEP5, n_layer=1)
    names = {name: name.replace("blocks.0.", "") for name in model5.state_dict()}
    model5.load_state_dict({name: model4.state_dict()[old] for name, old in names.items()})
    idx = torch.randint(65, (B, T))
    assert torch.equal(model5(idx)[0], model4(idx)[0])


def test_step_7_without_dropout_is_step_6():
    model6, model7 = shaken(small_model(STEP6)), small_model(STEP7, dropout=0.0)
    model7.load_state_dict(model6.state_dict())
    idx, targets = torch.randint(65, (2, B, T))
    assert all(map(torch.equal, model7(idx, targets), model6(idx, targets)))


def side_by_side(model7, tensors):
    """What step 7 has for each head, a weight or its gradient, as step 8 has it for all heads."""
    joined = {name: value for name, value in tensors.items() if ".heads." not in name}
    for i in range(len(model7.blocks)):
        heads = f"blocks.{i}.attention.heads"
        parts = [
            tensors[f"{heads}.{h}.{name}.weight"]
            for name in ("query", "key", "value")
            for h in range(H)
        ]
        joined[f"blocks.{i}.attention.qkv.weight"] = torch.cat(parts)
    return joined


@pytest.mark.parametrize("step", STEPS[7:11])
def test_batched_heads_are_step_7_with_its_heads_side_by_side(step):
    model7, model = shaken(small_model(STEP7, dropout=0.0)), small_model(step, dropout=0.0)
    masks = {name: value for name, value in model.state_dict().items() if name.endswith("tril")}
    model.load_state_dict(side_by_side(model7, model7.state_dict()) | masks)
    idx, targets = torch.randint(65, (2, B, T))
    (logits7, loss7), (logits, loss) = model7(idx, targets), model(idx, targets)
    torch.testing.assert_close(logits, logits7, **EXACT)
    torch.testing.assert_close(loss, loss7, **EXACT)

    loss7.backward()
    loss.backward()
    wanted = side_by_side(model7, {name: p.grad for name, p in model7.named_parameters()})
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, wanted[name], **EXACT)


# --- What a position may and does see ---


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("step", TRANSFORMERS)
def test_no_logit_sees_the_future_and_each_sees_all_of_the_past(step, dropout):
    model = shaken(small_model(step, dropout=dropout))  # in training mode: with dropout
    idx = torch.randint(65, (1, T))
    torch.manual_seed(1)
    before, _ = model(idx)
    for s in range(T):
        changed = idx.clone()
        changed[0, s] = (idx[0, s] + 1) % 65
        torch.manual_seed(1)
        after, _ = model(changed)
        assert torch.equal(after[:, :s], before[:, :s])
        if dropout == 0:
            assert (after[:, s:] != before[:, s:]).any(dim=-1).all()


@pytest.mark.parametrize("step", TRANSFORMERS)
def test_a_prefix_has_the_logits_it_has_in_the_whole(step):
    model = shaken(small_model(step)).eval()
    idx = torch.randint(65, (B, T))
    whole, _ = model(idx)
    for t in range(1, T):
        torch.testing.assert_close(model(idx[:, :t])[0], whole[:, :t], **EXACT)


def test_step_1_sees_the_current_character_alone():
    model = small_model(STEP1)
    first, second = torch.randint(65, (2, B, T))
    second[:, 4] = first[:, 4]
    assert torch.equal(model(first)[0][:, 4], model(second)[0][:, 4])
    for t in range(T):
        assert torch.equal(model(first)[0][:, t], model.token_embedding.weight[first[:, t]])


@pytest.mark.parametrize("step", TRANSFORMERS)
def test_the_order_of_the_past_matters(step):
    """With one layer it does so by the positions alone."""
    model = shaken(small_model(step, n_layer=1)).eval()
    idx = torch.arange(T)[None]
    shuffled = torch.cat([idx[:, torch.randperm(T - 1)], idx[:, -1:]], dim=1)
    assert not torch.equal(shuffled, idx)
    with_positions = [model(i)[0][:, -1] for i in (idx, shuffled)]
    assert (with_positions[0] - with_positions[1]).abs().max() > 1e-3
    if hasattr(model, "position_embedding"):
        nn.init.zeros_(model.position_embedding.weight)
        without = [model(i)[0][:, -1] for i in (idx, shuffled)]
        torch.testing.assert_close(*without, **EXACT)


def test_the_scale_keeps_scores_at_variance_1_and_the_weights_diffuse(monkeypatch):
    """Video 1:16:56: without the scale the variance is head_size and softmax picks one position."""
    head_size, seen = 64, []
    config = STEP2.Config(n_embd=head_size, block_size=64)
    head = STEP2.Head(config, head_size)
    for layer in (head.query, head.key):  # queries and keys of unit variance
        nn.init.orthogonal_(layer.weight)
    real = F.softmax
    monkeypatch.setattr(F, "softmax", lambda x, dim: (seen.append(x), real(x, dim=dim))[1])
    head(torch.randn(50, 64, head_size))
    scores = seen[0][:, 63]  # (50, 64), the last query sees all
    assert scores.var().item() == pytest.approx(1, rel=0.1)
    unscaled = scores * math.sqrt(head_size)
    assert real(scores, dim=-1).max(dim=-1).values.mean() < 0.25
    assert real(unscaled, dim=-1).max(dim=-1).values.mean() > 0.75


# --- Learning and drawing ---


def test_gradients_reach_every_weight(step):
    model = shaken(small_model(step))
    x, y = torch.randint(65, (2, 16, T))
    model(x, y)[1].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_a_converged_bigram_model_is_the_counted_frequencies():
    text = torch.randint(4, (400,)) * torch.randint(1, 3, (400,)) % 4  # four uneven characters
    model = STEP1.LanguageModel(STEP1.Config(), 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        _, loss = model(text[None, :-1], text[None, 1:])
        loss.backward()
        return loss

    optimizer.step(closure)
    counts = Counter(zip(text[:-1].tolist(), text[1:].tolist(), strict=True))
    table = torch.tensor([[counts[i, j] for j in range(4)] for i in range(4)], dtype=torch.float64)
    assert table.min() > 0
    logits, _ = model(torch.arange(4)[None])
    wanted = table / table.sum(dim=1, keepdim=True)
    torch.testing.assert_close(F.softmax(logits[0], dim=-1), wanted, rtol=0, atol=1e-4)


def test_generate_draws_from_the_softmax_of_the_last_logits(step):
    """Chi-square on 20,000 draws after a prompt, and on the draws that follow the first ones."""
    model = shaken(small_model(step, vocab_size=5, n_layer=1))  # far from uniform
    prompt = torch.tensor([[2, 0, 1]]).expand(20_000, 3)
    first, second = model.generate(prompt, 2)

    def assert_drawn_from(tokens, context):
        probs = F.softmax(model(context)[0][0, -1], dim=-1)  # (V,)
        wanted = probs * len(tokens)
        counts = torch.bincount(tokens.flatten(), minlength=5)
        chi_square = ((counts - wanted) ** 2 / wanted).sum()
        assert chi_square < 23.5  # four degrees of freedom: passed once in 10,000 by chance

    assert_drawn_from(first, prompt[:1])
    favourite = first.mode(dim=0).values
    rows = (first == favourite).squeeze(1)
    assert_drawn_from(second[rows], torch.cat([prompt[:1], favourite[None]], dim=1))


# --- Dropout ---


@pytest.mark.parametrize("step", VISIBLE)
def test_dropout_acts_in_three_places_of_a_block_in_training(step, monkeypatch):
    seen, real = [], F.dropout

    def dropout(x, p=0.5, training=True, inplace=False):
        out = real(x, p, training, inplace)
        if training and p > 0:
            seen.append((x, out))
        return out

    monkeypatch.setattr(F, "dropout", dropout)
    model = shaken(small_model(step, n_layer=1, dropout=0.4))
    model(torch.randint(65, (64, T)))
    weights = [x for x, _ in seen[:-2]]  # of all heads, in one tensor or in one for each
    assert sum(x.numel() for x in weights) == 64 * H * T * T
    for x in weights:
        torch.testing.assert_close(x.sum(-1), torch.ones(x.shape[:-1]), **EXACT)  # after softmax
    assert [tuple(x.shape) for x, _ in seen[-2:]] == [(64, T, C), (64, T, C)]
    for x, out in seen:
        alive = x != 0
        dropped = (out[alive] == 0).double().mean().item()
        assert dropped == pytest.approx(0.4, abs=0.05)
        left = alive & (out != 0)
        torch.testing.assert_close(out[left], x[left] / 0.6)

    block, x = model.blocks[0], torch.randn(2, T, C)
    for layer in (block.attention, block.feed_forward):  # nothing comes after but the addition
        assert layer(x) is seen[-1][1]


@pytest.mark.parametrize("step", DROPPING)
def test_dropout_acts_in_training_alone(step):
    model = shaken(small_model(step, dropout=0.4))
    idx = torch.randint(65, (B, T))
    assert not torch.equal(model(idx)[0], model(idx)[0])
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])
    list(model.generate(idx, 3))
    assert torch.equal(model(idx)[0], model(idx)[0])  # evaluation mode, in which it sampled
    model = shaken(small_model(step, dropout=0.0))
    assert torch.equal(model(idx)[0], model(idx)[0])
