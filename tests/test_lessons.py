"""The lessons of beyond/ against what others wrote: torch, tokenizers, the lesson before."""

import copy
import dataclasses
from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, SAMPLE, SMALL, TABLE, load
from torch import nn

from common import InputError
from common.data import CharTokenizer, load_corpus, read_text
from common.download import TINY_SHAKESPEARE

# The lessons by their ideas, in their order, whatever their numbers: "rotary" is 11_rotary.
NAMES = {name.split("_", 1)[1]: name for name, row in TABLE.items() if row["kind"] == "lesson"}
IDEAS = list(NAMES)
T, C = SMALL["block_size"], SMALL["n_embd"]
QUICK = {"dropout": 0.0, "max_iters": 4, "eval_interval": 2, "warmup_iters": 2}
QUICK |= {"data": SAMPLE, "device": "cpu", "max_new_tokens": 12}


def lesson(idea):
    return load(NAMES[idea])


def make_config(idea, **more):
    fields = {field.name for field in dataclasses.fields(lesson(idea).Config)}
    return lesson(idea).Config(**{k: v for k, v in (SMALL | QUICK | more).items() if k in fields})


def make_model(idea, shake=0.0, **more):
    """A toy model; shaken, it is in float64, and its attention is far from uniform."""
    torch.manual_seed(0)
    model = lesson(idea).LanguageModel(make_config(idea, **more), 65)
    with torch.no_grad():
        for p in model.parameters():
            p += shake * torch.randn_like(p)
    return model.double() if shake else model


def make_corpus():
    return load_corpus(SAMPLE, CPU, seed=5)


def members(model):
    """The transformers that a model consists of: itself, or several."""
    return list(getattr(model, "members", [model]))


def comes_after(idea, other):
    return IDEAS.index(idea) >= IDEAS.index(other)


def since(first, last=None):
    """Each lesson from one to another, or to the end."""
    return pytest.mark.parametrize(
        "idea", [i for i in IDEAS if comes_after(i, first) and (not last or comes_after(last, i))]
    )


@pytest.mark.parametrize("after", ["bfloat16", "cache", "tokens", "decay"])
def test_what_changes_no_training_gives_the_same_to_the_digit(after, capsys, monkeypatch):
    """Bfloat16 where it is off; the cache; tokens without merges; no decay."""
    real = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, **k: real(p, **{"weight_decay": 0.0} | k))
    ends = []
    for idea in (IDEAS[IDEAS.index(after) - 1], after):
        vocab_size = 1 if after == "tokens" else 80
        config = make_config(idea, float32=True, vocab_size=vocab_size, weight_decay=0.0)
        model, _ = lesson(idea).main(config)
        losses = [line for line in capsys.readouterr().out.splitlines() if "val loss" in line]
        ends.append((losses, dict(model.named_parameters())))
    (losses, weights), (new_losses, new_weights) = ends
    assert len(losses) == 3
    assert new_losses == losses
    assert weights.keys() == new_weights.keys()
    assert all(torch.equal(p, new_weights[name]) for name, p in weights.items())


@pytest.mark.parametrize(
    ("device", "built", "float32", "wanted"),
    [
        ("cpu", {"avx512_bf16": True}, False, True),
        ("cpu", {"avx512_bf16": True}, True, False),
        ("cpu", {"avx512_bf16": False}, False, False),
        ("cpu", {}, False, False),  # another kind of processor
        ("cuda", False, False, False),
        ("cuda", True, False, True),
        ("cuda", True, True, False),
        ("mps", {"avx512_bf16": True}, False, False),
    ],
)
def test_bfloat16_is_for_processors_built_for_it(device, built, float32, wanted, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: built)
    # What a GPU can only imitate is slow.
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or built,
    )
    monkeypatch.setattr(torch, "autocast", lambda device, dtype, enabled: (device, dtype, enabled))
    made = lesson("bfloat16").autocast(
        make_config("bfloat16", float32=float32), torch.device(device)
    )
    assert made == (device, torch.bfloat16, wanted)


