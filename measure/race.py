"""Val loss against seconds of training: our last lessons, nanoGPT, and the video's code.

    git clone https://github.com/karpathy/nanoGPT
    git clone https://github.com/karpathy/ng-video-lecture
    python measure/race.py nanoGPT ng-video-lecture
    python measure/race.py nanoGPT ng-video-lecture --tune

Trains everybody in runs of several lengths; each length is a run of its own, whose learning rate
ends with it. A loss is the mean of three seeds over the whole validation split, in nats per
character. Its seconds are the number of optimiser steps times the median time of a step, without
evaluations; lesson 18's hold the time of its cuts. Steps are timed in turns, on all cores, so the
runs themselves may go side by side, with a thread each. Prints a table in Markdown. The figures go
to measure/results/race.json, where each machine keeps its own times; a loss that stands there is
not measured again, unless with --anew. docs/source/build.py draws docs/race.svg from them.
--tune prints the losses of nanoGPT after 1,000 steps with several learning rates over the last
tenth of the training split, and the models learn from the rest of it.
Needs a machine that does nothing else, for an hour.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from losses import RESULTS, ROOT, SEEDS, TABLE, machine, run, tuning_texts, write
from video import LAPTOP, video_script
from watch import token_corpus

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
TOKENS = 512  # the vocabulary of lesson 16
CUT = 250  # optimiser steps between lesson 18's cuts: so many hold one, which takes a second
RACE = {  # who runs, with which settings, for how many optimiser steps
    "the video's code": ("video", {}, [2000]),
    "nanoGPT's recipe": ("nanoGPT", {}, [2000]),
    "nanoGPT, learning rate tuned": ("nanoGPT", TUNED, [2000]),
    "nanoGPT, tuned, our tokens": ("nanoGPT", TUNED | {"dataset": "tokens"}, [2000]),
    "lesson 15": ("15_cache", ["--float32"], [200]),
    "lesson 15, bfloat16": ("15_cache", [], [200, 1400]),
    "lesson 16": ("16_tokens", ["--float32"], [150, 2000]),
    "lesson 16, bfloat16": ("16_tokens", [], [150, 2000]),
    "lesson 17": ("17_decay", ["--float32"], [2000]),
    "lesson 17, bfloat16": ("17_decay", [], [2000]),
    "lesson 18": ("18_bpe_dropout", ["--float32"], [4000]),
    "lesson 18, bfloat16": ("18_bpe_dropout", [], [4000]),
    "lesson 18, long, bfloat16": ("18_bpe_dropout", ["--size", "long"], [3500]),
}


def prepare(nanogpt: Path, tuning: bool) -> None:
    """Write the text for nanoGPT, as characters and as the tokens of lesson 16."""
    texts = tuning_texts(TINY_SHAKESPEARE) if tuning else read_text(TINY_SHAKESPEARE)
    for name, vocab_size in (("shakespeare_char", 0), ("tokens", TOKENS)):
        corpus, folder = token_corpus(texts, vocab_size), nanogpt / "data" / name
        folder.mkdir(exist_ok=True)
        for split, tokens in corpus.splits.items():
            tokens.numpy().astype(np.uint16).tofile(folder / f"{split}.bin")
        meta = {"vocab_size": corpus.tokenizer.vocab_size}
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def others(folder: Path, name: str, steps: int, seed: int, threads: int, rates: dict) -> dict:
    """What measure/watch.py sees of a run of nanoGPT or of the video's code."""
    who, settings, _ = RACE[name]
    run_name = f"{len(name)}-{seed}-{steps}-{threads}-{rates.get('learning_rate')}"
    words: list[object] = ["--loss", RECIPE["block_size"], f"{run_name}.json", f"{run_name}.py"]
    if who == "video":
        shape = LAPTOP | {"max_iters": steps, "eval_interval": steps, "eval_iters": 1}
        source = video_script(folder / "video", "07_full_gpt", shape)
        source = source.replace("max_new_tokens=500", "max_new_tokens=1")
        folder /= "video"
        shutil.copy(TINY_SHAKESPEARE, folder / "input.txt")
    else:
        folder /= "nanoGPT"
        source = (folder / "train.py").read_text(encoding="utf-8")
        length = {"max_iters": steps, "lr_decay_iters": steps, "out_dir": run_name}
        flags = RECIPE | length | {"eval_interval": sys.maxsize, "eval_iters": 1} | settings | rates
        words += ["config/train_shakespeare_char.py", *(f"--{k}={v}" for k, v in flags.items())]
        if "dataset" in settings:
            words = ["--vocab-size", TOKENS, *words]
        if rates:
            words = ["--tuning", *words]
    seeded = source.replace("manual_seed(1337", f"manual_seed({seed}")
    (folder / f"{run_name}.py").write_text(seeded, encoding="utf-8")
    return watch(folder, threads, *words)


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
    if who in ("video", "nanoGPT"):
        return others(folder, name, steps, seed, 1, {})["val_loss"]
    flags = ["--size", "laptop", "--device", "cpu", "--max-iters", str(steps), *settings]
    return run(who, seed, flags)["val_loss"]


