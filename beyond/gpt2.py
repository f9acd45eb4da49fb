"""GPT-2: the code of step 8 runs the model that OpenAI published in 2019.

New: the weights and the tokenizer come from files. The model differs in three places: queries, keys
and values have biases, GELU (arXiv 1606.08415) replaces ReLU, and the last layer has no bias and
takes the matrix of the token embedding. --max-iters 20 trains the model further on --data, in 4.5
GB of memory.
Paper: "Language Models are Unsupervised Multitask Learners", Radford and others, 2019
Expect the logits of Hugging Face's GPT-2: with random weights they are equal to within 1e-4. We
could not download the real weights, so we know no loss of them: --max-iters 1 prints it at step 0.
Try --prompt "The dog" --temperature 0: a test of Hugging Face's GPT-2 expects " was found in a
field near the intersection of West and West Streets."
"""

import argparse
import codecs
import contextlib
import dataclasses
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm, trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # finds common/ from any folder
from common import InputError
from common.data import TINY_SHAKESPEARE, Corpus, read_text
from common.device import select_device


@dataclasses.dataclass
class Config:
    """Every setting of a run; each but those of SHAPE is a flag: --batch-size 64."""

    batch_size: int = 1  # sequences in a batch (B)
    block_size: int = 1024  # longest context in tokens (T)
    n_embd: int = 768  # width of the embeddings (C)
    n_head: int = 12  # attention heads, which share the width
    n_layer: int = 12  # blocks, one above the other
    dropout: float = 0.0  # share of activations set to 0 in training
    learning_rate: float = 3e-5  # of AdamW
    max_iters: int = 0  # optimiser steps
    eval_interval: int = 50  # optimiser steps between evaluations
    eval_iters: int = 10  # batches of each split in an evaluation
    weights: str = ""  # folder with FILES; without one they come from the hub
    data: Path = TINY_SHAKESPEARE  # UTF-8 text to learn from
    device: str = "auto"  # cpu, cuda, cuda:1, mps, or auto: the fastest there is
    seed: int = 1337  # of every random draw
    prompt: str = ""  # the sample continues this text
    max_new_tokens: int = 100  # tokens to sample
    temperature: float = 0.8  # below 1 favours likely tokens; 0 takes the likeliest
    top_k: int = 200  # draw from the k likeliest tokens; 0 from all


SHAPE = ("n_embd", "n_head", "n_layer")  # what config.json decides


