"""How fast two processes train beside one, and what that predicts for more machines.

    python measure/scaling.py --batch 8 --flags "--size full --float32"
    python measure/scaling.py --bandwidth 10 --latency 50

Runs beyond/distributed.py under torchrun with one process and with two, in turns. Each process has
--batch sequences of its own, so two do twice the work of one. On a CPU each has one thread. The
prediction for n machines is the time of one process and that of a ring all-reduce of the gradients
(arXiv 1802.05799): 2 (n - 1) / n times their bytes by --bandwidth, and 2 (n - 1) times --latency.
Needs a machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINES = (2, 4, 8, 16, 32, 64)


def measure(processes: int, batch: int, flags: list[str], steps: int) -> dict:
    """What measure/watch.py sees of a run with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", ROOT / "measure" / "watch.py", found]
        command += [ROOT / "beyond" / "distributed.py", *flags, "--batch-size", processes * batch]
        command += ["--checkpoint", Path(folder) / "model.pt", "--max-iters", steps]
        command += ["--eval-interval", sys.maxsize, "--eval-iters", 1, "--max-new-tokens", 0]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"the run with {processes} processes failed: {done.stderr.strip()}")
        return json.loads(found.read_text(encoding="utf-8"))


def predict(seconds: float, size: int, machines: int, bandwidth: float, latency: float) -> float:
    """Seconds of a step on that many machines; size in bytes, bandwidth in bytes a second."""
    share = 2 * (machines - 1) / machines
    return seconds + share * size / bandwidth + 2 * (machines - 1) * latency


def main() -> None:
    """Measure, print, and predict."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences a process")
    parser.add_argument("--flags", default="--size laptop", help="for beyond/distributed.py")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps in a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--bandwidth", type=float, default=1, help="Gbit/s")
    parser.add_argument("--latency", type=float, default=100, help="microseconds")
    args = parser.parse_args()
    words = (args.batch, args.flags.split(), args.steps)
    turns = [[measure(n, *words) for n in (1, 2)] for _ in range(args.rounds)]  # A B A B ...
    one, two = (statistics.median(turn[i]["ms"] for turn in turns) / 1000 for i in range(2))
    size = turns[0][0]["bytes"]
    print(f"1 process    {one * 1e3:8.0f} ms a step")
    print(f"2 processes  {two * 1e3:8.0f} ms a step, {2 * one / two:.2f} times the speed of one")
    print(f"gradients of {size / 1e6:.1f} MB, {args.bandwidth:g} Gbit/s, {args.latency:g} us:")
    for n in MACHINES:
        seconds = predict(one, size, n, args.bandwidth * 1e9 / 8, args.latency / 1e6)
        speed = n * one / seconds
        print(f"{n:2} machines  {seconds * 1e3:8.0f} ms a step, predicted: {speed:.2f} times")


if __name__ == "__main__":
    main()
