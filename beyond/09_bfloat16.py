"""Step 9, bfloat16: the same mathematics in less time.

New: matrices are multiplied in bfloat16, numbers of 8 significant bits instead of 24 (arXiv
1905.12322), forward and backward, where the processor is built for it. Each result is a sum of many
products, and most of their rounding errors cancel. The run's first line names the precision.
On Linux, `lscpu | grep avx512_bf16` says whether a CPU is built for it; most are not.
Expect a val loss near 1.80, as in step 8, in less time: on our CPU 37 ms a step instead of 51.
Try --float32: the losses of step 8 to the last digit.
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
from common.data import TINY_SHAKESPEARE, Corpus, load_corpus
from common.device import select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; each is a flag: --batch-size 64."""

    batch_size: int = 16  # sequences in a batch (B)
    block_size: int = 64  # longest context in characters (T)
    n_embd: int = 96  # width of the embeddings (C)
    n_head: int = 3  # attention heads, which share the width
    n_layer: int = 6  # blocks, one above the other
    dropout: float = 0.0  # share of activations set to 0 in training
    learning_rate: float = 1e-3  # of AdamW
    max_iters: int = 2000  # optimiser steps
    eval_interval: int = 500  # optimiser steps between evaluations
    eval_iters: int = 20  # batches of each split in an evaluation
    data: Path = TINY_SHAKESPEARE  # UTF-8 text to learn from
    device: str = "auto"  # cpu, cuda, cuda:1, mps, or auto: the fastest there is
    float32: bool = False  # no bfloat16, even where the processor is built for it
    seed: int = 1337  # of every random draw
    prompt: str = ""  # the sample continues this text
    max_new_tokens: int = 500  # characters to sample


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
    def generate(self, idx: Tensor, max_new_tokens: int) -> Iterator[Tensor]:
        """Continue the tokens idx (B, T), and yield each next token (B, 1) when it is drawn."""
        self.eval()
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx)  # (B, T, V)
            probs = F.softmax(logits[:, -1], dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


def uses_bfloat16(config: Config, device: torch.device) -> bool:
    """Whether the processor is built for bfloat16, and no flag forbids it."""
    if device.type == "cuda":
        built = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # a CPU without AVX-512 BF16 is slower with bfloat16; on mps we did not try it
        built = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return built and not config.float32


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Inside it matrices are multiplied in bfloat16, where the processor is built for that."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config, device))


@torch.no_grad()
def estimate_loss(model: nn.Module, corpus: Corpus, config: Config) -> dict[str, float]:
    """Mean loss of each split in nats per character, over eval_iters random batches."""
    model.eval()
    means = {}
    for split in ("train", "val"):
        losses = torch.zeros(config.eval_iters)
        for i in range(config.eval_iters):
            x, y = corpus.batch(split, config.batch_size, config.block_size)  # (B, T)
            with autocast(config, x.device):
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
        with autocast(config, x.device):
            _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(config: Config) -> tuple[nn.Module, Corpus]:
    """Train a model, print what it writes after the prompt, and return the model and the corpus."""
    torch.manual_seed(config.seed)
    device = select_device(config.device)
    corpus = load_corpus(config.data, device, config.seed)
    tokenizer = corpus.tokenizer
    # A model can only continue a text. Without a prompt it continues chars[0], here a line end.
    idx = torch.tensor([tokenizer.encode(config.prompt or tokenizer.chars[0])], device=device)
    model = LanguageModel(config, tokenizer.vocab_size).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    precision = "bfloat16" if uses_bfloat16(config, device) else "float32"
    print(f"{parameters:,} parameters on {device}, {precision}", flush=True)
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
        if field.type is bool:  # a switch, which takes no value
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=field.type, default=field.default)
    return Config(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    model, corpus = main(parse_args())
