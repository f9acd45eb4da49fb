"""How the speed of training grows with the number of processes: measured here, predicted beyond.

    python benchmarks/scaling.py --size full --batch 8
    python benchmarks/scaling.py --bandwidth 10 --latency 50 --float32 --save

Step 16 trains under torchrun with 1 process and with 2, of one thread each on a CPU or of one GPU
each, with the same batch a process. What the optimiser steps take is timed, without evaluations,
and so is an all-reduce of the gradients alone. For n machines, each with the speed of one process,
the time of a step is predicted as computing and then a ring all-reduce (arXiv 1802.05799):

    T(n) = t + 2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency,  efficiency = t / T(n)

which is careful: DistributedDataParallel sends the first gradients while it computes the rest.
--save puts the figures into docs/scaling.json, from which docs/build.py draws the curve.
"""

import argparse
import contextlib
import datetime
import importlib
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "scaling.json"
WARM_UP = 2  # optimiser steps before the clock starts
MACHINES = (1, 2, 4, 8, 16, 32, 64)


class TurnIsOver(Exception):
    """Ends the step's train after as many optimiser steps as are timed."""


def work(args: argparse.Namespace) -> None:
    """In a process that torchrun has started: train, and let rank 0 write the times to a file."""
    steps, device, file = args.steps, args.device, args.worker
    sys.path[:0] = [str(ROOT / "beyond"), str(ROOT)]
    step = importlib.import_module("16_many")
    words = ["--size", args.size, "--device", device, "--data", str(ROOT / "data" / "sample.txt")]
    words += [
        "--checkpoint",
        str(file.with_suffix(".pt")),
        "--batch-size",
        args.batch * step.PROCESSES,
    ]
    words += ["--float32"] if args.float32 else []
    words += ["--eval-batch-size", step.PROCESSES, "--eval-iters", 1]
    config = step.parse_args([*map(str, words), "--eval-interval", str(sys.maxsize)])
    ended, found = [], {}

    def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        ended.append(time.perf_counter())
        if len(ended) <= WARM_UP + steps:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found["seconds"] = [b - a for a, b in itertools.pairwise(ended[WARM_UP:])]
        found["bytes"] = sum(p.numel() * p.element_size() for p in parameters)
        found["block_size"] = config.block_size
        found["bfloat16"] = step.autocast(config, parameters[0].device)._enabled
        found["all_reduce"] = all_reduce(found["bytes"], parameters[0].device)
        raise TurnIsOver

    register_optimizer_step_post_hook(after_step)
    with contextlib.suppress(TurnIsOver), contextlib.redirect_stdout(io.StringIO()):
        step.main(config)
    if step.RANK == 0:
        file.write_text(json.dumps(found))


def all_reduce(size: int, device: torch.device) -> float:
    """Seconds that an all-reduce of that many bytes takes; 0 where there is one process."""
    if not dist.is_initialized():
        return 0.0
    gradients, times = torch.zeros(size // 4, device=device), []
    for _ in range(5):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(gradients)
        gradients[0].item()  # which waits for a GPU
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(processes: int, args: argparse.Namespace) -> dict:
    """The figures of a run with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", __file__, "--size", args.size]
        command += ["--batch", args.batch, "--steps", args.steps, "--device", args.device]
        command += ["--worker", file, *(["--float32"] if args.float32 else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
        if not file.exists():
            sys.exit(f"the run with {processes} processes failed: {done.stderr.strip()}")
        return json.loads(file.read_text()) | {"processes": processes}


def predict(seconds: float, size: int, machines: int, bandwidth: float, latency: float) -> float:
    """Seconds of a step on that many machines; size in bytes, bandwidth in bytes a second."""
    share = 2 * (machines - 1) / machines
    return seconds + share * size / bandwidth + 2 * (machines - 1) * latency


def main() -> None:
    """Measure, print, predict, and save where that is asked for."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--size", choices=["full", "laptop"], default="full")
    parser.add_argument("--batch", type=int, default=8, help="a process = %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="timed in a turn = %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each = %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--float32", action="store_true", help="no bfloat16, as on most CPUs")
    parser.add_argument("--bandwidth", type=float, default=1, help="Gbit/s = %(default)s")
    parser.add_argument("--latency", type=float, default=100, help="microseconds = %(default)s")
    parser.add_argument("--save", action="store_true", help=f"to {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    if min(args.batch, args.steps, args.rounds, args.bandwidth, args.latency) <= 0:
        parser.error("--batch, --steps, --rounds, --bandwidth and --latency must be above 0")
    turns = [[measure(n, args) for n in (1, 2)] for _ in range(args.rounds)]  # A B A B ...
    one, two = (
        statistics.median(t for turn in turns for t in turn[i]["seconds"]) for i in range(2)
    )
    alone = statistics.median(turn[1]["all_reduce"] for turn in turns)
    last = turns[-1][1]
    kind = "bfloat16" if last["bfloat16"] else "float32"
    unit = "thread" if args.device == "cpu" else "GPU"
    tokens = args.batch * last["block_size"]
    print(f"step 16, {args.size} size, {args.batch} sequences and one {unit} a process, {kind}")
    for n, seconds in ((1, one), (2, two)):
        speed = n * one / seconds
        print(
            f"{n} {'process' if n == 1 else 'processes':9} {seconds * 1e3:8.0f} ms a step"
            f" {n * tokens / seconds:10,.0f} tokens/s {speed:5.2f} times one,"
            f" efficiency {speed / n:.0%}"
        )
    size = last["bytes"]
    print(f"gradients: {size / 1e6:.1f} MB; an all-reduce of 2 processes here {alone * 1e3:.0f} ms")
    print(f"predicted for {args.bandwidth:g} Gbit/s and {args.latency:g} microseconds:")
    predicted = []
    for n in MACHINES:
        seconds = predict(one, size, n, args.bandwidth * 1e9 / 8, args.latency / 1e6)
        predicted.append([n, round(n * one / seconds, 3)])
        print(
            f"{n:3} machines {seconds * 1e3:8.0f} ms a step {n * one / seconds:6.2f} times one,"
            f" efficiency {one / seconds:.0%}"
        )
    if args.save:
        found = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            "torch": torch.__version__.split("+")[0],
            "size": args.size,
            "batch": args.batch,
            "numbers": kind,
            "unit": unit,
            "measured": [[1, round(one, 4)], [2, round(two, 4)]],
            "all_reduce": round(alone, 4),
            "bytes": size,
            "bandwidth": args.bandwidth,
            "latency": args.latency,
            "predicted": predicted,
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        print("\nstopped", file=sys.stderr)
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
