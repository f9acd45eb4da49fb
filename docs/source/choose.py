"""Chooses the line that the page opens with, and the heads that it names first.

    python docs/source/choose.py

The line is the beginning of one of the validation split. The seven losses on it stand in the order
that was measured over the whole split, not far from their values there, and as far apart as can be;
step 7 guesses the character after it and step 1 does not. The heads are chosen by where their
weight goes from the last position of windows of the validation split. All of it goes to
docs/source/chosen.json, with what step 7 makes of the line: the page shows its row before its
weights are loaded. The loss of steps 6 and 7 after each block is one over the
whole split. The pairs that lesson 17 learns to join go there, too. Needs data/input.txt, and what
export.py has written.
"""

import argparse
import copy
import importlib
import json

import torch
import torch.nn.functional as F
from export import BESIDE, ROOT, SOURCE, STEPS, WEIGHTS, from_script, unpack
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.data import TINY_SHAKESPEARE, CharTokenizer, read_text

CHOSEN = SOURCE / "chosen.json"
LENGTHS = range(30, 37)  # characters of the line; a phone shows 36 of them beside each other
NEAR = 0.3  # nats between a loss on the line and the one over the whole split
WINDOWS = 400  # for the heads


class Watch(TorchFunctionMode):
    """While it is active, weights collects what softmax returns: the attention of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.softmax:
            self.weights.append(out)  # (B, T, T)
        return out


def page_models() -> tuple[CharTokenizer, dict[str, nn.Module]]:
    """The tokenizer and the models of the page, with its rounded weights."""
    kept = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    beside = from_script((SOURCE.parent / f"{BESIDE}.js").read_text(encoding="utf-8"))
    models = {}
    for name, entry in (kept["steps"] | {BESIDE: beside}).items():
        step = importlib.import_module(name)
        config = step.Config(**entry["config"])
        model = step.LanguageModel(config, len(kept["chars"])).eval()
        model.load_state_dict(unpack(entry), strict=False)  # the masks are no weights
        model.block_size = config.block_size
        models[name] = model
    return CharTokenizer(kept["chars"]), models


@torch.no_grad()
def read(model: nn.Module, lines: Tensor) -> Tensor:
    """Log probabilities (N, L, V) after each position of lines (N, L), as the page reads them."""
    size = model.block_size
    if lines.shape[1] <= size:
        return model(lines)[0].log_softmax(dim=-1)
    first = model(lines[:, :size])[0]  # (N, size, V)
    windows = lines.unfold(1, size, 1)[:, 1:]  # (N, L - size, size), those that have moved on
    rest = model(windows.reshape(-1, size))[0][:, -1].view(*windows.shape[:2], -1)
    return torch.cat((first, rest), dim=1).log_softmax(dim=-1)


def losses(logs: Tensor, lines: Tensor) -> Tensor:
    """The loss (N, L - 1) of each character but the first."""
    return -logs[:, :-1].gather(2, lines[:, 1:, None])[..., 0]


def choose_line(
    models: dict[str, nn.Module], tokenizer: CharTokenizer, text: str, measured: list[float]
) -> str:
    """The line on which the smallest distance between neighbouring losses is largest."""
    order = sorted(range(len(measured)), key=lambda i: -measured[i])
    expected = torch.tensor(measured)[:, None]  # (7, 1)
    best, found = 0.0, ""
    for length in LENGTHS:
        group = [line for line in text.split("\n") if len(line) > length + 1]
        group = [line for line in group if line[length - 2 : length + 1].isalpha()]  # in a word
        group = [line for line in group if line[0].isupper() and line.count(" ", 0, length) > 3]
        lines = torch.tensor([tokenizer.encode(line[:length]) for line in group])  # (N, L)
        after = torch.tensor([tokenizer.stoi[line[length]] for line in group])  # (N,)
        means, guesses = [], []
        for model in models.values():
            logs = read(model, lines)
            means.append(losses(logs, lines).mean(dim=1))
            guesses.append(logs[:, -1].argmax(dim=-1) == after)
        stacked = torch.stack(means)  # (7, N)
        near = ((stacked - expected).abs() < NEAR).all(dim=0)  # (N,)
        gaps = (stacked[order][:-1] - stacked[order][1:]).amin(dim=0)  # (N,)
        gaps = gaps.where(near & guesses[-1] & ~guesses[0], torch.zeros(()))
        if gaps.max() > best:
            best, found = gaps.max().item(), group[gaps.argmax()][:length]
    print(f"the smallest distance of two losses on the line is {best:.3f}")
    return found


@torch.no_grad()
def where_heads_look(model: nn.Module, tokens: Tensor, apart: Tensor) -> dict:
    """For each head: the mean weight on itself, one back, two back, and on spaces."""
    size = model.block_size
    windows = tokens.unfold(0, size, (len(tokens) - size) // WINDOWS)[:WINDOWS]  # (N, T)
    watch = Watch()
    with watch:
        model(windows)
    blank = torch.isin(windows, apart)  # (N, T)
    rows = []
    for weights in watch.weights:
        last = weights[:, -1]  # (N, T)
        back = [round(last[:, -1 - n].mean().item(), 3) for n in range(3)]
        spaces = round((last * blank).sum(dim=1).mean().item(), 3)
        rows.append({"back": back, "spaces": spaces})
    return {
        "back": max(range(len(rows)), key=lambda i: rows[i]["back"][1]),
        "spaces": max(range(len(rows)), key=lambda i: rows[i]["spaces"]),
        "even": round(blank.float().mean().item(), 3),  # the share of spaces in the text
        "heads": rows,
    }


@torch.no_grad()
def path_losses(model: nn.Module, tokens: Tensor) -> list[float]:
    """The loss where the last norm and lm_head read out x before the blocks, and after each."""
    size, path, sums = model.block_size, [], 0
    for block in model.blocks:
        block.register_forward_hook(lambda block, x, out: path.append(out))
    model.blocks[0].register_forward_pre_hook(lambda block, x: path.append(x[0]))
    windows = tokens.unfold(0, size + 1, size)  # (N, T+1), the whole split
    for group in windows.split(128):
        path.clear()
        model(group[:, :-1])
        logits = [model.lm_head(model.norm(x)).transpose(1, 2) for x in path]  # (B, V, T) each
        loss = [F.cross_entropy(row, group[:, 1:], reduction="sum") for row in logits]
        sums += torch.stack(loss)
    return [round(loss, 3) for loss in (sums / (len(windows) * size)).tolist()]


def main() -> None:
    """Search, measure, and write what was found."""
    about, details = __doc__.split("\n", 1)
    argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    tokenizer, models = page_models()
    texts = read_text(TINY_SHAKESPEARE)
    text = texts["val"]
    measured = json.loads((ROOT / "measure/results/losses.json").read_text(encoding="utf-8"))
    line = choose_line(
        models, tokenizer, text, [measured["steps"][name]["val_loss"] for name in STEPS]
    )
    tokens = torch.tensor([tokenizer.encode(line)])
    means = {}
    for name, model in models.items():
        logs = read(model, tokens)  # at the end those of step 7
        lost = losses(logs, tokens)[0]
        means[name] = round(lost.mean().item(), 4)
    shares, best = logs[0].exp().topk(3)  # (L, 3)
    top = [
        [[token, round(share, 3)] for token, share in zip(*pair, strict=True)]
        for pair in zip(best.tolist(), shares.tolist(), strict=True)
    ]
    all_tokens = torch.tensor(tokenizer.encode(text))
    apart = torch.tensor(tokenizer.encode(" \n"))
    heads = {
        name: where_heads_look(model, all_tokens, apart)
        for name, model in models.items()
        if name != STEPS[0]
    }
    for name, found in heads.items():
        blind = copy.deepcopy(models[name])
        torch.nn.init.zeros_(blind.position_embedding.weight)
        there = where_heads_look(blind, all_tokens, apart)["heads"][found["back"]]
        found["no_positions"] = there["back"][1]  # the share that this head still looks one back
    for name in ("06_residual_layernorm", BESIDE):
        heads[name]["path"] = path_losses(models[name], all_tokens)
    after = text.split("\n" + line)[1].split("\n")[0]  # the rest of that line
    kept = {
        "line": line,
        "next": after,
        "means": means,
        "losses": [round(x, 3) for x in lost.tolist()],
    }
    lesson = importlib.import_module("beyond.17_tokens")
    merges = lesson.learn_merges(texts["train"], tokenizer.chars, lesson.Config.vocab_size)
    kept |= {"top": top, "heads": heads, "merges": merges}
    CHOSEN.write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(f"{line!r}: {' '.join(f'{mean:.2f}' for mean in means.values())}")
    for name, found in heads.items():
        for what in ("back", "spaces"):
            print(f"{name}, {what}: head {found[what] + 1}, {found['heads'][found[what]]}")


if __name__ == "__main__":
    main()
