"""Step 16, many: the same training shared by several processes, on one machine or on several.

New: `torchrun --standalone --nproc-per-node=2 beyond/16_many.py` starts two. Each takes a slice of
every batch, and the mean of their gradients is the gradient of the batch, so that the number of
processes changes the time and not the curve; CPUs talk by gloo, GPUs by nccl. arXiv 2006.15704
A model too large for one GPU takes `fully_shard` in the place of DistributedDataParallel: each rank
then holds a share of every weight; save, resume and Muon, which need whole ones, have to gather it.
"""

import argparse
import dataclasses
import datetime
import hashlib
import io
import math
import os
import pickle
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

if __name__ == "__main__":  # on Linux: threads that wait sleep sooner, and leave the core to others
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim import Optimizer
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # finds common/ from anywhere
from common.data import TINY_SHAKESPEARE, Corpus, Vocabulary, load_corpus
from common.device import select_device

CHECKPOINT = Path(__file__).resolve().parent.parent / "runs" / f"{Path(__file__).stem}.pt"
# What torchrun tells each process; without it there is one. Rank 0 prints, saves and samples.
RANK = int(os.environ.get("RANK", 0))
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))
RUN = os.environ.get("TORCHELASTIC_RUN_ID", "")


@dataclasses.dataclass
class Config:
    """Every setting of a run; on the command line each is a flag, max_iters as --max-iters."""

    batch_size: Annotated[int, "sequences in a batch (B)"] = 64
    block_size: Annotated[int, "longest context in characters (T)"] = 256
    n_embd: Annotated[int, "width of the embeddings (C)"] = 384
    n_head: Annotated[int, "attention heads, which share the width"] = 6
    n_layer: Annotated[int, "blocks, one above the other"] = 6
    dropout: Annotated[float, "share of activations set to 0 in training"] = 0.2
    learning_rate: Annotated[float, "highest learning rate"] = 1e-3
    warmup_iters: Annotated[int, "optimiser steps in which the learning rate rises"] = 100
    weight_decay: Annotated[float, "decay of matrices in AdamW"] = 0.1
    max_iters: Annotated[int, "optimiser steps"] = 5000
    eval_interval: Annotated[int, "optimiser steps between evaluations"] = 500
    eval_iters: Annotated[int, "batches of each split in an evaluation"] = 50
    eval_batch_size: Annotated[int, "sequences in each batch of an evaluation"] = 128
    size: Annotated[str, "full, laptop, or auto: laptop on a CPU"] = "auto"
    float32: Annotated[bool, "no bfloat16, even where the processor is built for it"] = False
    compile: Annotated[bool, "train with torch.compile, which needs a C++ compiler"] = False
    data: Annotated[Path, "UTF-8 text to learn from"] = TINY_SHAKESPEARE
    device: Annotated[str, "auto, cpu, cuda, cuda:1 or mps"] = "auto"
    seed: Annotated[int, "seed of every random draw"] = 1337
    prompt: Annotated[str, "what the sample goes on from"] = ""
    max_new_tokens: Annotated[int, "characters to sample after training"] = 500
    temperature: Annotated[float, "divides the logits; below 1 favours likely characters"] = 1.0
    top_k: Annotated[int, "sample from the k likeliest characters; 0: from all"] = 0
    checkpoint: Annotated[Path, "where the model is kept"] = CHECKPOINT
    resume: Annotated[bool, "go on training from the checkpoint"] = False
    sample: Annotated[bool, "sample from the checkpoint, without training"] = False

    def __post_init__(self) -> None:
        may_be_zero = ("dropout", "weight_decay", "max_iters", "seed", "max_new_tokens", "top_k")
        for name, value in vars(self).items():
            if type(value) in (int, float):
                enough = value >= 0 if name in may_be_zero else value > 0  # NaN is neither
                if not enough or value > sys.maxsize:
                    raise ValueError(f"{name} must not be {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be a multiple of n_head {self.n_head}")
        if self.n_embd // self.n_head % 2:
            raise ValueError(f"n_embd / n_head, {self.n_embd // self.n_head}, must be even")
        if self.dropout >= 1:
            raise ValueError(f"dropout {self.dropout} must be below 1")
        if self.size not in ("full", "laptop", "auto"):
            raise ValueError(f"size {self.size} must be full, laptop or auto")
        if not self.sample and (self.batch_size % PROCESSES or self.eval_batch_size % PROCESSES):
            sizes = f"batch_size {self.batch_size} and eval_batch_size {self.eval_batch_size}"
            raise ValueError(f"{sizes} must be multiples of the {PROCESSES} processes")


