"""Our steps against the video's own code: the same iterations in turns, and the ratio of the times.

    git clone https://github.com/karpathy/ng-video-lecture
    python measure/video.py ng-video-lecture
    python measure/video.py ng-video-lecture --rounds 5 01_bigram

Each of the video's commits below is a step of ours. Both run as programs, with their evaluations
and their sample; the time that Python takes to start and to import torch is subtracted. Step 5 has
no commit of its own. Step 7 runs at the laptop size on both sides.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "data" / "input.txt"
COMMITS = {  # of the video's code: the commit, its file
    "01_bigram": ("83f7d22", "bigram.py"),
    "02_self_attention": ("10024b1", "v2.py"),
    "03_multihead": ("a6e0bee", "v2.py"),
    "04_feedforward": ("97dd3f9", "v2.py"),
    "06_residual_layernorm": ("0016836", "v2.py"),
    "07_full_gpt": ("5220142", "gpt.py"),
}
LAPTOP = {"batch_size": 16, "block_size": 64, "n_embd": 96, "n_head": 3, "dropout": 0.0}
LAPTOP |= {"learning_rate": 1e-3, "eval_iters": 20}


def video_script(clone: Path, name: str, settings: dict) -> str:
    """The video's code of a step, with those settings in the place of its own."""
    commit, file = COMMITS[name]
    command = ["git", "-C", str(clone), "show", f"{commit}:{file}"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for key, value in settings.items():
        source, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", source, flags=re.MULTILINE)
        if not found:
            raise ValueError(f"{commit}:{file} has no {key}")
    return source


def seconds(command: list[str], folder: Path) -> float:
    """How long a program takes, from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each step: seconds of both, and how many times as fast ours is."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clone", type=Path, help="of the video's code")
    parser.add_argument("steps", nargs="*", help="all, where none is named")
    parser.add_argument("--iters", type=int, default=1000, help="optimiser steps")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_intermixed_args()
    for name in args.steps or COMMITS:
        settings = {"max_iters": args.iters} | (LAPTOP if name == "07_full_gpt" else {})
        flags = [["--" + key.replace("_", "-"), str(value)] for key, value in settings.items()]
        ours = [sys.executable, str(ROOT / f"{name}.py"), "--device", "cpu", *sum(flags, [])]
        times: dict[str, list[float]] = {"video": [], "ours": []}
        with tempfile.TemporaryDirectory() as folder:
            script = video_script(args.clone, name, settings)
            (Path(folder) / "video.py").write_text(script, encoding="utf-8")
            (Path(folder) / "input.txt").write_bytes(TEXT.read_bytes())
            for _ in range(args.rounds):
                start = seconds([sys.executable, "-c", "import torch"], Path(folder))
                video = seconds([sys.executable, "video.py"], Path(folder))
                times["video"].append(video - start)
                times["ours"].append(seconds(ours, Path(folder)) - start)
        ratios = [v / o for v, o in zip(times["video"], times["ours"], strict=True)]
        medians = [statistics.median(times[key]) for key in times]
        print(
            f"{name}: video {medians[0]:.1f} s, ours {medians[1]:.1f} s, {min(ratios):.2f} to "
            f"{max(ratios):.2f} times as fast, median {statistics.median(ratios):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
