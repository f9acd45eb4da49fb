"""Which characters each head looks at, drawn as heat maps.

    python docs/attention.py
    python docs/attention.py --text "ROMEO:\\nWhat light" --output romeo.png

Takes the checkpoint of step 9 where there is one, and else trains step 6 for a few seconds. Each
layer has its row of heads. In a head, a row is the character that looks, a column the one looked
at; the darker, the larger the weight. A row sums to 1. Needs docs/requirements.txt.
"""

import argparse
import importlib
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from common.data import TINY_SHAKESPEARE, Vocabulary, load_corpus  # noqa: E402

mpl.use("agg")  # files, no windows
TEXT = "ROMEO:\nWhat light?\n\nJULIET:\nO, my lord!"


class Watch(TorchFunctionMode):
    """While it is active, weights collects what the model's own attention weights are.

    They are what softmax returns: (B, T, T) in steps 2 to 7, where one head follows the other, and
    (B, n_head, T, T) from step 8 on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call func, and keep a copy of attention weights."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.softmax:
            self.weights.extend(out[0].reshape(-1, *out.shape[-2:]))  # (heads, T, T)
        return out


@torch.no_grad()
def attention_weights(model: nn.Module, tokens: list[int]) -> Tensor:
    """The weights of all heads, (heads, T, T), those of the first layer first."""
    model.eval()
    with Watch() as watch:
        model(torch.tensor([tokens]))
    return torch.stack(watch.weights)


def from_checkpoint(path: Path) -> tuple[nn.Module, Vocabulary]:
    """The model of step 9 that a checkpoint holds; one that does not load ends the program."""
    step = importlib.import_module("beyond.09_keep")
    checkpoint = step.load(path)
    config = step.Config(**{name: checkpoint[name] for name in step.SHAPE})
    vocabulary = Vocabulary(checkpoint["chars"])
    model = step.LanguageModel(config, vocabulary.vocab_size)
    model.load_state_dict(checkpoint["model"])
    return model, vocabulary


def from_training(data: Path, max_iters: int) -> tuple[nn.Module, Vocabulary]:
    """The model of step 6 after that many optimiser steps on a text."""
    step = importlib.import_module("06_residual_layernorm")
    config = step.Config(data=data, max_iters=max_iters)
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    corpus = load_corpus(config.data, config.block_size)
    model = step.LanguageModel(config, corpus.vocab_size)
    step.train(model, corpus, config, torch.device("cpu"))
    return model, corpus


def head_names(model: nn.Module, heads: int) -> list[str]:
    """A name for each of the heads, in the order of attention_weights."""
    n_head = heads // len(model.blocks)
    return [f"layer {1 + i // n_head}, head {1 + i % n_head}" for i in range(heads)]


def draw(
    heads: dict[str, list[list[float]]],
    text: str,
    columns: int = 3,
    ink: str = "#1f2328",
    accent: str = "#b3400a",
) -> Figure:
    """Heat maps of named heads, each with T rows of weights, in two colours.

    Weights below 0.02 are left blank, and what lies in the future is blank by itself.
    """
    labels = [{"\n": "↵", " ": "␣"}.get(char, char) for char in text]
    T = len(text)
    inch = max(0.11 * T, 1.3)  # at least the width of a title
    rows = -(-len(heads) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * (inch + 0.3), rows * (inch + 0.6)),
        gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0, "hspace": 0},
        squeeze=False,
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, weights) in zip(axes.flat, heads.items(), strict=False):
        ax.axis("on")
        left, bottom = ax.get_position().x0, ax.get_position().y0
        width, height = figure.get_size_inches()
        ax.set_position((left + 0.25 / width, bottom + 0.05 / height, inch / width, inch / height))
        seen = [(s, t, w) for t, row in enumerate(weights) for s, w in enumerate(row) if w >= 0.02]
        x, y, alpha = zip(*seen, strict=True)
        cell = 72 * inch / T  # points
        ax.scatter(x, y, s=cell**2, marker="s", c=accent, alpha=alpha, linewidths=0)
        ax.plot([-0.5, T - 0.5], [-0.5, T - 0.5], color=ink, linewidth=0.5, alpha=0.5)
        ax.set(xlim=(-0.5, T - 0.5), ylim=(T - 0.5, -0.5), title=name)
        ax.set_xticks(range(T), labels, fontsize=7, family="monospace")
        ax.set_yticks(range(T), labels, fontsize=7, family="monospace")
        ax.tick_params(length=0, pad=2, top=True, bottom=False, labeltop=True, labelbottom=False)
        ax.tick_params(colors=ink)
        ax.title.set(color=ink, fontsize=10)
        ax.spines[:].set(color=ink, linewidth=0.5)
    return figure


def main() -> None:
    """Draw all heads into a file."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", help="what the model reads, its last T characters; \\n: new line")
    parser.add_argument("--step", type=int, choices=(6, 9), help="9 where it has a checkpoint")
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "runs" / "09_keep.pt", help="step 9's"
    )
    parser.add_argument("--data", type=Path, default=TINY_SHAKESPEARE, help="what step 6 learns")
    parser.add_argument("--max-iters", type=int, default=1000, help="of step 6: 1000")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "attention.svg")
    args = parser.parse_args()
    formats = plt.gcf().canvas.get_supported_filetypes()
    if args.output.suffix.removeprefix(".") not in formats:
        parser.error(f"{args.output} must end in one of {', '.join(formats)}")
    if args.text == "":
        parser.error("--text must not be empty")
    step = args.step or (9 if args.checkpoint.exists() else 6)
    try:
        if step == 9:
            model, vocabulary = from_checkpoint(args.checkpoint)
        else:
            model, vocabulary = from_training(args.data, args.max_iters)
        if args.text is None:  # as much of ours as a model of another text knows
            text = "".join(c for c in TEXT if c in vocabulary.chars) or "".join(vocabulary.chars)
        else:
            text = args.text.replace("\\n", "\n")
        if len(text) > model.block_size:
            text = text[-model.block_size :]
            print(f"the model sees {model.block_size} characters: {text!r}", file=sys.stderr)
        weights = attention_weights(model, vocabulary.encode(text))
        names = head_names(model, len(weights))
        n_head = len(names) // len(model.blocks)
        figure = draw(dict(zip(names, weights.tolist(), strict=True)), text, columns=n_head)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.output)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"{len(names)} heads in {args.output}")


if __name__ == "__main__":
    main()