# What the laptop size has in the place of Config's defaults.
LAPTOP = {"batch_size": 16, "block_size": 64, "n_embd": 96, "n_head": 3, "dropout": 0.0}
LAPTOP |= {"learning_rate": 1e-2, "max_iters": 2000, "eval_iters": 5}
# The settings that --sample heeds; the shape comes from the checkpoint.
SAMPLING = {"sample", "checkpoint", "device", "seed", "prompt", "max_new_tokens"}
SAMPLING |= {"temperature", "top_k"}
SHAPE = ("block_size", "n_embd", "n_head", "n_layer")  # of the model, kept with its weights


class Rotary(nn.Module):
    """Pairs of features turned by angles that grow with the position, (..., T, head_size)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        half = config.n_embd // config.n_head // 2
        frequencies = 10000 ** (-torch.arange(half) / half)  # (head_size / 2), from 1 downwards
        self.register_buffer("frequencies", frequencies)

    def forward(self, x: Tensor, start: int) -> Tensor:
        positions = torch.arange(start, start + x.shape[-2], device=x.device)  # endless: no table
        angles = torch.outer(positions, self.frequencies)  # (T, head_size / 2)
        a, b = x.chunk(2, dim=-1)  # (..., T, head_size / 2) each; an index of a and b is a pair
        cos, sin = angles.cos(), angles.sin()  # (T, head_size / 2)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Cache:
    """Keys and values of a layer at the last block_size positions of a text."""

    def __init__(self, block_size: int) -> None:
        self.block_size, self.length = block_size, 0  # length: of the text so far

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add T positions, one by one once it is full; return all, (B, n_head, S, head_size).

        They stand in the order of the text until it is full. Then the order does not matter: a key
        has its position in it, and a single query looks at all of them.
        """
        B, n_head, T, head_size = k.shape
        if self.length == 0:
            self.k, self.v = k.new_empty((2, B, n_head, self.block_size, head_size))
        i = self.length % self.block_size  # at last in the place of the oldest
        self.k[:, :, i : i + T], self.v[:, :, i : i + T] = k, v
        self.length += T
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class MultiHeadAttention(nn.Module):
    """Heads side by side, (B, T, C) to (B, T, C); arXiv 1706.03762, section 3.2.2."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.rotary = Rotary(config)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("tril", torch.tril(torch.ones(config.block_size, config.block_size)))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, n_head, T, head_size) each
        qk = F.rms_norm(torch.stack((q, k)), q.shape[-1:])  # both at once, arXiv 1910.07467
        q, k = self.rotary(qk, cache.length if cache else 0)
        if cache:
            k, v = cache.add(k, v)
        S = k.shape[2]  # the positions to look at, of which the last T look
        if T == 1 or (x.is_cuda and T == S):  # on mps it went wrong, bfloat16 on a CPU was slower
            dropout = self.dropout.p if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=T > 1)
            return self.dropout(self.proj(x.transpose(1, 2).reshape(B, T, C)))  # (B, T, C)
        scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, n_head, T, S)
        scores = scores.masked_fill(self.tril[S - T : S, :S] == 0, float("-inf"))  # the future
        weights = F.softmax(scores, dim=-1)  # (B, n_head, T, S), each row sums to 1
        x = self.dropout(weights) @ v  # (B, n_head, T, head_size)
        x = x.transpose(1, 2).reshape(B, T, C)  # n_head * head_size = C
        return self.dropout(self.proj(x))  # (B, T, C)


class FeedForward(nn.Module):
    """Each position transformed on its own, (B, T, C) to (B, T, C); SwiGLU: arXiv 2002.05202."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = 8 * config.n_embd // 3  # three matrices so wide have the weights of two of 4 C
        self.gate = nn.Linear(config.n_embd, hidden)
        self.up = nn.Linear(config.n_embd, hidden)
        self.down = nn.Linear(hidden, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.gate(x)) * self.up(x)  # (B, T, 8/3 C), each feature times its gate
        return self.dropout(self.down(x))  # (B, T, C)


