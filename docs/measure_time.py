"""How long each step from 7 on takes to nanoGPT's loss, and what it reaches in nanoGPT's time.

    python docs/measure_time.py
    python docs/measure_time.py 12_rotary 13_modern

The second ladder. The goal is val loss 1.886, the result of nanoGPT's recipe for CPUs; its time,
and that of a training step of each of ours, come from docs/peers.json (benchmarks/peers.py). Losses
are means of three seeds over the whole validation split. A step with a schedule is trained anew for
each length, so that its learning rate ends at zero, and the shortest such run that reaches the
goal is searched among the lengths in LENGTHS; in bfloat16 it begins with the one found in float32
and only looks upwards. A step without a schedule is trained once, and its curve read. Seconds are
optimiser steps times the milliseconds of one, so the runs may go side by side, one thread each.
Writes docs/time.json; a run that is in it is not repeated while the code of its script is the same.
Takes about an hour on two cores.
"""

import argparse
import ast
import concurrent.futures
import datetime
import hashlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = tomllib.loads((ROOT / "docs" / "steps.toml").read_text(encoding="utf-8"))
RESULTS = ROOT / "docs" / "time.json"
PEERS = ROOT / "docs" / "peers.json"
SEEDS = (1337, 1338, 1339)
GOAL = 1.886
LENGTHS = [*range(100, 300, 25), *range(300, 500, 50), *range(500, 2001, 100)]  # optimiser steps
CONSTANT = 1600  # steps of a run at a constant rate: enough for the goal
STEPS = [name for name in TABLE if "07" <= name < "15"]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# What computes the same, to the bit: it is not trained again.
SAME = {("09_keep", "float32"): "08_batched_heads", ("10_fast", "float32"): "08_batched_heads"}


def precisions(step: str) -> list[str]:
    """What a step is measured in: bfloat16 too, where the step has it."""
    return ["float32", "bfloat16"] if step >= "10" else ["float32"]


def contestant(step: str, precision: str) -> str:
    """The name that docs/peers.json has for a step in a precision."""
    return step if precision == "float32" else f"{step} {precision}"


def scheduled(step: str) -> bool:
    """Whether the step's learning rate ends at zero."""
    return step >= "11"


def at_loss(curve: list[list[float]], goal: float) -> float | None:
    """Steps to that loss, in a line between a curve's points; None, where it is not reached."""
    for (a, above), (b, below) in itertools.pairwise(curve):
        if above > goal >= below:
            return a + (b - a) * (above - goal) / (above - below)
    return None


def at_steps(curve: list[list[float]], steps: float) -> float:
    """Loss after that many steps, in a line between the points of a curve."""
    for (a, first), (b, second) in itertools.pairwise(curve):
        if a <= steps <= b:
            return first + (second - first) * (steps - a) / (b - a)
    raise ValueError(f"the curve ends before step {steps:.0f}")


def next_length(tried: dict[int, float]) -> int | None:
    """A length to try, given the losses of others; None, when the shortest is known or none is."""
    reached = [n for n, loss in tried.items() if loss <= GOAL]
    high = min(reached, default=math.inf)
    low = max((n for n in tried if n < high), default=0)
    between = [n for n in LENGTHS if low < n < high]
    if not between:
        return None
    known = [n for n in (low, high) if n in tried]
    slope = -0.3  # of the loss over the logarithm of the length, as a first guess
    if len(known) == 2:
        slope = (tried[high] - tried[low]) / math.log(high / low)
    guess = known[-1] * math.exp((GOAL - tried[known[-1]]) / slope)
    return min(between, key=lambda n: abs(n - guess))


