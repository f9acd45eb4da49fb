"""What the pictures of the lessons show, computed with the lessons' own code."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # finds common/
from common.data import load_corpus  # noqa: E402


def lesson(name: str) -> ModuleType:
    """A script of beyond/ as a module, which starts nothing."""
    folder = str(ROOT / "beyond")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def turned_pairs(pairs: tuple[int, ...] = (0, 2, 4), positions: int = 6) -> dict:
    """The speed of some pairs of features, and where (1, 0) is turned at each position."""
    script = lesson("11_rotary")
    config = script.Config()
    half = config.n_embd // config.n_head // 2
    x = torch.zeros(1, 1, positions, 2 * half)
    x[..., :half] = 1  # (1, 0) in each pair
    turned = script.Rotary(config)(x)[0, 0]  # (positions, head_size)
    return {
        10000 ** (-pair / half): [
            (round(row[pair].item(), 3), round(row[half + pair].item(), 3)) for row in turned
        ]
        for pair in pairs
    }


def singular_values() -> tuple[list[float], list[float]]:
    """Those of a gradient of lesson 15 before it is trained, and of what Muon makes of it.

    The gradient is that of the first gate, for one batch of data/sample.txt.
    """
    script = lesson("15_newton_schulz")
    config = script.Config(data=ROOT / "data" / "sample.txt", device="cpu")
    torch.manual_seed(config.seed)
    corpus = load_corpus(config.data, torch.device("cpu"), config.seed)
    model = script.LanguageModel(config, corpus.tokenizer.vocab_size)
    _, loss = model(*corpus.batch("train", config.batch_size, config.block_size))
    loss.backward()
    gradient = model.blocks[0].feed_forward.gate.weight.grad
    before = torch.linalg.svdvals(gradient / gradient.norm())
    after = torch.linalg.svdvals(script.orthogonal(gradient[None])[0])
    return [round(s, 2) for s in before.tolist()], [round(s, 2) for s in after.tolist()]


def growing(text: str, chars: list[str], merges: list[list[int]]) -> list[tuple[int, list[str]]]:
    """How a text is cut when so many pairs are joined, wherever one more join changes the cut."""
    script = lesson("17_tokens")
    pairs = [(left, right) for left, right in merges]
    rows: list[tuple[int, list[str]]] = []
    for joins in range(len(pairs) + 1):
        tokenizer = script.PairTokenizer(chars, pairs[:joins])
        cut = [tokenizer.pieces[token] for token in tokenizer.encode(text)]
        if not rows or cut != rows[-1][1]:
            rows.append((joins, cut))
    return rows