class Block(nn.Module):
    """Communication, then computation: (B, T, C) to (B, T, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.n_embd)  # arXiv 1607.06450
        self.norm2 = nn.LayerNorm(config.n_embd)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), cache)  # (B, T, C), residual: arXiv 1512.03385
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
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:  # at first each passes x on as it is
            nn.init.zeros_(block.attention.proj.weight)
            nn.init.zeros_(block.feed_forward.down.weight)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, caches: list[Cache] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of what follows, and their mean loss in nats: None without targets."""
        x = self.token_embedding(idx)  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None)  # (B, T, C)
        logits = self.lm_head(self.norm(x))  # (B, T, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,)
        return logits, loss

    @torch.inference_mode()  # as no_grad, with less work in each call
    def generate(
        self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int = 0
    ) -> Iterator[Tensor]:
        """Continue idx (B, T) in evaluation mode, yielding each next character (B, 1) as drawn."""
        self.eval()
        caches = [Cache(self.block_size) for _ in self.blocks]
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx, caches=caches)  # (B, T, V)
            logits = logits[:, -1] / temperature  # (B, V)
            if 0 < top_k < logits.shape[-1]:
                smallest = logits.topk(top_k).values[:, -1:]  # (B, 1), the k-th largest
                logits = logits.masked_fill(logits < smallest, float("-inf"))
            probs = F.softmax(logits, dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = idx_next  # (B, 1), the caches hold the rest
            yield idx_next


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Inside it matrices are multiplied in bfloat16, where the processor is built for that."""
    built = False  # most CPUs are slower with it; on mps it was not tried
    if device.type == "cuda":
        built = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        built = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=built and not config.float32)


def total(number: float) -> float:
    """The sum of a number over all processes, which wait for each other here."""
    tensor = torch.tensor(number, dtype=torch.float64)
    if PROCESSES > 1:
        dist.all_reduce(tensor)
    return tensor.item()


@torch.no_grad()
def estimate_loss(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> dict:
    """Mean loss of each split in nats per character, over eval_iters random batches."""
    model.eval()
    means = {}
    for split in ("train", "val"):
        losses = torch.zeros(config.eval_iters)
        for i in range(config.eval_iters):
            x, y = corpus.batch(split, config.eval_batch_size, config.block_size, device)  # (B, T)
            with autocast(config, device):
                _, loss = model(x[RANK::PROCESSES], y[RANK::PROCESSES])
            losses[i] = loss.item()
        means[split] = total(losses.mean().item()) / PROCESSES
    model.train()
    return means


def must_agree(config: Config, corpus: Corpus) -> dict:
    """What a checkpoint and the run that resumes it have in common: shape, vocabulary and text."""
    text = hashlib.sha256(torch.cat(list(corpus.splits.values())).numpy()).hexdigest()
    return {name: getattr(config, name) for name in SHAPE} | {"chars": corpus.chars, "text": text}


def generators(model: nn.Module) -> list:
    """Where random numbers come from: the CPU's generator (batches), and a GPU's own (dropout)."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of several GPUs, the one whose generator is meant
    return [torch] if device.type == "cpu" else [torch, torch.get_device_module(device)]


def save(model: nn.Module, optimizer: Optimizer, config: Config, agreed: dict, step: int) -> bool:
    """Put a checkpoint in the place of the last one, whole or not at all: True if it is there."""
    if not all(p.isfinite().all() for p in model.parameters()):
        return False  # a model that has diverged does not replace a good one
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}
    states = [generator.get_rng_state() for generator in generators(model)]
    checkpoint = agreed | {"script": CHECKPOINT.stem, "step": step, "config": settings, "run": RUN}
    checkpoint |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    content, part = io.BytesIO(), config.checkpoint.with_suffix(f".{os.getpid()}.part")
    torch.save(checkpoint | {"random": states}, content)  # to a file, it would hide what failed
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.getbuffer())
        part.replace(config.checkpoint)
    except OSError as error:
        print(f"step {step} is not saved: {part}: {error.strerror}", file=sys.stderr)
        return False
    finally:
        if part.exists():
            part.unlink()
    return True


