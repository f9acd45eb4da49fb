"""Lessons 9 to 18 against what others wrote: torch, tokenizers, the lesson before."""

import dataclasses
import importlib
import random
import re
import shutil
from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from common import InputError
from common.data import CharTokenizer, load_corpus, read_text
from common.download import SAMPLE, TINY_SHAKESPEARE

NAMES = "08_batched_heads 09_fast 10_schedule 11_rotary 12_qk_norm 13_swiglu 14_muon 15_cache"
NAMES += " 16_tokens 17_decay 18_bpe_dropout"
STEPS = {int(name[:2]): importlib.import_module(f"beyond.{name}") for name in NAMES.split()}
MUON, TOKENS, BPE_DROPOUT = STEPS[14], STEPS[16], STEPS[18]
T = 8  # block_size of the toy size
SMALL = {"batch_size": 4, "block_size": T, "n_embd": 32, "n_head": 4, "n_layer": 2, "dropout": 0.0}
SMALL |= {"max_iters": 4, "eval_interval": 2, "eval_iters": 2, "warmup_iters": 2}
SMALL |= {"data": SAMPLE, "device": "cpu", "size": "laptop", "max_new_tokens": 12}


def make_config(n, **more):
    fields = {field.name for field in dataclasses.fields(STEPS[n].Config)}
    return STEPS[n].Config(**{k: v for k, v in (SMALL | more).items() if k in fields})


def make_model(n, shake=0.0, **more):
    """A toy model; shaken, it is in float64, and its attention is far from uniform."""
    torch.manual_seed(0)
    model = STEPS[n].LanguageModel(make_config(n, **more), 65)
    with torch.no_grad():
        for p in model.parameters():
            p += shake * torch.randn_like(p)
    return model.double() if shake else model


def make_corpus():
    """Of characters; lesson 18 cuts it anew, which changes nothing without merges."""
    corpus = load_corpus(SAMPLE, torch.device("cpu"), seed=5)
    corpus.tokenizer = BPE_DROPOUT.PairTokenizer(corpus.tokenizer.chars, [])
    return corpus


def since(first, last=18):
    return pytest.mark.parametrize("n", range(first, last + 1))


class LikeCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize(("before", "after"), [(8, 9), (14, 15), (15, 16), (16, 17), (17, 18)])
def test_what_changes_no_training_gives_the_same_to_the_digit(before, after, capsys):
    """Fast in float32; the cache; tokens without merges; no decay; no dropout of merges."""
    ends, off = [], {"weight_decay": 0.0, "merge_dropout": 0.0, "cut_interval": 3}
    for n in (before, after):
        vocab_size = 1 if after == 16 else 80
        model, _ = STEPS[n].main(make_config(n, float32=True, vocab_size=vocab_size, **off))
        ends.append((capsys.readouterr().out.splitlines()[:5], dict(model.named_parameters())))
    (printed, weights), (new_printed, new_weights) = ends
    assert new_printed == printed
    assert weights.keys() == new_weights.keys()
    assert all(torch.equal(p, new_weights[name]) for name, p in weights.items())


@pytest.mark.parametrize(
    ("device", "built", "float32", "wanted"),
    [
        ("cpu", {"avx512_bf16": True}, False, True),
        ("cpu", {"avx512_bf16": True}, True, False),
        ("cpu", {"avx512_bf16": False}, False, False),
        ("cpu", {}, False, False),  # another kind of processor
        ("cuda", (7, 5), False, False),
        ("cuda", (8, 0), False, True),
        ("cuda", (9, 0), True, False),
        ("mps", {"avx512_bf16": True}, False, False),
    ],
)
def test_bfloat16_is_for_processors_built_for_it(device, built, float32, wanted, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: built)
    monkeypatch.setattr(torch, "autocast", lambda device, dtype, enabled: (device, dtype, enabled))
    made = STEPS[9].autocast(make_config(9, float32=float32), torch.device(device))
    assert made == (device, torch.bfloat16, wanted)


