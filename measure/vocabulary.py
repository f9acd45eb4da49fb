"""How many tokens: lesson 16 with several vocabularies, each for the same seconds of training.

    python measure/vocabulary.py
    python measure/vocabulary.py --tuning --seconds 60 --sizes 256 512 1024

A vocabulary of 65 is the characters alone. An optimiser step is timed in turns, on all cores,
without evaluations; the seconds divided by its median are the steps of a run. The table has the
mean val loss of three seeds in nats per character, over the whole validation split; with --tuning
over the last tenth of the training split, and the models learn from the rest of it. The figures go
to measure/results/vocabulary.json, with --tuning only to standard output. Needs a machine that does
nothing else, for an hour.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path

from losses import RESULTS, SEEDS, machine, run, write
from race import TOKENS, ours

SIZES = [65, 128, 256, 512, 1024, 2048]


def main() -> None:
    """Time the steps, train the models, and print a table in Markdown."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 180])
    parser.add_argument("--rounds", type=int, default=5, help="turns for the time of a step")
    parser.add_argument("--tuning", action="store_true", help="on the last tenth of training")
    args = parser.parse_args()
    ms: dict[int, list[float]] = {size: [] for size in args.sizes}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for size in args.sizes:
                ms[size].append(ours(TOKENS, ["--vocab-size", str(size)], Path(folder)))
    step = {size: statistics.median(ms[size]) for size in args.sizes}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool:
        runs, rows = {}, []
        for seconds in args.seconds:
            for size in args.sizes:
                steps = round(1000 * seconds / step[size])
                flags = ["--size", "laptop", "--device", "cpu", "--vocab-size", str(size)]
                flags += ["--max-iters", str(steps), "--eval-interval", str(steps)]
                for seed in SEEDS:
                    runs[seconds, size, seed] = pool.submit(run, TOKENS, seed, flags, args.tuning)
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
        found = {"machine": machine(), "seconds, tokens, ms, steps, mean, seeds": rows}
        write(found, RESULTS.with_name("vocabulary.json"))


if __name__ == "__main__":
    main()
