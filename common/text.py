"""What `common/data.py` reads with: a text file of any size as numbers, in little time and memory.

For a short text it is the same as chars = sorted(set(text)) and [chars.index(c) for c in text].
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.download import TINY_SHAKESPEARE, download_or_sample


def read_text(path: str | Path) -> tuple[list[str], Tensor]:
    """The distinct characters of a text, sorted, and its tokens, (length,), indices into them.

    Tokens are as small as the vocabulary allows: uint8 for up to 255 characters. Raises OSError for
    a file that cannot be read, and ValueError, with the place, for one that is not UTF-8.
    """
    path = Path(path)
    if path.resolve() == TINY_SHAKESPEARE and not path.exists():
        path = download_or_sample()
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise OSError(f"{path} {problem}; --data takes a text file")
    try:
        return tokens_of(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: see byte {first_bad_byte(path):,}") from None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from None


def tokens_of(path: Path) -> tuple[list[str], Tensor]:
    """Two passes over a file: which characters there are, then the text as their indices."""
    present = np.zeros(0x110000, dtype=bool)  # one entry for each code point of Unicode
    length = 0
    for codes in read_code_points(path):
        present[codes] = True
        length += len(codes)
    chars = [chr(code) for code in np.flatnonzero(present)]

    table = np.zeros(0x110000, dtype=np.min_scalar_type(len(chars)))
    table[present] = range(len(chars))
    tokens = np.empty(length, dtype=table.dtype)
    start = 0
    for codes in read_code_points(path):
        tokens[start : start + len(codes)] = table[codes]
        start += len(codes)
    return chars, torch.from_numpy(tokens)


def read_code_points(path: Path) -> Iterator[np.ndarray]:
    """The text of a UTF-8 file as numbers, in pieces, so that a large one takes little memory."""
    with open(path, encoding="utf-8-sig") as file:  # drops a BOM, turns every line end into \n
        while piece := file.read(2**20):
            yield np.frombuffer(piece.encode("utf-32-le"), dtype=np.uint32)


def first_bad_byte(path: Path) -> int:
    """Where a file stops being UTF-8, counted in bytes from 0."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    raise ValueError(f"{path} changed while it was read")
