"""A text as tokens: vocabulary, splits and batches, for any text."""

import errno
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import Corpus, Vocabulary, load_corpus
from common.download import SAMPLE
from common.text import read_code_points, read_text


@pytest.fixture
def text_file(tmp_path):
    def write(text):
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8", newline="\n")
        return path

    return write


def test_chars_are_the_distinct_characters_sorted(text_file):
    corpus = load_corpus(text_file("hello world\n" * 3))
    assert corpus.chars == list("\n dehlorw")
    assert corpus.vocab_size == 9


def test_a_vocabulary_needs_no_text():
    vocabulary = Vocabulary("abc")
    assert (vocabulary.chars, vocabulary.vocab_size) == (["a", "b", "c"], 3)
    assert vocabulary.encode("cab") == [2, 0, 1]
    assert vocabulary.decode([2, 0, 1]) == "cab"


def test_a_corpus_has_a_vocabulary_and_two_splits():
    corpus = Corpus("abc", torch.tensor([0, 1, 2] * 10, dtype=torch.uint8))
    assert corpus.chars == corpus.vocabulary.chars == ["a", "b", "c"]
    assert corpus.vocab_size == corpus.vocabulary.vocab_size == 3
    assert corpus.encode("cab") == corpus.vocabulary.encode("cab")
    assert corpus.decode(corpus.splits["train"]) == "abc" * 9
    assert corpus.decode(corpus.splits["val"]) == "abc"


def test_encode_and_decode_are_inverse(corpus):
    text = "MARGERY:\nThe light, the light!\n"
    ids = corpus.encode(text)
    assert all(corpus.chars[i] == char for i, char in zip(ids, text, strict=True))
    assert corpus.decode(ids) == text
    assert corpus.decode(torch.tensor(ids)) == text


def test_encode_names_unknown_characters(corpus):
    with pytest.raises(ValueError, match="'~', '\u00e9'"):
        corpus.encode("caf\u00e9 ~")


def test_splits_are_the_first_nine_tenths_and_the_rest(text_file):
    text = "".join(chr(ord("a") + i % 26) for i in range(1003))
    corpus = load_corpus(text_file(text))
    assert corpus.decode(corpus.splits["train"]) == text[:902]
    assert corpus.decode(corpus.splits["val"]) == text[902:]


def test_y_is_x_one_character_ahead_and_x_is_in_the_text(corpus):
    for split in ("train", "val"):
        text = corpus.decode(corpus.splits[split])
        x, y = corpus.batch(split, 50, 8)
        assert x.shape == y.shape == (50, 8)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])
        for row, target in zip(x, y, strict=True):
            assert corpus.decode(row) + corpus.decode(target[-1:]) in text


def test_batches_go_to_the_device(corpus):
    assert {t.device.type for t in corpus.batch("train", 2, 4, torch.device("meta"))} == {"meta"}


def test_every_start_position_can_be_drawn_and_no_other(text_file):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))  # each character once
    corpus = load_corpus(text_file(text), block_size=4)
    for split, first, last in (("train", 0, 90 - 5), ("val", 90, 100 - 5)):
        x, _ = corpus.batch(split, 3000, 4)
        assert x[:, 0].unique().tolist() == list(range(first, last + 1))


def test_a_seed_gives_the_same_batches(corpus):
    torch.manual_seed(5)
    first = corpus.batch("train", 4, 8)
    torch.manual_seed(5)
    assert all(map(torch.equal, first, corpus.batch("train", 4, 8)))


def test_shortest_text_that_works(text_file):
    path = text_file("ab" * 40 + "a")  # 81 characters: 72 to train, 9 to validate
    x, y = load_corpus(path, block_size=8).batch("val", 2, 8)
    assert x.shape == y.shape == (2, 8)
    with pytest.raises(ValueError, match="81 characters.* at least 91"):
        load_corpus(path, block_size=9)


@pytest.mark.parametrize(
    ("start", "offset"), [(b"", 3), (b"\xef\xbb\xbf", 6), (b"x" * 5_000_000 + b"\r\n", 5_000_005)]
)
def test_bytes_that_are_not_utf8_are_named_by_their_offset(tmp_path, start, offset):
    path = tmp_path / "latin.txt"
    path.write_bytes(start + "caf\u00e9".encode("latin-1") * 100)
    with pytest.raises(ValueError, match=f"not UTF-8 text: see byte {offset:,}$"):
        load_corpus(path)


