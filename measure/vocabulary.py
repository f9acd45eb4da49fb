"""How many tokens: the lesson on tokens with several vocabularies, each for the same seconds.

    python measure/vocabulary.py
    python measure/vocabulary.py --tuning --seconds 60 --sizes 256 512 1024

A vocabulary of 65 is the characters alone. Each run has one core, and as many run side by side as
there are cores. The seconds divided by the median time of an optimiser step, without evaluations,
are the steps of a run. The table has the mean val loss of three seeds in nats per character, over
the whole validation split; with --tuning over the last tenth of the training split, and the models
learn from the rest of it. The figures go to measure/results/vocabulary.json, with --tuning only to
standard output. Needs a machine that does nothing else, for three quarters of an hour.
"""

import itertools
import statistics

from losses import RESULTS, SEEDS, arguments, lesson, machine, processes, run, write
from watch import watch_step

SIZES = [65, 128, 256, 512, 1024, 2048]


def flags(size: int) -> list[str]:
    """Those of a run with so many tokens."""
    return ["--device", "cpu", "--vocab-size", str(size)]


def main() -> None:
    """Time the steps, train the models, and print a table in Markdown."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 180])
    parser.add_argument("--rounds", type=int, default=3, help="turns for the time of a step")
    parser.add_argument("--tuning", action="store_true", help="on the last tenth of training")
    args = parser.parse_args()
    name, runs, rows = lesson("tokens"), {}, []
    with processes() as pool:
        turns = [
            (size, pool.submit(watch_step, name, 40, *flags(size), threads=1))
            for size in args.sizes * args.rounds
        ]
        ms = {
            size: statistics.median(one.result()["ms"] for s, one in turns if s == size)
            for size in args.sizes
        }
        for seconds, size in itertools.product(args.seconds, args.sizes):
            steps = str(round(1000 * seconds / ms[size]))
            words = [*flags(size), "--max-iters", steps, "--eval-interval", steps]
            for seed in SEEDS:
                runs[seconds, size, seed] = pool.submit(run, name, seed, words, args.tuning)
        print("| seconds | tokens | ms a step | steps | val loss | seed by seed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for seconds, size in itertools.product(args.seconds, args.sizes):
            losses = [runs[seconds, size, seed].result()["val_loss"] for seed in SEEDS]
            row = [seconds, size, round(ms[size], 1), round(1000 * seconds / ms[size])]
            row.append(round(statistics.mean(losses), 4))
            rows.append([*row, *losses])
            print(f"| {' | '.join(map(str, row))} | {', '.join(map(str, losses))} |", flush=True)
    if not args.tuning:
        columns = "seconds, tokens, ms a step, steps, mean val loss, that of each seed"
        found = {"machine": machine(), "columns": columns, "rows": rows}
        write(found, RESULTS.with_name("vocabulary.json"))


if __name__ == "__main__":
    main()