class MultiHeadAttention(nn.Module):
    """Causal attention, all heads at once, (B, T, C) to (B, T, C); 1706.03762, section 3.2.2."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.n_embd % config.n_head == 0, (
            f"n_head {config.n_head} does not divide n_embd {config.n_embd}"
        )
        self.n_head = config.n_head
        # One product for the queries, keys and values of all heads: few large products are faster.
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
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
            nn.GELU(approximate="tanh"),  # the form that OpenAI used
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
        self.lm_head = nn.Linear(config.n_embd, vocab_size, bias=False)
        # One matrix in two places: a token scores high where the output resembles its embedding.
        self.lm_head.weight = self.token_embedding.weight
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
    def generate(
        self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int = 0
    ) -> Iterator[Tensor]:
        """Continue the tokens idx (B, T), and yield each next token (B, 1) when it is drawn."""
        self.eval()
        if temperature == 0:  # its limit: the likeliest token
            temperature, top_k = 1.0, 1
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx)  # (B, T, V)
            logits = logits[:, -1] / temperature  # (B, V)
            if top_k:
                smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]  # (B, 1)
                logits = logits.masked_fill(logits < smallest, float("-inf"))
            probs = F.softmax(logits, dim=-1)  # (B, V)
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
        # A loss per token grows with the length of the tokens, so the mean is given per character.
        tokens_per_char = len(corpus.splits[split]) / len(corpus.texts[split])
        means[split] = losses.mean().item() * tokens_per_char
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


REPO = "openai-community/gpt2"
REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
FILES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")


def download() -> Path:
    """The folder with FILES in the hub's cache: what is not yet there is downloaded."""
    from huggingface_hub import hf_hub_download, logging
    from huggingface_hub.errors import LocalEntryNotFoundError

    logging.set_verbosity_error()  # its errors end here in one line
    print(f"GPT-2 is {REPO} on the hub: the first run downloads 550 MB", flush=True)
    try:
        for name in FILES:
            path = hf_hub_download(REPO, name, revision=REVISION)
    except Exception as error:  # those of the hub, of its client, of the disk
        reason = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, LocalEntryNotFoundError):
            reason = "no network, or no answer from the hub"
        folder = TINY_SHAKESPEARE.with_name("gpt2")
        raise InputError(
            f"GPT-2 could not be downloaded ({reason}): save {', '.join(FILES)} "
            f"from https://huggingface.co/{REPO}/tree/{REVISION} in {folder} "
            f"and add --weights {folder}"
        ) from None
    return Path(path).parent


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Raises InputError for whatever is wrong with the file that is read inside."""
    try:
        path.open("rb").close()  # safetensors does not give the system's reason
        yield path
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # those of json, of safetensors, and our own
        raise InputError(f"cannot use {path}: {type(error).__name__}: {error}") from None


# GPT-2's pattern: a token stays within a piece, which is a word, a number or signs, each with the
# space before it, or white space. `re` has no name for a letter: \w takes "_" and numbers, too.
NUMBERS = "".join(c for c in map(chr, range(0x110000)) if c.isnumeric() and not c.isalpha())
PIECE = re.compile(
    rf"'(?:s|t|re|ve|m|ll|d)| ?[^\W_{NUMBERS}]+| ?[{NUMBERS}]+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
)


def merge(tokens: list[int], pair: tuple[int, int], merged: int) -> list[int]:
    """The tokens with each such pair, from left to right, replaced by the merged token."""
    new = []
    for token in tokens:
        if new and (new[-1], token) == pair:
            new[-1] = merged
        else:
            new.append(token)
    return new


class PairTokenizer:
    """Turns a text into tokens and back: a token is a byte, or a pair that was merged."""

    def __init__(self, folder: Path) -> None:
        # The files write each byte as a character: printable ones as they are, others from 256 on.
        printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
        others = count(256)
        chars = [chr(byte if byte in printable else next(others)) for byte in range(256)]
        byte_of = {char: byte for byte, char in enumerate(chars)}
        with reading(folder / "vocab.json") as path:
            vocabulary = json.loads(path.read_text(encoding="utf-8"))  # " the" is "\u0120the": 262
            self.byte_tokens = [vocabulary[char] for char in chars]
            self.bytes = defaultdict(bytes)  # of each token; none where only the model knows it
            for text, token in vocabulary.items():
                self.bytes[token] = bytes([byte_of[char] for char in text])
            self.vocab_size = max(self.bytes) + 1  # V
        with reading(folder / "merges.txt") as path:
            lines = path.read_text(encoding="utf-8").splitlines()
            pairs = [line.split() for line in lines if line and not line.startswith("#version")]
            # Of each pair its rank and its token: what was learnt first is merged first.
            self.merged = {
                (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right])
                for rank, (left, right) in enumerate(pairs)
            }
        self.pieces = {}  # those encoded so far, with their tokens

    def encode(self, text: str) -> list[int]:
        """The tokens of a text: in each piece, pairs are merged in the order they were learnt."""
        encoded = []
        for piece in PIECE.findall(text):
            if piece not in self.pieces:
                tokens = [self.byte_tokens[byte] for byte in piece.encode(errors="replace")]
                while known := self.merged.keys() & set(pairwise(tokens)):
                    first = min(known, key=self.merged.get)
                    tokens = merge(tokens, first, self.merged[first][1])
                self.pieces[piece] = tokens
            encoded += self.pieces[piece]
        return encoded

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens: the inverse of encode."""
        return b"".join([self.bytes[token] for token in tokens]).decode(errors="replace")


# What GPT-2's files call our parameters.
NAMES = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "blocks": "h",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "feed_forward.net.0": "mlp.c_fc",
    "feed_forward.net.2": "mlp.c_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "norm.": "ln_f.",
}


