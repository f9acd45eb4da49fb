"""The first section of the video: a text becomes tokens, and tokens become batches.

A model computes with numbers, so each distinct character gets a number, its token. The model
learns from short windows of the text: x is what the model sees, and y is what comes next at each
position of x.
`python -m common.data` shows this on Tiny Shakespeare.
Video: 0:07:52, https://www.youtube.com/watch?v=kCc8FmEb1nY&t=472s
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from common import InputError
from common.download import TINY_SHAKESPEARE, download_or_sample


def read_text(path: str | Path) -> dict[str, str]:
    """The splits of a UTF-8 text: "train", the first 90 % of its characters, and "val", the rest.

    A missing Tiny Shakespeare is downloaded. Raises InputError for a file that cannot be read.
    """
    path = Path(path)
    if path.resolve() == TINY_SHAKESPEARE and not path.exists():
        path = download_or_sample()
    try:
        # Some editors put a mark, U+FEFF, before the text.
        text = path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: see byte {error.start:,}") from None
    if not text:
        raise InputError(f"{path} is empty")
    n = int(0.9 * len(text))
    return {"train": text[:n], "val": text[n:]}


class CharTokenizer:
    """Turns a text into tokens and back: the token of a character is its index in chars."""

    def __init__(self, text: str) -> None:
        self.chars = sorted(set(text))
        self.stoi = {char: token for token, char in enumerate(self.chars)}
        self.vocab_size = len(self.chars)  # V

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises InputError for characters that are not in chars."""
        if unknown := sorted(set(text) - set(self.chars)):
            raise InputError(
                f"these characters are not in the text: {', '.join(map(repr, unknown))}"
            )
        return [self.stoi[char] for char in text]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens: the inverse of encode."""
        return "".join([self.chars[token] for token in tokens])


class Corpus:
    """The two splits of a text as tokens, and random batches of them."""

    def __init__(
        self, texts: dict[str, str], tokenizer: CharTokenizer, device: torch.device, seed: int
    ) -> None:
        self.texts, self.tokenizer = texts, tokenizer
        self.splits = {
            split: torch.tensor(tokenizer.encode(text), device=device)
            for split, text in texts.items()
        }
        # The batches have their own generator, so a model's random draws do not change them. The
        # generator is on the CPU, since other devices draw other numbers from the same seed.
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, split: str, batch_size: int, block_size: int) -> tuple[Tensor, Tensor]:
        """Random windows x of a split and what comes next, y: both (B, T), int64, on the device.

        Raises InputError for a batch without a token, and where a split is too short for a window
        and the token after it.
        """
        if batch_size < 1 or block_size < 1:
            raise InputError(
                f"batch_size {batch_size} and block_size {block_size} give no batch: "
                "both must be at least 1"
            )
        tokens, shortest = self.splits[split], min(map(len, self.splits.values()))
        if block_size >= shortest:
            raise InputError(
                f"the text is too short for block_size {block_size}: "
                f"its validation split, the last tenth, has {shortest:,} tokens"
            )
        starts = torch.randint(len(tokens) - block_size, (batch_size, 1), generator=self.generator)
        positions = starts + torch.arange(block_size + 1)  # (B, 1) + (T+1,) is (B, T+1)
        windows = tokens[positions.to(tokens.device)]  # (B, T+1)
        return windows[:, :-1], windows[:, 1:]


def load_corpus(path: str | Path, device: torch.device, seed: int) -> Corpus:
    """A text as a corpus of characters on the device; the seed is for the batches."""
    texts = read_text(path)
    return Corpus(texts, CharTokenizer(texts["train"] + texts["val"]), device, seed)


def main() -> None:
    """Print what the scripts learn from: characters, tokens, the splits and a window."""
    corpus = load_corpus(TINY_SHAKESPEARE, torch.device("cpu"), seed=1337)
    tokenizer = corpus.tokenizer
    print(f"{tokenizer.vocab_size} characters: {''.join(tokenizer.chars)!r}")
    tokens = tokenizer.encode("First Citizen:")
    print(f"encode('First Citizen:') is {tokens}")
    print(f"decode({tokens}) is {tokenizer.decode(tokens)!r}")
    print(
        *(f"{split}: {len(tokens):,} tokens" for split, tokens in corpus.splits.items()), sep=", "
    )
    x, y = corpus.batch("train", batch_size=1, block_size=8)  # (1, T)
    print(f"a window has 8 examples: x = {x[0].tolist()}, y = {y[0].tolist()}")
    for t in range(8):
        context, target = tokenizer.decode(x[0, : t + 1]), tokenizer.decode(y[0, t : t + 1])
        print(f"  after {context!r} comes {target!r}")


if __name__ == "__main__":
    main()