def code(step: str) -> str:
    """A hash of what the script computes: no docstrings, no comments, not how a model is kept."""
    tree = ast.parse((ROOT / TABLE[step]["file"]).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", "") not in ("save", "load")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


class Runs:
    """All runs so far, in docs/time.json: [steps, val loss] of each moment."""

    def __init__(self) -> None:
        done = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        self.scripts = {name: code(name) for name in STEPS}
        self.all = [r for r in done.get("runs", []) if r["script"] == self.scripts[r["step"]]]

    def find(self, step: str, precision: str, seed: int, steps: int) -> dict | None:
        """That run, if it was made."""
        wanted = {"step": step, "precision": precision, "seed": seed, "steps": steps}
        return next((run for run in self.all if wanted.items() <= run.items()), None)

    def make(self, step: str, precision: str, seed: int, steps: int) -> dict:
        """A run in a process of its own, with one thread."""
        flags = ["--size", "laptop", "--device", "cpu", "--seed", seed, "--max-iters", steps]
        flags += ["--max-new-tokens", 0, "--eval-interval", sys.maxsize]
        flags += ["--eval-iters", 1, "--eval-batch-size", 1]
        flags += ["--float32"] if precision == "float32" and step >= "10" else []
        with tempfile.TemporaryDirectory() as folder:
            curve = Path(folder) / "curve.json"
            flags += ["--checkpoint", Path(folder) / "model.pt"] if step >= "09" else []
            words = [ROOT / "benchmarks" / "curve.py", steps if scheduled(step) else 200, curve]
            words += [ROOT / TABLE[step]["file"], *flags]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise RuntimeError(done.stderr)
            points = json.loads(curve.read_text(encoding="utf-8"))
        run = {"step": step, "precision": precision, "seed": seed, "steps": steps}
        run |= {"script": self.scripts[step], "date": datetime.date.today().isoformat()}
        return run | {"curve": [[at, loss] for at, _, loss in points]}

    def need(self, wanted: list[tuple]) -> None:
        """Make the runs that are missing, as many at a time as there are cores."""
        missing = [key for key in dict.fromkeys(wanted) if not self.find(*key)]
        with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
            for done in concurrent.futures.as_completed(
                pool.submit(self.make, *key) for key in missing
            ):
                run = done.result()
                self.all.append(run)
                print(run["step"], run["precision"], run["seed"], *run["curve"][-1], flush=True)
                self.write()

    def curve(self, step: str, precision: str, steps: int) -> list[list[float]]:
        """Mean over the seeds of the curves of runs of that length."""
        runs = [self.find(step, precision, seed, steps)["curve"] for seed in SEEDS]
        return [
            [points[0][0], statistics.mean(loss for _, loss in points)]
            for points in zip(*runs, strict=True)
        ]

    def ends(self, step: str, precision: str) -> dict[int, float]:
        """Mean loss over the seeds at the end of runs, by their length."""
        lengths = {r["steps"] for r in self.all if (r["step"], r["precision"]) == (step, precision)}
        whole = [n for n in lengths if all(self.find(step, precision, s, n) for s in SEEDS)]
        return {n: self.curve(step, precision, n)[-1][1] for n in sorted(whole)}

    def write(self, **more: object) -> None:
        """All runs, and what follows from them, in one go."""
        order = ("step", "precision", "steps", "seed")
        self.all.sort(key=lambda run: [run[k] for k in order])
        rows = ",\n".join(f"  {json.dumps(run)}" for run in self.all)
        head = json.dumps({"goal": GOAL} | more, indent=1)[:-2]
        part = RESULTS.with_suffix(".part")
        part.write_text(f'{head},\n "runs": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        part.replace(RESULTS)


def search(runs: Runs, pairs: list[tuple[str, str]]) -> None:
    """The runs that show which length reaches the goal, for steps with a schedule."""
    while True:
        wanted = []
        for step, precision in pairs:
            tried = runs.ends(step, precision)
            if precision == "float32":
                length = next_length(tried) if tried else 600
            elif any(loss <= GOAL for loss in tried.values()):
                length = None
            else:
                least = max(tried, default=shortest(runs, step, "float32") - 1)
                length = min((n for n in LENGTHS if n > least), default=None)
            if length:
                wanted += [(step, precision, seed, length) for seed in SEEDS]
        if not wanted:
            return
        runs.need(wanted)


def shortest(runs: Runs, step: str, precision: str) -> int | None:
    """The shortest of the lengths that were tried that reaches the goal."""
    return min((n for n, x in runs.ends(step, precision).items() if x <= GOAL), default=None)


def figures(runs: Runs, step: str, precision: str, peers: dict) -> dict:
    """Steps and seconds to the goal, and the loss in the recipe's time."""
    ms = statistics.median(peers["ms"][contestant(step, precision)])
    fits = steps_that_fit(peers, step, precision)
    source = SAME.get((step, precision), step)
    ends = runs.ends(source, precision)
    if scheduled(step):
        steps = shortest(runs, step, precision)
        fits = max((n for n in ends if n <= fits), default=0)  # the longest that was run
        losses = [r["curve"][-1][1] for s in SEEDS if (r := runs.find(step, precision, s, fits))]
        at_goal = [runs.find(step, precision, s, steps)["curve"][-1][1] for s in SEEDS]
    else:
        length = max(ends)
        steps = at_loss(runs.curve(source, precision, length), GOAL)
        curves = [runs.find(source, precision, s, length)["curve"] for s in SEEDS]
        fits = min(fits, length)
        losses = [at_steps(curve, fits) for curve in curves]
        at_goal = []
    return {
        "step": step, "precision": precision, "ms": ms, "steps_to_goal": steps and round(steps),
        "seconds_to_goal": steps and round(steps * ms / 1000, 1), "losses_at_goal": at_goal,
        "steps_in_time": fits if losses and precision == "float32" else None,
        "losses_in_time": [round(loss, 4) for loss in losses] if precision == "float32" else [],
    }  # fmt: skip


def recipe_seconds(peers: dict) -> float:
    """The training time of nanoGPT's recipe, from what a step of it takes in turns with ours."""
    steps = peers["nanogpt"]["curve"][-1][0]
    return steps * statistics.median(peers["ms"]["nanogpt"]) / 1000


def steps_that_fit(peers: dict, step: str, precision: str) -> int:
    """How many steps the recipe's time has room for, in whole hundreds."""
    ms = statistics.median(peers["ms"][contestant(step, precision)])
    return 100 * int(10 * recipe_seconds(peers) / ms)


def main() -> None:
    """Train what is missing, then write what follows."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", help="those to measure; all, where none is named")
    names = parser.parse_args().steps or STEPS
    if unknown := set(names) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    peers, runs = json.loads(PEERS.read_text(encoding="utf-8")), Runs()
    pairs = [(s, p) for s in names for p in precisions(s) if (s, p) not in SAME]
    wanted = []
    for step, precision in pairs:
        fits = steps_that_fit(peers, step, precision)
        if not scheduled(step):
            length = CONSTANT if precision == "bfloat16" else max(CONSTANT, 200 * -(-fits // 200))
            wanted += [(step, precision, seed, length) for seed in SEEDS]
        elif precision == "float32":
            wanted += [(step, precision, seed, fits) for seed in SEEDS]
    runs.need(wanted)
    for precision in ("float32", "bfloat16"):
        search(runs, [pair for pair in pairs if pair[1] == precision and scheduled(pair[0])])
    rows = [figures(runs, s, p, peers) for s in STEPS for p in precisions(s)]
    runs.write(recipe_seconds=round(recipe_seconds(peers), 1), steps=rows)
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
