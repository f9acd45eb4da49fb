"""What the models of steps 1 to 8 compute: against torch's own layers with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, STEPS, small_config, small_model
from torch import nn

BIGRAM, *TRANSFORMERS = STEPS
STEP7, STEP8 = STEPS[6:8]
T, V = SMALL["block_size"], 65
EXACT = {"rtol": 0, "atol": 1e-10}


def number(step):
    return int(step.__name__.removeprefix("beyond.")[:2])


def shaken(model):
    """In float64, and no weight at 0 or 1, where what it does could not be seen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.double().parameters():
            p += 0.3 * torch.randn_like(p)
    return model


# --- Torch's own layers ---


def queries_keys_values(attention):
    """The weights of all queries, then keys, then values, head by head: (3C, C)."""
    if hasattr(attention, "qkv"):
        return attention.qkv.weight
    heads = getattr(attention, "heads", [attention])
    names = ("query", "key", "value")
    return torch.cat([getattr(head, name).weight for name in names for head in heads])


def torch_attention(ours):
    """What nn.MultiheadAttention has, by the names that it has them by."""
    weight = queries_keys_values(ours)
    C = weight.shape[1]
    no_projection = {"weight": torch.eye(C), "bias": torch.zeros(C)}
    proj = ours.proj.state_dict() if hasattr(ours, "proj") else no_projection
    named = {"in_proj_weight": weight, "in_proj_bias": torch.zeros(3 * C)}
    return named | {f"out_proj.{name}": value for name, value in proj.items()}


def torch_block(ours):
    """What nn.TransformerEncoderLayer has."""
    layers = {"norm1": ours.norm1, "norm2": ours.norm2}
    layers |= {"linear1": ours.feed_forward.net[0], "linear2": ours.feed_forward.net[2]}
    named = {f"self_attn.{name}": value for name, value in torch_attention(ours.attention).items()}
    for layer, source in layers.items():
        named |= {f"{layer}.{name}": value for name, value in source.state_dict().items()}
    return named


def logits_by_torch(step, model, idx):
    C, T = SMALL["n_embd"], idx.shape[1]
    heads = SMALL["n_head"] if number(step) > 2 else 1
    mask = torch.ones(T, T, dtype=torch.bool).triu(1)  # True where a position may not look
    x = F.embedding(idx, model.token_embedding.weight) + model.position_embedding.weight[:T]
    for block in getattr(model, "blocks", [model]):
        if number(step) >= 6:
            kind = {"activation": "relu", "norm_first": True, "batch_first": True}
            layer = nn.TransformerEncoderLayer(C, heads, 4 * C, dropout=0.0, **kind).double()
            layer.load_state_dict(torch_block(block))
            x = layer(x, src_mask=mask)
        else:
            attention = nn.MultiheadAttention(C, heads, batch_first=True).double()
            attention.load_state_dict(torch_attention(block.attention))
            x, _ = attention(x, x, x, attn_mask=mask)
            if number(step) >= 4:
                linear = block.feed_forward.net[0]
                x = F.linear(x, linear.weight, linear.bias).clamp(min=0)
    if number(step) >= 6:
        x = F.layer_norm(x, (C,), model.norm.weight, model.norm.bias)
    return F.linear(x, model.lm_head.weight, model.lm_head.bias)


@pytest.mark.parametrize("length", [1, 5, T])
def test_logits_are_those_of_torchs_own_layers(step, length):
    model = shaken(small_model(step, dropout=0.0))
    idx = torch.randint(V, (3, length))
    if step is BIGRAM:
        wanted = F.embedding(idx, model.token_embedding.weight)
    else:
        wanted = logits_by_torch(step, model, idx)
    logits, loss = model(idx)
    torch.testing.assert_close(logits, wanted, **EXACT)
    assert loss is None


