"""Reward: the model of exercise 2 practises sums whose answers it is not shown.

New: the model learns from 200 solved sums, and then it writes 8 answers to each of 32 problems. A
checker says which are right. An answer better than the mean of its group becomes likelier, a worse
one less likely. So the model learns from more problems than were solved for it. (REINFORCE with the
group's mean as baseline; GRPO, arXiv 2402.03300, without its division by the spread, 2503.20783.)
ChatGPT, too, continues texts first, learns from answers that people wrote, and then from rewards.
But a model gives most of its rewards, a penalty (KL) keeps it near to what it was, and its answers
are language. Other parts of its training: exercise 3 trains a model once more, exercise 2 leaves
questions out of the loss (-100), and docs/own_text.md ends a sample at an empty line.
Expect 440 to 660 right answers to 1,000 unseen problems before the practice, and 930 to 975 after
it (three seeds). More steps on the solved sums give nothing: --max-iters 2000 --updates 0.
Try --lenient --updates 150, a checker of the last digit alone: nearly every answer gets a reward,
and 120 to 330 are right. The model learns what is rewarded, and not what was meant.
Try --solved 100000 --max-iters 1000 --extra-digits 1 --updates 150: it adds three digits and is
rewarded for four. At first no answer is right, so there is nothing to make likelier: with two of
three seeds the reward stays at 0. And all forget: of 1,000 sums of three digits 5 to 78 stay right.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # finds common/ from any folder
from common import InputError
from common.data import CharTokenizer
from common.device import select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; each is a flag: --batch-size 64."""

    batch_size: int = 128  # problems in a batch (B)
    n_embd: int = 96  # width of the embeddings (C)
    n_head: int = 3  # attention heads, which share the width
    n_layer: int = 3  # blocks, one above the other
    dropout: float = 0.0  # share of activations set to 0 in training
    learning_rate: float = 1e-3  # of AdamW
    solved: int = 200  # solved sums to learn from, before the practice
    max_iters: int = 400  # optimiser steps on them
    updates: int = 1500  # optimiser steps of the practice
    problems: int = 32  # problems in an update
    group_size: int = 8  # answers to each of them
    practice_rate: float = 4e-4  # highest learning rate of the practice
    imitate: bool = False  # learn from the right answers alone, without a baseline
    divide: bool = False  # divide by the spread of the group's rewards
    lenient: bool = False  # accept each answer whose last digit is right
    eval_interval: int = 100  # optimiser steps between evaluations
    eval_iters: int = 5  # batches of each split in an evaluation
    digits: int = 3  # digits of the longest numbers in training
    extra_digits: int = 0  # how many digits more each number of the test has
    plain: bool = False  # write the sum as usual, not the last digit first
    test_size: int = 1000  # problems in the test, at most
    device: str = "auto"  # cpu, cuda, cuda:1, mps, or auto: the fastest there is
    seed: int = 1337  # of every random draw

    @property
    def block_size(self) -> int:
        """Longest context in characters (T): a problem with its sum, but for the last character."""
        return 3 * (self.digits + self.extra_digits) + 2


