"""Exercise 3, fine-tuning: a large text first, then a little of a small one, or that one alone.

New: three trainings in one run, each with a checkpoint of its own; the large text in the small
one's vocabulary, and refused where it has passages of the validation split; val loss over all of
that split. With no flags the first text is the manual that Python has along: there without a
network, but no larger, and so unlike a play that it costs, val loss 1.85 against 1.78. All three
take five to six minutes on two cores. What came of the King James Bible is in the README.
"""

import argparse
import dataclasses
import hashlib
import io
import math
import os
import pickle
import re
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

if __name__ == "__main__":  # on Linux: threads that wait sleep sooner, and leave the core to others
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # finds common/ from anywhere
from common.data import TINY_SHAKESPEARE, Corpus, Vocabulary, load_corpus
from common.device import select_device

CHECKPOINT = Path(__file__).resolve().parent.parent / "runs" / f"{Path(__file__).stem}.pt"
MANUAL = CHECKPOINT.with_name("python_manual.txt")


@dataclasses.dataclass
class Config:
    """Every setting of a run; on the command line each is a flag, max_iters as --max-iters."""

    batch_size: Annotated[int, "sequences in a batch (B)"] = 64
    block_size: Annotated[int, "longest context in characters (T)"] = 256
    n_embd: Annotated[int, "width of the embeddings (C)"] = 384
    n_head: Annotated[int, "attention heads, which share the width"] = 6
    n_layer: Annotated[int, "blocks, one above the other"] = 6
    dropout: Annotated[float, "share of activations set to 0 in training"] = 0.2
    learning_rate: Annotated[float, "learning rate of AdamW, but for fine-tuning"] = 3e-4
    max_iters: Annotated[int, "optimiser steps on the small text alone"] = 5000
    eval_interval: Annotated[int, "optimiser steps between evaluations"] = 500
    eval_iters: Annotated[int, "batches of the training split in an evaluation"] = 50
    eval_batch_size: Annotated[int, "sequences in each batch of an evaluation"] = 128
    size: Annotated[str, "full, laptop, or auto: laptop on a CPU"] = "auto"
    pretrain_iters: Annotated[int, "optimiser steps on the large text"] = 5000
    finetune_iters: Annotated[int, "optimiser steps on the small text, from there on"] = 1000
    finetune_rate: Annotated[float, "learning rate of these"] = 3e-5
    pretrain_data: Annotated[Path, "large UTF-8 text; the default is made where missing"] = MANUAL
    data: Annotated[Path, "small UTF-8 text to learn from"] = TINY_SHAKESPEARE
    device: Annotated[str, "auto, cpu, cuda, cuda:1 or mps"] = "auto"
    seed: Annotated[int, "seed of every random draw"] = 1337
    prompt: Annotated[str, "what the sample goes on from"] = ""
    max_new_tokens: Annotated[int, "characters to sample after training"] = 500
    temperature: Annotated[float, "divides the logits; below 1 favours likely characters"] = 1.0
    top_k: Annotated[int, "sample from the k likeliest characters; 0: from all"] = 0
    checkpoint: Annotated[Path, "where the model is kept, and beside it the others"] = CHECKPOINT
    resume: Annotated[bool, "go on training from the checkpoint"] = False
    sample: Annotated[bool, "sample from the checkpoint, without training"] = False

    def __post_init__(self) -> None:
        may_be_zero = ("dropout", "max_iters", "seed", "max_new_tokens", "top_k")
        may_be_zero += ("pretrain_iters", "finetune_iters")
        for name, value in vars(self).items():
            if type(value) in (int, float):
                enough = value >= 0 if name in may_be_zero else value > 0  # NaN is neither
                if not enough or value > sys.maxsize:
                    raise ValueError(f"{name} must not be {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be a multiple of n_head {self.n_head}")
        if self.dropout >= 1:
            raise ValueError(f"dropout {self.dropout} must be below 1")
        if self.size not in ("full", "laptop", "auto"):
            raise ValueError(f"size {self.size} must be full, laptop or auto")


