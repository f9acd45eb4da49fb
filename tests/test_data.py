"""common/: a text as tokens, splits and batches, and the choice of a device."""

import pytest
import torch
from conftest import CPU

from common import InputError
from common.data import CharTokenizer, Corpus, load_corpus, read_text
from common.device import select_device

PLAY = "Zw\u00f6lf\tBoxk\u00e4mpfer\n\u65e5\u672c\u8a9e \U0001f3ad e\u0301\n" * 10
DISTINCT = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))  # so a character says where it stood


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def corpus_of(text, device=CPU, seed=1):
    n = len(text) * 9 // 10
    return Corpus({"train": text[:n], "val": text[n:]}, CharTokenizer(text), device, seed)


# --- The text and its characters ---


def test_the_splits_are_the_first_nine_tenths_and_the_rest(file):
    text = (DISTINCT * 11)[:1003]
    assert read_text(file(text)) == {"train": text[:902], "val": text[902:]}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends_leave_no_trace(file, bom, newline):
    texts = read_text(file(bom + PLAY.replace("\n", newline).encode("utf-8")))
    assert texts["train"] + texts["val"] == PLAY


def test_tokens_count_the_sorted_characters_and_turn_back_into_them():
    tokenizer = CharTokenizer("hello world\n")
    assert tokenizer.chars == list("\n dehlorw")
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode("hold") == [4, 6, 5, 2]
    tokenizer = CharTokenizer(PLAY)
    assert tokenizer.decode(torch.tensor(tokenizer.encode(PLAY))) == PLAY


def test_a_corpus_has_the_characters_of_the_whole_text_and_both_splits(file):
    corpus = load_corpus(file("a" * 90 + "b" * 10), CPU, seed=1)
    assert corpus.tokenizer.chars == ["a", "b"]
    assert corpus.splits["train"].tolist() == [0] * 90
    assert corpus.splits["val"].tolist() == [1] * 10


# --- Batches ---


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_are_all_windows_of_their_split_each_with_what_comes_next(split):
    corpus = corpus_of(DISTINCT)
    text, decode = corpus.texts[split], corpus.tokenizer.decode
    x, y = corpus.batch(split, batch_size=2000, block_size=4)
    assert x.dtype == y.dtype == torch.int64
    drawn = {(decode(a), decode(b)) for a, b in zip(x, y, strict=True)}
    assert drawn == {(text[i : i + 4], text[i + 1 : i + 5]) for i in range(len(text) - 4)}


def test_batches_follow_their_own_seed_and_nothing_else_that_is_drawn():
    def batches(seed, global_seed):
        corpus = corpus_of(DISTINCT, seed=seed)
        torch.manual_seed(global_seed)
        for split in ("train", "val", "train"):
            yield from corpus.batch(split, 8, 4)
            torch.rand(global_seed)  # as dropout or a larger model would

    first, again, other = (list(batches(*seeds)) for seeds in ((1, 2), (1, 3), (2, 2)))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[4])  # the next batch is another one


def test_tokens_and_batches_are_on_the_device():
    corpus = corpus_of(DISTINCT, torch.device("meta"))
    tensors = [*corpus.splits.values(), *corpus.batch("train", 2, 4)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("sizes", [(72, 9), (9, 72)])
def test_the_first_batch_finds_that_either_split_is_too_short(split, sizes):
    train, val = ("a" * size for size in sizes)
    corpus = Corpus({"train": train, "val": val}, CharTokenizer("a"), CPU, seed=1)
    assert corpus.batch(split, 2, 8)[0].shape == (2, 8)  # and one token after them
    with pytest.raises(InputError, match="too short for block_size 9.* has 9 tokens"):
        corpus.batch(split, 2, 9)


@pytest.mark.parametrize("sizes", [(0, 8), (-1, 8), (4, 0), (4, -1)])
def test_a_batch_without_a_token_is_refused(sizes):
    words = "batch_size {} and block_size {} give no batch".format(*sizes)
    with pytest.raises(InputError, match=f"^{words}: both must be at least 1$"):
        corpus_of(DISTINCT).batch("train", *sizes)
    assert corpus_of(DISTINCT).batch("train", 1, 1)[0].shape == (1, 1)


# --- What the user can mend ---


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"x" * 70_000 + b"\r\n"])
def test_a_byte_that_is_not_utf8_is_named_by_its_place(file, start):
    path = file(start + "caf\u00e9".encode("latin-1") * 100)
    with pytest.raises(InputError, match=rf"text\.txt is not UTF-8.* byte {len(start) + 3:,}$"):
        read_text(path)


# --- Devices that this machine may lack: torch's own answers are patched ---


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "chosen"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, True, "cpu", "cpu"),
        (2, True, "mps", "mps"),
        (2, True, "cuda:1", "cuda:1"),
        (0, True, "cuda", "it has mps, cpu"),
        (1, False, "mps", "it has cuda, cuda:0, cpu"),
        (1, False, "cuda:1", "it has cuda, cuda:0, cpu"),
        (0, False, "abacus", "it has cpu"),
    ],
)
def test_auto_takes_the_fastest_device_and_what_is_not_there_is_refused(
    monkeypatch, cuda, mps, name, chosen
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if chosen.startswith("it has"):
        with pytest.raises(InputError, match=f"{name!r}; {chosen}$"):
            select_device(name)
    else:
        assert select_device(name) == torch.device(chosen)
