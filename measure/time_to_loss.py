"""How long steps train to the loss that nanoGPT's recipe for CPUs ends with.

    git clone https://github.com/karpathy/nanoGPT
    python measure/time_to_loss.py nanoGPT
    python measure/time_to_loss.py nanoGPT 12_qk_norm 13_swiglu

Runs nanoGPT's train.py with the recipe of its README, once, in a copy of its folder: its val loss
is the goal. For each of our steps, at the laptop size, the shortest run is searched whose mean loss
of three seeds reaches the goal. Each length is a run of its own, whose learning rate ends at zero
where the step has a schedule. Losses are over the whole validation split. The milliseconds of an
optimiser step are measured in turns, nanoGPT's and ours, so the runs themselves may go side by
side. Where the processor is built for bfloat16, steps that have it are measured with it and
without. The figures go to measure/results/time_to_loss.json. Needs a machine that does nothing
else, for hours.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from losses import RESULTS, ROOT, SEEDS, STEPS, TABLE, load, machine, run, write

from common.data import TINY_SHAKESPEARE

FOUND = RESULTS.with_name("time_to_loss.json")
RECIPE = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 "
    "--n_layer=4 --n_head=4 --n_embd=128 --max_iters={0} --lr_decay_iters={0} --dropout=0.0"
)
RECIPE_STEPS = 2000
LENGTHS = [*range(100, 300, 25), *range(300, 500, 50), *range(500, 2001, 100)]  # optimiser steps
QUIET = ["--eval-interval", str(sys.maxsize), "--eval-iters", "1", "--max-new-tokens", "0"]


def watch(folder: Path, *words: object) -> dict:
    """What measure/watch.py sees of a script in that folder."""
    command = [sys.executable, ROOT / "measure" / "watch.py", *words]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def nanogpt(folder: Path, steps: int, *loss: object) -> dict:
    """What is seen of nanoGPT's recipe."""
    recipe = ["config/train_shakespeare_char.py", *RECIPE.format(steps).split()]
    return watch(folder, *loss, "found.json", "train.py", *recipe)


def turns(
    folder: Path, name: str, flags: list[str], rounds: int, steps: int
) -> tuple[float, float]:
    """Median milliseconds of an optimiser step, ours and nanoGPT's, measured in turns."""
    ours, theirs = [], []
    for _ in range(rounds):
        words = [ROOT / TABLE[name]["file"], *flags, *QUIET, "--max-iters", steps]
        ours.append(watch(folder, "found.json", *words)["ms"])
        theirs.append(nanogpt(folder, steps)["ms"])
    return statistics.median(ours), statistics.median(theirs)


def next_length(tried: dict[int, float], goal: float) -> int | None:
    """A length to try, given the losses of others; None when the shortest is known or none is."""
    high = min((n for n, loss in tried.items() if loss <= goal), default=math.inf)
    low = max((n for n in tried if n < high), default=0)
    between = [n for n in LENGTHS if low < n < high]
    if not between:
        return None
    known = [n for n in (low, high) if n in tried]
    if not known:
        return 600
    slope = -0.3  # of the loss over the logarithm of the length, as a first guess
    if len(known) == 2:
        slope = (tried[high] - tried[low]) / math.log(high / low)
    guess = known[-1] * math.exp((goal - tried[known[-1]]) / slope)
    return min(between, key=lambda n: abs(n - guess))


def main() -> None:
    """Measure what the command line names; a step is written as soon as it is done."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument(
        "steps", nargs="*", help="those to measure; from 07 on, where none is named"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns for the time of a step")
    args = parser.parse_args()
    if not (args.nanogpt / "train.py").is_file():
        parser.error(f"{args.nanogpt} has no train.py: it is no clone of nanoGPT")
    names = args.steps or [name for name in STEPS if name >= "07"]
    if unknown := set(names) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    found = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {"steps": {}}
    found["machine"] = machine()
    pool = concurrent.futures.ProcessPoolExecutor(
        os.cpu_count(), multiprocessing.get_context("spawn")
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "nanoGPT"
        shutil.copytree(args.nanogpt, folder)
        data = folder / "data" / "shakespeare_char"
        shutil.copy(TINY_SHAKESPEARE, data / "input.txt")
        subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
        if "nanogpt" not in found:
            found["nanogpt"] = nanogpt(folder, RECIPE_STEPS, "--loss", 64)
        goal = found["nanogpt"]["val_loss"]
        for name in names:
            ways = {"float32": []}
            if "float32" in load(name).Config.__dataclass_fields__:
                ways["float32"] = ["--float32"]
                if found["machine"]["avx512_bf16"]:
                    ways["bfloat16"] = []
            found["steps"][name] = {}
            for way, more in ways.items():
                flags = ["--size", "laptop", "--device", "cpu", *more]
                ms, theirs = turns(folder, name, flags, args.rounds, 40)
                tried: dict[int, float] = {}
                while length := next_length(tried, goal):
                    words = [*flags, *QUIET, "--max-iters", str(length)]
                    runs = [pool.submit(run, name, seed, words) for seed in SEEDS]
                    losses = [one.result()["val_loss"] for one in runs]
                    tried[length] = round(statistics.mean(losses), 4)
                steps = min((n for n, loss in tried.items() if loss <= goal), default=None)
                row = {"ms": ms, "ms_nanogpt": theirs, "losses": tried, "steps": steps}
                if steps:
                    row["seconds"] = round(steps * ms / 1000, 1)
                    row["of_nanogpt"] = round(steps * ms / (RECIPE_STEPS * theirs), 3)
                found["steps"][name][way] = row
                print(name, way, row, flush=True)
                write(found, FOUND)


if __name__ == "__main__":
    main()