@since(9)
def test_the_forward_pass_is_in_bfloat16_and_nothing_else(n, monkeypatch):
    """In training (True) and in evaluation (False)."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    model, seen, back = make_model(n), {True: set(), False: set()}, set()
    qkv = model.blocks[0].attention.qkv
    qkv.register_forward_hook(lambda *args: seen[model.training].add(args[-1].dtype))
    qkv.register_full_backward_hook(lambda *_: back.add(torch.is_autocast_enabled("cpu")))
    STEPS[n].train(model, make_corpus(), make_config(n))
    assert (seen, back) == ({True: {torch.bfloat16}, False: {torch.bfloat16}}, {False})
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@since(9)
def test_fused_attention_is_the_one_written_out(n, monkeypatch):
    calls, real = [], F.scaled_dot_product_attention

    def spy(*args, **more):
        calls.append(more)
        return real(*args, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    attention, x = make_model(n, shake=0.3).blocks[0].attention, torch.randn(3, T, 32).double()
    written_out, fused = attention(x), attention(x.as_subclass(LikeCuda))
    assert len(calls) == 1  # the second alone
    torch.testing.assert_close(fused.as_subclass(torch.Tensor), written_out, rtol=0, atol=1e-12)
    attention.dropout.p = 0.5
    attention(x.as_subclass(LikeCuda))
    attention.eval()(x.as_subclass(LikeCuda))
    assert [call["dropout_p"] for call in calls] == [0.0, 0.5, 0.0]


@since(9)
def test_a_switch_is_a_flag_without_a_value(n):
    given, plain = STEPS[n].parse_args(["--compile", "--float32"]), STEPS[n].parse_args([])
    assert (given.compile, given.float32) == (True, True)
    assert (plain.compile, plain.float32) == (False, False)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("n", [9, 16])
def test_compiled_it_computes_the_same(n):
    losses = []
    for flag in (False, True):
        model, config = make_model(n), make_config(n, float32=True, compile=flag)
        STEPS[n].train(model, make_corpus(), config)
        losses.append(STEPS[n].estimate_loss(model, make_corpus(), config))
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_the_rate_is_torchs_warm_up_and_linear_decay():
    def rates(**more):
        config = make_config(10, learning_rate=1.0, **more)
        return [STEPS[10].learning_rate_at(step, config) for step in range(config.max_iters + 1)]

    found = rates(max_iters=50, warmup_iters=10)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 10, 1.0, total_iters=9)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-9, total_iters=40)
    torchs = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[10])
    for rate in found:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        torchs.step()
    assert rates(max_iters=2, warmup_iters=10) == pytest.approx([0.1, 0.2, 0.3])  # only rises
    assert rates(max_iters=2, warmup_iters=0) == [1, 0.5, 0]


@since(10)
def test_each_step_has_its_rate_each_parameter_one_optimizer_and_vectors_no_decay(n, monkeypatch):
    """From lesson 14 on Muon has the matrices of the blocks, AdamW the rest."""
    model, config, seen = make_model(n), make_config(n, max_iters=5, weight_decay=0.3), {}
    for optimizer in filter(None, (torch.optim.AdamW, getattr(STEPS[n], "Muon", None))):

        def spy(self, *args, real=optimizer.step):
            seen.setdefault(self, []).append({group["lr"] for group in self.param_groups})
            return real(self, *args)

        monkeypatch.setattr(optimizer, "step", spy)
    STEPS[n].train(model, make_corpus(), config)
    wanted = [{STEPS[n].learning_rate_at(step, config)} for step in range(5)]
    assert all(rates == wanted for rates in seen.values())
    matrices = {p for p in model.blocks.parameters() if p.dim() == 2 and n >= 14}
    owned = {type(optimizer).__name__: optimizer.param_groups for optimizer in seen}
    muons = owned.pop("Muon", ())
    parts = {p: group["parts"] for group in muons for p in group["params"]}
    assert parts == {p: 3 if p.shape == (3 * 32, 32) else 1 for p in matrices}  # q, k, v
    assert all(group["weight_decay"] == 0.3 for group in muons if n >= 17)
    decays = {p: group["weight_decay"] for group in owned.pop("AdamW") for p in group["params"]}
    others = set(model.parameters()) - matrices
    assert decays == {p: 0.3 if p.dim() == 2 else 0.0 for p in others}


def turned(x):
    """Rotary positions by complex numbers, (..., T, head_size): a pair is one of each half."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    pairs = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1).contiguous())
    pairs = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))
    return pairs.movedim(-1, -2).flatten(-2)  # the halves side by side again