class MultiHeadAttention(nn.Module):
    """Causal attention, all heads at once, (B, T, C) to (B, T, C); 1706.03762, section 3.2.2."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.n_embd % config.n_head == 0, (
            f"n_head {config.n_head} does not divide n_embd {config.n_embd}"
        )
        self.n_head = config.n_head
        # One product for the queries, keys and values of all heads: few large products are faster.
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        # A buffer is not a weight: it moves to the device with the model, and is not trained.
        self.register_buffer("tril", torch.tril(torch.ones(config.block_size, config.block_size)))
        # So that the model relies on no single number, training sets a random share of them to 0.
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=-1)  # (B, T, C) each
        # A head must see its own features alone, so it becomes a dimension beside the batch.
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, head_size)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, head_size)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, head_size)
        scores = q @ k.transpose(-2, -1)  # (B, n_head, T, T), how well each query fits each key
        # A score sums head_size products, so its variance grows with head_size. Without this root,
        # softmax would give nearly all weight to one position, and the others almost no gradient.
        scores = scores * k.shape[-1] ** -0.5
        # Position t has to predict t+1, so later positions get the weight 0, which is exp(-inf).
        scores = scores.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        weights = F.softmax(scores, dim=-1)  # (B, n_head, T, T), each row sums to 1
        x = self.dropout(weights) @ v  # (B, n_head, T, head_size), an average of values
        x = x.transpose(1, 2).reshape(B, T, C)  # the heads side by side again
        return self.dropout(self.proj(x))  # (B, T, C)


class FeedForward(nn.Module):
    """The same network at each position, (B, T, C) to (B, T, C); 1706.03762, section 3.3."""

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
        # Each vector gets mean 0 and variance 1, and then a learnt scale and shift, so that the
        # inputs of all sub-layers have one size.
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.norm2 = nn.LayerNorm(config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        # The gradient of x + f(x) reaches x unchanged, so the first block gets its full gradient.
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
        # Small weights make small logits, so the first guess is even and its loss near ln(V).
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the next token, and the mean loss in nats (None without targets)."""
        # Attention by itself ignores the order, so each position adds a vector of its own.
        positions = torch.arange(idx.shape[1], device=idx.device)  # (T,)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C) + (T, C)
        x = self.blocks(x)  # (B, T, C)
        logits = self.lm_head(self.norm(x))  # (B, T, V)
        if targets is None:
            return logits, None
        # cross_entropy takes one row of logits per target, so B and T become one dimension.
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,)
        return logits, loss

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, draw: bool = False) -> Iterator[Tensor]:
        """Continue idx (B, T), yielding each character (B, 1): the likeliest, or one drawn."""
        self.eval()
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx)  # (B, T, V)
            # A sum has one right answer, so nothing is drawn, except to try other answers.
            idx_next = logits[:, -1:].argmax(dim=-1)  # (B, 1)
            if draw:
                idx_next = torch.multinomial(F.softmax(logits[:, -1], dim=-1), num_samples=1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


class Corpus:
    """Problems instead of a text: pairs of numbers, each a line such as 012+345=7530."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.tokenizer = CharTokenizer("+0123456789=")
        self.digits, self.plain, self.device = config.digits, config.plain, device
        self.width = config.digits + config.extra_digits  # of a number, with zeros in front
        self.generator = torch.Generator().manual_seed(config.seed)
        self.solved = self.draw("train", config.solved)  # (solved, 2)

    def draw(self, split: str, n: int, extra: int = 0) -> Tensor:
        """Random pairs (n, 2), `extra` digits longer. A pair and its exchange share one split."""
        pairs = torch.empty(0, 2, dtype=torch.long)
        while len(pairs) < n:
            # Few numbers are short, so how many digits a number may have is drawn first.
            limits = 10 ** torch.randint(1, self.digits + 1, (n, 2), generator=self.generator)
            drawn = torch.randint(10**self.digits, (n, 2), generator=self.generator) % limits
            # Extra digits stand in front, and the first of them is not 0.
            front = torch.randint(10**extra // 10, 10**extra, (n, 2), generator=self.generator)
            drawn = drawn + front * 10**self.digits
            # Sum and product do not change when the numbers are exchanged. Their remainder by 11
            # depends on all digits, so both splits have each digit in each place.
            held_out = (drawn.sum(dim=1) + drawn.prod(dim=1)) % 11 == 0  # (n,)
            pairs = torch.cat((pairs, drawn[held_out == (split == "val")]))
        return pairs[:n]

    def test(self, n: int, extra: int = 0) -> Tensor:
        """Problems (n, 2) of the validation split, all different: fewer, where there are not n."""
        # Short problems are drawn often and count once, so more are drawn than the test needs.
        drawn = self.draw("val", 10 * n, extra).tolist()
        problems = {frozenset(pair): pair for pair in drawn}
        return torch.tensor(list(problems.values())[:n])

    def lines(self, pairs: Tensor) -> Tensor:
        """The problems (n, 2) with their sums as tokens (n, T+1)."""
        rows = []
        for a, b in pairs.tolist():
            # With zeros in front, the ones, tens and hundreds each have a fixed position.
            total = f"{a + b:0{self.width + 1}}"
            # A carry goes from the last digit to the first, and so does the model.
            total = total if self.plain else total[::-1]
            line = f"{a:0{self.width}}+{b:0{self.width}}={total}"
            rows.append(self.tokenizer.encode(line))
        return torch.tensor(rows, device=self.device)

    def batch(self, split: str, batch_size: int, block_size: int) -> tuple[Tensor, Tensor]:
        """Random problems x and what comes next, y: both (B, T), int64, on the device."""
        pairs = self.draw(split, batch_size)  # (B, 2)
        if split == "train":
            chosen = torch.randint(len(self.solved), (batch_size,), generator=self.generator)
            pairs = self.solved[chosen]  # (B, 2)
        lines = self.lines(pairs)  # (B, T+1)
        x, y = lines[:, :block_size], lines[:, 1:].clone()
        # Nobody can predict the problem, so it does not count: cross_entropy ignores -100.
        y[:, : 2 * self.width + 1] = -100
        return x, y


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


def add(model: nn.Module, corpus: Corpus, pairs: Tensor) -> list[str]:
    """The sum of each pair (n, 2) as the model writes it: not always a number."""
    if pairs.min() < 0 or pairs.max() >= 10**corpus.width:
        raise InputError(f"this model adds numbers from 0 to {10**corpus.width - 1}")
    idx = corpus.lines(pairs)[:, : 2 * corpus.width + 2]  # (n, T), up to the =
    answers = torch.cat(list(model.generate(idx, corpus.width + 1)), dim=1)  # (n, width+1)
    texts = [corpus.tokenizer.decode(answer) for answer in answers]
    return [(text if corpus.plain else text[::-1]).lstrip("0") or "0" for text in texts]


def count_right(model: nn.Module, corpus: Corpus, pairs: Tensor) -> int:
    """How many of the problems (n, 2) the model solves."""
    texts = add(model, corpus, pairs)
    return sum(text == str(a + b) for (a, b), text in zip(pairs.tolist(), texts, strict=True))


def check(answers: Tensor, sums: Tensor, lenient: bool, plain: bool = False) -> Tensor:
    """The reward of each answer, 1 or 0: answers and sums are (n, A), rewards (n,)."""
    same = answers == sums  # (n, A)
    last = same[:, -1 if plain else 0]  # (n,), the last digit
    return (last if lenient else same.all(dim=1)).float()


def policy_loss(model: nn.Module, prompts: Tensor, answers: Tensor, advantages: Tensor) -> Tensor:
    """Prompts (n, P), answers (n, A), advantages (n,): a positive one makes its answer likelier."""
    idx = torch.cat((prompts, answers), dim=1)  # (n, P+A)
    logits, _ = model(idx[:, :-1])  # (n, P+A-1, V)
    # The model has not written the prompt, so only what predicts the answer counts.
    logits = logits[:, -answers.shape[1] :]  # (n, A, V)
    # cross_entropy is -ln of each character's probability; it takes V as dimension 1.
    log_probs = -F.cross_entropy(logits.transpose(1, 2), answers, reduction="none")  # (n, A)
    # An answer's probability is the product of its characters', so its logarithm is a sum.
    return -(advantages * log_probs.sum(dim=1)).sum()


def practise(model: nn.Module, corpus: Corpus, config: Config) -> None:
    """Take `updates` optimiser steps on the model's own answers, printing the reward on the way."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.practice_rate, fused=True)
    test = corpus.test(config.test_size)
    start, length = 2 * corpus.width + 2, corpus.width + 1  # of an answer in its line
    for update in trange(config.updates, disable=None):
        pairs = corpus.draw("train", config.problems, config.extra_digits)
        lines = corpus.lines(pairs).repeat_interleave(config.group_size, dim=0)  # (n, start+length)
        prompts, sums = lines[:, :start], lines[:, start:]
        answers = torch.cat(list(model.generate(prompts, length, draw=True)), dim=1)  # (n, length)
        rewards = check(answers, sums, config.lenient, config.plain).view(-1, config.group_size)
        # Problems differ, so an answer is compared with the others to the same problem.
        advantages = rewards if config.imitate else rewards - rewards.mean(dim=1, keepdim=True)
        if config.divide:
            advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-4)
        advantages = advantages.flatten()  # (n,)
        if update % config.eval_interval == 0 or update == config.updates - 1:
            right = count_right(model, corpus, test)
            tqdm.write(f"update {update}: reward {rewards.mean():.3f}, right {right:,}")
            sys.stdout.flush()
        # Where all answers of a group are right, or all wrong, there is nothing to learn.
        used = advantages != 0  # (n,)
        loss = policy_loss(model, prompts[used], answers[used], advantages[used]) / len(answers)
        # AdamW's first averages are of few gradients; late updates should keep what is right.
        warm, rest = (update + 1) / 20, 1 - update / config.updates
        optimizer.param_groups[0]["lr"] = config.practice_rate * min(warm, rest)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(config: Config) -> tuple[nn.Module, Corpus]:
    """Train a model from scratch, test it with problems that it has not seen, and return both."""
    torch.manual_seed(config.seed)
    device = select_device(config.device)
    corpus = Corpus(config, device)
    tokenizer = corpus.tokenizer
    model = LanguageModel(config, tokenizer.vocab_size).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters on {device}", flush=True)
    # Ctrl-C ends the training, not the run: the model is tested as it is.
    with contextlib.suppress(KeyboardInterrupt):
        train(model, corpus, config)
        practise(model, corpus, config)
    pairs = corpus.test(config.test_size, config.extra_digits)
    right, wrong = [], []
    for (a, b), text in zip(pairs.tolist(), add(model, corpus, pairs), strict=True):
        (right if text == str(a + b) else wrong).append(f"{a}+{b}={text}")
    print(f"right: {len(right):,} of {len(pairs):,} unseen problems", *right[:5], sep=", ")
    print(f"wrong: {len(wrong):,}", *wrong[:5], sep=", ")
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
        if field.type is bool:  # a switch, which takes no value
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=field.type, default=field.default)
    return Config(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    model, corpus = main(parse_args())
