"""Step 1, bigram: predict the next character from the current one alone.

The model is a table of 65 x 65 numbers, since the text has 65 different characters (V = 65). Row i
has a score for each character that may follow character i.
Video: 0:22:11, https://www.youtube.com/watch?v=kCc8FmEb1nY&t=1331s
Expect a val loss near 2.49. An even guess among 65 characters has a loss of ln(65) = 4.17. The run
starts above that, at 4.72: its table is random, and a random guess is worse than an even one.
Try --max-iters 10000: 2.49 again, since one character tells no more about the next.
"""

import argparse
import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm, trange

from common.data import TINY_SHAKESPEARE, Corpus, load_corpus
from common.device import select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; each is a flag: --batch-size 64."""

    batch_size: int = 32  # sequences in a batch (B)
    block_size: int = 8  # longest context in characters (T)
    learning_rate: float = 1e-2  # of AdamW: how far a step moves each weight
    max_iters: int = 3000  # optimiser steps
    eval_interval: int = 300  # optimiser steps between evaluations
    eval_iters: int = 200  # batches of each split in an evaluation
    data: Path = TINY_SHAKESPEARE  # UTF-8 text to learn from
    device: str = "auto"  # cpu, cuda, cuda:1, mps, or auto: the fastest there is
    seed: int = 1337  # of every random draw
    prompt: str = ""  # the sample continues this text
    max_new_tokens: int = 500  # characters to sample


class LanguageModel(nn.Module):
    """Bigram model: idx (B, T) to logits (B, T, V), each from the character at its own position."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the next token, and the mean loss in nats (None without targets)."""
        logits = self.token_embedding(idx)  # (B, T, V)
        if targets is None:
            return logits, None
        # cross_entropy takes one row of logits per target, so B and T become one dimension.
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,)
        return logits, loss

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Iterator[Tensor]:
        """Continue the tokens idx (B, T), and yield each next token (B, 1) when it is drawn."""
        self.eval()
        for _ in range(max_new_tokens):
            idx = idx[:, -1:]  # (B, 1), all that a bigram looks at
            logits, _ = self(idx)  # (B, T, V)
            probs = F.softmax(logits[:, -1], dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


@torch.no_grad()
def estimate_loss(model: nn.Module, corpus: Corpus, config: Config) -> dict[str, float]:
    """Mean loss of each split in nats per character, over eval_iters random batches."""
    model.eval()
    means = {}
    for split in ("train", "val"):
        losses = torch.zeros(config.eval_iters)
        for i in range(config.eval_iters):
            x, y = corpus.batch(split, config.batch_size, config.block_size)  # (B, T)
            _, loss = model(x, y)
            losses[i] = loss.item()
        means[split] = losses.mean().item()
    model.train()
    return means


def train(model: nn.Module, corpus: Corpus, config: Config) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    # AdamW divides the step of each weight by the usual size of its gradients.
    # fused: one operation updates all weights, which takes less time.
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    for step in trange(config.max_iters, disable=None):  # no bar where there is no terminal
        if step % config.eval_interval == 0 or step == config.max_iters - 1:
            means = estimate_loss(model, corpus, config)
            tqdm.write(f"step {step}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            sys.stdout.flush()  # at once, also through a pipe
        x, y = corpus.batch("train", config.batch_size, config.block_size)  # (B, T)
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(config: Config) -> tuple[nn.Module, Corpus]:
    """Train a model, print what it writes after the prompt, and return the model and the corpus."""
    # These tensors are small: more threads gain nothing, and cost much time beside other programs.
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    device = select_device(config.device)
    corpus = load_corpus(config.data, device, config.seed)
    tokenizer = corpus.tokenizer
    # A model can only continue a text. Without a prompt it continues chars[0], here a line end.
    idx = torch.tensor([tokenizer.encode(config.prompt or tokenizer.chars[0])], device=device)
    model = LanguageModel(config, tokenizer.vocab_size).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters on {device}", flush=True)
    # Ctrl-C ends the training, and the model writes its sample; Ctrl-C then ends the sample.
    with contextlib.suppress(KeyboardInterrupt):
        train(model, corpus, config)
    print(config.prompt, end="")
    with contextlib.suppress(KeyboardInterrupt):
        for token in model.generate(idx, config.max_new_tokens):
            print(tokenizer.decode(token[0]), end="", flush=True)
    print()
    return model, corpus


def parse_args(argv: list[str] | None = None) -> Config:
    """The settings that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=inspect.getsource(Config),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=field.type, default=field.default)
    return Config(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    model, corpus = main(parse_args())
