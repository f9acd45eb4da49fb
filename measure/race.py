"""Val loss against seconds of training: our last lessons, nanoGPT, and the video's code.

    git clone https://github.com/karpathy/nanoGPT
    git clone https://github.com/karpathy/ng-video-lecture
    python measure/race.py nanoGPT ng-video-lecture

Trains everybody in runs of several lengths; each length is a run of its own, whose learning rate
ends with it. A loss is the mean of three seeds over the whole validation split, in nats per
character. Its seconds are the number of optimiser steps times the median time of a step, without
evaluations. Steps are timed in turns, on all cores, so the runs themselves may go side by side,
with a thread each. Prints a table in Markdown. The figures go to measure/results/race.json, where
each machine keeps its own times; docs/source/build.py draws docs/race.svg from them. Needs a
machine that does nothing else, for an hour.
"""

import functools
import json
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from losses import RESULTS, SEEDS, arguments, lesson, machine, processes, run, write
from watch import token_corpus, turns, watch, watch_step

from common.data import TINY_SHAKESPEARE

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
# After 1,000 steps, over the last tenth of the training split, 2e-3 was worse with each of three
# seeds, and 8e-3 gained less than the seeds differ.
TUNED = {"learning_rate": 4e-3, "min_lr": 4e-4}
TOKENS = 512  # the vocabulary of the lesson on tokens
# The video's last script at the laptop size of our step 7.
LAPTOP = {"batch_size": 16, "block_size": 64, "n_embd": 96, "n_head": 3, "dropout": 0.0}
LAPTOP |= {"learning_rate": 1e-3, "eval_iters": 1}
# Who runs, with which settings, for how many optimiser steps.
OTHERS = {
    "the video's code": ({}, [2000]),
    "nanoGPT's recipe": ({}, [2000]),
    "nanoGPT, learning rate tuned": (TUNED, [2000]),
    "nanoGPT, tuned, our tokens": (TUNED | {"dataset": "tokens"}, [2000]),
}
LESSONS = {
    f"lesson {lesson(idea)[:2]}, {idea}{'' if flags else ', bfloat16'}": (idea, flags, steps)
    for idea, steps in {"cache": [200, 1400], "tokens": [150, 2000], "decay": [2000]}.items()
    for flags in (["--float32"], [])
}


def prepare(nanogpt: Path) -> None:
    """Write the text for nanoGPT, as characters and as tokens."""
    for name, vocab_size in (("shakespeare_char", 0), ("tokens", TOKENS)):
        corpus, folder = token_corpus(vocab_size), nanogpt / "data" / name
        folder.mkdir(exist_ok=True)
        for split, tokens in corpus.splits.items():
            tokens.numpy().astype(np.uint16).tofile(folder / f"{split}.bin")
        meta = {"vocab_size": corpus.tokenizer.vocab_size}
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def nanogpt_settings(name: str, steps: int) -> dict:
    """What a run of nanoGPT sets beside its config/train_shakespeare_char.py."""
    return RECIPE | {"max_iters": steps, "lr_decay_iters": steps} | OTHERS[name][0]


