"""Step 14, Muon: an optimiser for matrices.

New: torch.optim.Muon updates the matrices of the blocks, and AdamW the rest. A gradient is often
large in few directions and small in all others. Muon makes a step about equally large in most
directions; why that helps is a conjecture (docs/muon.md explains both). The learning rate is twice
as high. https://kellerjordan.github.io/posts/muon/
Expect a val loss near 1.55, down from 1.65 (1.66 with the doubled rate: the gain is Muon's). A step
takes 76 ms instead of 51 on our CPU. This Muon always computes in bfloat16, for which most CPUs are
not built: with the same CPU held to AVX2 (ONEDNN_MAX_CPU_ISA=AVX2) and --float32 a step takes 333
ms, and one of step 15 takes 65.
Try --max-iters 600: 1.69, not far from step 13 after 2,000 steps.
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
    learning_rate: float = 1e-2  # of AdamW and Muon, at its highest
    warmup_iters: int = 100  # optimiser steps in which the learning rate rises
    max_iters: int = 2000  # optimiser steps
    eval_interval: int = 500  # optimiser steps between evaluations
    eval_iters: int = 20  # batches of each split in an evaluation
    data: Path = TINY_SHAKESPEARE  # UTF-8 text to learn from
    device: str = "auto"  # cpu, cuda, cuda:1, mps, or auto: the fastest there is
    float32: bool = False  # no bfloat16, even where the processor is built for it
    seed: int = 1337  # of every random draw
    prompt: str = ""  # the sample continues this text
    max_new_tokens: int = 500  # characters to sample


class Rotary(nn.Module):
    """Turns pairs of features by angles that grow with the position, (B, n_head, T, head_size)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        head_size = config.n_embd // config.n_head
        assert head_size % 2 == 0, f"features turn in pairs, but head_size {head_size} is odd"
        half = head_size // 2
        # Fast turns tell neighbours apart, slow turns tell distant places apart. 10000 is the
        # paper's: the slowest pair makes no whole turn in a context, so no two places look alike.
        frequencies = 10000 ** (-torch.arange(half) / half)  # (head_size / 2), from 1 downwards
        angles = torch.outer(torch.arange(config.block_size), frequencies)  # (T, head_size / 2)
        # Tables that can be computed again need no place in a saved model: not persistent.
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[2]
        cos, sin = self.cos[:T], self.sin[:T]  # (T, head_size / 2)
        # Feature i of the first half and feature i of the second half are a point in the plane.
        a, b = x.chunk(2, dim=-1)  # (B, n_head, T, head_size / 2) each
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


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
        self.rotary = Rotary(config)
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
        # Long queries and keys make softmax pick a single position, so all get one length.
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        # A turned query times a turned key depends on their distance, not on where the two stand.
        q, k = self.rotary(q), self.rotary(k)
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
    """Each position transformed on its own, (B, T, C) to (B, T, C); SwiGLU: arXiv 2002.05202."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = 8 * config.n_embd // 3  # three matrices so wide have as many weights as two of 4 C
        self.gate = nn.Linear(config.n_embd, hidden)
        self.up = nn.Linear(config.n_embd, hidden)
        self.down = nn.Linear(hidden, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        # silu(z) is z * sigmoid(z), a smooth ReLU: where it is near 0, the feature is shut off.
        x = F.silu(self.gate(x)) * self.up(x)  # (B, T, 8/3 C), each feature times its gate
        return self.dropout(self.down(x))  # (B, T, C)


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
        x = self.token_embedding(idx)  # (B, T, C)
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


def learning_rate_at(step: int, config: Config) -> float:
    """The learning rate of a step: it rises in the warm-up, then falls straight to zero."""
    # The averages in AdamW hold few gradients in the first steps, so these steps are small.
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / config.warmup_iters
    # At a high rate the weights keep jumping around the minimum, so the rate falls to the end.
    left = (config.max_iters - step) / (config.max_iters - config.warmup_iters)
    return config.learning_rate * left


def train(model: nn.Module, corpus: Corpus, config: Config) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    # The embedding and the last layer are tables with a row for each token. They are left to AdamW,
    # with the vectors: the biases, and the scales that layer norm learns.
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    tables = [model.token_embedding.weight, model.lm_head.weight]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    # match_rms_adamw: steps as large as those of AdamW, so both optimisers take one learning rate.
    muon = torch.optim.Muon(
        matrices,
        lr=config.learning_rate,
        weight_decay=0.0,
        momentum=0.85,
        adjust_lr_fn="match_rms_adamw",
    )
    # AdamW divides the step of each weight by the usual size of its gradients.
    # fused: one operation updates all weights, which takes less time.
    adamw = torch.optim.AdamW(tables + vectors, lr=config.learning_rate, fused=True)
    for step in trange(config.max_iters, disable=None):  # no bar where there is no terminal
        if step % config.eval_interval == 0 or step == config.max_iters - 1:
            means = estimate_loss(model, corpus, config)
            tqdm.write(f"step {step}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            sys.stdout.flush()  # at once, also through a pipe
        x, y = corpus.batch("train", config.batch_size, config.block_size)  # (B, T)
        with autocast(config, x.device):
            _, loss = model(x, y)
        model.zero_grad()
        loss.backward()
        for group in adamw.param_groups + muon.param_groups:
            group["lr"] = learning_rate_at(step, config)
        adamw.step()
        muon.step()


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
