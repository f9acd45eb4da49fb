"""How fast a step trains and samples, and how close that comes to what the machine can multiply.

    python benchmarks/throughput.py 07
    python benchmarks/throughput.py 06 07
    python benchmarks/throughput.py 07_full_gpt.py beyond/08_batched_heads.py --n-embd 192
    python benchmarks/throughput.py 14 15 --turn 0 --size full

What is timed is the step's own train and generate, without evaluations, on data/sample.txt; the
model is made by the step's own main. Two steps are measured in turn, A B A B ..., and compared pair
by pair, so that a machine whose speed drifts is fair to both. Both run with the settings of the one
named last, or with what is given as flags; a step goes without a setting that it does not have. All
figures are medians. With --turn 0 only sampling is timed, from a full context. Both take --threads
threads (by themselves, steps 1 to 6 take one).
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import os
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import get_args

if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the steps that take all threads

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.device import select_device
from common.download import SAMPLE

ROOT = Path(__file__).resolve().parent.parent
STEPS = tomllib.loads((ROOT / "docs" / "steps.toml").read_text(encoding="utf-8"))
WARM_UP = 2  # optimiser steps of a turn before the clock starts
# The settings that are the benchmark's own or change no time here: all others are flags.
OURS = {"max_iters", "eval_interval", "eval_iters", "eval_batch_size", "checkpoint", "data"}
OURS |= {"device", "prompt", "max_new_tokens", "temperature", "top_k", "resume", "sample"}


def find(name: str) -> str:
    """The step that 06, 06_residual_layernorm or the name of its file stands for."""
    stem = Path(name).name.removesuffix(".py")
    for step in STEPS:
        if stem == step or stem.zfill(2) == step.split("_")[0]:
            return step
    raise argparse.ArgumentTypeError(f"no step {name!r}: there are {', '.join(STEPS)}")


def load(step: str) -> ModuleType:
    """The module of a step."""
    sys.path.insert(0, str((ROOT / STEPS[step]["file"]).parent))
    return importlib.import_module(step)


def settings_of(step: ModuleType) -> dict[str, tuple[type, str]]:
    """The settings of a step that are not the benchmark's own, each with its type and its note."""
    fields = dataclasses.fields(step.Config)
    return {field.name: get_args(field.type) for field in fields if field.name not in OURS}


def flag(setting: str) -> str:
    """How a setting is written on the command line."""
    return "--" + setting.replace("_", "-")


def configs(steps: list[ModuleType], given: dict, device: torch.device) -> list:
    """Each step's Config: as given, else as the last of them has it."""
    found = []
    for step in reversed(steps):
        words = ["--device", str(device)]
        for name in settings_of(step).keys() & given.keys():
            words += [flag(name)] if given[name] is True else [flag(name), given[name]]
        config = step.parse_args(words)
        if found:
            shared = settings_of(step).keys() & settings_of(steps[-1]).keys()
            config = dataclasses.replace(config, **{n: getattr(found[0], n) for n in shared})
        found.append(config)
    return found[::-1]


def finish(device: torch.device) -> float:
    """The time at which the work that was left on a GPU is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def best_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """The most floating-point operations a second that a square matrix multiply reaches."""
    rates = []
    for n in (512, 1024, 2048):
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        for _ in range(8):
            start = finish(device)
            a @ b
            rates.append(2 * n**3 / (finish(device) - start))
    return max(rates)


def best_read(device: torch.device) -> float:
    """The most bytes a second of a matrix that a product with a vector reads, from main memory."""
    a, x = torch.randn(8192, 8192, device=device), torch.randn(8192, device=device)  # 268 MB
    rates = []
    for _ in range(5):
        start = finish(device)
        a @ x
        rates.append(a.nbytes / (finish(device) - start))
    return max(rates)


class TurnIsOver(Exception):
    """Ends a step's train after as many optimiser steps as a turn has."""