def load(path: Path) -> dict:
    """The checkpoint at path, on the CPU; where there is none, the program ends with the reason."""
    parts = ["script", "step", "config", "random", *SHAPE, "chars", "text", "model", "optimizer"]
    try:
        with zipfile.ZipFile(path) as file:  # torch.save writes a zip file, with checksums
            if file.testzip():
                raise zipfile.BadZipFile
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        lacks = [part for part in parts if part not in checkpoint]
    except OSError as error:
        sys.exit(f"no checkpoint {path}: {error.strerror}")
    except pickle.UnpicklingError:
        sys.exit(f"{path} holds other things than weights and settings, and was not loaded")
    except Exception:  # what is damaged can raise anything
        sys.exit(f"{path} is damaged, cut off or no checkpoint")
    if lacks:
        sys.exit(f"{path} lacks {', '.join(lacks)}: another program or version made it")
    if checkpoint["script"] != CHECKPOINT.stem:
        sys.exit(f"{path} is a model of {checkpoint['script']}.py, not of {CHECKPOINT.stem}.py")
    return checkpoint


def resume(model: nn.Module, optimizer: Optimizer, config: Config, agreed: dict) -> int:
    """Put everything back as the checkpoint has it, and return how many steps had been taken."""
    then = load(config.checkpoint)
    differ = [name for name in agreed if then[name] != agreed[name]]
    other = [f"{name} {then[name]}, not {agreed[name]}" for name in differ if name in SHAPE]
    if "chars" in differ or "text" in differ:
        other.append(f"the text {then['config']['data']}, not {config.data} as it is now")
    if then["step"] > config.max_iters:
        other.append(f"{then['step']} steps, more than --max-iters {config.max_iters}")
    if other:
        sys.exit(f"{config.checkpoint} cannot be resumed, it has {'; '.join(other)}")
    model.load_state_dict(then["model"])
    settings = {"param_groups": optimizer.state_dict()["param_groups"]}  # those of this run
    optimizer.load_state_dict(then["optimizer"] | settings)
    for generator, state in zip(generators(model), then["random"], strict=False):
        generator.set_rng_state(state)
    return then["step"]


def hold_ctrl_c() -> list:
    """A list that is filled when Ctrl-C is pressed; pressed again, it ends the program at once."""
    pressed = []

    def hold(*_: object) -> None:
        pressed.append(True)
        if PROCESSES > 1:  # torchrun hands it on to all: a second one must not end one that saves
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    signal.signal(signal.SIGINT, hold)
    return pressed


def schedule(step: int, config: Config) -> float:
    """The share of the learning rate at a step: it rises to 1 in the warm-up, then falls to 0."""
    rise = (step + 1) / config.warmup_iters
    fall = (config.max_iters - step) / max(1, config.max_iters - config.warmup_iters)
    return min(1, rise, fall)


