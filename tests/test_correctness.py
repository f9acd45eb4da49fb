"""The models compute what they say: against torch's own layers, each other, and arithmetic."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, STEPS, small_config, small_model
from torch import nn

STEP1, STEP2, STEP3, STEP4, STEP5, STEP6, STEP7 = STEPS
EXACT = {"rtol": 0, "atol": 1e-10}
B, T, C, H = 3, SMALL["block_size"], SMALL["n_embd"], SMALL["n_head"]


@pytest.fixture(autouse=True)
def float64_and_a_seed():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class OnCuda(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU, for which step 7 has another attention."""

    is_cuda = True


def future():
    """True where a position would look at a later one: torch's form of the causal mask."""
    return torch.ones(T, T, dtype=torch.bool).triu(1)


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


@pytest.mark.parametrize(
    ("step", "kind"),
    [(STEP3, torch.Tensor), (STEP6, torch.Tensor), (STEP7, torch.Tensor), (STEP7, OnCuda)],
)
def test_multi_head_attention_is_torchs(step, kind):
    ours = step.MultiHeadAttention(small_config(step, dropout=0.0))
    theirs = nn.MultiheadAttention(C, H, batch_first=True)
    fill_torch_attention(theirs, ours)
    x = torch.randn(B, T, C)
    wanted, _ = theirs(x, x, x, attn_mask=future(), need_weights=False)
    found = ours(x.as_subclass(kind)).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("step", [STEP6, STEP7])
def test_block_is_torchs_encoder_layer_with_the_norm_first(step):
    ours = step.Block(small_config(step, dropout=0.0))
    for p in ours.parameters():  # gains and biases of the norms too, so that none goes untested
        nn.init.normal_(p, std=0.3)
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


def step7_from_step6(model6, **settings):
    """Step 7 with the weights of step 6, its heads side by side."""
    model7 = small_model(STEP7, **settings)
    weights = model7.state_dict()
    for name, value in model6.state_dict().items():
        if ".heads." not in name:
            weights[name] = value
    for i, block in enumerate(model6.blocks):
        weights[f"blocks.{i}.attention.qkv.weight"] = qkv_weight(block.attention)
    model7.load_state_dict(weights)
    return model7


@pytest.mark.parametrize("kind", [torch.Tensor, OnCuda])
def test_step_7_is_step_6_with_its_heads_side_by_side(kind):
    model6 = small_model(STEP6)
    model7 = step7_from_step6(model6, dropout=0.0)
    idx, targets = torch.randint(65, (2, B, T))
    logits6, loss6 = model6(idx, targets)
    logits7, loss7 = (x.as_subclass(torch.Tensor) for x in model7(idx.as_subclass(kind), targets))
    torch.testing.assert_close(logits7, logits6, **EXACT)
    torch.testing.assert_close(loss7, loss6, **EXACT)

    loss6.backward()
    loss7.backward()
    gradients6 = {name: p.grad for name, p in model6.named_parameters() if ".heads." not in name}
    for i, block in enumerate(model6.blocks):
        for p in block.attention.heads.parameters():
            p.data = p.grad  # so that the gradients are laid side by side as the weights were
        gradients6[f"blocks.{i}.attention.qkv.weight"] = qkv_weight(block.attention)
    gradients7 = {name: p.grad for name, p in model7.named_parameters()}
    assert gradients7.keys() == gradients6.keys()
    for name, gradient in gradients7.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, gradients6[name], **EXACT)


# --- What a position may and does see ---


@pytest.mark.parametrize(
    ("step", "dropout", "kind"),
    [(step, 0.0, torch.Tensor) for step in STEPS[1:]]
    + [(STEP7, dropout, kind) for dropout in (0.0, 0.2) for kind in (torch.Tensor, OnCuda)],
)
def test_no_logit_sees_the_future_and_each_sees_all_of_the_past(step, dropout, kind):
    model = small_model(step, dropout=dropout)  # in training mode: with dropout in step 7
    idx = torch.randint(65, (1, T)).as_subclass(kind)
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


def test_in_bfloat16_step_7_computes_nearly_the_same_and_sees_no_future():
    torch.set_default_dtype(torch.float32)
    model = small_model(STEP7, dropout=0.0)
    idx = torch.randint(65, (B, T))
    exact, _ = model(idx)
    with torch.autocast("cpu", torch.bfloat16):
        near, _ = model(idx)
        idx[:, 4:] = (idx[:, 4:] + 1) % 65
        after, _ = model(idx)
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, rtol=0, atol=0.02 * exact.std().item())
    assert torch.equal(after[:, :4], near[:, :4])
    assert not torch.equal(after[:, 4:], near[:, 4:])


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_prefix_has_the_logits_it_has_in_the_whole(step):
    model = small_model(step).eval()
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