def milliseconds(name: str, folder: Path) -> float:
    """The median time of an optimiser step, on all cores; in lesson 18 the mean, see CUT."""
    who, settings, _ = RACE[name]
    if who in ("video", "nanoGPT"):
        return others(folder, name, 40, SEEDS[0], os.cpu_count(), {})["ms"]
    if who == "18_bpe_dropout":
        return lesson(folder, who, settings, CUT + 2)["mean_ms"]
    return lesson(folder, who, settings, 40)["ms"]


def tune(folder: Path, pool: concurrent.futures.Executor) -> None:
    """Print the losses of nanoGPT with several learning rates, on the tuning split."""
    for name in ("nanoGPT, learning rate tuned", "nanoGPT, tuned, our tokens"):
        for rate in RATES:
            rates = {"learning_rate": rate, "min_lr": rate / 10}
            runs = [pool.submit(others, folder, name, 1000, seed, 1, rates) for seed in SEEDS]
            print(name, rate, *(one.result()["val_loss"] for one in runs), flush=True)


def main() -> None:
    """Time the steps in turns, train everybody, and print a table in Markdown."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("video", type=Path, help="a clone of karpathy/ng-video-lecture")
    parser.add_argument("--rounds", type=int, default=5, help="turns for the time of a step")
    parser.add_argument("--anew", action="store_true", help="measure the known losses again, too")
    parser.add_argument("--tune", action="store_true", help="learning rates for nanoGPT")
    args = parser.parse_args()
    for clone, file in ((args.nanogpt, "train.py"), (args.video, "gpt.py")):
        if not (clone / file).is_file():
            parser.error(f"{clone} has no {file}: it is not the clone it should be")
    built = machine()["avx512_bf16"]
    names = [name for name in RACE if built or not name.endswith("bfloat16")]
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool,
    ):
        folder = Path(temporary)
        shutil.copytree(args.nanogpt, folder / "nanoGPT")
        shutil.copytree(args.video, folder / "video")
        prepare(folder / "nanoGPT", args.tune)
        if args.tune:
            return tune(folder, pool)
        turns: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                turns[name].append(milliseconds(name, folder))
        found = {"losses": {}, "times": []}
        if FOUND.exists():
            found = json.loads(FOUND.read_text(encoding="utf-8"))
        times = [one for one in found["times"] if one["machine"] != machine()]
        found["times"] = [{"machine": machine(), "ms": turns}, *times]
        losses = found["losses"]
        todo = [
            (name, steps)
            for name in names
            for steps in RACE[name][2]
            if args.anew or str(steps) not in losses.get(name, {})
        ]
        runs = {  # the longest first, so that no core waits at the end
            (name, steps): [pool.submit(train, name, folder, steps, seed) for seed in SEEDS]
            for name, steps in sorted(todo, key=lambda one: -one[1])
        }
        print("| | ms a step (lowest to highest) | steps | seconds | val loss | seed by seed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name in names:
            ms = statistics.median(turns[name])
            for steps in RACE[name][2]:
                if (name, steps) in runs:
                    rows = losses.setdefault(name, {})
                    rows[str(steps)] = [one.result() for one in runs[name, steps]]
                    write(found, FOUND)
                kept = losses[name][str(steps)]
                spread = f"{ms:.0f} ({min(turns[name]):.0f} to {max(turns[name]):.0f})"
                seeds = ", ".join(f"{loss:.3f}" for loss in kept)
                cells = [name, spread, f"{steps:,}", round(steps * ms / 1000)]
                cells += [f"{statistics.mean(kept):.3f}", seeds]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
