"""How long our lessons train to the loss of nanoGPT's recipe for CPUs.

    git clone https://github.com/karpathy/nanoGPT
    python measure/race.py nanoGPT
    python measure/race.py nanoGPT --tune

Trains everybody in runs of several lengths; each length is a run of its own, whose learning rate
ends with it. A loss is the mean of three seeds over the whole validation split, in nats per
character. Its seconds are the number of optimiser steps times the median time of a step, without
evaluations: steps are timed in turns, on all cores, so the runs themselves may go side by side. The
figures go to measure/results/race.json. --tune prints the losses of nanoGPT after 1,000 steps with
several learning rates over the last tenth of the training split, and the models learn from the rest
of it. Needs a machine that does nothing else, for half an hour.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from losses import RESULTS, ROOT, SEEDS, TABLE, machine, run, write

from common.data import TINY_SHAKESPEARE, read_text

FOUND = RESULTS.with_name("race.json")
RECIPE = {  # of nanoGPT's README for a CPU
    "device": "cpu",
    "compile": False,
    "block_size": 64,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "dropout": 0.0,
}
RATES = [2e-3, 4e-3, 8e-3]
# Of RATES 2e-3 was worse with each seed, and 8e-3 gained less than the seeds differ: --tune.
TUNED = {"learning_rate": 4e-3, "min_lr": 4e-4}
RACE = {  # who runs, with which settings, for how many optimiser steps
    "nanoGPT's recipe": ("nanoGPT", {}, [2000]),
    "nanoGPT, learning rate tuned": ("nanoGPT", TUNED, [2000]),
    "lesson 15": ("15_cache", [], [200, 250, 1400]),
    "lesson 15, float32": ("15_cache", ["--float32"], [200, 250]),
    "lesson 16": ("16_tokens", [], [100, 150]),
    "lesson 16, float32": ("16_tokens", ["--float32"], [100, 150]),
}


def nanogpt(folder: Path, settings: dict, steps: int, seed: int, threads: int) -> dict:
    """What measure/watch.py sees of a run of nanoGPT."""
    name = f"{seed}-{steps}-{settings.get('learning_rate')}-{threads}"
    source = (folder / "train.py").read_text(encoding="utf-8")
    seeded = source.replace("manual_seed(1337", f"manual_seed({seed}")
    (folder / f"{name}.py").write_text(seeded, encoding="utf-8")
    length = {"max_iters": steps, "lr_decay_iters": steps, "out_dir": name}
    flags = RECIPE | length | {"eval_interval": sys.maxsize, "eval_iters": 1} | settings
    words = ["config/train_shakespeare_char.py", *(f"--{k}={v}" for k, v in flags.items())]
    loss = ["--loss", RECIPE["block_size"], "--text", "data/shakespeare_char/input.txt"]
    return watch(folder, threads, *loss, f"{name}.json", f"{name}.py", *words)


def lesson(folder: Path, name: str, flags: list[str], steps: int) -> dict:
    """What measure/watch.py sees of the first steps of a lesson."""
    quiet = ["--max-iters", steps, "--eval-interval", sys.maxsize, "--eval-iters", 1]
    quiet += ["--max-new-tokens", 0, "--size", "laptop", "--device", "cpu"]
    output = f"{name}-{'-'.join(flags)}.json"
    return watch(folder, os.cpu_count(), output, ROOT / TABLE[name]["file"], *quiet, *flags)


def watch(folder: Path, threads: int, *words: object) -> dict:
    """Run measure/watch.py in a folder; the first word that ends with .json is its output."""
    command = list(map(str, [sys.executable, ROOT / "measure" / "watch.py", *words]))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    output = next(word for word in command if word.endswith(".json"))
    return json.loads((folder / output).read_text(encoding="utf-8"))


def train(name: str, folder: Path, steps: int, seed: int) -> float:
    """The val loss after a run."""
    who, settings, _ = RACE[name]
    if who == "nanoGPT":
        return nanogpt(folder, settings, steps, seed, 1)["val_loss"]
    flags = ["--size", "laptop", "--device", "cpu", "--max-iters", str(steps), *settings]
    return run(who, seed, [*flags, "--eval-interval", str(steps)])["val_loss"]


def main() -> None:
    """Time the steps in turns, train everybody, and print a table in Markdown."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--rounds", type=int, default=5, help="turns for the time of a step")
    parser.add_argument("--tune", action="store_true", help="learning rates for nanoGPT")
    args = parser.parse_args()
    if not (args.nanogpt / "train.py").is_file():
        parser.error(f"{args.nanogpt} has no train.py: it is no clone of nanoGPT")
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool,
    ):
        folder = Path(temporary) / "nanoGPT"
        shutil.copytree(args.nanogpt, folder)
        data = folder / "data" / "shakespeare_char"
        texts = read_text(TINY_SHAKESPEARE)  # the last tenth of what is written is held out
        text = texts["train"] if args.tune else texts["train"] + texts["val"]
        (data / "input.txt").write_text(text, encoding="utf-8")
        subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
        if args.tune:
            for rate in RATES:
                settings = {"learning_rate": rate, "min_lr": rate / 10}
                runs = [pool.submit(nanogpt, folder, settings, 1000, s, 1) for s in SEEDS]
                print(rate, *(one.result()["val_loss"] for one in runs), flush=True)
            return
        ms: dict[str, list[float]] = {name: [] for name in RACE}
        for _ in range(args.rounds):
            for name, (who, settings, _) in RACE.items():
                if who == "nanoGPT":
                    seen = nanogpt(folder, settings, 40, SEEDS[0], os.cpu_count())
                else:
                    seen = lesson(folder, who, settings, 40)
                ms[name].append(seen["ms"])
        runs = {
            (name, steps, seed): pool.submit(train, name, folder, steps, seed)
            for name in RACE
            for steps in RACE[name][2]
            for seed in SEEDS
        }
        found = {"machine": machine(), "race": {}}
        print("| | ms a step (lowest to highest) | steps | seconds | val loss | seed by seed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, turns in ms.items():
            points, step = [], statistics.median(turns)
            for steps in RACE[name][2]:
                losses = [runs[name, steps, seed].result() for seed in SEEDS]
                points.append([steps, round(steps * step / 1000, 1), *losses])
                spread = f"{step:.0f} ({min(turns):.0f} to {max(turns):.0f})"
                seeds = ", ".join(f"{loss:.3f}" for loss in losses)
                cells = [name, spread, *points[-1][:2], f"{statistics.mean(losses):.3f}", seeds]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            found["race"][name] = {"ms": sorted(turns), "steps, seconds, val losses": points}
        write(found, FOUND)


if __name__ == "__main__":
    main()
