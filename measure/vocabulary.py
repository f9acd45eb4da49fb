"""How many tokens: lesson 16 with several vocabularies, each for the same seconds of training.

    python measure/vocabulary.py
    python measure/vocabulary.py --tuning --seconds 60 --sizes 256 512 1024

A vocabulary of 65 is the characters alone. Each run has one core, and as many run side by side as
there are cores. The seconds divided by the median time of an optimiser step, without evaluations,
are the steps of a run. The table has the mean val loss of three seeds in nats per character, over
the whole validation split; with --tuning over the last tenth of the training split, and the models
learn from the rest of it. The figures go to measure/results/vocabulary.json, with --tuning only to
standard output. Needs a machine that does nothing else, for three quarters of an hour.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
import uuid
from pathlib import Path

from losses import RESULTS, ROOT, SEEDS, TABLE, machine, run, write
from race import watch

LESSON = "16_tokens"
SIZES = [65, 128, 256, 512, 1024, 2048]


def milliseconds(size: int, folder: str) -> float:
    """Median time of an optimiser step, on one core."""
    flags = ["--vocab-size", size, "--max-iters", 40, "--eval-interval", 9999, "--eval-iters", 1]
    flags += ["--max-new-tokens", 0, "--size", "laptop", "--device", "cpu"]
    script = ROOT / TABLE[LESSON]["file"]
    return watch(Path(folder), 1, f"{uuid.uuid4()}.json", script, *flags)["ms"]


def main() -> None:
    """Time the steps, train the models, and print a table in Markdown."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 180])
    parser.add_argument("--rounds", type=int, default=3, help="turns for the time of a step")
    parser.add_argument("--tuning", action="store_true", help="on the last tenth of training")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool,
    ):
        turns = [
            (size, pool.submit(milliseconds, size, folder)) for size in args.sizes * args.rounds
        ]
        ms = {size: [one.result() for s, one in turns if s == size] for size in args.sizes}
        step = {size: statistics.median(ms[size]) for size in args.sizes}
        runs, rows = {}, []
        for seconds in args.seconds:
            for size in args.sizes:
                steps = round(1000 * seconds / step[size])
                flags = ["--size", "laptop", "--device", "cpu", "--vocab-size", str(size)]
                flags += ["--max-iters", str(steps), "--eval-interval", str(steps)]
                for seed in SEEDS:
                    runs[seconds, size, seed] = pool.submit(run, LESSON, seed, flags, args.tuning)
        print("| seconds | tokens | ms a step | steps | val loss | seed by seed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for seconds in args.seconds:
            for size in args.sizes:
                losses = [runs[seconds, size, seed].result()["val_loss"] for seed in SEEDS]
                row = [seconds, size, round(step[size], 1), round(1000 * seconds / step[size])]
                rows.append([*row, round(statistics.mean(losses), 4), *losses])
                seeds = ", ".join(f"{loss:.3f}" for loss in losses)
                cells = [*row, f"{statistics.mean(losses):.3f}", seeds]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if not args.tuning:
        columns = "seconds, tokens, ms a step, steps, mean val loss, that of each seed"
        found = {"machine": machine(), "columns": columns, "rows": rows}
        write(found, RESULTS.with_name("vocabulary.json"))


if __name__ == "__main__":
    main()
