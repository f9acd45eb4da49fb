"""The loss of a training script against the seconds that it has trained, whoever wrote it.

    python benchmarks/curve.py 100 curve.json beyond/12_rotary.py --max-iters 1000

Runs the script as it is, with its flags. Every 100 optimiser steps, and after the last one, the
clock stands still while the model's loss is taken over the whole validation split of Tiny
Shakespeare, in float32, in windows of its context length, side by side. The script's own
evaluations do not count either: what counts is the time from one optimiser step to the next, and
the first one is taken to be as long as the others. curve.json then holds [steps, seconds, val loss]
for each of these moments.
"""

import argparse
import gc
import json
import os
import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the steps that take all threads

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.data import TINY_SHAKESPEARE, load_corpus


def validation_loss(model: nn.Module, tokens: torch.Tensor, block_size: int) -> float:
    """Mean loss in nats per character over all whole windows of the tokens."""
    n = (len(tokens) - 1) // block_size
    device = next(model.parameters()).device
    x = tokens[: n * block_size].view(n, block_size).long()
    y = tokens[1 : n * block_size + 1].view(n, block_size).long()
    total = 0.0
    with torch.no_grad():
        for xs, ys in zip(x.split(128), y.split(128), strict=True):
            total += model(xs.to(device), ys.to(device))[1].item() * len(xs)
    return total / n


class Watch:
    """Called after each optimiser step of the script, and when its model changes its mode."""

    def __init__(self, every: int, context: int | None) -> None:
        self.every, self.context = every, context
        self.tokens = load_corpus().splits["val"]
        self.model: nn.Module | None = None  # found at the first step
        self.steps, self.curve = 0, []
        self.seconds, self.since = 0.0, None  # since: when the clock went on, None while it stands

    def now(self) -> float:
        """The seconds that count, since the end of the first step."""
        if next(self.model.parameters()).device.type != "cpu":
            torch.accelerator.synchronize()
        return self.seconds + (0 if self.since is None else time.perf_counter() - self.since)

    def stop(self) -> None:
        self.seconds, self.since = self.now(), None

    def go_on(self) -> None:
        self.since = time.perf_counter()

    def after_step(self, *_: object) -> None:
        self.steps += 1
        if self.model is None:
            modules = [found for found in gc.get_objects() if issubclass(type(found), nn.Module)]
            self.model = max(modules, key=lambda module: len(list(module.modules())))
            self.model.train = self.set_mode
            self.go_on()
        self.ended = self.now()
        if self.steps % self.every == 0:
            self.note()

    def set_mode(self, mode: bool = True) -> nn.Module:
        """In the place of the model's train: what happens in evaluation mode does not count."""
        if mode and self.since is None:
            self.go_on()
        elif not mode and self.since is not None:
            self.stop()
        return nn.Module.train(self.model, mode)

    def note(self) -> None:
        """One more point of the curve, as of the last step."""
        self.stop()
        mode = self.model.training
        nn.Module.train(self.model, False)
        context = self.context or getattr(self.model, "config", self.model).block_size
        loss = validation_loss(self.model, self.tokens, context)
        nn.Module.train(self.model, mode)
        seconds = self.ended * self.steps / max(1, self.steps - 1)
        self.curve.append([self.steps, round(seconds, 2), round(loss, 4)])
        self.go_on()


def main() -> None:
    """Run the script that the command line names, and write its curve."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--context", type=int, help="where the model does not name its block_size")
    parser.add_argument("every", type=int, help="optimiser steps from one point to the next")
    parser.add_argument("output", type=Path, help="where the curve goes, as JSON")
    parser.add_argument("script", help="what to run, and its flags")
    args, flags = parser.parse_known_args()
    if not TINY_SHAKESPEARE.exists():
        load_corpus()  # downloads it
    watch = Watch(args.every, args.context)
    register_optimizer_step_post_hook(watch.after_step)
    sys.argv = [args.script, *flags]
    sys.path.insert(0, str(Path(args.script).resolve().parent))
    try:
        runpy.run_path(args.script, run_name="__main__")
    finally:
        if watch.steps and (not watch.curve or watch.curve[-1][0] != watch.steps):
            watch.note()
        args.output.write_text(json.dumps(watch.curve) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