# What the laptop size has in the place of Config's defaults.
LAPTOP = {"batch_size": 16, "block_size": 64, "n_embd": 96, "n_head": 3, "dropout": 0.0}
LAPTOP |= {"learning_rate": 1e-3, "max_iters": 2000, "eval_iters": 5}
LAPTOP |= {"eval_interval": 250, "pretrain_iters": 2000}
LAPTOP |= {"finetune_iters": 1000, "finetune_rate": 1e-4}
# The settings that --sample heeds; the shape comes from the checkpoint.
SAMPLING = {"sample", "checkpoint", "device", "seed", "prompt", "max_new_tokens"}
SAMPLING |= {"temperature", "top_k"}
SHAPE = ("block_size", "n_embd", "n_head", "n_layer")  # of the model, kept with its weights
PASSAGE = 60  # so many letters in a row are no coincidence


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
    def generate(
        self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int = 0
    ) -> Iterator[Tensor]:
        """Continue idx (B, T) in evaluation mode, yielding each next character (B, 1) as drawn."""
        self.eval()
        for _ in range(max_new_tokens):
            idx = idx[:, -self.block_size :]  # (B, T), as far back as there are positions
            logits, _ = self(idx)  # (B, T, V)
            logits = logits[:, -1] / temperature  # (B, V)
            if 0 < top_k < logits.shape[-1]:
                smallest = logits.topk(top_k).values[:, -1:]  # (B, 1), the k-th largest
                logits = logits.masked_fill(logits < smallest, float("-inf"))
            probs = F.softmax(logits, dim=-1)  # (B, V)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T+1)
            yield idx_next


@torch.no_grad()
def estimate_loss(model: nn.Module, corpus: Corpus, config: Config, device: torch.device) -> dict:
    """Mean loss in nats per character: of eval_iters random batches, of all windows of val."""
    model.eval()
    means = {}
    losses = torch.zeros(config.eval_iters)
    for i in range(config.eval_iters):
        x, y = corpus.batch("train", config.eval_batch_size, config.block_size, device)  # (B, T)
        _, loss = model(x, y)
        losses[i] = loss.item()
    means["train"] = losses.mean().item()
    windows = corpus.splits["val"].unfold(0, config.block_size + 1, config.block_size)  # (N, T+1)
    total = 0.0
    for batch in windows.split(config.eval_batch_size):
        batch = batch.long().to(device)  # (B, T+1), each character predicted once
        _, loss = model(batch[:, :-1], batch[:, 1:])
        total += loss.item() * len(batch)
    means["val"] = total / len(windows)
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
    checkpoint = agreed | {"script": CHECKPOINT.stem, "step": step, "config": settings}
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
    parts += ["losses"]
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
    differ = [name for name in agreed if then.get(name) != agreed[name] and name != "losses"]
    told = [name for name in differ if name not in ("chars", "text")]
    other = [f"{name} {then.get(name)}, not {agreed[name]}" for name in told]
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
    agreed["losses"] = then["losses"]
    return then["step"]


def hold_ctrl_c() -> list:
    """A list that is filled when Ctrl-C is pressed; pressed again, it ends the program at once."""
    pressed = []

    def hold(*_: object) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    signal.signal(signal.SIGINT, hold)
    return pressed


def train(
    model: nn.Module, corpus: Corpus, config: Config, device: torch.device, origin: dict
) -> dict:
    """Take max_iters optimiser steps on random batches; return the val loss at each evaluation.

    A checkpoint is only resumed where its weights began with the same origin.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    agreed = must_agree(config, corpus) | origin
    agreed["losses"] = {}  # by step, kept with the rest
    saved = None  # the step that the checkpoint holds
    if config.resume:
        saved = resume(model, optimizer, config, agreed)
    elif config.checkpoint.exists():
        sys.exit(f"{config.checkpoint} exists: add --resume, --sample or another --checkpoint")
    start, pressed = saved or 0, hold_ctrl_c()
    steps = range(start, config.max_iters + 1)
    hidden = None if sys.stdout.isatty() else True  # None: shown in a terminal, and only there
    bar = tqdm(steps, initial=start, total=config.max_iters, unit="step", disable=hidden)
    for step in bar:
        evaluate = step % config.eval_interval == 0 or step == config.max_iters
        stop = len(pressed) > 0
        if step != saved and (evaluate or stop) and save(model, optimizer, config, agreed, step):
            saved = step
        if saved is None:
            sys.exit("no model can be kept there: name another --checkpoint")
        if stop:
            holds = f"{config.checkpoint} holds step {saved}"
            sys.exit(f"stopped after step {step}; {holds}: the same command with --resume goes on")
        if evaluate:
            means = estimate_loss(model, corpus, config, device)
            agreed["losses"][step] = means["val"]
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
    if pressed:
        raise KeyboardInterrupt  # in the last evaluation: all is saved
    return agreed["losses"]


def write_manual() -> None:
    """Make a text that is at hand without a network: the manual of Python that Python has along."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this Python lacks its manual: name a text as --pretrain-data") from None
    part = MANUAL.with_suffix(f".{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_text("\n".join(topics.values()), encoding="utf-8")
        part.replace(MANUAL)
    finally:
        part.unlink(missing_ok=True)


def shared_passage(corpus: Corpus) -> str | None:
    """The first passage of the validation split that the text to train on has, too.

    Compared are words alone: editions differ in case, punctuation and the ends of lines.
    """
    texts = {split: corpus.decode(tokens.tolist()) for split, tokens in corpus.splits.items()}
    train, val = (" ".join(re.findall(r"\w+", texts[split].lower())) for split in ("train", "val"))
    passages = {val[i : i + PASSAGE] for i in range(len(val) - PASSAGE + 1)}
    found = (train[i : i + PASSAGE] for i in range(len(train) - PASSAGE + 1))
    return next((passage for passage in found if passage in passages), None)


def load_large(config: Config, small: Corpus) -> Corpus:
    """The large text in the vocabulary of the small one; other characters are dropped, and counted.

    All of it is to train on: its validation split is the small text's, so that all losses compare.
    Raises ValueError where it has passages of that split.
    """
    if config.pretrain_data == MANUAL and not MANUAL.exists():
        write_manual()
    try:
        text = load_corpus(config.pretrain_data, config.block_size)
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace("--data", "--pretrain-data")) from None
    token_of = small.vocabulary.token_of
    new = torch.tensor([token_of.get(char, -1) for char in text.chars])  # -1: not in the small text
    tokens = new[torch.cat(list(text.splits.values())).long()]  # (length,)
    kept = tokens[tokens >= 0].to(small.splits["val"].dtype)
    lacks = "".join(char for char in text.chars if char not in token_of)
    lacks = repr(lacks) if len(lacks) <= 50 else f"{len(lacks):,} that it has, {lacks[:50]!r}..."
    dropped = f"{len(tokens) - len(kept):,} of {len(tokens):,} characters"
    print(f"{config.pretrain_data}: dropped {dropped}; {config.data} lacks {lacks}")
    if len(kept) <= 10 * config.block_size:
        raise ValueError(f"{config.pretrain_data} has {len(kept):,} characters left, too few")
    large = Corpus(small.chars, kept)
    large.splits = {"train": kept, "val": small.splits["val"]}
    if passage := shared_passage(large):
        raise ValueError(
            f"{config.pretrain_data} has passages of the validation split of {config.data}, which "
            f"pretraining must not see, such as {passage!r}: take them out"
        )
    return large