@since(11)
def test_attention_is_torchs_of_turned_queries_and_keys(n):
    """From lesson 12 on they are normalised before they are turned."""
    attention, x = make_model(n, shake=0.3).blocks[0].attention, torch.randn(3, T, 32).double()
    q, k, v = attention.qkv(x).view(3, T, 3, 4, 8).permute(2, 0, 3, 1, 4)
    norm = nn.RMSNorm(8, elementwise_affine=False) if n >= 12 else nn.Identity()
    wanted = F.scaled_dot_product_attention(turned(norm(q)), turned(norm(k)), v, is_causal=True)
    wanted = attention.proj(wanted.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-6)  # a table in float32


@since(11)
def test_positions_enter_by_scores_alone(n):
    """In a text of one character only, all values are equal, and so are the logits everywhere."""
    logits, _ = make_model(n, shake=0.3)(torch.full((1, T), 7))
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits), rtol=0, atol=1e-4)


def test_feed_forward_is_torchs_gated_linear_unit_with_silu_for_sigmoid():
    layer, x = make_model(13, shake=0.3).blocks[0].feed_forward, torch.randn(3, T, 32).double()
    glu = F.glu(torch.cat((layer.up(x), layer.gate(x)), dim=-1), dim=-1)  # up * sigmoid(gate)
    wanted = layer.down(layer.gate(x) * glu)  # silu(gate) = gate * sigmoid(gate)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)
    for size in STEPS[13].SIZES.values():  # and the gate costs no weights
        layers = [STEPS[n].FeedForward(size).parameters() for n in (12, 13)]
        old, new = (sum(p.numel() for p in layer if p.dim() == 2) for layer in layers)
        assert old == new


def test_orthogonal_on_gradients_of_the_model():
    """Directions stay; what is above 1/500 of the norm ends between 0.68 and 1.21."""
    corpus, config = make_corpus(), MUON.SIZES["laptop"]
    model = MUON.LanguageModel(config, corpus.tokenizer.vocab_size)
    model(*corpus.batch("train", config.batch_size, config.block_size))[1].backward()
    for p in [p for p in model.blocks.parameters() if p.dim() == 2]:
        u, s, vh = torch.linalg.svd(p.grad.double(), full_matrices=False)
        core = u.mT @ MUON.orthogonal(p.grad[None])[0].double() @ vh.mT
        values, large = core.diagonal(), s > s.norm() / 500
        assert (core - values.diag()).abs().max() < 0.01
        assert values.max() < 1.21
        assert values[large].min() > 0.68
        assert 10 < large.sum() < len(s)  # the others come out smaller


@pytest.mark.parametrize(("n", "decay"), [(14, 0.0), (17, 0.0), (17, 5.0)])
def test_muon_is_torchs_within_bfloat16(n, decay):
    """Queries, keys and values are three matrices; torch's computes one by one, in bfloat16."""
    torch.manual_seed(0)
    fused, single = (nn.Parameter(torch.randn(96, 32)) for _ in range(2))
    start = torch.stack((fused, single)).detach().clone()
    more = {"weight_decay": decay} if n >= 17 else {}
    ours = STEPS[n].Muon([{"params": [fused], "parts": 3}, {"params": [single]}], lr=0.02, **more)
    parts = [nn.Parameter(x.clone()) for x in (*fused.detach().chunk(3), single.detach())]
    how = {"momentum": 0.85, "weight_decay": decay, "adjust_lr_fn": "match_rms_adamw"}
    theirs = torch.optim.Muon(parts, lr=0.02, **how)
    for _ in range(5):
        fused.grad, single.grad = torch.randn(2, 96, 32) * torch.rand(())
        for part, gradient in zip(parts, (*fused.grad.chunk(3), single.grad), strict=True):
            part.grad = gradient.clone()
        ours.step()
        theirs.step()
    moved = torch.stack((fused, single)).detach() - start
    wanted = torch.stack((torch.cat(parts[:3]), parts[3])).detach() - start
    assert ((moved - wanted).norm(dim=(1, 2)) < 0.02 * wanted.norm(dim=(1, 2))).all()


def test_the_momentum_of_one_gradient_moves_the_next_step():
    """The second gradient is 0: without momentum nothing would move."""
    p, gradient = nn.Parameter(torch.zeros(32, 32)), nn.init.orthogonal_(torch.empty(32, 32))
    muon, moved = MUON.Muon([{"params": [p]}], lr=0.1), []
    for p.grad in (gradient, torch.zeros(32, 32)):
        before = p.detach().clone()
        muon.step()
        moved.append(before - p.detach())
    torch.testing.assert_close(moved[1], moved[0])
    torch.testing.assert_close(moved[0] / moved[0].norm(), gradient / gradient.norm())