@torch.no_grad()
def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with the numbers of a safetensors file."""
    from safetensors.torch import load_file

    with reading(path):
        tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
        for name, parameter in model.named_parameters():
            for ours, theirs in NAMES.items():
                name = name.replace(ours, theirs)
            tensor = tensors.pop(name)
            if name == "wpe.weight":
                tensor = tensor[: model.block_size]  # a shorter context has fewer positions
            elif tensor.ndim == 2 and name != "wte.weight":
                tensor = tensor.T  # the file has (in, out), nn.Linear has (out, in)
            if tensor.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(tensor)
        # The rest are masks, each called attn.bias; a weight among it belongs to another model.
        if unknown := [name for name in tensors if name.endswith(".weight")]:
            raise ValueError(f"this model has no {unknown[0]}")


def load(config: Config) -> tuple[Config, nn.Module, PairTokenizer]:
    """GPT-2, from --weights or from the hub, and config with its shape."""
    try:
        folder = Path(config.weights) if config.weights else download()
        tokenizer = PairTokenizer(folder)
        with reading(folder / "config.json") as path:
            theirs = json.loads(path.read_text(encoding="utf-8"))
            ours = {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
            if others := [name for name in ours if theirs.get(name, ours[name]) != ours[name]]:
                raise ValueError(f"this model has no other {others[0]} than {ours[others[0]]}")
            if theirs["vocab_size"] < tokenizer.vocab_size:
                raise ValueError(f"vocab_size is {theirs['vocab_size']}, vocab.json has more")
            config = dataclasses.replace(config, **{name: theirs[name] for name in SHAPE})
            config.block_size = min(config.block_size, theirs["n_positions"])
            model = LanguageModel(config, theirs["vocab_size"])
        load_weights(model, folder / "model.safetensors")
    except ModuleNotFoundError as error:
        requirements = Path(__file__).with_name("requirements.txt")
        raise InputError(f"{error}: python -m pip install -r {requirements}") from None
    return config, model, tokenizer


def main(config: Config) -> tuple[nn.Module, Corpus | None]:
    """Load GPT-2, train it if asked to, print what it writes after the prompt, and return both."""
    torch.manual_seed(config.seed)
    device = select_device(config.device)
    config, model, tokenizer = load(config)
    # A model can only continue: without a prompt, it continues a line end.
    idx = torch.tensor([tokenizer.encode(config.prompt or "\n")], device=device)
    model = model.to(device)
    n = sum(p.numel() for p in model.parameters())
    print(f"{n:,} parameters on {device}", flush=True)
    corpus = None
    if config.max_iters > 0:
        corpus = Corpus(read_text(config.data), tokenizer, device, config.seed)
        # Numbers of 4 bytes: the weights, their gradients, two averages of these in AdamW and some
        # room; for each position what the layers keep for the backward pass, and the logits.
        layer = 16 * config.n_embd + config.n_head * config.block_size
        position = config.n_layer * layer + 4 * model.lm_head.out_features
        numbers = 5 * n + config.batch_size * config.block_size * position
        print(f"training takes about {4 * numbers / 1e9:.1f} GB of memory", flush=True)
        # Ctrl-C ends the training, and the model writes its sample; Ctrl-C then ends the sample.
        with contextlib.suppress(KeyboardInterrupt):
            train(model, corpus, config)
    # A console may lack characters that GPT-2 writes: those become "?".
    with contextlib.suppress(AttributeError):  # a notebook lacks none, and has no reconfigure
        sys.stdout.reconfigure(errors="replace")
    print(config.prompt, end="")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may span tokens
    with contextlib.suppress(KeyboardInterrupt):
        for token in model.generate(idx, config.max_new_tokens, config.temperature, config.top_k):
            print(decoder.decode(tokenizer.bytes[token.item()]), end="", flush=True)
    print(decoder.decode(b"", final=True))
    return model, corpus


def parse_args(argv: list[str] | None = None) -> Config:
    """The settings that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=inspect.getsource(Config),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in dataclasses.fields(Config):
        if field.name not in SHAPE:
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(flag, type=field.type, default=field.default)
    return Config(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    model, corpus = main(parse_args())