def test_a_text_read_in_several_pieces(tmp_path):
    path, line = tmp_path / "text.txt", "".join(map(chr, range(0x410, 0x410 + 60))) + "\r\n"
    path.write_bytes(line.encode() * 40_000)
    assert [len(codes) for codes in read_code_points(path)] == [2**20, 2**20, 342_848]
    chars, tokens = read_text(path)
    line = line.replace("\r\n", "\n")
    assert chars == sorted(set(line))
    assert tokens.tolist() == [chars.index(char) for char in line] * 40_000


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends_leave_no_trace(tmp_path, bom, newline):
    text = "Zw\u00f6lf Boxk\u00e4mpfer\n\u65e5\u672c\u8a9e \U0001f3ad\n" * 10
    path = tmp_path / "text.txt"
    path.write_bytes(bom + text.replace("\n", newline).encode("utf-8"))
    corpus = load_corpus(path)
    assert corpus.chars == sorted(set(text))
    assert corpus.decode(torch.cat(list(corpus.splits.values()))) == text
    assert list(tmp_path.iterdir()) == [path]  # nothing is written beside the user's file


@pytest.mark.parametrize("size", [2, 255, 256, 257, 70_000])
def test_vocabularies_of_every_size(tmp_path, size):
    text = "".join(chr(0x10000 + i) for i in range(size)) * (1 if size > 100 else 100)
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    corpus = load_corpus(path)
    assert corpus.vocab_size == size
    assert corpus.decode(torch.cat(list(corpus.splits.values()))) == text
    x, _ = corpus.batch("train", 2, 2)
    assert x.dtype == torch.int64


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix")
def test_files_that_are_none_or_closed_to_us(tmp_path):
    for name, match in (("missing", "does not exist"), (".", "is not a file")):
        with pytest.raises(OSError, match=match):
            load_corpus(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a file"):  # and no wait for somebody to write
        load_corpus(tmp_path / "pipe")
    closed = tmp_path / "closed.txt"
    closed.write_text("text " * 100)
    closed.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read anything")
    with pytest.raises(OSError, match="cannot read .*closed.txt: Permission denied"):
        load_corpus(closed)


def test_no_permission(tmp_path, monkeypatch):
    def closed(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = tmp_path / "closed.txt"
    path.write_text("text " * 100)
    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(OSError, match="cannot read .*closed.txt: Permission denied"):
        load_corpus(path)


def test_an_empty_file(text_file):
    with pytest.raises(ValueError, match="has 0 characters"):
        load_corpus(text_file(""))


any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff"), min_size=81
)


@settings(max_examples=30, deadline=None)
@given(text=any_text, block_size=st.integers(1, 8), batch_size=st.integers(1, 5))
def test_any_text_in_the_world(tmp_path_factory, text, block_size, batch_size):
    path = tmp_path_factory.mktemp("any") / "text.txt"
    path.write_bytes(text.encode("utf-8"))
    corpus = load_corpus(path, block_size)
    assert corpus.chars == sorted(set(text))
    assert corpus.decode(corpus.encode(text)) == text
    n = len(text) * 9 // 10
    assert corpus.splits["train"].tolist() == corpus.encode(text[:n])
    assert corpus.splits["val"].tolist() == corpus.encode(text[n:])
    for split, part in (("train", text[:n]), ("val", text[n:])):
        x, y = corpus.batch(split, batch_size, block_size)
        assert x.shape == y.shape == (batch_size, block_size)
        assert torch.equal(x[:, 1:], y[:, :-1])
        for row, target in zip(x, y, strict=True):
            assert corpus.decode(row) + corpus.decode(target[-1:]) in part


def test_bundled_sample_is_in_the_shape_of_tiny_shakespeare():
    text = SAMPLE.read_text(encoding="ascii")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert len(text) >= 100_000
    assert set(text) <= set("\n !$&',-.3:;?" + letters)
    runs = [text[i : i + 60] for i in range(len(text) - 59)]
    assert len(set(runs)) == len(runs)
    for speech in text.rstrip("\n").split("\n\n"):
        name, *lines = speech.split("\n")
        assert name.endswith(":")
        assert lines
        assert all(lines)
