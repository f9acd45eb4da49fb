"""Exercise 2, addition: the model of step 8 learns to add two numbers.

New: the problems are drawn, not stored; the sum is written last digit first (arXiv 2307.03381), and
only its characters are in the loss; answers are the likeliest characters, not drawn ones.
Expect 1,000 of 1,000 unseen problems in about 40 seconds on two cores; then --ask 123+456 answers.
What it does not learn are longer numbers than it has seen: with room for a fourth digit, but
trained on three, it adds 1 of 1,000 pairs of four digits.
"""

import argparse
import dataclasses
import io
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

if __name__ == "__main__":  # on Linux: threads that wait sleep sooner, and leave the core to others
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # finds common/ from anywhere
from common.data import Vocabulary
from common.device import select_device

MODELS = Path(__file__).resolve().parent.parent / "runs"


@dataclasses.dataclass
class Config:
    """Every setting of a run; on the command line each is a flag, max_iters as --max-iters."""

    batch_size: Annotated[int, "problems in a batch (B)"] = 128
    n_embd: Annotated[int, "width of the embeddings (C)"] = 96
    n_head: Annotated[int, "attention heads, which share the width"] = 3
    n_layer: Annotated[int, "blocks, one above the other"] = 3
    dropout: Annotated[float, "share of activations set to 0 in training"] = 0.0
    learning_rate: Annotated[float, "learning rate of AdamW"] = 1e-3
    max_iters: Annotated[int, "optimiser steps"] = 1000
    eval_interval: Annotated[int, "optimiser steps between evaluations"] = 100
    eval_iters: Annotated[int, "batches of each split in an evaluation"] = 5
    eval_batch_size: Annotated[int, "problems in each batch of an evaluation"] = 128
    digits: Annotated[int, "digits of the longest numbers to add"] = 3
    plain: Annotated[bool, "write sums in reading order, not the last digit first"] = False
    test_size: Annotated[int, "problems kept for the test, at most a tenth of all"] = 1000
    device: Annotated[str, "auto, cpu, cuda, cuda:1 or mps"] = "auto"
    seed: Annotated[int, "seed of every random draw"] = 1337
    models: Annotated[Path, "folder in which trained models are kept"] = MODELS
    ask: Annotated[str, "a problem for a model that was trained with these settings"] = None

    @property
    def block_size(self) -> int:
        """Longest context in characters (T): a problem and its answer but for the last digit."""
        return 3 * self.digits + 2

    def __post_init__(self) -> None:
        may_be_zero = ("dropout", "max_iters", "seed")
        for name, value in vars(self).items():
            if type(value) in (int, float):
                enough = value >= 0 if name in may_be_zero else value > 0  # NaN is neither
                if not enough or value > sys.maxsize:
                    raise ValueError(f"{name} must not be {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be a multiple of n_head {self.n_head}")
        if self.dropout >= 1:
            raise ValueError(f"dropout {self.dropout} must be below 1")
        if self.digits > 9:
            raise ValueError(f"digits {self.digits} must be at most 9")
        if self.ask is not None and not re.fullmatch(r" *[0-9]+ *\+ *[0-9]+ *", self.ask):
            raise ValueError(f"ask {self.ask!r} must be two numbers, such as 123+456")
        if self.ask and max(map(int, self.ask.split("+"))) >= 10**self.digits:
            raise ValueError(f"ask {self.ask} has more digits than --digits {self.digits}")


class MultiHeadAttention(nn.Module):
    """Heads side by side, (B, T, C) to (B, T, C); arXiv 1706.03762, section 3.2.2."""

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
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, n_head, T, head_size) each
        scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, n_head, T, T)
        scores = scores.masked_fill(self.tril[:T, :T] == 0, float("-inf"))  # no look at the future
        weights = F.softmax(scores, dim=-1)  # (B, n_head, T, T), each row sums to 1
        x = self.dropout(weights) @ v  # (B, n_head, T, head_size)
        x = x.transpose(1, 2).reshape(B, T, C)  # n_head * head_size = C
        return self.dropout(self.proj(x))  # (B, T, C)


