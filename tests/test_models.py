"""What steps 1 to 8 compute: against torch's own layers, and against a loop written out here."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, SAMPLE, SMALL, STEPS, small_config, small_model
from torch import nn

from common.data import load_corpus

BIGRAM = STEPS[0]
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
def test_logits_and_loss_are_those_of_torchs_own_layers(step, length):
    model = shaken(small_model(step, dropout=0.0))
    idx = torch.randint(V, (3, length))
    if step is BIGRAM:
        wanted = F.embedding(idx, model.token_embedding.weight)
    else:
        wanted = logits_by_torch(step, model, idx)
    logits, no_loss = model(idx)
    torch.testing.assert_close(logits, wanted, **EXACT)
    targets = torch.randint(V, (3, length))
    nats = -wanted.log_softmax(dim=-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(model(idx, targets)[1], nats, **EXACT)
    assert no_loss is None


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


# --- Training ---


def test_training_is_the_videos_loop(step, corpus, capsys):
    """The same losses on the way and the same weights at the end as those of a loop of our own."""
    settings = {"learning_rate": 3e-3, "max_iters": 8, "eval_interval": 3, "dropout": 0.1}
    config = small_config(step, **settings)
    ours = small_model(step, corpus.tokenizer.vocab_size, **settings)
    theirs = copy.deepcopy(ours)
    torch.manual_seed(7)
    step.train(ours, corpus, config)

    torch.manual_seed(7)
    corpus = load_corpus(SAMPLE, CPU, seed=5)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=3e-3, fused=True)
    lines = []
    for i in range(8):
        if i in (0, 3, 6, 7):
            theirs.eval()
            train, val = (
                torch.tensor([theirs(*corpus.batch(split, 4, 8))[1].item() for _ in range(2)])
                for split in ("train", "val")
            )
            theirs.train()
            lines.append(f"step {i}: train loss {train.mean():.4f}, val loss {val.mean():.4f}")
        _, loss = theirs(*corpus.batch("train", 4, 8))
        theirs.zero_grad()
        loss.backward()
        optimizer.step()
    assert capsys.readouterr().out.splitlines() == lines
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name
