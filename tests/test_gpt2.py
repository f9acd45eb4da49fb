"""beyond/gpt2.py: from GPT-2's files it gets the tokens, logits and text that others get."""

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import InputError
from common.data import Corpus

gpt2 = importlib.import_module("beyond.gpt2")
ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT / "data" / "gpt2"  # where a reader may have the real files; git ignores them
WIDTH, CONTEXT = 48, 32
SHAPE = {"n_layer": 2, "n_embd": WIDTH, "n_head": 3, "n_positions": CONTEXT}

# A vocabulary as GPT-2's files write it: the bytes, those that are not printable from 256 on.
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in SHOWN]
BYTES = [chr(byte if byte in SHOWN else 256 + HIDDEN.index(byte)) for byte in range(256)]
MERGES = ["Ġ t", "h e", "Ġt he"]
VOCABULARY = [*BYTES, *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]


def random_tensors():
    """GPT-2's names and layout, masks included, each number 0.1 of a normal draw off its start."""
    torch.manual_seed(1)
    shapes = {"wte.weight": (len(VOCABULARY), WIDTH), "wpe.weight": (CONTEXT, WIDTH)}
    matrices = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    matrices |= {"mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH)}
    norms = ["ln_f", *(f"h.{i}.ln_{j}" for i in (0, 1) for j in (1, 2))]
    for name, shape in {f"h.{i}.{m}": s for i in (0, 1) for m, s in matrices.items()}.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    tensors = {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    for name in norms:
        tensors[f"{name}.weight"] += 1
    mask = torch.tril(torch.ones(1, 1, CONTEXT, CONTEXT))
    return tensors | {f"h.{i}.attn.bias": mask for i in (0, 1)}


def write_safetensors(path, tensors):
    """As the published file has them: in any order, and the first number at an odd byte."""
    names = list(tensors)
    random.Random(1).shuffle(names)
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name in names:
        numbers = tensors[name].numpy().tobytes()
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": offsets}
        data += numbers
    text = json.dumps({name: header[name] for name in sorted(header)}).encode()
    text += b" " * (1 - len(text) % 2)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_folder(folder, tensors=None, **settings):
    """A small GPT-2 as the hub has it."""
    config = {"vocab_size": len(VOCABULARY), "layer_norm_epsilon": 1e-5} | SHAPE | settings
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text(json.dumps({text: i for i, text in enumerate(VOCABULARY)}))
    merges = "\n".join(["#version: 0.2", *MERGES, ""])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors or random_tensors())
    return folder


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("safetensors", reason="needs beyond/requirements.txt")
    return write_folder(tmp_path)


def load(folder, **settings):
    return gpt2.load(gpt2.Config(weights=str(folder), **settings))


# --- The model ---


def test_the_default_shape_is_the_published_one():
    with torch.device("meta"):
        model = gpt2.LanguageModel(gpt2.Config(), 50257)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("names", ["h.0.ln_1.bias", "transformer.h.0.ln_1.bias", "saved by them"])
def test_logits_loss_and_text_are_those_of_hugging_face(folder, names):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(VOCABULARY), **SHAPE)
    ).eval()
    tensors = random_tensors()
    loaded = theirs.transformer.load_state_dict(tensors, strict=False)
    assert loaded.missing_keys == []  # each of their parameters is perturbed
    if names == "saved by them":
        theirs.save_pretrained(folder)  # config.json and model.safetensors
    else:
        prefix = names.removesuffix("h.0.ln_1.bias")
        prefixed = {prefix + name: tensor for name, tensor in tensors.items()}
        write_safetensors(folder / "model.safetensors", prefixed)
    _, ours, _ = load(folder)
    ours.eval()

    idx = torch.randint(len(VOCABULARY), (4, CONTEXT))
    with torch.no_grad():
        expected = theirs(idx, labels=idx)  # they compare each position with the next one
        logits, _ = ours(idx)
        _, loss = ours(idx[:, :-1], idx[:, 1:])
    assert logits.std() > 0.5
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(loss, expected.loss, rtol=0, atol=1e-4)

    text, start = idx[:1, :5], idx[:1, :5]
    for _ in range(20):
        text = torch.cat((text, theirs(text).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(torch.cat([start, *ours.generate(start, 20, temperature=0)], dim=1), text)
    assert len(set(text[0, 5:].tolist())) > 3


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "model.safetensors").exists(), reason="needs the real GPT-2")
def test_the_real_weights_write_what_is_published():
    pytest.importorskip("safetensors", reason="needs beyond/requirements.txt")
    _, model, tokenizer = load(REAL)
    start = tokenizer.encode("The dog")
    assert start == [464, 3290]
    text = [int(token) for token in model.generate(torch.tensor([start]), 18, temperature=0)]
    expected = "373 1043 287 257 2214 1474 262 16246 286 2688 290 2688 27262 13 198 198 464 3290"
    assert text == [int(token) for token in expected.split()]