@since("bfloat16")
def test_the_forward_pass_is_in_bfloat16_and_the_weights_are_not(idea, monkeypatch):
    """In training (True) and in evaluation (False)."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    model, seen = make_model(idea), {True: set(), False: set()}
    qkv = members(model)[-1].blocks[0].attention.qkv
    qkv.register_forward_hook(lambda *args: seen[model.training].add(args[-1].dtype))
    lesson(idea).train(model, make_corpus(), make_config(idea))
    assert seen == {True: {torch.bfloat16}, False: {torch.bfloat16}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_rate_is_torchs_warm_up_and_linear_decay():
    def rates(**more):
        config = make_config("schedule", learning_rate=1.0, **more)
        schedule = lesson("schedule").learning_rate_at
        return [schedule(step, config) for step in range(config.max_iters + 1)]

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


@since("schedule")
def test_each_step_has_its_rate_and_each_parameter_one_optimizer(idea, monkeypatch):
    """From the lesson on Muon it has the matrices of the blocks, and AdamW the rest."""
    step, seen = lesson(idea), {}
    kinds = {torch.optim.AdamW, torch.optim.Muon, getattr(step, "Muon", torch.optim.Muon)}
    for kind in kinds:

        def spy(self, *args, real=kind.step):
            seen.setdefault(self, []).append({group["lr"] for group in self.param_groups})
            return real(self, *args)

        monkeypatch.setattr(kind, "step", spy)
    model, config = make_model(idea), make_config(idea, max_iters=5, weight_decay=0.3)
    step.train(model, make_corpus(), config)
    wanted = [{step.learning_rate_at(at, config)} for at in range(5)]
    assert all(rates == wanted for rates in seen.values())
    owned = {"AdamW": [], "Muon": []}
    for optimizer in seen:
        groups = optimizer.param_groups
        owned[type(optimizer).__name__] += [(p, group) for group in groups for p in group["params"]]
    matrices = {p for one in members(model) for p in one.blocks.parameters() if p.dim() == 2}
    assert len(owned["AdamW"] + owned["Muon"]) == len(list(model.parameters()))
    muons = {p for p, _ in owned["Muon"]}
    assert muons == (matrices if comes_after(idea, "muon") else set())
    assert muons | {p for p, _ in owned["AdamW"]} == set(model.parameters())
    if comes_after(idea, "decay"):
        for p, group in owned["AdamW"] + owned["Muon"]:
            assert group["weight_decay"] == (0.3 if p.dim() == 2 else 0.0)


def turned(x):
    """Rotary positions by complex numbers, (..., T, head_size): a pair is one of each half."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    pairs = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1).contiguous())
    pairs = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))
    return pairs.movedim(-1, -2).flatten(-2)  # the halves side by side again


@since("rotary")
def test_attention_is_torchs_of_turned_queries_and_keys(idea):
    """From the lesson on their norm on they are normalised before they are turned."""
    attention = members(make_model(idea, shake=0.3))[0].blocks[0].attention
    x = torch.randn(3, T, C).double()
    q, k, v = attention.qkv(x).view(3, T, 3, 4, 8).permute(2, 0, 3, 1, 4)
    norm = (
        nn.RMSNorm(8, elementwise_affine=False) if comes_after(idea, "qk_norm") else nn.Identity()
    )
    wanted = F.scaled_dot_product_attention(turned(norm(q)), turned(norm(k)), v, is_causal=True)
    wanted = attention.proj(wanted.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-6)  # a table in float32


def test_feed_forward_is_torchs_gated_linear_unit_with_silu_for_sigmoid():
    layer = make_model("swiglu", shake=0.3).blocks[0].feed_forward
    x = torch.randn(3, T, C).double()
    glu = F.glu(torch.cat((layer.up(x), layer.gate(x)), dim=-1), dim=-1)  # up * sigmoid(gate)
    wanted = layer.down(layer.gate(x) * glu)  # silu(gate) = gate * sigmoid(gate)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)
    config = lesson("swiglu").Config()
    layers = [lesson(name).FeedForward(config).parameters() for name in ("qk_norm", "swiglu")]
    old, new = (sum(p.numel() for p in layer if p.dim() == 2) for layer in layers)
    assert old == new  # the gate costs no weights


@pytest.mark.parametrize(
    ("idea", "decay"), [("newton_schulz", 0.0), ("tokens", 0.0), ("decay", 0.0), ("decay", 5.0)]
)
def test_muon_is_torchs_within_bfloat16(idea, decay):
    """Torch's computes the matrices one by one, always in bfloat16."""
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in ((96, 32), (32, 96), (96, 32), (32, 32))]
    ours, theirs = ([nn.Parameter(x.clone()) for x in starts] for _ in range(2))
    more = {"weight_decay": decay} if idea == "decay" else {}
    how = {"momentum": 0.85, "weight_decay": decay, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = [
        lesson(idea).Muon(ours, lr=0.02, **more),
        torch.optim.Muon(theirs, lr=0.02, **how),
    ]
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) * torch.rand(())
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for start, p, q in zip(starts, ours, theirs, strict=True):
        assert (p - q).norm() < 0.02 * (q - start).norm()


