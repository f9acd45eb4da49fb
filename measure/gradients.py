"""How much of the gradient reaches the first block, without and with residual connections.

    python measure/gradients.py

For steps 5 and 6: the length of the gradient of the first block beside that of the last, in the
first training step, with six seeds. The ratios go to measure/results/gradients.json. Takes seconds.
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from losses import RESULTS, load, write

STEPS = ("05_blocks", "06_residual_layernorm")
SEEDS = range(1337, 1343)


def ratio(name: str, seed: int) -> float:
    """The first block's gradient beside the last's in the first training step of a run."""
    step = load(name)
    config = step.Config(seed=seed, device="cpu", max_iters=0, max_new_tokens=0)
    with contextlib.redirect_stdout(io.StringIO()):
        model, corpus = step.main(config)
    x, y = corpus.batch("train", config.batch_size, config.block_size)  # (B, T)
    model(x, y)[1].backward()
    first, last = (
        torch.cat([p.grad.flatten() for p in model.blocks[i].parameters()]).norm() for i in (0, -1)
    )
    return round((first / last).item(), 3)


def main() -> None:
    """Measure both steps, then write all of it in one go."""
    about, details = __doc__.split("\n", 1)
    argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    found = {name: [ratio(name, seed) for seed in SEEDS] for name in STEPS}
    write(found, RESULTS.with_name("gradients.json"))
    for name, ratios in found.items():
        print(f"{name}: {min(ratios)} to {max(ratios)}")


if __name__ == "__main__":
    main()
