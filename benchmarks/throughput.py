"""How fast a step trains and samples, and how close that comes to what the machine can multiply.

    python benchmarks/throughput.py 06_residual_layernorm
    python benchmarks/throughput.py 06_residual_layernorm 07_full_gpt --n-embd 96 --n-head 3 \\
        --n-layer 6 --block-size 64 --batch-size 16 --dropout 0

Two scripts are measured in turn, A B A B ..., and compared pair by pair, so that a machine whose
speed drifts is fair to both. Whatever is not a flag of this benchmark is one of the scripts', whose
defaults hold otherwise; a script without that setting goes without it. All figures are medians.
Both run with --threads threads (steps 1 to 6 by themselves take one, step 7 takes all).
"""

import argparse
import contextlib
import dataclasses
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.data import Corpus
from common.device import select_device
from common.download import SAMPLE


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, with the work that it leaves on a GPU."""
    start = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def best_matmul(device: torch.device, math: Callable) -> float:
    """The most floating-point operations a second that a square matrix multiply reaches."""
    rates = []
    with math(device):
        for n in (512, 1024, 2048):
            a, b = torch.randn(2, n, n, device=device)
            rates += [2 * n**3 / seconds(lambda a=a, b=b: a @ b, device) for _ in range(8)]
    return max(rates)


class Contestant:
    """One script with its model, ready to train and to sample in small portions."""

    def __init__(self, script: str, flags: list[str], corpus: Corpus, device: torch.device) -> None:
        step = importlib.import_module(script)
        known = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(step.Config)}
        pairs = list(zip(flags[::2], flags[1::2], strict=True))
        self.config = step.parse_args([word for pair in pairs if pair[0] in known for word in pair])
        torch.manual_seed(self.config.seed)
        self.model = step.LanguageModel(self.config, corpus.vocab_size).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.script, self.corpus, self.device = script, corpus, device
        self.math = getattr(step, "fast_math", contextlib.nullcontext)  # as the script itself
        self.steps: list[float] = []
        self.characters: list[float] = []
        self.peak = 0.0

    def train(self, turn: int = 5) -> None:
        """A few optimiser steps as the scripts take them, timed for each."""

        def steps() -> None:
            config = self.config
            for _ in range(turn):
                x, y = self.corpus.batch("train", config.batch_size, config.block_size, self.device)
                with self.math(self.device):
                    _, loss = self.model(x, y)
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()

        self.model.train()
        self.steps.append(seconds(steps, self.device) / turn)

    def sample(self, characters: int) -> None:
        """That many characters, one by one, from a context that is full; timed for each."""
        context = torch.zeros((1, self.config.block_size), dtype=torch.long, device=self.device)
        run = lambda: list(self.model.generate(context, characters))  # noqa: E731
        self.characters.append(seconds(run, self.device) / characters)

    def operations(self) -> float:
        """Floating-point operations of a step's matrix multiplies, forward and back.

        Six for each weight and token, and in attention 12 T C for each token and block.
        """
        config = self.config
        weights = sum(
            module.weight.numel()
            for module in self.model.modules()
            if isinstance(module, torch.nn.Linear)
        )
        blocks = getattr(config, "n_layer", 1 if weights else 0)
        attention = 12 * blocks * config.block_size * getattr(config, "n_embd", 0)
        return (6 * weights + attention) * config.batch_size * config.block_size

    def report(self) -> str:
        """The row of this script."""
        step = statistics.median(self.steps)
        tokens = self.config.batch_size * self.config.block_size / step
        characters = 1 / statistics.median(self.characters)
        share = self.operations() / step / self.peak
        return (
            f"{self.script:24} {step * 1e3:9.2f} ms {tokens:10,.0f} tokens/s"
            f" {characters:8,.0f} characters/s {share:6.1%} of {self.peak / 1e9:,.0f} GFLOP/s"
        )


def main() -> None:
    """Measure one script, or two in turn, and print a row for each and the ratios."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="+", help="one or two, like 06_residual_layernorm")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each: 5 steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", default="auto")
    args, flags = parser.parse_known_args()
    if len(args.scripts) > 2:
        parser.error("one script or two")
    torch.set_num_threads(args.threads)
    device = select_device(args.device)
    corpus = Corpus(SAMPLE)
    flags += ["--device", str(device)]
    contestants = [Contestant(script, flags, corpus, device) for script in args.scripts]
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for contestant in contestants * 3:  # to warm up
        contestant.train()
        contestant.sample(5)
    for contestant in contestants:
        contestant.steps.clear()
        contestant.characters.clear()
    for i in range(args.rounds):
        for contestant in contestants:
            contestant.train()
            if i % 4 == 0:
                contestant.sample(40)
            if i in (0, args.rounds - 1):
                contestant.peak = max(contestant.peak, best_matmul(device, contestant.math))
    print("last column: what a training step reaches in its matrix multiplies, of the best that a")
    print("large one reaches, in bfloat16 for a script that computes in it")
    for contestant in contestants:
        print(contestant.report())
    if len(contestants) == 2:
        a, b = contestants
        for name, times_a, times_b in (
            ("trains", a.steps, b.steps),
            ("samples", a.characters, b.characters),
        ):
            ratios = [x / y for x, y in zip(times_a, times_b, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{b.script} {name} {middle:.2f} times as fast ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