@pytest.mark.slow
def test_a_shorter_context_has_the_first_positions(folder):
    (_, whole, _), (_, short, _) = load(folder), load(folder, block_size=8)
    assert (whole.block_size, short.block_size) == (CONTEXT, 8)
    idx = torch.arange(8)[None]
    torch.testing.assert_close(short(idx)[0], whole(idx)[0])
    assert len(list(short.generate(idx.repeat(1, 3), 3))) == 3


@pytest.mark.slow
def test_temperature_and_top_k(folder):
    _, model, _ = load(folder)
    idx = torch.arange(8).repeat(64, 1)
    best = model(idx)[0][0, -1].topk(3).indices.tolist()

    def drawn(temperature, top_k):
        return set(next(model.generate(idx, 1, temperature, top_k)).flatten().tolist())

    assert drawn(0, 0) == drawn(1e-3, 0) == drawn(1, 1) == {best[0]}
    assert drawn(1, 3) == set(best)
    assert len(drawn(1, 0)) > 3


# --- The tokenizer ---


def test_a_small_vocabulary(tmp_path):
    tokenizer = gpt2.PairTokenizer(write_folder(tmp_path))
    names = [VOCABULARY[token] for token in tokenizer.encode("the the hehé")]
    assert names == ["t", "he", "Ġthe", "Ġ", "he", "h", "Ã", "©"]
    assert tokenizer.vocab_size == len(VOCABULARY)
    for text in ("", "\r\n\t  a", "naïve ½ Ⅷ 😀", "\x00\x7f\x85\xa0\u2028", "it's 'LL"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("a\udcff")) == "a?"  # no text, from a command line
    assert tokenizer.decode([tokenizer.encode("é")[0], 10**6]) == "\ufffd"


@pytest.mark.parametrize(("merges", "pieces"), [("a b\nb c", "ab c"), ("b c\na b", "a bc")])
def test_of_two_pairs_the_one_that_was_learnt_first_is_merged(tmp_path, merges, pieces):
    folder = write_folder(tmp_path)
    names = [*BYTES, "ab", "bc"]
    (folder / "vocab.json").write_text(json.dumps({text: i for i, text in enumerate(names)}))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    tokens = gpt2.PairTokenizer(folder).encode("abc")
    assert [names[token] for token in tokens] == pieces.split()


@pytest.mark.slow
def test_tokens_are_those_of_tiktoken(monkeypatch):
    tiktoken, regex = pytest.importorskip("tiktoken"), pytest.importorskip("regex")
    if not all((REAL / name).exists() for name in ("vocab.json", "merges.txt")):
        pytest.skip(f"needs GPT-2's vocab.json and merges.txt in {REAL}")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no copy that outlives the file
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    read = importlib.import_module("tiktoken.load").data_gym_to_mergeable_bpe_ranks
    theirs = tiktoken.Encoding(
        "GPT-2",
        pat_str=pattern,
        mergeable_ranks=read(str(REAL / "merges.txt"), str(REAL / "vocab.json")),
        special_tokens={"<|endoftext|>": 50256},
    )
    ours = gpt2.PairTokenizer(REAL)
    assert ours.vocab_size == theirs.n_vocab == 50257
    texts = ["naïve Straße, слово, 漢字", "e\u0301 o\u0323\u0302", "x² ½ Ⅷ ٣ 1_000", "\r\n\r\n a"]
    texts += ["trailing   ", "\t\ttabs \n ", "😀 👩\u200d👧 🇩🇪", "I'll it's WE'RE 'tis don't"]
    texts += ["", "<|endoftext|>", "\xa0\u3000\u2028", "a" * 1000, "_x_ -- ... !?"]
    draw = random.Random(1)
    texts += ["".join(draw.choices("".join(texts) + 20 * " ", k=20)) for _ in range(2000)]
    if gpt2.TINY_SHAKESPEARE.exists():
        splits = gpt2.read_text(gpt2.TINY_SHAKESPEARE)
        assert [len(ours.encode(split)) for split in splits.values()] == [301_966, 36_059]
        texts += splits.values()
    for text in texts:
        assert gpt2.PIECE.findall(text) == regex.findall(pattern, text), ascii(text[:100])
        assert ours.encode(text) == theirs.encode_ordinary(text), ascii(text[:100])
        assert ours.decode(ours.encode(text)) == text


# --- A run ---


def test_losses_are_in_nats_per_character(tmp_path):
    class Uniform(torch.nn.Module):
        def forward(self, x, y):
            return None, torch.tensor(2.0)

    tokenizer = gpt2.PairTokenizer(write_folder(tmp_path))
    texts = {"train": " the" * 100, "val": "x" * 50}  # a token has 4 characters, and 1
    corpus = Corpus(texts, tokenizer, torch.device("cpu"), seed=1)
    config = gpt2.Config(block_size=8, eval_iters=2)
    assert gpt2.estimate_loss(Uniform(), corpus, config) == {"train": 0.5, "val": 2.0}


