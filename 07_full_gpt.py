"""Step 7, the full GPT: the same network grown up, 10.8 million parameters instead of 42 thousand.

New: all heads at once, dropout (1207.0580), initialisation, bfloat16, a falling step, checkpoints.
Video: 1:37:49 and 1:46:22, https://www.youtube.com/watch?v=kCc8FmEb1nY&t=5869s
Expect a val loss near 1.48 at full size, for a GPU, and near 1.78 at the laptop size, for a CPU.
"""

import argparse
import dataclasses
import itertools
import math
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT, signal
from typing import Annotated, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common.data import TINY_SHAKESPEARE, Corpus, Vocabulary, load_corpus, whole_file
from common.device import fast_math, seconds_for, select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; as a flag, max_iters is --max-iters. In brackets: laptop size."""

    batch_size: Annotated[int, "sequences in a batch (B)", 16] = 64
    block_size: Annotated[int, "longest context in characters (T)", 64] = 256
    n_embd: Annotated[int, "width of the embeddings (C)", 96] = 384
    n_head: Annotated[int, "attention heads, which share the width", 3] = 6
    n_layer: Annotated[int, "blocks, one above the other", 6] = 6
    dropout: Annotated[float, "share of activations set to 0 in training", 0.0] = 0.2
    learning_rate: Annotated[float, "step size of AdamW", 1.5e-3] = 3e-4
    min_lr: Annotated[float, "where the step size ends, on half a cosine", 0.0] = 3e-4
    max_iters: Annotated[int, "optimiser steps", 2000] = 5000
    eval_interval: Annotated[int, "optimiser steps between evaluations", 500] = 500
    eval_iters: Annotated[int, "batches of each split in an evaluation", 50] = 200
    size: Annotated[str, "full, laptop (in brackets), or auto: laptop on a CPU"] = "auto"
    data: Annotated[Path, "UTF-8 text to learn from"] = TINY_SHAKESPEARE
    device: Annotated[str, "auto, cpu, cuda, cuda:1 or mps"] = "auto"
    seed: Annotated[int, "seed of every random draw"] = 1337
    max_new_tokens: Annotated[int, "characters to sample after training"] = 500
    prompt: Annotated[str, "what the sample goes on from"] = ""
    temperature: Annotated[float, "below 1 the sample keeps to the likely, above 1 it roams"] = 1.0
    top_k: Annotated[int, "sample from the k likeliest characters; 0: from all"] = 0
    checkpoint: Annotated[Path, "where the model is kept"] = Path(__file__).parent / "runs/gpt.pt"
    resume: Annotated[bool, "go on from the checkpoint"] = False
    sample: Annotated[bool, "do not train, sample from the checkpoint"] = False

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            zero_too = ("dropout", "min_lr", "max_iters", "seed", "max_new_tokens", "top_k")
            low = 0 if key in zero_too else 1e-9
            if type(value) in (int, float) and not low <= value < {"dropout": 1}.get(key, 2**63):
                raise ValueError(f"{key} must not be {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be a multiple of n_head {self.n_head}")
        if self.min_lr > self.learning_rate or self.size not in ("auto", "full", "laptop"):
            raise ValueError("min_lr must not exceed learning_rate; size is auto, full or laptop")


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
        if x.is_cuda:
            p = self.dropout.p if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:  # the same in the open: on mps the fast one errs, and on a CPU it gains nothing
            scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, n_head, T, T)
            scores = scores.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
            x = self.dropout(F.softmax(scores, dim=-1)) @ v  # (B, n_head, T, head_size)
        return self.dropout(self.proj(x.transpose(1, 2).flatten(2)))  # (B, T, C), side by side


class FeedForward(nn.Module):
    """Computation of each position by itself, (B, T, C) to (B, T, C); 1706.03762, section 3.3."""

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
    """Communication, then computation: (B, T, C) to (B, T, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.n_embd)  # arXiv 1607.06450
        self.norm2 = nn.LayerNorm(config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # (B, T, C), residual: arXiv 1512.03385
        x = x + self.feed_forward(self.norm2(x))  # (B, T, C)
        return x


class LanguageModel(nn.Module):
    """Transformer: idx (B, T) to logits (B, T, V), each from its own position and those before."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.temperature, self.top_k = config.temperature, config.top_k
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
            logits = logits[:, -1] / self.temperature  # (B, V)
            if 0 < self.top_k < logits.shape[-1]:  # the k likeliest characters alone
                logits[logits < logits.topk(self.top_k).values[:, -1:]] = float("-inf")
            probs = F.softmax(logits, dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


@torch.no_grad()
def estimate_loss(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> dict:
    """Mean loss of each split in nats per character, over eval_iters random batches."""
    model.eval()
    means = {}
    size = max(config.batch_size, 2**13 // config.block_size)  # sequences at a time, for speed
    for split in ("train", "val"):
        x, y = corpus.batch(split, config.eval_iters * config.batch_size, config.block_size, device)
        parts = zip(x.split(size), y.split(size), strict=True)  # (size, T), the last may be shorter
        total = sum(model(xs, ys)[1] * len(xs) for xs, ys in parts)  # a loss is a mean over xs
        means[split] = total.item() / len(x)
    model.train()
    return means


def load(path: Path, settings: dict) -> dict:
    """The checkpoint at path; one missing, damaged or made otherwise ends the program."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        made = checkpoint["settings"]
        other = [f"{k} {made[k]}, not {v}" for k, v in settings.items() if made[k] != v]
    except Exception as error:  # a damaged file can raise anything
        sys.exit(f"{path} is no checkpoint of ours ({type(error).__name__}); training makes one")
    if other:
        sys.exit(f"{path} cannot go on, it was made with {'; '.join(other)}")
    return checkpoint


def train(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_iters, config.min_lr)
    x, y = corpus.batch("train", config.batch_size, config.block_size, device)  # (B, T)
    seconds = seconds_for(lambda: model(x, y)[1].backward(), device)
    settings = dict(itertools.takewhile(lambda field: field[0] != "size", vars(config).items()))
    settings["data"] = f"text {zlib.crc32(corpus.splits['train'].numpy()):x}"
    parts = {"model": model, "optimizer": optimizer, "decay": decay}
    start, stop, loss = 0, [], torch.zeros(())
    if config.resume:
        checkpoint = load(config.checkpoint, settings)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        torch.set_rng_state(checkpoint["rng"])
        start = checkpoint["step"]
    # Ctrl-C lets a step end; an evaluation, whose step is saved, it leaves at once
    leave = "--resume goes on from the step saved last, if there is one"
    signal(SIGINT, lambda *_: stop.append(1) if model.training else sys.exit(f"\nstopped; {leave}"))
    steps = range(start, config.max_iters + 1)
    seconds *= len(steps) + 2 / 3 * config.eval_iters * (1 + len(steps) // config.eval_interval)
    if seconds > 600:  # to evaluate, a batch of each split goes forward alone: 2 / 3 of a step
        print(f"this takes about {seconds / 60:.0f} minutes, --size laptop a few", file=sys.stderr)
    bar = tqdm(steps, initial=start, total=config.max_iters, unit="step", disable=None)
    for step in bar:
        evaluate = step % config.eval_interval == 0 or step == config.max_iters
        if step > start and (evaluate or stop) and loss.isfinite():
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step}
            state |= {"settings": settings, "chars": corpus.chars, "rng": torch.get_rng_state()}
            try:
                with whole_file(config.checkpoint) as file:
                    torch.save(state, file)
            except (OSError, RuntimeError) as error:  # on a full disk, say, the run can go on
                bar.write(f"step {step} is not saved: {error}".split("\n")[0], file=sys.stderr)
        if stop:
            sys.exit(f"\nstopped after step {step}; {leave}")
        if evaluate:
            means = estimate_loss(model, corpus, config, device)
            bar.write(f"step {step}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            if math.isnan(means["train"]):
                sys.exit("the loss is no longer a number: try a lower --learning-rate")
        if step == config.max_iters:
            break
        x, y = corpus.batch("train", config.batch_size, config.block_size, device)  # (B, T)
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()


def main(config: Config) -> None:
    """Train a model or load one, then print what it writes after the prompt."""
    torch.manual_seed(config.seed)
    try:
        device = select_device(config.device)
        if config.sample:
            checkpoint = load(config.checkpoint, {})
            config = dataclasses.replace(config, **checkpoint["settings"])
            text = Vocabulary(checkpoint["chars"])
        else:
            text = load_corpus(config.data, config.block_size)
        start = text.encode(config.prompt or text.chars[0])
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    model = LanguageModel(config, text.vocab_size).to(device)
    if config.sample:
        model.load_state_dict(checkpoint["model"])
    else:
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
        with fast_math(device):  # bfloat16, where the processor is built for it
            train(model, text, config, device)
    print(config.prompt, end="")
    for token in model.generate(torch.tensor([start], device=device), config.max_new_tokens):
        print(text.decode(token[0]), end="", flush=True)
    print()


def parse_args(argv: list[str] | None = None) -> Config:
    """The settings that a command line asks for; a wrong one ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)  # errors: 1 line
    for field in dataclasses.fields(Config):
        kind, note, *laptop = get_args(field.type)
        flag, note = "--" + field.name.replace("_", "-"), f"{note} {laptop or ''} = %(default)s"
        how = dict(action="store_true") if kind is bool else dict(type=kind, default=field.default)
        parser.add_argument(flag, help=note, **how)
    try:
        args = parser.parse_args(argv)
        small = args.size == "laptop" or select_device(args.device).type == "cpu"
        if small and args.size != "full":
            sizes = {field.name: get_args(field.type)[2:] for field in dataclasses.fields(Config)}
            parser.set_defaults(**{name: size[0] for name, size in sizes.items() if size})
        return Config(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # any console, and pipes
    try:
        main(parse_args())
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit("\nstopped")
