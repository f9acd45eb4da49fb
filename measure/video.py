"""Our steps against the video's own code: the same iterations in turns, and the ratio of the times.

    git clone https://github.com/karpathy/ng-video-lecture
    python measure/video.py ng-video-lecture
    python measure/video.py ng-video-lecture --rounds 5 01_bigram

Each of the video's commits below is a step of ours. Both run as programs, with their evaluations
and their sample, without Python's start and the import of torch. Step 5 has no commit of its own.
Step 7 runs at the laptop size on both sides.
"""

import functools
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from losses import ROOT, arguments
from watch import ratio, turns, watch

from common.data import TINY_SHAKESPEARE

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
    """The video's code of a step, with those settings instead of its own."""
    commit, file = COMMITS[name]
    command = ["git", "-C", str(clone), "show", f"{commit}:{file}"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for key, value in settings.items():
        source, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", source, flags=re.MULTILINE)
        if not found:
            raise ValueError(f"{commit}:{file} has no {key}")
    return source


def main() -> None:
    """Print a line for each step: seconds of both, and how many times as fast ours is."""
    parser = arguments(__doc__)
    parser.add_argument("clone", type=Path, help="of the video's code")
    parser.add_argument("steps", nargs="*", help="all, where none is named")
    parser.add_argument("--iters", type=int, default=1000, help="optimiser steps")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_intermixed_args()
    for name in args.steps or COMMITS:
        settings = {"max_iters": args.iters} | (LAPTOP if name == "07_full_gpt" else {})
        flags = [["--" + key.replace("_", "-"), value] for key, value in settings.items()]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "video.py").write_text(video_script(args.clone, name, settings), "utf-8")
            (folder / "input.txt").write_bytes(TINY_SHAKESPEARE.read_bytes())
            ours = [ROOT / f"{name}.py", "--device", "cpu", *sum(flags, [])]
            both = {
                "video": functools.partial(watch, folder / "video.py", folder=folder),
                "ours": functools.partial(watch, *ours),
            }
            found = turns(both, args.rounds)
        seconds = [
            f"{statistics.median(one['seconds'] for one in seen):.1f} s" for seen in found.values()
        ]
        times = ratio(found["video"], found["ours"], "seconds")
        print(f"{name}: video {seconds[0]}, ours {seconds[1]}, {times} times as fast", flush=True)


if __name__ == "__main__":
    main()