def orthogonal(x: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values brought to between 0.7 and 1.2.

    Each Newton-Schulz step takes a singular value s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5.
    """
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT).mT  # the products below are smaller
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # none above 1, where the steps diverge
    for _ in range(5):
        a = x @ x.mT  # (n, rows, rows)
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)  # -4.7750 a + 2.0315 a a
        x = torch.baddbmm(x, b, x, beta=3.4445)  # 3.4445 x + b x
    return x


@torch.no_grad()
def muon(optimizer: Optimizer) -> None:
    """Move the matrices, in the groups that have "parts", and leave the rest to the optimiser."""
    for group in [group for group in optimizer.param_groups if "parts" in group]:
        updates = []
        for p in group["params"]:
            state = optimizer.state[p]
            if not state:  # like AdamW's own it has a step, which load_state_dict looks for
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
            state["momentum"].lerp_(p.grad, 0.15)  # 0.05 is usual; docs/tried.md
            updates += p.grad.lerp(state["momentum"], 0.85).chunk(group["parts"])
            p.grad = None  # so that AdamW passes it over
        updates = orthogonal(torch.stack(updates))  # (n, rows, columns), all in one go
        scale = 0.2 * max(updates.shape[1:]) ** 0.5  # entries near 0.2, as AdamW's: 2502.16982
        for p, update in zip(group["params"], updates.split(group["parts"]), strict=True):
            p.sub_(update.flatten(0, 1), alpha=group["lr"] * scale)


def stacks_of(model: nn.Module) -> list[dict]:
    """The matrices of the blocks in groups of one shape; queries, keys and values are three."""
    attention = [block.attention for block in model.blocks]
    feed_forward = [block.feed_forward for block in model.blocks]
    wide = [m.weight for layer in feed_forward for m in (layer.gate, layer.up)]
    return [
        {"params": [layer.qkv.weight for layer in attention], "parts": 3},
        {"params": [layer.proj.weight for layer in attention], "parts": 1},
        {"params": wide, "parts": 1},
        {"params": [layer.down.weight for layer in feed_forward], "parts": 1},
    ]


def train(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> None:
    """Take max_iters optimiser steps on random batches, printing both losses on the way."""
    stacks = stacks_of(model)
    in_stacks = {p for group in stacks for p in group["params"]}
    matrices = [p for p in model.parameters() if p.dim() == 2 and p not in in_stacks]
    vectors = [p for p in model.parameters() if p.dim() < 2]  # biases, gains of layer norm
    groups = [{"params": matrices, "weight_decay": config.weight_decay}]
    groups += [{"params": vectors, "weight_decay": 0.0}, *stacks]
    optimizer = torch.optim.AdamW(groups, fused=True)
    agreed = must_agree(config, corpus)
    text = int(agreed["text"][:10], 16)  # 40 bits, which float64 holds exactly
    if total(text) != PROCESSES * text:
        sys.exit("the processes have different texts")
    parallel = DDP(model, forward_sync_buffers=False) if PROCESSES > 1 else model  # all constant
    compiled = torch.compile(parallel, dynamic=False) if config.compile else parallel
    saved = None  # the step that the checkpoint holds
    exists = total(config.checkpoint.exists()) > 0  # on any machine
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun
    if config.resume or (exists and restarted and load(config.checkpoint).get("run") == RUN):
        saved = resume(model, optimizer, config, agreed)
    elif exists:
        sys.exit(f"{config.checkpoint} exists: add --resume, --sample or another --checkpoint")
    start, pressed = saved or 0, hold_ctrl_c()
    if RANK > 0 and device.type == "cuda":
        torch.cuda.manual_seed(config.seed + start + RANK)  # dropout of its own
    steps = range(start, config.max_iters + 1)
    hidden = None if sys.stdout.isatty() else True  # None: shown in a terminal, and only there
    bar = tqdm(steps, initial=start, total=config.max_iters, unit="step", disable=hidden)
    for step in bar:
        evaluate = step % config.eval_interval == 0 or step == config.max_iters
        stop = total(len(pressed)) > 0
        due = step != saved and (evaluate or stop)  # in all processes alike
        if due and total(RANK == 0 and save(model, optimizer, config, agreed, step)):
            saved = step
        if saved is None:
            sys.exit("no model can be kept there: name another --checkpoint")
        if stop:
            holds = f"{config.checkpoint} holds step {saved}"
            stopped = f"stopped after step {step}; {holds}: the same command with --resume goes on"
            if not pressed:  # an error would make the torchrun of this machine start again
                print(stopped, file=sys.stderr)
                sys.exit()
            sys.exit(stopped)
        if evaluate:
            means = estimate_loss(compiled, corpus, config, device)
            bar.clear()  # so that the line does not end up behind it
            print(f"step {step}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            if math.isnan(means["train"]):
                sys.exit("the loss is no longer a number: try a lower --learning-rate")
        if step == config.max_iters:
            break
        x, y = corpus.batch("train", config.batch_size, config.block_size)  # (B, T)
        x, y = x[RANK::PROCESSES], y[RANK::PROCESSES]  # (B / PROCESSES, T)
        if device.type == "cuda":  # from pinned memory, so that the CPU does not wait for the copy
            x, y = x.contiguous().pin_memory(), y.contiguous().pin_memory()
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        x, y = x.to(device), y.to(device)
        with autocast(config, device):
            _, loss = compiled(x, y)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        muon(optimizer)
        optimizer.step()
    if pressed:
        raise KeyboardInterrupt  # in the last evaluation: all is saved


def join(device: torch.device) -> torch.device:
    """Meet the other processes that torchrun has started, and return this one's device."""
    if PROCESSES == 1:
        return device
    if device.type == "mps":
        raise ValueError("processes cannot share a Mac's GPU: add --device cpu")
    if device.index is not None:
        raise ValueError(f"processes take a GPU each: --device {device.type}, without a number")
    if device.type == "cuda":
        select_device(f"cuda:{int(os.environ['LOCAL_WORLD_SIZE']) - 1}")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # total's are on the CPU
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=5))
    except (RuntimeError, ValueError) as error:
        sys.exit(f"the processes have not met: {str(error).splitlines()[0]}")
    if int(os.environ["LOCAL_RANK"]) > 0:  # one process of a machine says what is wrong
        sys.stderr = io.StringIO()
        sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)
    return device


