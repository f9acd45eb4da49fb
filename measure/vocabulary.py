"""How many tokens: the lesson on tokens with several vocabularies, each for the same seconds.

    python measure/vocabulary.py

A vocabulary of 65 is the characters alone. Each run has one core, and as many run side by side as
there are cores. The seconds divided by the median time of an optimiser step, without evaluations,
are the steps of a run. Three seeds give the val loss in nats per character, over the whole
validation split. The figures go to measure/results/vocabulary.json, and docs/source/build.py makes
the table of them. Needs a machine that does nothing else, for three quarters of an hour.
"""

import itertools
import statistics

from losses import RESULTS, SEEDS, arguments, lesson, machine, processes, run, write
from watch import watch_step

SIZES = (65, 128, 256, 512, 1024, 2048)
SECONDS = (60, 180)
ROUNDS = 3  # turns for the time of a step
COLUMNS = "seconds, tokens, ms a step, steps, mean val loss, that of each seed"


def main() -> None:
    """Time the steps, train the models, and write the figures."""
    arguments(__doc__).parse_args()
    name, rows = lesson("tokens"), []
    flags = {size: ["--device", "cpu", "--vocab-size", str(size)] for size in SIZES}
    with processes() as pool:
        timed = {size: [] for size in SIZES}
        for size in SIZES * ROUNDS:
            timed[size].append(pool.submit(watch_step, name, 40, *flags[size], threads=1))
        ms = {size: statistics.median(one.result()["ms"] for one in timed[size]) for size in SIZES}
        steps = {
            job: round(1000 * job[0] / ms[job[1]]) for job in itertools.product(SECONDS, SIZES)
        }
        runs = {}
        for (seconds, size), n in steps.items():
            words = [*flags[size], "--max-iters", str(n), "--eval-interval", str(n)]
            runs[seconds, size] = [pool.submit(run, name, seed, words) for seed in SEEDS]
        for (seconds, size), jobs in runs.items():
            losses = [one.result()["val_loss"] for one in jobs]
            mean = round(statistics.mean(losses), 4)
            rows.append([seconds, size, round(ms[size], 1), steps[seconds, size], mean, *losses])
            print(*rows[-1], flush=True)
    found = {"machine": machine(), "columns": COLUMNS, "rows": rows}
    write(found, RESULTS.with_name("vocabulary.json"))


if __name__ == "__main__":
    main()
