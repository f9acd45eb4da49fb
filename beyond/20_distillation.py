"""Step 20, distillation: one model learns what four have learnt.

New: the four models of step 19 teach a fifth model (arXiv 1503.02531). At each position the text
names one token, the one that came. The mean of the four says of every token how likely it was. Half
of the loss compares with the text, half with this mean.
Expect a val loss near 1.42, over the whole split. The model is as large as that of step 18 and
writes as fast; step 18 learns from the text alone and ends at 1.47. The four have 1.40 together. So
one model keeps two thirds of what four gain. Both trainings together take five times as long as
that of step 18. The losses printed on the way are estimates, too rough to tell the four and the one
apart.
Try --imitation 1: only the four say what comes next, and the val loss is 1.42, too.
"""

import argparse
import contextlib
import dataclasses
import inspect
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm, trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # finds common/ from any folder
from common.data import TINY_SHAKESPEARE, CharTokenizer, Corpus, read_text
from common.device import select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; each is a flag: --batch-size 64."""

    batch_size: int = 64  # sequences in a batch (B), shared out among the members
    block_size: int = 64  # longest context in tokens (T)
    vocab_size: int = 512  # tokens that the tokenizer knows (V)
    n_embd: int = 96  # width of the embeddings (C)
    n_head: int = 3  # attention heads, which share the width
    n_layer: int = 6  # blocks, one above the other
    n_member: int = 4  # models whose guesses are averaged (M)
    imitation: float = 0.5  # share of the last model's loss that is about their mean
    dropout: float = 0.0  # share of activations set to 0 in training
    learning_rate: float = 1e-2  # of AdamW and Muon, at its highest
    warmup_iters: int = 100  # optimiser steps in which the learning rate rises
    weight_decay: float = 0.3  # of matrices and tables
    max_iters: int = 2000  # optimiser steps
    eval_interval: int = 500  # optimiser steps between evaluations
    eval_iters: int = 5  # batches of each split in an evaluation
    data: Path = TINY_SHAKESPEARE  # UTF-8 text to learn from
    device: str = "auto"  # cpu, cuda, cuda:1, mps, or auto: the fastest there is
    float32: bool = False  # no bfloat16, even where the processor is built for it
    seed: int = 1337  # of every random draw
    prompt: str = ""  # the sample continues this text
    max_new_tokens: int = 500  # tokens to sample


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

    def forward(self, x: Tensor, start: int) -> Tensor:
        T = x.shape[2]
        cos, sin = self.cos[start : start + T], self.sin[start : start + T]  # (T, head_size / 2)
        # Feature i of the first half and feature i of the second half are a point in the plane.
        a, b = x.chunk(2, dim=-1)  # (B, n_head, T, head_size / 2) each
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Cache:
    """The keys and values of a layer at the last block_size positions of a text."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.k = self.v = None

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values of T positions, and return all, (B, n_head, S, head_size) each."""
        if self.k is not None:
            k, v = torch.cat((self.k, k), dim=2), torch.cat((self.v, v), dim=2)
        self.k, self.v = k[:, :, -self.block_size :], v[:, :, -self.block_size :]
        return self.k, self.v


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

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=-1)  # (B, T, C) each
        # A head must see its own features alone, so it becomes a dimension beside the batch.
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, head_size)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, head_size)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, head_size)
        # Long queries and keys make softmax pick a single position, so all get one length.
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        # The cache holds keys before they are turned: when the window slides, each key moves to a
        # smaller position and is turned anew. The distances stay the same.
        if cache is not None:
            k, v = cache.add(k, v)  # (B, n_head, S, head_size)
        S = k.shape[2]  # number of keys; the T queries are at the last T positions
        # A turned query times a turned key depends on their distance, not on where the two stand.
        q, k = self.rotary(q, S - T), self.rotary(k, 0)
        scores = q @ k.transpose(-2, -1)  # (B, n_head, T, S), how well each query fits each key
        # A score sums head_size products, so its variance grows with head_size. Without this root,
        # softmax would give nearly all weight to one position, and the others almost no gradient.
        scores = scores * k.shape[-1] ** -0.5
        # Position t has to predict t+1, so later positions get the weight 0, which is exp(-inf).
        scores = scores.masked_fill(self.tril[S - T : S, :S] == 0, float("-inf"))
        weights = F.softmax(scores, dim=-1)  # (B, n_head, T, S), each row sums to 1
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

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        # The gradient of x + f(x) reaches x unchanged, so the first block gets its full gradient.
        x = x + self.attention(self.norm1(x), cache)  # (B, T, C)
        x = x + self.feed_forward(self.norm2(x))  # (B, T, C)
        return x


class Member(nn.Module):
    """Transformer: idx (B, T) to logits (B, T, V), each from its own position and those before."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
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

    def forward(self, idx: Tensor, caches: list[Cache] | None = None) -> Tensor:
        x = self.token_embedding(idx)  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None)  # (B, T, C)
        return self.lm_head(self.norm(x))  # (B, T, V)