def compare(
    model: nn.Module, corpus: Corpus, large: Corpus, config: Config, device: torch.device
) -> None:
    """Train on the small text alone; from the same start on the large one, then on the small."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    stem, origin = config.checkpoint.stem, {"seed": config.seed}
    path = config.checkpoint.with_stem(f"{stem}_alone")
    print(f"--- {config.data} alone")
    alone = train(model, corpus, dataclasses.replace(config, checkpoint=path), device, origin)

    model.load_state_dict(start)
    path = config.checkpoint.with_stem(f"{stem}_pretrained")
    settings = {"data": config.pretrain_data, "max_iters": config.pretrain_iters}
    settings |= {"checkpoint": path, "resume": config.resume and path.exists()}
    print(f"--- pretraining on {config.pretrain_data}")
    train(model, large, dataclasses.replace(config, **settings), device, origin)

    text = must_agree(config, large)["text"]
    origin |= {"pretrain_iters": config.pretrain_iters}
    origin |= {"pretrain_data": f"{config.pretrain_data.name} ({text[:12]})"}
    settings = {"max_iters": config.finetune_iters, "learning_rate": config.finetune_rate}
    settings |= {"eval_interval": max(1, config.finetune_iters // 5)}
    settings |= {"resume": config.resume and config.checkpoint.exists()}
    print(f"--- fine-tuning on {config.data}")
    tuned = train(model, corpus, dataclasses.replace(config, **settings), device, origin)

    print(f"--- val loss on {config.data}: at the end, and the lowest on the way")
    for name, losses in (("alone", alone), ("pretrained, fine-tuned", tuned)):
        best = min(losses, key=losses.get)
        last = max(losses)
        print(f"{name:24}{losses[last]:.4f} after {last} steps, {losses[best]:.4f} after {best}")


def main(config: Config) -> None:
    """Compare the two ways to a model or load one, then print what it writes after the prompt."""
    torch.manual_seed(config.seed)
    try:
        device = select_device(config.device)
        if config.sample:
            checkpoint = load(config.checkpoint)
            config = dataclasses.replace(config, **{name: checkpoint[name] for name in SHAPE})
            corpus = Vocabulary(checkpoint["chars"])
        else:
            corpus = load_corpus(config.data, config.block_size)
            large = load_large(config, corpus)
        prompt = corpus.encode(config.prompt or corpus.chars[0])
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    model = LanguageModel(config, corpus.vocab_size).to(device)
    if config.sample:
        model.load_state_dict(checkpoint["model"])
    else:
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
        try:
            compare(model, corpus, large, config, device)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
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
    try:
        main(parse_args())
    except (KeyboardInterrupt, BrokenPipeError):
        print("\nstopped", file=sys.stderr)
        os._exit(1)  # at once: Python's own exit would write to a closed pipe again