def looks_back(model, length):
    """Lesson 14's model for long texts, whose mask hides what is T or more positions back."""
    plain = make_model(14, block_size=length).double()
    plain.load_state_dict(model.state_dict(), strict=False)
    for block in plain.blocks:
        block.attention.tril -= block.attention.tril.tril(-T)
    return plain.eval()


@since(15)
@pytest.mark.parametrize("pieces", [[8], [5, 3], [1, 7], [2, 1, 4, 1], [1] * 8], ids=str)
def test_cached_logits_are_those_of_one_long_text(n, pieces):
    """Up to block_size those of lesson 14, in whatever pieces; past it, one by one."""
    model, idx = make_model(n, shake=0.5).eval(), torch.randint(65, (2, 5 * T))
    caches = [STEPS[n].Cache(T) for _ in model.blocks]
    with torch.no_grad():
        logits = [model(x, caches=caches)[0] for x in idx.split([*pieces, *[1] * 4 * T], dim=1)]
        wanted, _ = looks_back(model, 5 * T)(idx)
    # Their tables of angles are in float32, and past block_size the positions are not the same.
    torch.testing.assert_close(torch.cat(logits, dim=1), wanted, rtol=0, atol=1e-5)
    assert caches[0].k.shape == (2, 4, T, 8)
    assert caches[0].k.untyped_storage().nbytes() <= 2 * 4 * (T + 1) * 8 * 8  # it does not grow


@since(15)
@pytest.mark.parametrize("length", [1, 5, 3 * T])
def test_the_text_is_the_one_of_such_a_model(n, length):
    model, prompt = make_model(n, shake=0.5), torch.randint(65, (2, length))
    texts = []
    for writer, begin in [(model, prompt), (looks_back(model, 60), prompt[:, -T:])]:
        torch.manual_seed(5)
        texts.append(torch.cat(list(writer.generate(begin, 30)), dim=1))
    assert torch.equal(*texts)


@since(15)
def test_tables_exist_once_and_are_no_part_of_the_state(n):
    model = make_model(n)
    assert len(list(model.buffers())) == 2
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def recounted(text, chars, vocab_size):
    """The merges, from all pairs of the whole text counted anew each time; the text in tokens."""
    pieces, merges = [[*map(chars.index, piece)] for piece in TOKENS.PIECE.findall(text)], []
    while len(chars) + len(merges) < vocab_size:
        counts = Counter(pair for piece in pieces for pair in pairwise(piece))
        if not counts:
            break
        merges.append(max(sorted(counts), key=counts.get))  # the first of the commonest
        for piece in pieces:
            for i in range(len(piece)):
                if tuple(piece[i : i + 2]) == merges[-1]:
                    piece[i : i + 2] = [len(chars) + len(merges) - 1]
    return merges, sum(pieces, [])


@settings(max_examples=100, deadline=None)
@example(SAMPLE.read_text(encoding="utf-8")[:3000], "", 150)
@given(st.text("aab .\nñ", max_size=40), st.text("ab .\nñ☃", max_size=20), st.integers(0, 20))
def test_merges_are_those_of_counting_anew_and_decode_inverts_encode(text, other, vocab_size):
    chars = sorted(set(text + other))
    merges, encoded = recounted(text, chars, vocab_size)
    assert TOKENS.learn_merges(text, chars, vocab_size) == merges
    for step in (TOKENS, BPE_DROPOUT):
        tokenizer = step.PairTokenizer(chars, merges)  # its parts are all that it needs
        assert tokenizer.vocab_size == len(chars) + len(merges)
        assert tokenizer.encode(text) == encoded
        for written in (other, other + text):
            assert tokenizer.decode(tokenizer.encode(written)) == written
    for dropout in (0.2, 0.8):
        assert tokenizer.decode(tokenizer.encode(text, dropout)) == text
    assert tokenizer.encode(text, 1.0) == [*map(chars.index, text)]


def test_of_equally_common_pairs_the_one_with_the_lowest_tokens_is_merged():
    assert TOKENS.learn_merges("cd ab", list(" abcd"), 6) == [(0, 1)]  # " a"
    assert TOKENS.learn_merges("dc.ba", list(".abcd"), 6) == [(2, 1)]  # "ba"
    assert TOKENS.learn_merges("aaa", ["a"], 9) == [(0, 0), (1, 0)]  # from the left


