"""How fast scripts train and sample, in turns.

    python measure/throughput.py 07_full_gpt
    python measure/throughput.py 07_full_gpt 08_batched_heads --flags "--size laptop"
    python measure/throughput.py 14_muon 15_cache --flags "--size full" --steps 0
    python measure/throughput.py 09_fast 10_schedule --flags "--size laptop --float32" --keep

Names are those of docs/source/steps.toml. All scripts run with the same flags. What is timed is the
script's own train, without its evaluations, and its own generate, from a full context. The scripts
take turns, A B A B ..., and each is compared with the first one turn by turn, so that a machine
whose speed drifts is fair to all. The table gives medians, and in brackets the quartiles of the
ratios. With --keep the milliseconds of a step go to measure/results/times.json, from where the page
takes them. Needs a machine that does nothing else.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).resolve().parent))
from losses import RESULTS, TABLE, load, machine, write

WARM_UP = 2  # optimiser steps of a turn before the clock starts


def finish(device: torch.device) -> float:
    """The time at which the work that was left on a GPU is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class Contestant:
    """A script with its model, and the seconds that it took: of each step, of each token."""

    def __init__(self, name: str, flags: list[str], steps: int) -> None:
        self.name, self.step, self.steps = name, load(name), steps
        # The first step and the last one begin with an evaluation: the clock runs in between.
        length = ["--max-iters", str(WARM_UP + steps + 1), "--eval-interval", str(sys.maxsize)]
        flags = [*flags, *length, "--eval-iters", "1", "--max-new-tokens", "0"]
        self.config = self.step.parse_args(flags)
        with contextlib.redirect_stdout(io.StringIO()):
            self.model, self.corpus = self.step.main(
                self.step.parse_args([*flags, "--max-iters=0"])
            )
        self.device = self.corpus.splits["val"].device
        self.training: list[float] = []
        self.sampling: list[float] = []

    def train(self) -> None:
        """The script's own train, timed from the end of one optimiser step to that of another."""
        first, ends = [], []

        def after_step(optimizer: Optimizer, *_: object) -> None:
            first.append(optimizer)
            if optimizer is first[0]:  # there may be a second one, for other weights
                ends.append(finish(self.device))

        hook, silence = register_optimizer_step_post_hook(after_step), io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            self.step.train(self.model, self.corpus, self.config)
        hook.remove()
        self.training.append((ends[WARM_UP + self.steps - 1] - ends[WARM_UP - 1]) / self.steps)

    def sample(self, tokens: int) -> None:
        """That many tokens, one by one, from a full context; the one before them is not timed."""
        context = torch.zeros(1, self.config.block_size, dtype=torch.long, device=self.device)
        sampling = self.model.generate(context, 1 + tokens)
        next(sampling)
        start = finish(self.device)
        for _ in sampling:
            pass
        self.sampling.append((finish(self.device) - start) / tokens)


def ratio(old: list[float], new: list[float]) -> str:
    """How many times as fast the new one is: the median of the turns, and the quartiles."""
    ratios = [a / b for a, b in zip(old, new, strict=True)]
    low, middle, high = statistics.quantiles(ratios * 2, n=4)  # it asks for two at least
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Let the scripts take their turns, and print a table in Markdown."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="+", choices=TABLE, metavar="script", help="07_full_gpt")
    parser.add_argument("--flags", default="", help="for all scripts")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each")
    parser.add_argument("--steps", type=int, default=10, help="in a turn; 0: sample only")
    parser.add_argument("--tokens", type=int, default=40, help="sampled in a turn")
    parser.add_argument(
        "--keep", action="store_true", help="write the times of a step for the page"
    )
    args = parser.parse_args()
    flags = args.flags.split()
    contestants = [Contestant(name, flags, args.steps) for name in args.scripts]
    for _ in range(1 + args.rounds):
        for one in contestants:
            if args.steps:
                one.train()
            one.sample(args.tokens)
    threads = torch.get_num_threads()
    print(f"{contestants[0].device}, {threads} threads, torch {torch.__version__}, {args.flags}\n")
    print("| script | ms a step | tokens a second | times the first | sampled a second | times |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in contestants:
        cells, first = [one.name], contestants[0]
        if args.steps:
            step = statistics.median(one.training[1:])  # the first turn warms up
            batch = one.config.batch_size * one.config.block_size
            cells += [f"{step * 1e3:.1f}", f"{batch / step:,.0f}"]
            cells += [ratio(first.training[1:], one.training[1:])]
        else:
            cells += ["", "", ""]
        cells += [f"{1 / statistics.median(one.sampling[1:]):,.0f}"]
        cells += [ratio(first.sampling[1:], one.sampling[1:])]
        print("| " + " | ".join(cells) + " |")
    if args.keep:
        path = RESULTS.with_name("times.json")
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        ms = {one.name: round(1e3 * statistics.median(one.training[1:])) for one in contestants}
        kept["float32" if "--float32" in flags else "default"] = {"machine": machine(), "ms": ms}
        write(kept, path)


if __name__ == "__main__":
    main()
