"""Section 1 of the tutorial: a text becomes tokens, and tokens become batches.

A language model computes with integers, so each distinct character gets a number: the tokens.
What the model learns from are short windows of the text: x is what it sees, y, the same window
one character later, is what follows at each position. `python common/data.py` shows all of it.
Video: 0:07:52, https://www.youtube.com/watch?v=kCc8FmEb1nY&t=472s
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

if __name__ == "__main__":  # started as a file: Python looks for common/ beside it, not above
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.download import TINY_SHAKESPEARE
from common.text import read_text

__all__ = ["TINY_SHAKESPEARE", "Corpus", "Vocabulary", "load_corpus"]


class Vocabulary:
    """The characters that a model knows: a token is an index into chars, sorted and distinct."""

    def __init__(self, chars: Iterable[str]) -> None:
        self.chars = list(chars)
        self.token_of = {char: token for token, char in enumerate(self.chars)}
        self.vocab_size = len(self.chars)  # V

    def encode(self, text: str) -> list[int]:
        """The tokens of text. Raises ValueError, naming them, for characters not in chars."""
        unknown = sorted(set(text) - set(self.chars))
        if unknown:
            raise ValueError(f"not in the vocabulary: {', '.join(map(repr, unknown))}")
        return [self.token_of[char] for char in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens: the inverse of encode."""
        return "".join(self.chars[token] for token in ids)


class Corpus:
    """A text as a language model sees it: its vocabulary and two splits of its tokens.

    splits: "train", the first 90 % of the tokens, and "val", the rest.
    """

    def __init__(self, chars: Iterable[str], tokens: Tensor) -> None:
        self.vocabulary = Vocabulary(chars)
        self.chars, self.vocab_size = self.vocabulary.chars, self.vocabulary.vocab_size
        self.encode, self.decode = self.vocabulary.encode, self.vocabulary.decode
        n = 9 * len(tokens) // 10
        self.splits = {"train": tokens[:n], "val": tokens[n:]}

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


def load_corpus(path: str | Path = TINY_SHAKESPEARE, block_size: int = 1) -> Corpus:
    """Read a UTF-8 text; a missing Tiny Shakespeare is downloaded, or else replaced by our sample.

    Raises OSError for a file that cannot be read, and ValueError for one that is not UTF-8 or that
    is too short to hold a window of block_size characters and their continuation in each split.
    """
    chars, tokens = read_text(path)  # sorted(set(text)), and each character's index among them
    if len(tokens) <= 10 * block_size:
        raise ValueError(
            f"{path} has {len(tokens):,} characters, too few for block_size {block_size}: "
            f"it takes at least {10 * block_size + 1:,}"
        )
    return Corpus(chars, tokens)


def main() -> None:
    """Show what the scripts learn from: characters, tokens, the split, and one window."""
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # any console, and pipes
    block_size = 8
    try:
        corpus = load_corpus(block_size=block_size)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    train, val = corpus.splits["train"], corpus.splits["val"]
    print(f"{corpus.vocab_size} distinct characters: {''.join(corpus.chars)!r}")
    line = corpus.decode(train[:14])
    print(f"encoded: {line!r} is {corpus.encode(line)}")
    print(f"decoded: {corpus.encode(line)} is {corpus.decode(corpus.encode(line))!r}")
    print(f"split: {len(train):,} tokens to train on, {len(val):,} to validate with")
    torch.manual_seed(1337)
    x, y = corpus.batch("train", 1, block_size)  # (1, T)
    print(f"one window, x = {x[0].tolist()} and y = {y[0].tolist()}, is {block_size} examples:")
    for t in range(block_size):
        print(f"  after {corpus.decode(x[0, : t + 1])!r} comes {corpus.decode(y[0, t : t + 1])!r}")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
