"""Val loss against seconds of training: our lessons, nanoGPT and the video's own code.

    git clone https://github.com/karpathy/nanoGPT
    git clone https://github.com/karpathy/ng-video-lecture
    python measure/race.py nanoGPT ng-video-lecture
    python measure/race.py nanoGPT ng-video-lecture "nanoGPT" --tune

Trains everybody in runs of several lengths; each length is a run of its own, whose learning rate
ends with it where there is a schedule. A loss is the mean of three seeds over the whole validation
split, in nats per character. Its seconds are the number of optimiser steps times the median time of
a step, without evaluations: steps are timed in turns, on all cores, so the runs themselves may go
side by side. Figures go to measure/results/race.json, which docs/source/build.py draws. --tune
prints the losses of nanoGPT with several learning rates over the last tenth of the training split,
and the models learn from the rest of it. Needs a machine that does nothing else, for an hour.
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
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from losses import RESULTS, ROOT, SEEDS, TABLE, load, machine, run, tuning_texts, write
from video import LAPTOP, video_script

from common.data import TINY_SHAKESPEARE, read_text

FOUND = RESULTS.with_name("race.json")
CHARACTERS, TOKENS = "15_cache", "16_tokens"
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
RATES = [1e-3, 2e-3, 4e-3, 8e-3]
TUNED = {"learning_rate": 4e-3, "min_lr": 4e-4}  # the best of RATES; --tune prints their losses
LENGTHS = [500, 1000, 2000, 4000]  # optimiser steps
SHORT = [75, 150, 300, 600, 1200, 2400]
RACE = {  # who runs, with which settings, for how many optimiser steps
    "the video's code": ("video", {}, LENGTHS),
    "nanoGPT": ("nanogpt", {}, LENGTHS),
    "nanoGPT, learning rate tuned": ("nanogpt", TUNED, LENGTHS),
    "nanoGPT, the same, tokens": ("nanogpt tokens", TUNED, LENGTHS),
    "lesson 15, characters": (CHARACTERS, [], SHORT),
    "lesson 15, float32": (CHARACTERS, ["--float32"], SHORT),
    "lesson 16, tokens": (TOKENS, [], SHORT),
    "lesson 16, float32": (TOKENS, ["--float32"], SHORT),
}


def prepare(folder: Path, clones: list[Path], texts: dict[str, str]) -> None:
    """Copies of the clones, with the text as characters and as the tokens of lesson 16."""
    lesson = load(TOKENS)
    chars = sorted(set(texts["train"] + texts["val"]))
    for kind, vocab_size in ("nanogpt", len(chars)), ("nanogpt tokens", lesson.Config.vocab_size):
        shutil.copytree(clones[0], folder / kind)
        merges = lesson.learn_merges(texts["train"], chars, vocab_size)
        tokenizer = lesson.PairTokenizer(chars, merges)
        splits = {split: torch.tensor(tokenizer.encode(text)) for split, text in texts.items()}
        corpus = SimpleNamespace(texts=texts, splits=splits)
        (folder / kind / "corpus.pickle").write_bytes(pickle.dumps(corpus))
        data = folder / kind / "data" / "shakespeare_char"
        for split, tokens in splits.items():
            (data / f"{split}.bin").write_bytes(tokens.numpy().astype(np.uint16).tobytes())
        (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": tokenizer.vocab_size}))
    (folder / "video").mkdir()
    (folder / "video" / "input.txt").write_text(texts["train"] + texts["val"], encoding="utf-8")
    shutil.copy(folder / "nanogpt" / "corpus.pickle", folder / "video")
    settings = LAPTOP | {"max_iters": 'int(__import__("sys").argv[1])'}
    (folder / "video" / "train.py").write_text(video_script(clones[1], "07_full_gpt", settings))


def others(folder: Path, settings: dict, steps: int, seed: int, loss: bool, threads: int) -> dict:
    """What measure/watch.py sees of a run of the code of others."""
    name = f"{seed} {steps} {settings.get('learning_rate')}"
    script = folder / f"{name}.py"
    source = (folder / "train.py").read_text(encoding="utf-8")
    script.write_text(source.replace("manual_seed(1337", f"manual_seed({seed}"), encoding="utf-8")
    flags = [str(steps)]
    if folder.name != "video":
        length = {"max_iters": steps, "lr_decay_iters": steps, "eval_interval": sys.maxsize}
        length |= {"out_dir": name, "eval_iters": 1}
        both = (RECIPE | length | settings).items()
        flags = ["config/train_shakespeare_char.py", *(f"--{key}={value}" for key, value in both)]
    wanted = ["--loss", "64", "--corpus", "corpus.pickle"] if loss else []
    watch = [sys.executable, ROOT / "measure" / "watch.py", *wanted, f"{name}.json", script, *flags]
    threads = {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(watch, cwd=folder, env=os.environ | threads, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def ours(name: str, flags: list[str], folder: Path) -> float:
    """Median milliseconds of an optimiser step of a lesson."""
    quiet = ["--max-iters", "40", "--eval-interval", "9999", "--eval-iters", "1"]
    quiet += ["--max-new-tokens", "0", "--size", "laptop", "--device", "cpu"]
    script = ROOT / TABLE[name]["file"]
    watch = [sys.executable, ROOT / "measure" / "watch.py", "ms.json", script, *flags, *quiet]
    subprocess.run(watch, cwd=folder, check=True, capture_output=True)
    return json.loads((folder / "ms.json").read_text(encoding="utf-8"))["ms"]


def start(pool: concurrent.futures.Executor, folder: Path, who: tuple, steps: int, seed: int):
    """Start a run; its result has the val loss."""
    kind, settings, _ = who
    if kind in TABLE:
        flags = ["--size", "laptop", "--device", "cpu", "--max-iters", str(steps), *settings]
        return pool.submit(run, kind, seed, [*flags, "--eval-interval", "9999"])
    return pool.submit(others, folder / kind, settings, steps, seed, True, 1)


def main() -> None:
    """Time the steps in turns, train everybody, and print a table in Markdown."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clones", type=Path, nargs=2, help="of nanoGPT and ng-video-lecture")
    parser.add_argument("who", nargs="*", help="the beginnings of their names; all, without any")
    parser.add_argument("--rounds", type=int, default=5, help="turns for the time of a step")
    parser.add_argument("--tune", action="store_true", help="learning rates for nanoGPT")
    args = parser.parse_intermixed_args()
    names = [name for name in RACE if not args.who or name.startswith(tuple(args.who))]
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool,
    ):
        folder = Path(temporary)
        if args.tune:
            prepare(folder, args.clones, tuning_texts(TINY_SHAKESPEARE))
            for rate in RATES:
                settings = {"learning_rate": rate, "min_lr": rate / 10}
                who = ("nanogpt", settings, [])
                runs = [start(pool, folder, who, 2000, seed) for seed in SEEDS]
                print(rate, *(one.result()["val_loss"] for one in runs), flush=True)
            return
        prepare(folder, args.clones, read_text(TINY_SHAKESPEARE))
        ms = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                kind, settings, _ = RACE[name]
                if kind in TABLE:
                    ms[name].append(ours(kind, settings, folder))
                else:
                    cores = os.cpu_count()
                    ms[name].append(others(folder / kind, settings, 40, 0, False, cores)["ms"])
        runs = {
            (name, steps, seed): start(pool, folder, RACE[name], steps, seed)
            for name in names
            for steps in RACE[name][2]
            for seed in SEEDS
        }
        found = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
        found = {"machine": machine(), "race": found.get("race", {})}
        print("| | ms a step | steps | seconds | val loss |\n| --- | --- | --- | --- | --- |")
        for name in names:
            points, step = [], round(statistics.median(ms[name]), 1)
            for steps in RACE[name][2]:
                losses = [runs[name, steps, seed].result()["val_loss"] for seed in SEEDS]
                points.append([steps, round(steps * step / 1000, 1), *losses])
                mean = statistics.mean(losses)
                print(f"| {name} | {step} | {steps} | {points[-1][1]} | {mean:.3f} |", flush=True)
            found["race"][name] = {"ms": step, "ms_of_turns": sorted(ms[name]), "points": points}
            write(found, FOUND)


if __name__ == "__main__":
    main()