class Contestant:
    """A step with its model, to be trained and sampled from in turns."""

    def __init__(self, step: ModuleType, config: object, folder: Path) -> None:
        self.step, self.checkpoint = step, folder / "model.pt"
        ours = {"data": SAMPLE, "checkpoint": self.checkpoint, "max_new_tokens": 0}
        ours |= {"eval_interval": sys.maxsize, "eval_iters": 1, "eval_batch_size": 1}
        names = {field.name for field in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{k: ours[k] for k in names & ours.keys()})
        self.model, self.corpus, self.config, self.device = self.prepare(config)
        self.dtype = torch.float32  # what its linear layers compute in, should it be another
        self.steps: list[float] = []
        self.characters: list[float] = []
        self.peak = self.reads = 0.0

    def prepare(self, config: object) -> tuple:
        """What the step's main hands to its train: model, corpus, config and device."""
        handed, train = [], self.step.train
        self.step.train = lambda *args: handed.extend(args)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.step.main(config)
        finally:
            self.step.train = train
        return tuple(handed)

    def see_dtype(self, module: nn.Module, _: object, output: torch.Tensor) -> None:
        """Called after each forward pass of a linear layer."""
        if module.training:
            self.dtype = output.dtype

    def train(self, steps: int) -> None:
        """The step's own train for a few optimiser steps, timed from the end of one to another."""
        config = dataclasses.replace(
            self.config, max_iters=max(self.config.max_iters, WARM_UP + steps)
        )
        ended, times = [], []

        def after_step(optimizer: Optimizer, *_: object) -> None:
            ended.append(optimizer)
            taken = ended.count(ended[0])  # there may be a second one, for other weights
            if optimizer is ended[0] and taken in (WARM_UP, WARM_UP + steps):
                times.append(finish(self.device))
                if len(times) == 2:
                    raise TurnIsOver

        hooks, silence = [register_optimizer_step_post_hook(after_step)], io.StringIO()
        for module in self.model.modules():  # not while it samples, where a call is worth timing
            if isinstance(module, nn.Linear):
                hooks.append(module.register_forward_hook(self.see_dtype))
        try:
            with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                self.step.train(self.model, self.corpus, config, self.device)
        except TurnIsOver:
            self.steps.append((times[1] - times[0]) / steps)
        finally:
            for hook in hooks:
                hook.remove()
            self.checkpoint.unlink(missing_ok=True)

    def sample(self, characters: int) -> None:
        """That many characters, one by one, from a context that is full; the mean time of one.

        The character before them is not timed: with a cache, all of the context is read for it.
        """
        context = torch.zeros((1, self.config.block_size), dtype=torch.long, device=self.device)
        sampling = self.model.generate(context, 1 + characters)
        next(sampling)
        start = finish(self.device)
        for _ in sampling:
            pass
        self.characters.append((finish(self.device) - start) / characters)

    def operations(self) -> float:
        """Floating-point operations of a step's matrix multiplies, forward and back.

        Six for each weight and token, and in attention 12 T C for each token and block.
        """
        config = self.config
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        weights = sum(module.weight.numel() for module in linear)
        blocks = getattr(config, "n_layer", 1 if weights else 0)
        attention = 12 * blocks * config.block_size * getattr(config, "n_embd", 0)
        return (6 * weights + attention) * config.batch_size * config.block_size

    def reading(self) -> str:
        """How near sampling comes to reading each weight of its matrices once a character."""
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        size = sum(module.weight.nbytes for module in linear)
        rate = size / statistics.median(self.characters)
        return (
            f"{self.step.__name__} reads {rate / 1e9:.2f} GB of weights a second when it samples, "
            f"{rate / self.reads:.0%} of {self.reads / 1e9:.1f} GB/s"
        )

    def report(self) -> str:
        """The row of this step."""
        row = f"{self.step.__name__:24}"
        characters = f" {1 / statistics.median(self.characters):8,.0f} characters/s"
        if not self.steps:
            return row + characters
        step = statistics.median(self.steps)
        tokens = self.config.batch_size * self.config.block_size / step
        share = f"{self.operations() / step / self.peak:6.1%} of {self.peak / 1e9:,.0f} GFLOP/s"
        return row + f" {step * 1e3:9.2f} ms {tokens:10,.0f} tokens/s{characters} {share}"


def compare(contestants: list[Contestant], rounds: int, steps: int) -> None:
    """Measure one step, or two in turn, and print a row for each and the ratios."""
    for i in range(-1, rounds):
        for contestant in contestants:
            if steps:
                contestant.train(steps)
            contestant.sample(40)
            if i < 0:  # to warm up
                contestant.steps.clear()
                contestant.characters.clear()
            if i in (0, rounds - 1):
                if steps:
                    best = best_matmul(contestant.device, contestant.dtype)
                    contestant.peak = max(contestant.peak, best)
                contestant.reads = max(contestant.reads, best_read(contestant.device))
    if steps:
        print(
            "last column: what a training step reaches in its matrix multiplies, of the best that"
        )
        print("a large one reaches with numbers of the same type")
    for contestant in contestants:
        print(contestant.report())
    for contestant in contestants:
        print(contestant.reading())
    if len(contestants) == 2:
        a, b = contestants
        for name, times_a, times_b in (
            ("trains", a.steps, b.steps),
            ("samples", a.characters, b.characters),
        ):
            if not times_a:
                continue
            ratios = [x / y for x, y in zip(times_a, times_b, strict=True)]
            if rounds == 1:
                ratios *= 2  # quantiles wants two
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            name = f"{b.step.__name__} {name}"
            print(f"{name} {middle:.2f} times as fast ({low:.2f} to {high:.2f})")


def main() -> None:
    """What the command line asks for; whatever is wrong with it is said in one line."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("steps", nargs="+", type=find, help="one or two, like 07")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each = %(default)s")
    parser.add_argument(
        "--turn", type=int, default=10, help="optimiser steps in one = %(default)s; 0: sample"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    settings = {name: about for step in STEPS for name, about in settings_of(load(step)).items()}
    for name, (kind, note) in settings.items():
        how = "store_true" if kind is bool else "store"
        parser.add_argument(flag(name), action=how, default=argparse.SUPPRESS, help=note)
    args = parser.parse_args()
    given = {name: value for name, value in vars(args).items() if name in settings}
    steps = [load(step) for step in args.steps]
    if len(steps) > 2:
        parser.error("one step or two")
    if min(args.rounds, args.turn + 1, args.threads) < 1:
        parser.error("--rounds and --threads begin at 1, --turn at 0")
    for name in given:
        if not any(name in settings_of(step) for step in steps):
            parser.error(f"{flag(name)} is no setting of {' or '.join(args.steps)}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            device = select_device(args.device)
            found = configs(steps, given, device)
            pairs = zip(steps, found, strict=True)
            contestants = [Contestant(step, config, Path(folder)) for step, config in pairs]
        except ValueError as error:
            parser.error(str(error))
        torch.set_num_threads(args.threads)  # only now, since main may set them, too
        print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
        last, names = steps[-1], settings_of(steps[-1]).keys() - {"size"}
        values = [f"{name} {value}" for name, value in vars(found[-1]).items() if name in names]
        print(f"{'both with ' * (len(steps) == 2)}the settings of {last.__name__}:", end=" ")
        print(*values, sep=", ")
        compare(contestants, args.rounds, args.turn)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        print("\nstopped", file=sys.stderr)
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