def average(logits: list[Tensor]) -> Tensor:
    """Logits of the mean of several guesses: (B, T, V) each to (B, T, V)."""
    log_probs = torch.stack([F.log_softmax(guess, dim=-1) for guess in logits])  # (M, B, T, V)
    # The mean is the sum divided by M. Softmax gives the same for both, so the sum is enough.
    return log_probs.logsumexp(dim=0)


class LanguageModel(nn.Module):
    """The average guess of several transformers: idx (B, T) to logits (B, T, V)."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.members = nn.ModuleList(Member(config, vocab_size) for _ in range(config.n_member))

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, caches: list[list[Cache]] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the next token, and the mean loss in nats (None without targets)."""
        if self.training:
            # Members that learn from different sequences make different errors: each has its share.
            shares = idx.tensor_split(len(self.members))  # (B / M, T) each
            logits = torch.cat([m(x) for m, x in zip(self.members, shares, strict=True)])
        else:
            guesses = [m(idx, caches[i] if caches else None) for i, m in enumerate(self.members)]
            logits = average(guesses)  # (B, T, V)
        if targets is None:
            return logits, None
        # cross_entropy takes one row of logits per target, so B and T become one dimension.
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,)
        return logits, loss

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Iterator[Tensor]:
        """Continue the tokens idx (B, T), and yield each next token (B, 1) when it is drawn."""
        self.eval()
        caches = [[Cache(self.block_size) for _ in member.blocks] for member in self.members]
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx, caches=caches)  # (B, T, V)
            probs = F.softmax(logits[:, -1], dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = idx_next  # (B, 1), since the caches hold the rest
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
        # A loss per token grows with the length of the tokens, so the mean is given per character.
        tokens_per_char = len(corpus.splits[split]) / len(corpus.texts[split])
        means[split] = losses.mean().item() * tokens_per_char
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


def orthogonal(x: Tensor) -> Tensor:
    """Matrices (n, rows, columns) made nearly orthogonal: their singular values come near 1.

    A singular value says how far a matrix stretches one direction; docs/muon.md shows an example.
    Each Newton-Schulz iteration takes s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5.
    """
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT).mT  # the products below are smaller
    # With this norm no s is above 1: from 1.27 on the iterations diverge.
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT  # (n, rows, rows)
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)  # -4.7750 a + 2.0315 a a
        x = torch.baddbmm(x, b, x, beta=3.4445)  # 3.4445 x + b x
    return x


