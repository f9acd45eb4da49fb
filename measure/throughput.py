"""How fast scripts train and sample, in turns.

    python measure/throughput.py 07_full_gpt 08_batched_heads --flags "--device cpu"
    python measure/throughput.py 15_newton_schulz 16_cache --steps 0
    python measure/throughput.py 09_bfloat16 10_schedule --flags --float32 --keep

Names are those of docs/source/steps.toml. All scripts run with the same flags, for a few optimiser
steps without evaluations, and then sample from a full context. They take turns, A B A B ..., and so
a machine whose speed drifts is fair to all. Prints the median milliseconds of an optimiser step and
of a token. With --keep those of a step go to measure/results/times.json, from where the page takes
them, after each turn was scaled to the middle one. Needs a machine that does nothing else.
"""

import functools
import json
import statistics

from losses import RESULTS, TABLE, arguments, machine, write
from watch import turns, watch_step


def main() -> None:
    """Let the scripts take their turns, and print their times."""
    parser = arguments(__doc__)
    parser.add_argument("scripts", nargs="+", choices=TABLE, metavar="script", help="07_full_gpt")
    parser.add_argument("--flags", default="", help="for all scripts")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each")
    parser.add_argument("--steps", type=int, default=20, help="in a turn; 0: sample only")
    parser.add_argument("--tokens", type=int, default=40, help="sampled in a turn")
    parser.add_argument("--keep", action="store_true", help="write the times for the page")
    args = parser.parse_args()
    flags = args.flags.split()
    contestants = {
        name: functools.partial(watch_step, name, args.steps, *flags, sample=args.tokens)
        for name in args.scripts
    }
    found = turns(contestants, args.rounds)
    for name, seen in found.items():
        print(name, {key: statistics.median(one[key] for one in seen) for key in seen[0]})
    if args.keep:
        path = RESULTS.with_name("times.json")
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        times = {name: [one["ms"] for one in seen] for name, seen in found.items()}
        # Where the machine was slow for a whole turn, all of that turn is scaled down.
        sums = [sum(turn) for turn in zip(*times.values(), strict=True)]
        scales = [statistics.median(sums) / one for one in sums]
        ms = {
            name: round(statistics.median(a * b for a, b in zip(row, scales, strict=True)))
            for name, row in times.items()
        }
        kept["float32" if "--float32" in flags else "default"] = {"machine": machine(), "ms": ms}
        write(kept, path)


if __name__ == "__main__":
    main()
