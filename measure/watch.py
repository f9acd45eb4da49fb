"""The time of an optimiser step of any training script, and its val loss at the end.

    python measure/watch.py found.json beyond/11_rotary.py --max-iters 100
    python measure/watch.py --loss 64 found.json train.py --max_iters=2000

Runs the script as it is, with its flags. found.json then has the number of its optimiser steps, the
bytes of the parameters that these move, and the median milliseconds from the end of one step to the
end of the next, which an evaluation now and then does not change; mean_ms is their mean without the
last. With --loss it also has the loss of its model over the whole validation split of Tiny
Shakespeare, in windows of so many tokens; with --tuning over the last tenth of the training split.
With --vocab-size the tokens are lesson 16's.
"""

import argparse
import gc
import itertools
import json
import os
import runpy
import statistics
import sys
import time
from pathlib import Path

import torch
from losses import load, loss_of_split, tuning_texts
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from common.data import TINY_SHAKESPEARE, CharTokenizer, Corpus, read_text


def token_corpus(texts: dict[str, str], vocab_size: int) -> Corpus:
    """The texts as tokens of lesson 16, or as characters where vocab_size is not above theirs."""
    step = load("16_tokens")
    chars = CharTokenizer(texts["train"] + texts["val"]).chars
    tokenizer = step.PairTokenizer(chars, step.learn_merges(texts["train"], chars, vocab_size))
    return Corpus(texts, tokenizer, torch.device("cpu"), seed=0)


def main() -> None:
    """Run the script that the command line names, and write what was seen of it."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--loss", type=int, metavar="T", help="tokens in a window")
    parser.add_argument("--tuning", action="store_true", help="for --loss, another split")
    parser.add_argument("--vocab-size", type=int, default=0, help="for --loss, lesson 16's tokens")
    parser.add_argument("output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("script", help="what to run, and its flags")
    args, flags = parser.parse_known_args()
    optimizers, ends, models = [], [], []

    def after_step(optimizer: Optimizer, *_: object) -> None:
        if not optimizers and args.loss:
            modules = [found for found in gc.get_objects() if issubclass(type(found), nn.Module)]
            models.append(max(modules, key=lambda module: len(list(module.modules()))))
        optimizers.append(optimizer)
        if optimizer is optimizers[0]:  # there may be a second one, for other weights
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    register_optimizer_step_post_hook(after_step)
    sys.argv = [args.script, *flags]
    sys.path.insert(0, str(Path(args.script).resolve().parent))
    runpy.run_path(args.script, run_name="__main__")
    if os.environ.get("RANK", "0") != "0":  # under torchrun one process reports for all
        return
    times = [after - before for before, after in itertools.pairwise(ends)]
    groups = [group for optimizer in set(optimizers) for group in optimizer.param_groups]
    found = {"steps": len(ends), "ms": round(1000 * statistics.median(times), 2)}
    if len(times) > 1:  # an evaluation is within the last of them, and before the first one
        found["mean_ms"] = round(1000 * statistics.mean(times[:-1]), 2)
    found["bytes"] = sum(p.nbytes for group in groups for p in group["params"])
    if args.loss:
        texts = tuning_texts(TINY_SHAKESPEARE) if args.tuning else read_text(TINY_SHAKESPEARE)
        corpus, device = token_corpus(texts, args.vocab_size), next(models[0].parameters()).device
        corpus.splits["val"] = corpus.splits["val"].to(device)
        found["val_loss"] = round(loss_of_split(models[0], corpus, args.loss), 4)
    args.output.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