class FeedForward(nn.Module):
    """Each position transformed on its own, (B, T, C) to (B, T, C); 1706.03762, section 3.3."""

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
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, vocab_size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

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
        """Continue idx (B, T) in evaluation mode, yielding each likeliest character (B, 1)."""
        self.eval()
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx)  # (B, T, V)
            idx_next = logits[:, -1:].argmax(dim=-1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


class Corpus:
    """Additions as common.data has a text: train and estimate_loss see no difference.

    A problem is a pair of numbers; as a line 012+345=7530, padded, the sum's last digit first.
    """

    def __init__(self, config: Config) -> None:
        vocabulary = Vocabulary("+0123456789=")
        self.vocab_size = vocabulary.vocab_size  # V
        self.encode, self.decode = vocabulary.encode, vocabulary.decode
        self.digits, self.plain = config.digits, config.plain
        room = {length: 100**length // 10 for length in range(1, self.digits + 1)}
        test = set()  # drawn before training; of each length at most a tenth of all there are
        while len(test) < min(config.test_size, 100**self.digits // 10):
            ((a, b),) = self.draw(1).tolist()
            if (a, b) not in test and room[len(str(max(a, b)))] > 0:
                test.add((a, b))
                room[len(str(max(a, b)))] -= 1
        self.test = torch.tensor(sorted(test))  # (test_size, 2)

    def draw(self, n: int) -> Tensor:
        """Random problems (n, 2): how many digits a number may have is drawn before the number."""
        limits = 10 ** torch.randint(1, self.digits + 1, (n, 2))
        return torch.randint(10**self.digits, (n, 2)) % limits

    def held_out(self, problems: Tensor) -> Tensor:
        """Which of the problems (n, 2) belong to the test, (n,)."""
        base = torch.tensor([10**self.digits, 1])
        return torch.isin(problems @ base, self.test @ base)

    def question(self, a: int, b: int) -> str:
        """A problem up to its answer, both numbers as long as the longest may be."""
        return f"{a:0{self.digits}}+{b:0{self.digits}}="

    def answer(self, total: int) -> str:
        """A sum as it is written here."""
        text = f"{total:0{self.digits + 1}}"
        return text if self.plain else text[::-1]

    def read(self, answer: str) -> str:
        """The inverse of answer, as text: a model may write what is no number."""
        text = answer if self.plain else answer[::-1]
        return text.lstrip("0") or "0"

    def batch(
        self, split: str, batch_size: int, block_size: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Random problems x and their continuations y, both (B, T), y one character ahead.

        What comes before the answer cannot be predicted: there y is -100, which the loss ignores.
        """
        if split == "val":
            problems = self.test[torch.randint(len(self.test), (batch_size,))]  # (B, 2)
        else:
            problems = self.draw(batch_size)  # (B, 2)
            while (held_out := self.held_out(problems)).any():
                problems[held_out] = self.draw(int(held_out.sum()))
        lines = [self.question(a, b) + self.answer(a + b) for a, b in problems.tolist()]
        windows = torch.tensor([self.encode(line) for line in lines], device=device)  # (B, T+1)
        x, y = windows[:, :-1], windows[:, 1:].clone()
        y[:, : 2 * self.digits + 1] = -100
        return x, y


@torch.no_grad()
def estimate_loss(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> dict:
    """Mean loss of each split in nats per character, over eval_iters random batches."""
    model.eval()
    means = {}
    for split in ("train", "val"):
        losses = torch.zeros(config.eval_iters)
        for i in range(config.eval_iters):
            x, y = corpus.batch(split, config.eval_batch_size, config.block_size, device)  # (B, T)
            _, loss = model(x, y)
            losses[i] = loss.item()
        means[split] = losses.mean().item()
    model.train()
    return means


def train(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    hidden = None if sys.stdout.isatty() else True  # None: shown in a terminal, and only there
    bar = tqdm(range(config.max_iters + 1), total=config.max_iters, unit="step", disable=hidden)
    for step in bar:
        if step % config.eval_interval == 0 or step == config.max_iters:
            means = estimate_loss(model, corpus, config, device)
            bar.clear()  # so that the line does not end up behind it
            print(f"step {step}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            if math.isnan(means["train"]):
                sys.exit("the loss is no longer a number: try a lower --learning-rate")
        if step == config.max_iters:
            break
        x, y = corpus.batch("train", config.batch_size, config.block_size, device)  # (B, T)
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def answers(model: nn.Module, corpus: Corpus, problems: Tensor, device: torch.device) -> list[str]:
    """What the model says that each of the problems (n, 2) comes to: all of them in one batch."""
    lines = [corpus.question(a, b) for a, b in problems.tolist()]
    idx = torch.tensor([corpus.encode(line) for line in lines], device=device)  # (n, T)
    tokens = torch.cat(list(model.generate(idx, corpus.digits + 1)), dim=1)  # (n, digits + 1)
    return [corpus.read(corpus.decode(row)) for row in tokens]


def test(model: nn.Module, corpus: Corpus, device: torch.device) -> None:
    """Print how many test problems come out right, by number of digits, and some that do not."""
    pairs = zip(corpus.test.tolist(), answers(model, corpus, corpus.test, device), strict=True)
    graded = [(a, b, text, text == str(a + b)) for (a, b), text in pairs]
    right = sum(ok for *_, ok in graded)
    share = 100 * right / len(graded)
    print(f"right: {right:,} of {len(graded):,} unseen problems, {share:.1f} %")
    for length in range(1, corpus.digits + 1):  # of the longer number
        these = [ok for a, b, _, ok in graded if len(str(max(a, b))) == length]
        print(f"{length} digit{'s' * (length > 1)}: {sum(these)} of {len(these)}")
    for a, b, text, _ in [row for row in graded if not row[-1]][:10]:
        print(f"wrong: {a}+{b}={text}, not {a + b}")


def save(model: nn.Module, path: Path) -> None:
    """Put the weights at path, whole or not at all."""
    content, part = io.BytesIO(), path.with_suffix(f".{os.getpid()}.part")
    torch.save(model.state_dict(), content)  # to a file, it would hide what failed
    try:
        part.write_bytes(content.getbuffer())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(model: nn.Module, path: Path) -> None:
    """Give the model the weights at path; without them the program ends with the reason."""
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        sys.exit(f"no trained model {path}: run the same command without --ask first")
    except Exception:  # what is damaged can raise anything
        sys.exit(f"{path} is damaged or has other settings; without --ask a new one replaces it")


def main(config: Config) -> None:
    """Train a model from scratch, keep and test it, or ask one that was kept."""
    torch.manual_seed(config.seed)
    try:
        device = select_device(config.device)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    corpus = Corpus(config)
    model = LanguageModel(config, corpus.vocab_size).to(device)
    name = f"ex2_addition_{config.digits}_digits_{config.n_head}_heads"  # weights do not tell heads
    path = config.models / f"{name}{'_plain' if config.plain else ''}.pt"
    if config.ask is not None:
        load(model, path)
        a, b = map(int, config.ask.split("+"))
        (said,) = answers(model, corpus, torch.tensor([[a, b]]), device)
        print(f"{a}+{b}={said}" + ("" if said == str(a + b) else f", which is wrong: {a + b}"))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"no model can be kept in {path.parent}: {error.strerror}")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
    train(model, corpus, config, device)
    test(model, corpus, device)
    try:
        save(model, path)
    except OSError as error:
        sys.exit(f"the model is not kept: {error}")


def parse_args(argv: list[str] | None = None) -> Config:
    """The settings that a command line asks for; a wrong one ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)  # errors: 1 line
    for field in dataclasses.fields(Config):
        kind, note = get_args(field.type)
        flag = "--" + field.name.replace("_", "-")
        how = {"action": "store_true"} if kind is bool else {"type": kind}
        parser.add_argument(flag, default=field.default, help=note + " = %(default)s", **how)
    try:
        return Config(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # any console, and pipes
    try:
        main(parse_args())
    except (KeyboardInterrupt, BrokenPipeError):
        print("\nstopped", file=sys.stderr)
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
