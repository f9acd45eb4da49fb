"""What it costs in loss that the cache of keys and values slides instead of being computed anew.

    python measure/losses.py 16_cache
    python measure/sliding.py

Reads pieces of the validation split with the model of runs/measured/: once through the cache,
character by character, and once with the last block_size characters computed anew for each. Only
characters that follow a full window count. Prints both losses in nats per character.
"""

import torch
import torch.nn.functional as F
from losses import MODELS, arguments, lesson, load
from torch import Tensor, nn

from common.data import load_corpus

ROWS, WINDOWS = 16, 16  # pieces of text, and how many windows long each is


@torch.inference_mode()
def losses_after_full_windows(model: nn.Module, rows: Tensor, caches: list | None) -> Tensor:
    """The loss of each character that follows a full window, (rows, characters)."""
    T, losses = model.block_size, []
    for t in range(rows.shape[1] - 1):
        start = max(0, t + 1 - T) if caches is None else t
        logits, _ = model(rows[:, start : t + 1], caches=caches)  # (rows, T or 1, V)
        losses.append(F.cross_entropy(logits[:, -1], rows[:, t + 1], reduction="none"))
    return torch.stack(losses[T - 1 :], dim=1)


def main() -> None:
    """Read both ways and print the two losses."""
    arguments(__doc__).parse_args()
    step = load(lesson("cache"))
    config = step.parse_args(["--device", "cpu"])
    corpus = load_corpus(config.data, torch.device("cpu"), config.seed)
    model = step.LanguageModel(config, corpus.tokenizer.vocab_size).eval()
    model.load_state_dict(torch.load(MODELS / f"{lesson('cache')}.pt", map_location="cpu"))
    val, length = corpus.splits["val"], WINDOWS * config.block_size + 1
    starts = torch.linspace(0, len(val) - length, ROWS).long()
    rows = torch.stack([val[start : start + length] for start in starts])  # (rows, length)
    caches = [step.Cache(config.block_size) for _ in model.blocks]
    kept, anew = (losses_after_full_windows(model, rows, how) for how in (caches, None))
    print(f"{kept.numel():,} characters of the validation split, each after a full window:")
    print(f"recomputed {anew.mean():.4f}, through the cache {kept.mean():.4f} nats per character")


if __name__ == "__main__":
    main()