def looks_back(model, length):
    """A model without a cache for long texts, whose mask hides what is T or more positions back."""
    plain = make_model("newton_schulz", block_size=length).double()
    plain.load_state_dict(dict(model.named_parameters()), strict=False)
    for block in plain.blocks:
        block.attention.tril -= block.attention.tril.tril(-T)
    return plain.eval()


@since("cache", "decay")
@pytest.mark.parametrize("pieces", [[8], [5, 3], [1, 7], [2, 1, 4, 1], [1] * 8], ids=str)
def test_cached_logits_are_those_of_one_long_text(idea, pieces):
    """Up to block_size those without a cache, in whatever pieces; past it, one by one."""
    model, idx = make_model(idea, shake=0.5).eval(), torch.randint(65, (2, 5 * T))
    caches = [lesson(idea).Cache(T) for _ in model.blocks]
    with torch.no_grad():
        logits = [model(x, caches=caches)[0] for x in idx.split([*pieces, *[1] * 4 * T], dim=1)]
        wanted, _ = looks_back(model, 5 * T)(idx)
    # Their tables of angles are in float32, and past block_size the positions are not the same.
    torch.testing.assert_close(torch.cat(logits, dim=1), wanted, rtol=0, atol=1e-5)
    assert caches[0].k.shape == (2, 4, T, 8)
    assert caches[0].k.untyped_storage().nbytes() <= 2 * 4 * (T + 1) * 8 * 8  # it does not grow


@since("cache", "decay")
@pytest.mark.parametrize("length", [1, 5, 3 * T])
def test_the_text_is_the_one_of_such_a_model(idea, length):
    model, prompt = make_model(idea, shake=0.5), torch.randint(65, (2, length))
    texts = []
    for writer, begin in [(model, prompt), (looks_back(model, 60), prompt[:, -T:])]:
        torch.manual_seed(5)
        texts.append(torch.cat(list(writer.generate(begin, 30)), dim=1))
    assert torch.equal(*texts)


TOKENS = lesson("tokens")


def recounted(text, chars, vocab_size):
    """The merges, from all pairs of the whole text counted anew each time; the text in tokens."""
    pieces, merges = [[*map(chars.index, piece)] for piece in TOKENS.PIECE.findall(text)], []
    while len(chars) + len(merges) < vocab_size:
        counts = Counter(pair for piece in pieces for pair in pairwise(piece))
        merges.append(max(sorted(counts), key=counts.get))  # the first of the commonest
        for piece in pieces:
            for i in range(len(piece)):
                if tuple(piece[i : i + 2]) == merges[-1]:
                    piece[i : i + 2] = [len(chars) + len(merges) - 1]
    return merges, sum(pieces, [])


def test_merges_are_those_of_counting_anew_and_decode_inverts_encode():
    text, other = SAMPLE.read_text(encoding="utf-8")[:3000], "ñ ☃ñ\n\n  the"
    chars = sorted(set(text + other))
    merges, encoded = recounted(text, chars, 200)
    assert TOKENS.learn_merges(text, chars, 200) == merges
    tokenizer = TOKENS.PairTokenizer(chars, merges)  # its parts are all that it needs
    assert tokenizer.vocab_size == 200
    assert tokenizer.encode(text) == encoded
    for written in (other, other + text):
        assert tokenizer.decode(tokenizer.encode(written)) == written


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
    assert {ours.decode([token]): token for token in range(512)} == theirs.get_vocab()
    encoded = [ours.encode(text) for text in texts.values()]
    assert encoded == [theirs.encode(text).ids for text in texts.values()]
    if file == TINY_SHAKESPEARE:
        assert [len(tokens) for tokens in encoded] == [456785, 53325]


@since("tokens")
def test_merges_are_learnt_from_the_training_split_alone(idea, tmp_path):
    text = "abab " * 180 + "cdcd " * 20  # the validation split, a tenth, is the only one with c
    (tmp_path / "text.txt").write_text(text)
    config = make_config(idea, data=tmp_path / "text.txt", max_iters=0, vocab_size=20)
    _, corpus = lesson(idea).main(config)
    assert corpus.texts["val"] == "cdcd " * 20
    merged = range(len(set(text)), corpus.tokenizer.vocab_size)
    assert set(corpus.tokenizer.decode(merged)) == set("ab ")