def test_the_loss_is_the_mean_of_minus_log_p_of_what_comes_next(step):
    model = shaken(small_model(step)).eval()
    idx, targets = torch.randint(V, (2, 3, T))
    logits, loss = model(idx, targets)
    p = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    each = [-p[b, t, targets[b, t]].log() for b in range(3) for t in range(T)]
    torch.testing.assert_close(loss, torch.stack(each).mean(), **EXACT)


def test_step_8_is_step_7_with_its_heads_side_by_side():
    model7, model8 = shaken(small_model(STEP7, dropout=0.0)), small_model(STEP8, dropout=0.0)
    model8.double().load_state_dict(model7.state_dict(), strict=False)
    for theirs, ours in zip(model7.blocks, model8.blocks, strict=True):
        ours.attention.qkv.weight.data = queries_keys_values(theirs.attention)
    idx, targets = torch.randint(V, (2, 3, T))
    torch.testing.assert_close(model8(idx, targets), model7(idx, targets), **EXACT)


@pytest.mark.parametrize("step", TRANSFORMERS)
def test_no_logit_sees_the_future(step):
    """In training, too, with the same activations dropped."""
    model = shaken(small_model(step, dropout=0.2))
    idx = torch.arange(T)[None]
    torch.manual_seed(2)
    before, _ = model(idx)
    for s in range(T):
        torch.manual_seed(2)
        after, _ = model(idx.where(idx != s, V - 1))
        assert torch.equal(after[:, :s], before[:, :s])
        assert not torch.equal(after[:, s], before[:, s])


# --- Dropout and the initial weights ---


@pytest.mark.parametrize("step", [STEP7, STEP8])
def test_dropout_acts_on_the_attention_weights_and_on_what_a_sublayer_adds(step, monkeypatch):
    x = torch.randn(2, T, SMALL["n_embd"], dtype=torch.float64)
    block = shaken(step.Block(small_config(step, dropout=1.0)))
    assert torch.equal(block(x), x)  # where all is dropped, nothing is added
    assert not torch.equal(block.eval()(x), x)

    def drop_weights_alone(x, p=0.5, training=True, inplace=False):
        return torch.zeros_like(x) if x.shape[-2:] == (T, T) else x

    monkeypatch.setattr(F, "dropout", drop_weights_alone)
    torch.testing.assert_close(block.attention(x), block.attention.proj.bias.expand_as(x), **EXACT)


@pytest.mark.parametrize("step", [STEP7, STEP8])
def test_weights_start_small_and_biases_at_zero(step):
    torch.manual_seed(0)
    model = step.LanguageModel(step.Config(n_layer=1), V)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" not in name:
            assert p.std().item() == pytest.approx(0.02, rel=0.05), name
            assert p.mean().abs() < 0.001, name


def test_the_full_size_has_as_many_parameters_as_the_videos_script_prints():
    with torch.device("meta"):  # shapes without numbers
        model = STEP7.LanguageModel(STEP7.SIZES["full"], V)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == 10.788929


# --- Sampling ---


@pytest.mark.parametrize("length", [1, T, 3 * T])
def test_generate_draws_from_the_softmax_after_the_last_block_size_tokens(step, length):
    model = small_model(step, dropout=0.5).train()
    text = torch.randint(V, (5, length))
    torch.manual_seed(3)
    drawn = torch.cat(list(model.generate(text, 2 * T)), dim=1)
    model.eval()  # in which it drew
    torch.manual_seed(3)
    for _ in range(2 * T):
        probs = model(text[:, -T:])[0][:, -1].exp()
        text = torch.cat((text, torch.multinomial(probs / probs.sum(-1, keepdim=True), 1)), dim=1)
    assert torch.equal(drawn, text[:, length:])


def test_generate_yields_each_token_as_it_is_drawn_and_keeps_no_graph(step):
    calls = []
    model = small_model(step)
    model.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    model.register_forward_hook(lambda _, args, out: calls.append(out[0].requires_grad))
    sampling = model.generate(torch.zeros((1, 3 * T), dtype=torch.long), 10)
    for i in range(1, 10):
        assert next(sampling).shape == (1, 1)
        assert calls == [1 if step is BIGRAM else T, False] * i