class Muon(torch.optim.Optimizer):
    """Moves matrices along the average of their gradients, made orthogonal."""

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float) -> None:
        # Few large products are faster than many small ones: matrices of one shape share a stack.
        shapes = dict.fromkeys(p.shape for p in matrices)
        stacks = [{"params": [p for p in matrices if p.shape == shape]} for shape in shapes]
        super().__init__(stacks, {"lr": lr, "momentum": 0.85, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            updates, momentum = [], group["momentum"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["average"] = torch.zeros_like(p)
                state["average"].lerp_(p.grad, 1 - momentum)
                # Nesterov's momentum: the newest gradient counts once more.
                updates.append(p.grad.lerp(state["average"], momentum))
            updates = orthogonal(torch.stack(updates))  # (n, rows, columns)
            # Entries near 0.2 as in AdamW's steps, so both take one learning rate: 2502.16982.
            scale = 0.2 * max(updates.shape[1:]) ** 0.5
            for p, update in zip(group["params"], updates, strict=True):
                # Only weights that the gradients keep enlarging stay large.
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update, alpha=group["lr"] * scale)


def train(
    model: nn.Module, corpus: Corpus, config: Config, teacher: nn.Module | None = None
) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    # The embedding and the last layer are tables with a row for each token. They are left to AdamW,
    # with the vectors: the biases, and the scales that layer norm learns.
    matrices = [p for m in model.members for p in m.blocks.parameters() if p.dim() == 2]
    tables = [p for m in model.members for p in (m.token_embedding.weight, m.lm_head.weight)]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    muon = Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay)
    # Biases and scales are few, too few to learn a text by heart, so they do not decay.
    groups = [{"params": tables}, {"params": vectors, "weight_decay": 0.0}]
    # AdamW divides the step of each weight by the usual size of its gradients.
    # fused: one operation updates all weights, which takes less time.
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    for step in trange(config.max_iters, disable=None):  # no bar where there is no terminal
        if step % config.eval_interval == 0 or step == config.max_iters - 1:
            means = estimate_loss(model, corpus, config)
            tqdm.write(f"step {step}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            sys.stdout.flush()  # at once, also through a pipe
        x, y = corpus.batch("train", config.batch_size, config.block_size)  # (B, T)
        with autocast(config, x.device):
            logits, loss = model(x, y)
            if teacher is not None:
                with torch.no_grad():  # the teacher has learnt already
                    probs = F.softmax(teacher(x)[0], dim=-1)  # (B, T, V)
                # The target may be a probability for each token instead of the one token that came.
                teacher_loss = F.cross_entropy(logits.flatten(0, 1), probs.flatten(0, 1))
                loss = (1 - config.imitation) * loss + config.imitation * teacher_loss
        model.zero_grad()
        loss.backward()
        for group in adamw.param_groups + muon.param_groups:
            group["lr"] = learning_rate_at(step, config)
        adamw.step()
        # The direction of a step need not be exact, so bfloat16 is enough here, too.
        with autocast(config, x.device):
            muon.step()


# A token stays within a piece: white space, or a word or punctuation with the space before it.
# Tokens across two words would split a word differently beside each neighbour.
PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s+")


def merge(tokens: list[int], pair: tuple[int, int], merged: int) -> list[int]:
    """The tokens with each such pair, from left to right, replaced by the merged token."""
    new = []
    for token in tokens:
        if new and (new[-1], token) == pair:
            new[-1] = merged
        else:
            new.append(token)
    return new


def learn_merges(text: str, chars: list[str], vocab_size: int) -> list[tuple[int, int]]:
    """The pairs to merge, each time the commonest, until there are vocab_size tokens.

    Of pairs that are equally common, the pair whose tokens were learnt first is merged.
    """
    # The text repeats its pieces, so the pairs of each are counted once, and then multiplied.
    occurrences = Counter(PIECE.findall(text))
    characters = CharTokenizer("".join(chars))
    tokens = {piece: characters.encode(piece) for piece in occurrences}
    pairs, pieces_with = Counter(), defaultdict(set)

    def count(piece: str, times: int) -> None:
        for pair in pairwise(tokens[piece]):
            pairs[pair] += times
            pieces_with[pair].add(piece)

    for piece in tokens:
        count(piece, occurrences[piece])
    merges = []
    while len(chars) + len(merges) < vocab_size and any(pairs.values()):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for piece in list(pieces_with[best]):
            count(piece, -occurrences[piece])
            tokens[piece] = merge(tokens[piece], best, len(chars) + len(merges))
            count(piece, occurrences[piece])
        merges.append(best)
    return merges


class PairTokenizer(CharTokenizer):
    """Turns a text into tokens and back: a token is a character, or a pair that was merged."""

    def __init__(self, chars: list[str], merges: list[tuple[int, int]]) -> None:
        super().__init__("".join(chars))
        self.merged = {pair: len(chars) + i for i, pair in enumerate(merges)}
        self.pieces = list(chars)  # the text of each token
        for left, right in merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.vocab_size = len(self.pieces)  # V

    def encode(self, text: str) -> list[int]:
        """The tokens of a text: in each piece, pairs are merged in the order they were learnt."""
        characters, encoded = super().encode(text), []
        for piece in PIECE.finditer(text):
            tokens = characters[piece.start() : piece.end()]
            while known := [pair for pair in pairwise(tokens) if pair in self.merged]:
                first = min(known, key=self.merged.get)
                tokens = merge(tokens, first, self.merged[first])
            encoded += tokens
        return encoded

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens: the inverse of encode."""
        return "".join([self.pieces[token] for token in tokens])


def main(config: Config) -> tuple[nn.Module, Corpus]:
    """Train the models, print what the last one writes, and return it and the corpus."""
    torch.manual_seed(config.seed)
    device = select_device(config.device)
    texts = read_text(config.data)
    chars = CharTokenizer(texts["train"] + texts["val"]).chars
    merges = learn_merges(texts["train"], chars, config.vocab_size)
    corpus = Corpus(texts, PairTokenizer(chars, merges), device, config.seed)
    tokenizer = corpus.tokenizer
    # A model can only continue a text. Without a prompt it continues chars[0], here a line end.
    idx = torch.tensor([tokenizer.encode(config.prompt or tokenizer.chars[0])], device=device)
    model = LanguageModel(config, tokenizer.vocab_size).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    precision = "bfloat16" if uses_bfloat16(config, device) else "float32"
    print(f"{parameters:,} parameters on {device}, {precision}", flush=True)
    # Ctrl-C ends one training, not the run: the next one begins, or the model writes its sample.
    with contextlib.suppress(KeyboardInterrupt):
        train(model, corpus, config)
    # The last model is that of step 18, so it gets step 18's batch, the share of a single member.
    # Smaller batches, and more of them, make an evaluation as long as before.
    teacher, n = model.eval(), config.n_member
    print(f"a single model with {parameters // n:,} parameters learns from them", flush=True)
    single = dataclasses.replace(
        config,
        n_member=1,
        batch_size=max(1, config.batch_size // n),
        eval_iters=config.eval_iters * n,
    )
    model = LanguageModel(single, tokenizer.vocab_size).to(device)
    with contextlib.suppress(KeyboardInterrupt):
        train(model, corpus, single, teacher)
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
