"""Runs a training script as it is, and times it. The other clocks of optimiser steps are this one.

    python measure/watch.py found.json beyond/11_rotary.py --max-iters 100
    python measure/watch.py --loss 64 found.json train.py --max_iters=2000

found.json then has the median milliseconds from the end of an optimiser step to that of the next,
which an evaluation now and then does not change. Where one training follows another, their medians
are added up; a training of one step is left out. With --sample it also has the milliseconds of a
token, of so many that follow a full context. With --loss it has the loss of the model over the
whole validation split of Tiny Shakespeare, in windows of so many tokens; with --vocab-size these
are the ones of the lesson on tokens. A GPU that works on while Python goes on is not timed right.
"""

import itertools
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from losses import ROOT, TABLE, arguments, lesson, load, loss_of_split
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from common.data import TINY_SHAKESPEARE, CharTokenizer, Corpus, read_text

# What a script needs no time for: evaluations, other than at its first and last step, and a sample.
QUIET = ["--eval-interval", sys.maxsize, "--eval-iters", 1, "--max-new-tokens", 0]


def watch(
    script: object,
    *flags: object,
    options: list | tuple = (),
    threads: int | None = None,
    folder: Path | None = None,
) -> dict:
    """What this script, run with its own options, sees of another one."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "found.json"
        command = [sys.executable, __file__, *options, output, script, *flags]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{script} failed: {done.stderr.strip()}")
        return json.loads(output.read_text(encoding="utf-8"))


def watch_step(
    name: str, steps: int, *flags: object, threads: int | None = None, sample: int = 0
) -> dict:
    """The same of some optimiser steps of one of our scripts, and some tokens after them."""
    script = ROOT / TABLE[name]["file"]
    length = ["--max-iters", steps]
    return watch(script, *QUIET, *length, *flags, threads=threads, options=["--sample", sample])


def turns(contestants: dict[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """What each finds, in turns A B A B: a machine whose speed drifts is fair to all."""
    found = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            found[name].append(measure())
    return found


def token_corpus(vocab_size: int) -> Corpus:
    """Tiny Shakespeare in so many tokens, or in characters where there are no fewer of them."""
    step, texts = load(lesson("tokens")), read_text(TINY_SHAKESPEARE)
    chars = CharTokenizer(texts["train"] + texts["val"]).chars
    tokenizer = step.PairTokenizer(chars, step.learn_merges(texts["train"], chars, vocab_size))
    return Corpus(texts, tokenizer, torch.device("cpu"), seed=0)


def sampling(model: nn.Module, tokens: int) -> float:
    """Milliseconds of a token after a full context; the one before them is not timed."""
    context = torch.zeros(1, getattr(model, "block_size", 1), dtype=torch.long)
    drawn = model.generate(context, 1 + tokens)
    next(drawn)
    start = time.perf_counter()
    for _ in drawn:
        pass
    return 1000 * (time.perf_counter() - start) / tokens


def main() -> None:
    """Run the script that the command line names, and write what was seen of it."""
    parser = arguments(__doc__)
    parser.allow_abbrev = False
    parser.add_argument("--loss", type=int, metavar="T", help="tokens in a window")
    parser.add_argument("--vocab-size", type=int, default=0, help="for --loss, other tokens")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="tokens to sample")
    parser.add_argument("output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("script", help="what to run, and its flags")
    args, flags = parser.parse_known_args()
    ends = defaultdict(list)  # of the steps of each optimiser

    def after_step(optimizer: Optimizer, *_: object) -> None:
        ends[optimizer].append(time.perf_counter())

    register_optimizer_step_post_hook(after_step)
    sys.argv = [args.script, *flags]
    sys.path.insert(0, str(Path(args.script).resolve().parent))
    names, found = runpy.run_path(args.script, run_name="__main__"), {}
    trainings = []
    for times in ends.values():
        # An optimiser that begins before the last one has ended has other weights of that model.
        if len(times) > 1 and (not trainings or times[0] > trainings[-1][-1]):
            trainings.append(times)
    if trainings:
        steps = [[b - a for a, b in itertools.pairwise(times)] for times in trainings]
        found["ms"] = round(1000 * sum(map(statistics.median, steps)), 2)
    model = next(value for value in names.values() if isinstance(value, nn.Module))
    if args.sample:
        found["token_ms"] = round(sampling(model, args.sample), 3)
    if args.loss:
        corpus = token_corpus(args.vocab_size)
        found["val_loss"] = round(loss_of_split(model, corpus, args.loss), 4)
    args.output.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