@pytest.mark.slow
def test_a_run_trains_on_a_text(folder, capsys):
    flags = f"--weights {folder} --data {ROOT / 'data' / 'sample.txt'} --device cpu --prompt The"
    flags += " --batch-size 8 --learning-rate 1e-3 --eval-iters 2 --max-new-tokens 5"
    assert gpt2.main(gpt2.parse_args(flags.split()))[1] is None
    assert "loss" not in capsys.readouterr().out
    config = gpt2.parse_args([*flags.split(), "--max-iters", "30"])
    model, corpus = gpt2.main(config)
    printed = capsys.readouterr().out
    first, last = (float(line.split()[-1]) for line in printed.splitlines() if "loss" in line)
    assert last < first - 0.3
    assert "GB of memory" in printed
    assert len(corpus.splits["val"]) < len(corpus.texts["val"])
    assert model.lm_head.weight is model.token_embedding.weight
    (folder / "short.txt").write_text("the " * 50)
    with pytest.raises(InputError, match="too short for block_size 32"):
        gpt2.main(gpt2.Config(**vars(config) | {"data": folder / "short.txt"}))


@pytest.mark.slow
def test_a_character_may_span_tokens(folder, capsys, monkeypatch):
    tokens = gpt2.PairTokenizer(folder).encode("é😀é")[:-1]
    assert len(tokens) == 7
    sampled = [torch.tensor([[token]]) for token in tokens]
    monkeypatch.setattr(gpt2.LanguageModel, "generate", lambda *_: iter(sampled))
    gpt2.main(gpt2.Config(weights=str(folder), device="cpu", prompt="😀 "))
    assert capsys.readouterr().out.endswith("\n😀 é😀\ufffd\n")


@pytest.mark.slow
def test_a_console_that_lacks_characters(folder):
    command = [sys.executable, ROOT / "beyond" / "gpt2.py", "--weights", folder, "--prompt", "é😀"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\né?" in done.stdout.decode("cp1252").replace("\r", "")


# --- What the user can mend ---


@pytest.mark.slow
@pytest.mark.parametrize("name", gpt2.FILES)
def test_a_file_that_is_missing_or_something_else(folder, name):
    whole = (folder / name).read_bytes()
    for content in (b"<html>a page</html>", b"\xff", whole[: -len(whole) // 3]):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"^cannot use \S+{name}: .*$"):
            load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"^cannot read \S+{name}: No such file or directory$"):
        load(folder)


@pytest.mark.slow
def test_files_that_do_not_fit_each_other(folder):
    def error(tensors=None, **settings):
        with pytest.raises(InputError) as raised:
            load(write_folder(folder, random_tensors() | (tensors or {}), **settings))
        return str(raised.value).removeprefix(f"cannot use {folder}{os.sep}")

    one = {"ln_f.bias": torch.ones(1)}  # copy_ would spread it over the width
    assert error(one) == "model.safetensors: ValueError: ln_f.bias is (1,), not (48,)"
    assert error(n_layer=3) == "model.safetensors: KeyError: 'h.2.attn.c_attn.weight'"
    assert error(n_layer=1).startswith("model.safetensors: ValueError: this model has no h.1.")
    assert "wpe.weight is (32, 48), not (64, 48)" in error(n_positions=64)
    assert error(n_head=5) == "config.json: AssertionError: n_head 5 does not divide n_embd 48"
    assert "layer_norm_epsilon" in error(layer_norm_epsilon=1e-6)
    assert "activation_function" in error(activation_function="gelu")
    assert "vocab_size is 9" in error(vocab_size=9)


def test_packages_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for weights in (write_folder(tmp_path), ""):
        with pytest.raises(InputError, match=r"^.* -m pip install -r \S*requirements\.txt$"):
            load(weights)


@pytest.mark.slow
def test_the_hub_or_what_to_fetch_and_where_to_put_it(folder, monkeypatch):
    def download(repo, name, revision):
        assert (repo, revision[:8]) == ("openai-community/gpt2", "607a30d7")
        if not (folder / name).exists():
            raise ConnectionError("no\nnetwork")
        return str(folder / name)

    hub = pytest.importorskip("huggingface_hub", reason="needs beyond/requirements.txt")
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert load("")[2].vocab_size == len(VOCABULARY)
    (folder / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"^.*merges\.txt.* from https://\S+ .*--weights \S+$"):
        load("")


def test_without_a_network_the_error_says_so(tmp_path):
    """In a process of its own, with a cache that is empty, and forbidden to call the hub."""
    pytest.importorskip("huggingface_hub", reason="needs beyond/requirements.txt")
    command = [sys.executable, ROOT / "beyond" / "gpt2.py", "--device", "cpu"]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1
    start = (
        "GPT-2 could not be downloaded (no network, or no answer from the hub): save config.json"
    )
    assert done.stderr.startswith(start)
    assert len(done.stderr.splitlines()) == 1
