"""Step 7, the full GPT: the same network grown up, 10.8 million parameters instead of 42 thousand.

New: sizes, dropout (arXiv 1207.0580), initialisation, and all the heads in one operation.
Video: 1:37:49 and 1:46:22, https://www.youtube.com/watch?v=kCc8FmEb1nY&t=5869s
Expect a val loss near 1.48 at full size, which wants a GPU, and near 1.80 at the laptop size, which
is the default on a CPU.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common.data import TINY_SHAKESPEARE, Corpus, load_corpus
from common.device import select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; on the command line each is a flag, max_iters as --max-iters."""

    batch_size: Annotated[int, "sequences in a batch (B)"] = 64
    block_size: Annotated[int, "longest context in characters (T)"] = 256
    n_embd: Annotated[int, "width of the embeddings (C)"] = 384
    n_head: Annotated[int, "attention heads, which share the width"] = 6
    n_layer: Annotated[int, "blocks, one above the other"] = 6
    dropout: Annotated[float, "share of activations set to 0 in training"] = 0.2
    learning_rate: Annotated[float, "step size of AdamW, at its peak"] = 3e-4
    learning_rate_range: Annotated[float, "its peak over where it starts and ends"] = 1.0
    max_iters: Annotated[int, "optimiser steps"] = 5000
    eval_interval: Annotated[int, "optimiser steps between evaluations"] = 500
    eval_iters: Annotated[int, "batches of each split in an evaluation"] = 200
    size: Annotated[str, "full, laptop, or auto: laptop on a CPU, else full"] = "auto"
    data: Annotated[Path, "UTF-8 text to learn from"] = TINY_SHAKESPEARE
    device: Annotated[str, "auto, cpu, cuda, cuda:1 or mps"] = "auto"
    seed: Annotated[int, "seed of every random draw"] = 1337
    max_new_tokens: Annotated[int, "characters to sample after training"] = 500

    LAPTOP: ClassVar[dict[str, float]] = {  # what differs at the laptop size
        "batch_size": 16,
        "block_size": 64,
        "n_embd": 96,
        "n_head": 3,
        "dropout": 0.0,
        "learning_rate": 3e-3,
        "learning_rate_range": 100.0,
        "max_iters": 1700,
        "eval_iters": 100,
    }

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            zero_too = name in ("dropout", "max_iters", "seed", "max_new_tokens")
            if isinstance(value, int | float) and not (value > 0 or zero_too and value == 0):
                bound = "0 or more" if zero_too else "above 0"
                raise ValueError(f"{name} must be {bound}, not {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be a multiple of n_head {self.n_head}")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be below 1, not {self.dropout}")
        if self.size not in ("auto", "full", "laptop"):
            raise ValueError(f"size must be auto, full or laptop, not {self.size}")


class MultiHeadAttention(nn.Module):
    """The heads of step 6 in one projection and one attention, (B, T, C) to (B, T, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("tril", torch.tril(torch.ones(config.block_size, config.block_size)))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, n_head, T, head_size)
        p = self.dropout.p if self.training else 0.0
        if p == 0 or x.is_cuda:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:  # with dropout it is wrong on mps and slow on a CPU, so here is what it stands for
            scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, n_head, T, T)
            scores = scores.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
            x = self.dropout(F.softmax(scores, dim=-1)) @ v  # (B, n_head, T, head_size)
        x = x.transpose(1, 2).flatten(2)  # (B, T, C), the heads side by side again
        return self.dropout(self.proj(x))


class FeedForward(nn.Module):
    """A layer for each position by itself, (B, T, C) to (B, T, C); 1706.03762, section 3.3."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(config.n_embd, 4 * config.n_embd),
            nn.ReLU(),
            nn.Linear(4 * config.n_embd, config.n_embd),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Communication, then computation: (B, T, C) to (B, T, C); arXiv 1512.03385, 1607.06450."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.norm2 = nn.LayerNorm(config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # (B, T, C)
        x = x + self.feed_forward(self.norm2(x))  # (B, T, C)
        return x


class LanguageModel(nn.Module):
    """Transformer: idx (B, T) to logits (B, T, V), each from its own position and those before."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, vocab_size)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:  # all but the gains of layer norm, which start at 1
                nn.init.normal_(parameter, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of what follows, and their mean loss in nats: None without targets."""
        positions = torch.arange(idx.shape[1], device=idx.device)  # (T,)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C) + (T, C)
        x = self.blocks(x)  # (B, T, C)
        logits = self.lm_head(self.norm(x))  # (B, T, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,)
        return logits, loss

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Iterator[Tensor]:
        """Continue idx (B, T) in evaluation mode, yielding each next character (B, 1) as drawn."""
        self.eval()
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx)  # (B, T, V)
            probs = F.softmax(logits[:, -1], dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


@torch.no_grad()
def estimate_loss(
    model: LanguageModel, corpus: Corpus, config: Config, device: torch.device
) -> dict[str, float]:
    """Mean loss of each split in nats per character, over eval_iters random batches."""
    model.eval()
    means = {}
    for split in ("train", "val"):
        losses = torch.zeros(config.eval_iters, device=device)
        for i in range(config.eval_iters):
            x, y = corpus.batch(split, config.batch_size, config.block_size, device)  # (B, T)
            _, losses[i] = model(x, y)
        means[split] = losses.mean().item()
    model.train()
    return means


def train(model: LanguageModel, corpus: Corpus, config: Config, device: torch.device) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=config.max_iters + 1,
        pct_start=0.06,  # a short warm-up, then half a cosine down
        div_factor=config.learning_rate_range,
        final_div_factor=1,
        cycle_momentum=False,
    )
    bar = tqdm(total=config.max_iters, unit="step", disable=None)
    for step in range(config.max_iters + 1):
        if step % config.eval_interval == 0 or step == config.max_iters:
            losses = estimate_loss(model, corpus, config, device)
            bar.write(
                f"step {step}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}"
            )
            if math.isnan(losses["train"]):
                sys.exit("the loss is no longer a number: try a lower --learning-rate")
        if step == config.max_iters:
            break
        x, y = corpus.batch("train", config.batch_size, config.block_size, device)  # (B, T)
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    bar.close()


def main(config: Config) -> None:
    """Train a model from scratch, then print what it writes, starting from character 0."""
    torch.manual_seed(config.seed)
    try:
        device = select_device(config.device)
        corpus = load_corpus(config.data, config.block_size)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    model = LanguageModel(config, corpus.vocab_size).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
    train(model, corpus, config, device)
    start = torch.zeros((1, 1), dtype=torch.long, device=device)  # a newline, in Tiny Shakespeare
    for token in model.generate(start, config.max_new_tokens):
        print(corpus.decode(token[0]), end="", flush=True)
    print()


def parse_args(argv: list[str] | None = None) -> Config:
    """The settings that a command line asks for; a wrong one ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage=argparse.SUPPRESS,  # an error is its one line, without the list of flags
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in dataclasses.fields(Config):
        kind, about = field.type.__origin__, field.type.__metadata__[0]
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(
            flag, type=kind, default=field.default, help=about, metavar=kind.__name__
        )
    try:
        args = parser.parse_args(argv)
        on_cpu = select_device(args.device).type == "cpu"
        if args.size == "laptop" or (args.size == "auto" and on_cpu):
            parser.set_defaults(**Config.LAPTOP)
        return Config(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.stdout.reconfigure(
        errors="replace", line_buffering=True
    )  # for consoles without Unicode, and pipes
    try:
        main(parse_args())
    except KeyboardInterrupt:
        sys.exit("\nstopped")
