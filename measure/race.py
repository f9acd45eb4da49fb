"""Val loss against seconds of training: our last lessons, nanoGPT, and the video's code.

    git clone https://github.com/karpathy/nanoGPT
    git clone https://github.com/karpathy/ng-video-lecture
    python measure/race.py nanoGPT ng-video-lecture

Trains everybody in runs of several lengths; each length is a run of its own, whose learning rate
ends with it. Three seeds give the losses, over the whole validation split, in nats per character.
Steps are timed in turns, on all cores, without evaluations. So the runs themselves may go side by
side, with a thread each. The figures go to measure/results/race.json, where each machine keeps its
own times, and docs/source/build.py makes the picture and the table of them. Needs a machine that
does nothing else, for an hour.
"""

import functools
import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from losses import RESULTS, SEEDS, arguments, lesson, machine, processes, run, write
from watch import token_corpus, turns, watch, watch_step

from common.data import TINY_SHAKESPEARE

FOUND = RESULTS.with_name("race.json")
# What nanoGPT's README sets for a CPU.
RECIPE = "--device=cpu --compile=False --block_size=64 --batch_size=12 "
RECIPE += "--n_layer=4 --n_head=4 --n_embd=128 --dropout=0.0 "
# After 1,000 steps, over the last tenth of the training split, 2e-3 was worse with each of three
# seeds, and 8e-3 gained less than the seeds differ.
TUNED = RECIPE + "--learning_rate=4e-3 --min_lr=4e-4 "
NANOGPT = {
    "nanoGPT's recipe": RECIPE,
    "nanoGPT, learning rate tuned": TUNED,
    "nanoGPT, tuned, our tokens": TUNED + "--dataset=tokens",
}
TOKENS = 512  # the vocabulary of the lesson on tokens
# The video's last script at the laptop size of our step 7.
VIDEO = "the video's code"
LAPTOP = {"batch_size": 16, "block_size": 64, "n_embd": 96, "n_head": 3, "dropout": 0.0}
LAPTOP |= {"learning_rate": 1e-3, "eval_iters": 1}
LENGTHS = {"cache": [2000], "tokens": [2000], "decay": [150, 2000], "ensemble": [2000]}
LENGTHS |= {"distillation": [2000]}
LESSONS = {
    f"lesson {lesson(idea)[:2]}, {idea}{'' if flags else ', bfloat16'}": (idea, flags, lengths)
    for idea, lengths in LENGTHS.items()
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
    run_name, flags = f"{len(name)}-{seed}-{steps}-{threads}", []
    if name == VIDEO:
        folder = folder / "video"
        source = video_script(folder, LAPTOP | {"max_iters": steps, "eval_interval": steps})
        shutil.copy(TINY_SHAKESPEARE, folder / "input.txt")
    else:
        folder = folder / "nanoGPT"
        source = (folder / "train.py").read_text(encoding="utf-8")
        flags = ["config/train_shakespeare_char.py", *NANOGPT[name].split()]
        flags += [f"--max_iters={steps}", f"--lr_decay_iters={steps}", f"--out_dir={run_name}"]
        flags += [f"--eval_interval={sys.maxsize}", "--eval_iters=1"]
    script = folder / f"{run_name}.py"
    script.write_text(source.replace("manual_seed(1337", f"manual_seed({seed}"), encoding="utf-8")
    options = ["--loss", 64, "--vocab-size", TOKENS if "--dataset=tokens" in flags else 0]
    return watch(script, *flags, options=options, threads=threads, folder=folder)


def loss(folder: Path, name: str, steps: int, seed: int) -> float:
    """The val loss after a run."""
    if name not in LESSONS:
        return other(folder, name, steps, seed, threads=1)["val_loss"]
    idea, flags, _ = LESSONS[name]
    words = ["--device", "cpu", "--max-iters", str(steps), *flags]
    return run(lesson(idea), seed, words)["val_loss"]


def main() -> None:
    """Time the steps in turns, train everybody, and write the figures."""
    parser = arguments(__doc__)
    parser.add_argument("nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    parser.add_argument("video", type=Path, help="a clone of karpathy/ng-video-lecture")
    parser.add_argument("--rounds", type=int, default=5, help="turns for the time of a step")
    args = parser.parse_args()
    here, others = machine(), [VIDEO, *NANOGPT]
    lengths = {name: [2000] for name in others} | {name: row[-1] for name, row in LESSONS.items()}
    names = [name for name in lengths if here["avx512_bf16"] or not name.endswith("bfloat16")]
    with tempfile.TemporaryDirectory() as temporary, processes() as pool:
        folder = Path(temporary)
        shutil.copytree(args.nanogpt, folder / "nanoGPT")
        shutil.copytree(args.video, folder / "video")
        prepare(folder / "nanoGPT")
        clocks = {name: functools.partial(other, folder, name, 40, SEEDS[0]) for name in others}
        for name, (idea, flags, _) in LESSONS.items():
            words = ["--device", "cpu", *flags]
            clocks[name] = functools.partial(watch_step, lesson(idea), 40, *words)
        seen = turns({name: clocks[name] for name in names}, args.rounds)
        ms = {name: [one["ms"] for one in seen[name]] for name in names}
        runs = {
            (name, steps): [pool.submit(loss, folder, name, steps, seed) for seed in SEEDS]
            for name in names
            for steps in lengths[name]
        }
        old = {"losses": {}, "times": []}
        if FOUND.exists():
            old = json.loads(FOUND.read_text(encoding="utf-8"))
        times = [one for one in old["times"] if one["machine"] != here]
        times = [{"machine": here, "ms": ms}, *times]
        # What only another machine can run keeps its losses.
        losses = {name: rows for name, rows in old["losses"].items() if name in lengths}
        for (name, steps), jobs in runs.items():
            losses.setdefault(name, {})[str(steps)] = [job.result() for job in jobs]
            print(name, steps, losses[name][str(steps)], flush=True)
            write({"losses": losses, "times": times}, FOUND)


if __name__ == "__main__":
    main()
