"""What it costs in loss that a cache slides instead of recomputing: real text, read both ways.

    python beyond/15_cache.py
    python benchmarks/sliding.py --save

Reads pieces of the validation split with the model that step 15 has kept: once through the cache,
character by character, and once with the last block_size characters recomputed for each. Counted
are the characters that follow a full window. --save puts the figures into docs/sliding.json.
"""

import argparse
import datetime
import importlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "sliding.json"
sys.path[:0] = [str(ROOT / "beyond"), str(ROOT)]
step = importlib.import_module("15_cache")


@torch.inference_mode()
def through_the_cache(model: step.LanguageModel, rows: torch.Tensor) -> torch.Tensor:
    """The loss of each character that follows a full window, (rows, characters)."""
    caches, losses = [step.Cache(model.block_size) for _ in model.blocks], []
    for t in range(rows.shape[1] - 1):
        logits, _ = model(rows[:, t : t + 1], caches=caches)  # (rows, 1, V)
        losses.append(F.cross_entropy(logits[:, 0], rows[:, t + 1], reduction="none"))
    return torch.stack(losses[model.block_size - 1 :], dim=1)


@torch.inference_mode()
def recomputed(model: step.LanguageModel, rows: torch.Tensor) -> torch.Tensor:
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
    parser.add_argument("--checkpoint", type=Path, default=step.CHECKPOINT)
    parser.add_argument("--rows", type=int, default=16, help="pieces of text = %(default)s")
    parser.add_argument("--windows", type=int, default=16, help="of each piece = %(default)s")
    parser.add_argument("--save", action="store_true", help=f"to {RESULTS.relative_to(ROOT)}")
    args = parser.parse_args()
    checkpoint = step.load(args.checkpoint)
    config = step.Config(**{name: checkpoint[name] for name in step.SHAPE})
    model = step.LanguageModel(config, len(checkpoint["chars"])).eval()
    model.load_state_dict(checkpoint["model"])
    val = step.load_corpus(checkpoint["config"]["data"]).splits["val"].long()
    length = args.windows * config.block_size + 1
    if args.rows < 1 or args.windows < 2 or args.rows * length > len(val):
        parser.error(f"the validation split has {len(val):,} characters")
    starts = torch.linspace(0, len(val) - length, args.rows).long()
    rows = torch.stack([val[i : i + length] for i in starts])  # (rows, length)
    kept, anew = through_the_cache(model, rows), recomputed(model, rows)  # (rows, characters)
    print(f"{kept.numel():,} characters of the validation split, each after a full window:")
    print(f"recomputed {anew.mean():.4f}, through the cache {kept.mean():.4f} nats per character")
    quarters = [part.mean().item() for part in (kept - anew).chunk(4, dim=1)]
    print("more, by quarters of a piece:", *(f"{more:+.4f}" for more in quarters))
    if args.save:
        found = {
            "date": datetime.date.today().isoformat(),
            "step": checkpoint["step"],
            "block_size": config.block_size,
            "characters": kept.numel(),
            "recomputed": round(anew.mean().item(), 4),
            "cache": round(kept.mean().item(), 4),
            "quarters": [round(more, 4) for more in quarters],
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        print("\nstopped", file=sys.stderr)
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
