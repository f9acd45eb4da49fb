"""Other people's code on the same text and machine: nanoGPT's and the video's own, beside ours.

    git clone https://github.com/karpathy/nanoGPT
    git clone https://github.com/karpathy/ng-video-lecture
    python benchmarks/peers.py nanoGPT ng-video-lecture

Runs nanoGPT's train.py with the recipe for CPUs of its README, and the video's gpt.py with the
constants of step 7's laptop size, each as it is, in a copy of its folder, and takes their curves
(benchmarks/curve.py). Then it times a few optimiser steps of theirs and of our steps from 7 on, in
turns, so that a machine whose speed drifts is fair to all. The result, with the commits, goes to
docs/peers.json. Takes about ten minutes, and a machine that does nothing else.
"""

import argparse
import datetime
import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from common.data import TINY_SHAKESPEARE, load_corpus  # noqa: E402

RESULTS = ROOT / "docs" / "peers.json"
STEPS = tomllib.loads((ROOT / "docs" / "steps.toml").read_text(encoding="utf-8"))
RECIPE = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 "
    "--log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 "
    "--max_iters={0} --lr_decay_iters={0} --dropout=0.0"
)
RECIPE_STEPS = 2000
CONSTANTS = (
    "batch_size", "block_size", "max_iters", "learning_rate", "n_embd", "n_head", "n_layer",
    "dropout",
)  # fmt: skip


def python(*words: object, cwd: Path) -> None:
    """Run a Python script in that folder; one that fails ends the program with what it said."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def curve(folder: Path, every: int, *words: object, context: int | None = None) -> list:
    """[steps, seconds, val loss] of a script in that folder, with its flags."""
    known = ["--context", context] if context else []
    python(ROOT / "benchmarks" / "curve.py", *known, every, "curve.json", *words, cwd=folder)
    return json.loads((folder / "curve.json").read_text(encoding="utf-8"))


def nanogpt(folder: Path, steps: int, every: int) -> list:
    """The curve of nanoGPT's train.py with its recipe for CPUs."""
    data = folder / "data" / "shakespeare_char"
    if not (data / "input.txt").exists():
        shutil.copy(TINY_SHAKESPEARE, data / "input.txt")
        python("prepare.py", cwd=data)
    return curve(folder, every, "train.py", *RECIPE.format(steps).split())


def video(folder: Path, steps: int, every: int) -> list:
    """The curve of the video's gpt.py with the constants of the laptop size."""
    shutil.copy(TINY_SHAKESPEARE, folder / "input.txt")
    config = importlib.import_module("07_full_gpt").parse_args(["--size", "laptop"])
    values = {name: getattr(config, name) for name in CONSTANTS} | {"max_iters": steps}
    values |= {"eval_interval": steps, "eval_iters": 1}  # its own evaluations do not count
    text = (folder / "gpt.py").read_text(encoding="utf-8")
    for name, value in values.items():
        text, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
        if found != 1:
            sys.exit(f"gpt.py has no constant {name}: it is another version")
    (folder / "gpt.py").write_text(text, encoding="utf-8")
    return curve(folder, every, "gpt.py", context=config.block_size)


def ours(folder: Path, step: str, steps: int, every: int, *flags: object) -> list:
    """The curve of one of our steps at the laptop size."""
    script, checkpoint = ROOT / STEPS[step]["file"], folder / "model.pt"
    flags = ("--size", "laptop", "--max-iters", steps, "--max-new-tokens", 0, *flags)
    flags += ("--eval-interval", sys.maxsize, "--eval-iters", 1, "--eval-batch-size", 1)
    if step >= "09":
        flags += ("--checkpoint", checkpoint)
    try:
        return curve(folder, every, script, *flags)
    finally:
        checkpoint.unlink(missing_ok=True)


def commit(folder: Path) -> dict:
    """What of a clone was run: its commit and the day of it."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%H %cs"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{folder} is no clone: {done.stderr.strip()}")
    name, day = done.stdout.split()
    return {"commit": name, "committed": day}


def turns(folders: dict[str, Path], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a training step of everybody, one value for each round."""
    runners = {
        "nanogpt": partial(nanogpt, folders["nanogpt"], steps, steps),
        "video": partial(video, folders["video"], steps, steps),
    }
    for step in (step for step in STEPS if "07" <= step < "15"):
        ways = {step: ["--float32"], f"{step} bfloat16": []} if step >= "10" else {step: []}
        for name, flags in ways.items():
            runners[name] = partial(ours, folders["ours"], step, steps, steps, *flags)
    ms = {name: [] for name in runners}
    for i in range(rounds):
        for name, run in runners.items():
            taken, seconds, _ = run()[-1]
            ms[name].append(round(1000 * seconds / taken, 1))
            print(f"round {i + 1} of {rounds}: {name} {ms[name][-1]} ms", file=sys.stderr)
    return ms


def main() -> None:
    """Measure, then write all of it in one go."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("video", type=Path, help="a clone of karpathy/ng-video-lecture")
    parser.add_argument("--only", choices=("turns", "curves"), help="and keep the rest of the file")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each = %(default)s")
    parser.add_argument("--turn", type=int, default=40, help="optimiser steps in one = %(default)s")
    args = parser.parse_args()
    clones = {"nanogpt": args.nanogpt, "video": args.video}
    for folder, script in ((args.nanogpt, "train.py"), (args.video, "gpt.py")):
        if not (folder / script).is_file():
            parser.error(f"{folder} has no {script}")
    load_corpus()  # downloads it
    if not TINY_SHAKESPEARE.exists():
        sys.exit(f"{TINY_SHAKESPEARE} is missing; what is measured is a run on Tiny Shakespeare")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if args.only else {}
    results |= {"date": datetime.date.today().isoformat()}
    for name, folder in clones.items():
        results[name] = results.get(name, {}) | commit(folder)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in ("ours", *clones)}
        folders["ours"].mkdir()
        for name, clone in clones.items():
            shutil.copytree(clone, folders[name])
        if args.only != "curves":
            results["ms"] = turns(folders, args.rounds, args.turn)
        if args.only != "turns":
            results["nanogpt"]["curve"] = nanogpt(folders["nanogpt"], RECIPE_STEPS, 400)
            results["video"]["curve"] = video(folders["video"], RECIPE_STEPS, 400)
    text = json.dumps(results, indent=1)
    rows = re.sub(r"\[[\s\d.,]+\]", lambda found: " ".join(found[0].split()), text)
    RESULTS.write_text(rows + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