@pytest.mark.slow
@pytest.mark.parametrize("file", [SAMPLE, TINY_SHAKESPEARE], ids=lambda file: file.stem)
def test_the_tokenizers_package_learns_and_encodes_the_same(file):
    package = pytest.importorskip("tokenizers", reason="needs tokenizers")
    if not file.exists():
        pytest.skip(f"needs {file.name}")
    texts = read_text(file)
    chars = CharTokenizer(texts["train"] + texts["val"]).chars
    ours = TOKENS.PairTokenizer(chars, TOKENS.learn_merges(texts["train"], chars, 512))
    theirs = package.Tokenizer(package.models.BPE())
    pattern = package.Regex(r" ?\w+| ?[^\w\s]+|\s+")
    theirs.pre_tokenizer = package.pre_tokenizers.Split(pattern, "isolated")
    how = {"vocab_size": 512, "initial_alphabet": chars, "show_progress": False}
    theirs.train_from_iterator([texts["train"]], package.trainers.BpeTrainer(**how))
    assert {text: token for token, text in enumerate(ours.texts)} == theirs.get_vocab()
    encoded = [ours.encode(text) for text in texts.values()]
    assert encoded == [theirs.encode(text).ids for text in texts.values()]
    if file == TINY_SHAKESPEARE:
        assert [len(tokens) for tokens in encoded] == [456785, 53325]


def test_each_merge_that_is_possible_is_left_out_with_the_chance_of_dropout():
    """Of those that are not passed over, the one that was learnt first is made: 1910.13267."""
    a, b, c, ab, bc, abc = 1, 2, 3, 4, 5, 6
    tokenizer = BPE_DROPOUT.PairTokenizer(list("\nabc"), [(a, b), (b, c), (ab, c)])
    random.seed(0)
    tokens, p = tokenizer.encode("abc\n" * 20_000, 0.3), 0.3
    found = Counter(re.findall(r"[^0]+", "".join(map(str, tokens))))
    wanted = {f"{abc}": (1 - p) ** 2, f"{ab}{c}": (1 - p) * p, f"{a}{bc}": p * (1 - p)}
    wanted[f"{a}{b}{c}"] = p * p
    assert {cut: found[cut] / 20_000 for cut in found} == pytest.approx(wanted, abs=0.015)


def test_training_reads_cuts_whose_dropout_falls_to_zero(monkeypatch):
    seen, real = [], BPE_DROPOUT.Corpus.batch

    def spy(self, split, *args):
        if split == "cut":
            seen.append(self.splits["cut"].tolist())
        return real(self, split, *args)

    monkeypatch.setattr(BPE_DROPOUT.Corpus, "batch", spy)
    config = make_config(18, max_iters=8, cut_interval=2, merge_dropout=0.5, vocab_size=150)
    _, corpus = BPE_DROPOUT.main(config)
    text, tokens = corpus.texts["train"], corpus.splits["train"]
    assert len(seen) == 8
    assert seen[::2] == seen[1::2]
    assert all(corpus.tokenizer.decode(cut) == text for cut in seen[::2])
    more = [len(cut) - len(tokens) for cut in seen[::2]]
    assert more == sorted(more, reverse=True)
    assert 0 < more[-1] < 0.4 * more[0]
    assert tokens.tolist() == corpus.tokenizer.encode(text)  # what is evaluated
    BPE_DROPOUT.main(config)
    assert seen[8:] == seen[:8]  # a run can be repeated


@pytest.mark.parametrize("step", [TOKENS, BPE_DROPOUT])
def test_an_unknown_character_is_named(step):
    with pytest.raises(InputError, match="'☃'"):
        step.PairTokenizer(list(" ab"), [(1, 2)]).encode("ab ☃")


def test_the_loss_of_an_even_guess_is_counted_by_characters():
    """ln(V) nats a token, for as many tokens as the split has."""
    config = make_config(16, max_iters=0, vocab_size=150, float32=True)
    model, corpus = TOKENS.main(config)
    nn.init.zeros_(model.lm_head.weight)
    means = TOKENS.estimate_loss(model, corpus, config)
    for split, text in read_text(SAMPLE).items():
        tokens = corpus.tokenizer.encode(text)
        assert len(tokens) < 0.8 * len(text)
        nats = torch.tensor(150.0).log().item() * len(tokens)
        assert means[split] == pytest.approx(nats / len(text), rel=1e-5)