def video_script(clone: Path, settings: dict) -> str:
    """The video's last script, with those settings instead of its own."""
    command = ["git", "-C", str(clone), "show", "5220142:gpt.py"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for key, value in settings.items():
        source, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", source, flags=re.MULTILINE)
        if not found:
            raise ValueError(f"the video's script has no {key}")
    return source.replace("max_new_tokens=500", "max_new_tokens=1")


def other(folder: Path, name: str, steps: int, seed: int, threads: int | None = None) -> dict:
    """What measure/watch.py sees of nanoGPT or of the video's code."""
    run_name = f"{len(name)}-{seed}-{steps}-{threads}"
    if name == "the video's code":
        folder, flags, tokens = folder / "video", [], 0
        source = video_script(folder, LAPTOP | {"max_iters": steps, "eval_interval": steps})
        shutil.copy(TINY_SHAKESPEARE, folder / "input.txt")
    else:
        folder, settings = folder / "nanoGPT", nanogpt_settings(name, steps)
        source = (folder / "train.py").read_text(encoding="utf-8")
        tokens = TOKENS if "dataset" in settings else 0
        settings |= {"eval_interval": sys.maxsize, "eval_iters": 1, "out_dir": run_name}
        flags = ["config/train_shakespeare_char.py", *(f"--{k}={v}" for k, v in settings.items())]
    script = folder / f"{run_name}.py"
    script.write_text(source.replace("manual_seed(1337", f"manual_seed({seed}"), encoding="utf-8")
    options = ["--loss", RECIPE["block_size"], "--vocab-size", tokens]
    return watch(script, *flags, options=options, threads=threads, folder=folder)


def loss(folder: Path, name: str, steps: int, seed: int) -> float:
    """The val loss after a run."""
    if name in OTHERS:
        return other(folder, name, steps, seed, threads=1)["val_loss"]
    idea, flags, _ = LESSONS[name]
    words = ["--device", "cpu", "--max-iters", str(steps), *flags]
    return run(lesson(idea), seed, words)["val_loss"]


def main() -> None:
    """Time the steps in turns, train everybody, and print a table in Markdown."""
    parser = arguments(__doc__)
    parser.add_argument("nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("video", type=Path, help="a clone of karpathy/ng-video-lecture")
    parser.add_argument("--rounds", type=int, default=5, help="turns for the time of a step")
    args = parser.parse_args()
    for clone, file in ((args.nanogpt, "train.py"), (args.video, "gpt.py")):
        if not (clone / file).is_file():
            parser.error(f"{clone} has no {file}: it is not the clone it should be")
    here, lengths = machine(), {name: row[-1] for name, row in (OTHERS | LESSONS).items()}
    names = [name for name in lengths if here["avx512_bf16"] or not name.endswith("bfloat16")]
    with tempfile.TemporaryDirectory() as temporary, processes() as pool:
        folder = Path(temporary)
        shutil.copytree(args.nanogpt, folder / "nanoGPT")
        shutil.copytree(args.video, folder / "video")
        prepare(folder / "nanoGPT")
        clocks = {name: functools.partial(other, folder, name, 40, SEEDS[0]) for name in OTHERS}
        for name, (idea, flags, _) in LESSONS.items():
            words = ["--device", "cpu", *flags]
            clocks[name] = functools.partial(watch_step, lesson(idea), 40, *words)
        seen = turns({name: clocks[name] for name in names}, args.rounds)
        ms = {name: [one["ms"] for one in seen[name]] for name in names}
        jobs = [(name, steps) for name in names for steps in lengths[name]]
        runs = {  # the longest first, so that no core waits at the end
            job: [pool.submit(loss, folder, *job, seed) for seed in SEEDS]
            for job in sorted(jobs, key=lambda job: -job[1])
        }
        found = {"losses": {}, "times": []}
        if FOUND.exists():
            found = json.loads(FOUND.read_text(encoding="utf-8"))
        times = [{"machine": here, "ms": ms}]
        times += [one for one in found["times"] if one["machine"] != here]
        # What only another machine can run keeps its losses.
        losses = {name: rows for name, rows in found["losses"].items() if name in lengths}
        print("| | ms a step (lowest to highest) | steps | seconds | val loss | seed by seed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, steps in jobs:
            kept = [one.result() for one in runs[name, steps]]
            losses.setdefault(name, {})[str(steps)] = kept
            write({"losses": losses, "times": times}, FOUND)
            step = statistics.median(ms[name])
            cells = [name, f"{step:.0f} ({min(ms[name]):.0f} to {max(ms[name]):.0f})", f"{steps:,}"]
            cells += [f"{steps * step / 1000:.0f}", f"{statistics.mean(kept):.3f}"]
            print("| " + " | ".join([*cells, ", ".join(map(str, kept))]) + " |", flush=True)


if __name__ == "__main__":
    main()