def test_order_matters_because_of_the_position_embeddings():
    model = small_model(STEP2)
    idx = torch.arange(T)[None]
    shuffled = torch.cat([idx[:, torch.randperm(T - 1)], idx[:, -1:]], dim=1)
    assert not torch.equal(shuffled, idx)
    with_positions = [model(i)[0][:, -1] for i in (idx, shuffled)]
    assert (with_positions[0] - with_positions[1]).abs().max() > 1e-3
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
    assert unscaled.var().item() == pytest.approx(head_size, rel=0.1)
    assert real(scores, dim=-1).max(dim=-1).values.mean() < 0.25
    assert real(unscaled, dim=-1).max(dim=-1).values.mean() > 0.75


# --- Learning and drawing ---


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


@pytest.mark.parametrize("step", STEPS)
def test_generate_draws_from_the_softmax_of_the_last_logits(step):
    """Chi-square on 20,000 draws after a prompt, and on the draws that follow the first ones."""
    model = small_model(step, vocab_size=5).double()
    for p in model.parameters():
        p.data.mul_(2)  # far from uniform
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


@pytest.mark.parametrize("step", STEPS)
def test_gradients(step):
    model = small_model(step, 5, n_embd=4, n_head=2, n_layer=1, block_size=3, dropout=0.0)
    idx, targets = torch.randint(5, (2, 2, 3))
    names, parameters = zip(*model.named_parameters(), strict=True)

    def loss_of(*values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, named, (idx, targets))[1]

    assert torch.autograd.gradcheck(loss_of, tuple(p.detach().requires_grad_() for p in parameters))


# --- Dropout in step 7 ---


def record_dropouts(monkeypatch):
    """The (input, output) of each call of dropout that drops anything."""
    seen, real = [], F.dropout

    def dropout(x, p=0.5, training=True, inplace=False):
        out = real(x, p, training, inplace)
        if training and p > 0:
            seen.append((x, out))
        return out

    monkeypatch.setattr(F, "dropout", dropout)
    return seen


def test_dropout_acts_in_three_places_of_a_block_in_training(monkeypatch):
    seen = record_dropouts(monkeypatch)
    model = small_model(STEP7, n_layer=1, dropout=0.4, batch_size=64)
    model(torch.randint(65, (64, T)))
    shapes = [tuple(x.shape) for x, _ in seen]
    assert shapes == [(64, H, T, T), (64, T, C), (64, T, C)]  # weights, attention, feed-forward
    torch.testing.assert_close(seen[0][0].sum(-1), torch.ones(64, H, T), **EXACT)  # after softmax
    for x, out in seen:
        alive = x != 0
        dropped = (out[alive] == 0).double().mean().item()
        assert dropped == pytest.approx(0.4, abs=0.05)
        kept = alive & (out != 0)
        torch.testing.assert_close(out[kept], x[kept] / 0.6)


def test_dropout_is_off_in_evaluation_and_while_sampling(monkeypatch):
    model = small_model(STEP7, dropout=0.4)
    idx = torch.randint(65, (B, T))
    assert not torch.equal(model(idx)[0], model(idx)[0])
    seen = record_dropouts(monkeypatch)
    list(model.generate(idx, 3))
    assert seen == []
    model.train()
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])


def test_attention_weights_are_dropped_without_the_fast_attention(monkeypatch):
    """On mps it has left out the dropout, and refused it; the path there is that of the CPU."""
    monkeypatch.delattr(F, "scaled_dot_product_attention")
    seen = record_dropouts(monkeypatch)
    model = small_model(STEP7, n_layer=1, dropout=0.4)
    _, loss = model(*torch.randint(65, (2, B, T)))
    loss.backward()
    assert (B, H, T, T) in [tuple(x.shape) for x, _ in seen]


@pytest.mark.parametrize(("training", "p"), [(True, 0.4), (False, 0.0)])
def test_the_fast_attention_drops_in_training_alone(monkeypatch, training, p):
    asked = []

    def record(q, k, v, **flags):
        asked.append(flags)
        return v

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    model = small_model(STEP7, n_layer=1, dropout=0.4).train(training)
    model(torch.randint(65, (B, T)).as_subclass(OnCuda))
    assert asked == [{"dropout_p": p, "is_causal": True}]


def test_every_model_samples_in_evaluation_mode():
    for step in STEPS:
        model = small_model(step).train()
        modes = []
        model.register_forward_pre_hook(lambda m, _, modes=modes: modes.append(m.training))
        list(model.generate(torch.zeros((1, 1), dtype=torch.long), 2))
        assert modes == [False, False]
