"""What it costs in loss that the cache of step 15 slides instead of being computed anew.

    python measure/losses.py 15_cache
    python measure/sliding.py

Reads pieces of the validation split with the model of runs/measured/15_cache.pt: once through the
cache, character by character, and once with the last block_size characters computed anew for each.
Only characters that follow a full window count. Prints both losses in nats per character.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from losses import MODELS, load

from common.data import load_corpus


@torch.inference_mode()
def through_the_cache(model: nn.Module, rows: Tensor, caches: list) -> Tensor:
    """The loss of each character that follows a full window, (rows, characters)."""
    losses = []
    for t in range(rows.shape[1] - 1):
        logits, _ = model(rows[:, t : t + 1], caches=caches)  # (rows, 1, V)
        losses.append(F.cross_entropy(logits[:, 0], rows[:, t + 1], reduction="none"))
    return torch.stack(losses[model.block_size - 1 :], dim=1)


@torch.inference_mode()
def recomputed(model: nn.Module, rows: Tensor) -> Tensor:
    """The same, each from a window of its own."""
    windows = rows[:, :-1].unfold(1, model.block_size, 1)  # (rows, characters, T)
    losses = []
    for t in range(windows.shape[1]):
        logits, _ = model(windows[:, t])  # (rows, T, V)
        targets = rows[:, model.block_size + t]
        losses.append(F.cross_entropy(logits[:, -1], targets, reduction="none"))
    return torch.stack(losses, dim=1)


def main() -> None:
    """Read both ways and print the two losses."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16, help="pieces of text")
    parser.add_argument("--windows", type=int, default=16, help="of each piece")
    args = parser.parse_args()
    step = load("15_cache")
    config = step.parse_args(["--size", "laptop", "--device", "cpu"])
    corpus = load_corpus(config.data, torch.device("cpu"), config.seed)
    model = step.LanguageModel(config, corpus.tokenizer.vocab_size).eval()
    model.load_state_dict(torch.load(MODELS / "15_cache.pt", map_location="cpu"))
    val, length = corpus.splits["val"], args.windows * config.block_size + 1
    starts = torch.linspace(0, len(val) - length, args.rows).long()
    rows = torch.stack([val[start : start + length] for start in starts])  # (rows, length)
    caches = [step.Cache(config.block_size) for _ in model.blocks]
    kept, anew = through_the_cache(model, rows, caches), recomputed(model, rows)
    print(f"{kept.numel():,} characters of the validation split, each after a full window:")
    print(f"recomputed {anew.mean():.4f}, through the cache {kept.mean():.4f} nats per character")


if __name__ == "__main__":
    main()