def main(config: Config) -> None:
    """Train a model or load one, then print what it writes after the prompt."""
    torch.manual_seed(config.seed)
    try:
        device = select_device(config.device)
        if config.sample:
            checkpoint = load(config.checkpoint)
            config = dataclasses.replace(config, **{name: checkpoint[name] for name in SHAPE})
            corpus = Vocabulary(checkpoint["chars"])
        else:
            corpus = load_corpus(config.data, config.block_size)
        prompt = corpus.encode(config.prompt or corpus.chars[0])
        if not config.sample:
            device = join(device)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if config.compile:
        try:
            torch.compile(torch.sin)(torch.ones(1, device=device))
        except Exception as error:  # the compiler of the device is missing, or does not work
            reason = str(error).split("\n\n")[0].replace("\n", " ")
            sys.exit(f"--compile does not work here: {reason}")
    model = LanguageModel(config, corpus.vocab_size).to(device)
    if config.sample:
        model.load_state_dict(checkpoint["model"])
    else:
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
        try:
            train(model, corpus, config, device)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if PROCESSES > 1:
                dist.destroy_process_group()
    if RANK > 0:
        return
    print(config.prompt, end="")
    idx = torch.tensor([prompt], device=device)  # (1, T)
    for token in model.generate(idx, config.max_new_tokens, config.temperature, config.top_k):
        print(corpus.decode(token[0]), end="", flush=True)
    print()


def parse_args(argv: list[str] | None = None) -> Config:
    """The settings that a command line asks for; a wrong one ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)  # errors: 1 line
    for field in dataclasses.fields(Config):
        kind, note = get_args(field.type)
        flag = "--" + field.name.replace("_", "-")
        how = {"action": "store_true"} if kind is bool else {"type": kind}
        parser.add_argument(flag, default=field.default, help=note + " = %(default)s", **how)
    try:
        args = parser.parse_args(argv)
        on_cpu = select_device(args.device).type == "cpu"
        if args.size == "laptop" or (args.size == "auto" and on_cpu):
            parser.set_defaults(**LAPTOP)
        args = parser.parse_args(argv)
        parser.set_defaults(**dict.fromkeys(vars(args)))  # None, which no flag gives
        given = {name for name, value in vars(parser.parse_args(argv)).items() if value is not None}
        if args.sample and given - SAMPLING:
            flags = ", ".join("--" + name.replace("_", "-") for name in sorted(given - SAMPLING))
            raise ValueError(f"--sample trains nothing and has no use for {flags}")
        return Config(**vars(args))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # any console, and pipes
    if RANK > 0:
        sys.stdout = io.StringIO()
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        time.sleep(1)  # the first process of a machine says what is wrong, and torchrun ends all
    try:
        main(parse_args())
    except (KeyboardInterrupt, BrokenPipeError):
        print("\nstopped", file=sys.stderr)
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
