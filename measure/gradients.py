"""How much of the gradient reaches each block, without and with residual connections.

    python measure/gradients.py

For steps 5 and 6: the length of the gradient of each block as a share of that of the last, in the
first training step, with six seeds. The shares go to measure/results/gradients.json. Takes seconds.
"""

import contextlib
import io
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from losses import RESULTS, arguments, load, write

STEPS = ("05_blocks", "06_residual_layernorm")
SEEDS = range(1337, 1343)


def shares(name: str, seed: int) -> list[float]:
    """Each block's gradient as a share of the last's in the first training step of a run."""
    step = load(name)
    config = step.Config(seed=seed, device="cpu", max_iters=0, max_new_tokens=0)
    with contextlib.redirect_stdout(io.StringIO()):
        model, corpus = step.main(config)
    x, y = corpus.batch("train", config.batch_size, config.block_size)  # (B, T)
    model(x, y)[1].backward()
    lengths = [
        torch.cat([p.grad.flatten() for p in block.parameters()]).norm() for block in model.blocks
    ]
    return [round((length / lengths[-1]).item(), 3) for length in lengths]


def main() -> None:
    """Measure both steps, then write all of it in one go."""
    arguments(__doc__).parse_args()
    found = {name: [shares(name, seed) for seed in SEEDS] for name in STEPS}
    write(found, RESULTS.with_name("gradients.json"))
    for name, rows in found.items():
        print(f"{name}: {', '.join(f'{min(b)} to {max(b)}' for b in zip(*rows, strict=True))}")


if __name__ == "__main__":
    main()