def test_an_unknown_character_is_named():
    with pytest.raises(InputError, match="'☃'"):
        TOKENS.PairTokenizer(list(" ab"), [(1, 2)]).encode("ab ☃")


def test_the_loss_of_an_even_guess_is_counted_by_characters():
    """ln(V) nats a token, for as many tokens as the split has."""
    config = make_config("tokens", max_iters=0, vocab_size=150, float32=True)
    model, corpus = TOKENS.main(config)
    nn.init.zeros_(model.lm_head.weight)
    means = TOKENS.estimate_loss(model, corpus, config)
    for split, text in read_text(SAMPLE).items():
        tokens = corpus.tokenizer.encode(text)
        assert len(tokens) < 0.8 * len(text)
        nats = torch.tensor(150.0).log().item() * len(tokens)
        assert means[split] == pytest.approx(nats / len(text), rel=1e-5)


def test_several_models_guess_the_mean_of_their_guesses_and_each_learns_alone():
    model = make_model("ensemble", shake=0.5, n_member=3)
    idx, targets = torch.randint(65, (2, 3, T))
    alone = [one(idx) for one in model.members]
    each = [F.cross_entropy(logits.flatten(0, 1), targets.flatten()) for logits in alone]
    # In training a member has its row of the batch, and no gradient from another's.
    logits, loss = model.train()(idx, targets)
    torch.testing.assert_close(logits, torch.cat([one[i : i + 1] for i, one in enumerate(alone)]))
    F.cross_entropy(logits[1], targets[1]).backward()
    moved = [one.lm_head.weight.grad.any().item() for one in model.members]
    assert moved == [False, True, False]
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    logits, loss = model.eval()(idx, targets)
    wanted = sum(F.softmax(one, dim=-1) for one in alone) / 3
    torch.testing.assert_close(F.softmax(logits, dim=-1), wanted)
    nats = -wanted.gather(-1, targets[..., None]).log().mean()
    torch.testing.assert_close(loss, nats)
    assert nats < torch.stack(each).mean()
    caches = [[lesson("ensemble").Cache(T) for _ in one.blocks] for one in model.members]
    pieces = [model(piece, caches=caches)[0] for piece in idx.split(3, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits, rtol=0, atol=1e-5)


def test_one_model_alone_learns_as_the_lesson_before():
    settings = {"float32": True, "n_member": 1, "vocab_size": 80}
    (one,) = lesson("ensemble").main(make_config("ensemble", **settings))[0].members
    before, _ = lesson("decay").main(make_config("decay", **settings))
    for (name, p), q in zip(one.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_model_learns_from_the_text_and_from_its_teacher(share):
    """The gradient is that of torch's divergence from the mean guess, which has the same."""
    step = lesson("distillation")
    config = make_config("distillation", float32=True, max_iters=1, imitation=share, n_member=1)
    student, corpus = make_model("distillation", n_member=1), make_corpus()
    teacher = make_model("distillation", shake=0.5, n_member=3).float().eval()
    start, batches = copy.deepcopy(student), []
    batch = corpus.batch
    corpus.batch = lambda *args: batches.append(batch(*args)) or batches[-1]
    step.train(student, corpus, config, teacher)
    x, y = batches[-1]
    guess = F.log_softmax(start(x)[0], dim=-1).flatten(0, 1)
    with torch.no_grad():
        mean = sum(F.softmax(one(x), dim=-1) for one in teacher.members).flatten(0, 1) / 3
    divergence = F.kl_div(guess, mean, reduction="batchmean")
    ((1 - share) * F.nll_loss(guess, y.flatten()) + share * divergence).backward()
    for p, q in zip(student.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_is_the_ensemble_of_the_lesson_before(monkeypatch):
    step, trained = lesson("distillation"), []
    train = step.train

    def spy(*args):
        train(*args)
        trained.append((args, {k: v.clone() for k, v in args[0].state_dict().items()}))

    monkeypatch.setattr(step, "train", spy)
    settings = {"float32": True, "n_member": 2, "vocab_size": 80}
    model, _ = step.main(make_config("distillation", **settings))
    before, _ = lesson("ensemble").main(make_config("ensemble", **settings))
    ((teacher, *_), weights), ((student, _, config, other), _) = trained
    assert (student, other) == (model, teacher)
    assert not teacher.training
    assert len(student.members) == 1
    assert config.batch_size == SMALL["batch_size"] // 2
    for name, p in before.state_dict().items():
        assert torch.equal(p, weights[name]), name
        assert torch.equal(p, teacher.state_dict()[name]), name  # the student's training left it
