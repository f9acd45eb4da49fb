"""Section 1 of the tutorial: a text becomes tokens, and tokens become batches.

A language model computes with integers, so each distinct character gets a number: the tokens.
What the model learns from are short windows of the text: x is what it sees, y, the same window
one character later, is what it should have said at each position.
Video: 0:07:52, https://www.youtube.com/watch?v=kCc8FmEb1nY&t=472s
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.download import TINY_SHAKESPEARE, download_or_sample, whole_file

__all__ = ["TINY_SHAKESPEARE", "Corpus", "Vocabulary", "load_corpus", "whole_file"]


class Vocabulary:
    """The characters that a model knows: a token is an index into chars, sorted and distinct."""

    def __init__(self, chars: Iterable[str]) -> None:
        self.chars = list(chars)
        self._token_of = {char: token for token, char in enumerate(self.chars)}

    @property
    def vocab_size(self) -> int:
        """How many characters there are (V)."""
        return len(self.chars)

    def encode(self, text: str) -> list[int]:
        """The tokens of text. Raises ValueError, naming them, for characters not in chars."""
        unknown = sorted(set(text) - self._token_of.keys())
        if unknown:
            raise ValueError(f"not in the vocabulary: {', '.join(map(repr, unknown))}")
        return [self._token_of[char] for char in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens: the inverse of encode."""
        return "".join(self.chars[token] for token in ids)


class Corpus(Vocabulary):
    """A text as a language model sees it: its vocabulary and two splits of token ids.

    splits: "train", the first 90 % of the tokens, and "val", the rest.
    """

    def __init__(self, path: str | Path) -> None:
        present = np.zeros(0x110000, dtype=bool)  # one entry for each code point of Unicode
        length = 0
        for codes in read_code_points(path):
            present[codes] = True
            length += len(codes)
        super().__init__(chr(code) for code in np.flatnonzero(present))

        table = np.zeros(0x110000, dtype=np.min_scalar_type(self.vocab_size))
        table[present] = range(self.vocab_size)
        tokens = np.empty(length, dtype=table.dtype)  # one byte for each, up to 255 characters
        start = 0
        for codes in read_code_points(path):
            tokens[start : start + len(codes)] = table[codes]
            start += len(codes)
        n = 9 * length // 10
        self.splits = {"train": torch.from_numpy(tokens[:n]), "val": torch.from_numpy(tokens[n:])}

    def batch(
        self, split: str, batch_size: int, block_size: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Random windows x and their continuations y, both (B, T) int64, y one character ahead.

        The CPU's generator draws the positions, so that a seed gives every device the same batches.
        """
        tokens = self.splits[split]
        starts = torch.randint(len(tokens) - block_size, (batch_size, 1))  # (B, 1)
        windows = tokens[starts + torch.arange(block_size + 1)]  # (B, T+1), all in one gather
        windows = windows.long().to(device)
        return windows[:, :-1], windows[:, 1:]


def read_code_points(path: str | Path) -> Iterator[np.ndarray]:
    """The text of a UTF-8 file as numbers, in pieces, so that a large one takes little memory."""
    with open(path, encoding="utf-8-sig") as file:  # drops a BOM, turns every line end into \n
        while piece := file.read(2**20):
            yield np.frombuffer(piece.encode("utf-32-le"), dtype=np.uint32)


def load_corpus(path: str | Path = TINY_SHAKESPEARE, block_size: int = 1) -> Corpus:
    """Read a UTF-8 text; a missing Tiny Shakespeare is downloaded, or else replaced by our sample.

    Raises OSError for a file that cannot be read, and ValueError for one that is not UTF-8 or that
    is too short to hold a window of block_size characters and their continuation in each split.
    """
    path = Path(path)
    if path.resolve() == TINY_SHAKESPEARE and not path.exists():
        path = download_or_sample()
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise OSError(f"{path} {problem}; --data takes a text file")
    try:
        corpus = Corpus(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: see byte {first_bad_byte(path):,}") from None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from None
    length = sum(len(tokens) for tokens in corpus.splits.values())
    if length <= 10 * block_size:
        raise ValueError(
            f"{path} has {length:,} characters, too few for block_size {block_size}: "
            f"it takes at least {10 * block_size + 1:,}"
        )
    return corpus


def first_bad_byte(path: Path) -> int:
    """Where a file stops being UTF-8, counted in bytes from 0."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    raise ValueError(f"{path} changed while it was read")
