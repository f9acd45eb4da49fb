"""A text as tokens: vocabulary, splits, batches, and what happens without a network."""

import pytest
import requests
import torch

from common import data
from common.data import Corpus, load_corpus


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


def test_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\u00e9".encode("latin-1") * 100)
    with pytest.raises(ValueError, match="not UTF-8"):
        load_corpus(path)


def test_bundled_sample_is_in_the_shape_of_tiny_shakespeare():
    text = data.SAMPLE.read_text(encoding="ascii")
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


def test_without_a_network_the_sample_is_used_and_one_line_says_so(tmp_path, monkeypatch, capsys):
    def no_network(*args, **kwargs):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(data, "TINY_SHAKESPEARE", tmp_path / "input.txt")
    monkeypatch.setattr(requests, "get", no_network)
    corpus = load_corpus(tmp_path / "input.txt")
    assert corpus.chars == Corpus(data.SAMPLE).chars
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "losses will differ" in captured.err
    assert list(tmp_path.iterdir()) == []
