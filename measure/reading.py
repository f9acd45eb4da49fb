"""Learning while reading, beyond/reading.py, beside its controls, with three seeds.

    python measure/reading.py
    python measure/reading.py --seeds 1337

Chooses the rate of SGD and of Adam on the last tenth of the training split, with a model of seed
1337 that learnt from the rest of it. With these rates the models of three seeds read the validation
split: without learning, learning from first to last, and learning from its windows in a random
order. A last model takes as many steps, at Adam's rate, on random windows of the training split,
and then reads without learning. Losses are in nats per character: of the whole split, of its
tenths, and of the names that the training split lacks, where they occur for the first time and
later. The model of seed 1337 is that of runs/measured/ where measure/losses.py left it; the others
are trained, about two minutes each on two cores, and kept in runs/reading/. Figures go to
measure/results/reading.json.
"""

import contextlib
import copy
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from types import ModuleType

import torch
from losses import (
    MODELS,
    RESULTS,
    ROOT,
    SEEDS,
    arguments,
    lesson,
    load,
    machine,
    tuning_texts,
    write,
)
from torch import Tensor, nn

from common.data import Corpus

KEPT = ROOT / "runs" / "reading"
RATES = {"sgd": (0.01, 0.03, 0.1), "adam": (3e-5, 1e-4, 3e-4, 1e-3)}
OPTIMISERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
WAYS = ("no steps", "adam", "sgd", "adam, random order", "adam, training split")


def trained(script: ModuleType, seed: int, tuning: bool = False) -> tuple[nn.Module, Corpus]:
    """The script's model after its training, or what was kept of it, and the corpus."""
    name = f"tuning-{seed}.pt" if tuning else f"{seed}.pt"
    measured = MODELS / f"{lesson('decay')}.pt"  # the last lesson with a single model
    weights = None
    if (KEPT / name).exists():
        weights = torch.load(KEPT / name, map_location="cpu")
    elif seed == SEEDS[0] and not tuning and measured.exists():
        weights = torch.load(measured, map_location="cpu")
        weights = {f"members.0.{key}": value for key, value in weights.items()}
    real = script.train, script.read_text, script.read_twice
    if weights is not None:
        script.train = lambda model, *_: model.load_state_dict(weights)
    if tuning:
        script.read_text = tuning_texts
    script.read_twice = lambda *_: None
    flags = ["--device", "cpu", "--seed", str(seed), "--max-new-tokens", "0"]
    with contextlib.redirect_stdout(io.StringIO()):
        model, corpus = script.main(script.parse_args(flags))
    script.train, script.read_text, script.read_twice = real
    if weights is None:
        KEPT.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), KEPT / name)
    return model, corpus


def names(corpus: Corpus, piece: object) -> tuple[Tensor, Tensor]:
    """Which tokens of the validation split are a name that is new: first time, and later, (n - 1).

    A name is a word with a capital that the training split lacks, however it is written.
    """
    known = {word.strip().lower() for word in piece.findall(corpus.texts["train"])}
    text, seen, kind = corpus.texts["val"], set(), {}
    for found in piece.finditer(text):
        word = found[0].strip()
        if word[:1].isupper() and word.lower() not in known:
            kind |= dict.fromkeys(range(*found.span()), 1 if word.lower() in seen else 0)
            seen.add(word.lower())
    tokens = corpus.splits["val"].tolist()
    lengths = [len(corpus.tokenizer.pieces[token]) for token in tokens]
    # A token never spans two pieces, so its first character says which piece it is of.
    starts = [0, *itertools.accumulate(lengths)][:-1]
    kinds = torch.tensor([kind.get(start, -1) for start in starts])[1:]  # the first has no loss
    return kinds == 0, kinds == 1


def ways(
    script: ModuleType, model: nn.Module, corpus: Corpus, block_size: int, rates: dict, seed: int
) -> dict[str, Callable[[], Tensor]]:
    """How to read the validation split: each gives the nats of its tokens, in its order."""
    pieces = script.windows(corpus.splits["val"], block_size)
    training = script.windows(corpus.splits["train"], block_size)[:-1]
    generator = torch.Generator().manual_seed(seed)

    def learner(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        student = copy.deepcopy(model)
        return student, OPTIMISERS[name](student.parameters(), lr=rates[name])

    def in_order(name: str) -> Tensor:
        student, optimiser = learner(name)
        return script.read(student, pieces, optimiser)

    def in_random_order() -> Tensor:
        student, optimiser = learner("adam")
        order = torch.randperm(len(pieces), generator=generator).tolist()
        losses = script.read(student, [pieces[i] for i in order], optimiser)
        found = losses.split([len(pieces[i][1]) for i in order])
        back = {i: loss for i, loss in zip(order, found, strict=True)}
        return torch.cat([back[i] for i in range(len(pieces))])

    def after_training_windows() -> Tensor:
        student, optimiser = learner("adam")
        chosen = torch.randperm(len(training), generator=generator)[: len(pieces)].tolist()
        script.read(student, [training[i] for i in chosen], optimiser)
        return script.read(student, pieces)

    found = (
        lambda: script.read(model, pieces),
        lambda: in_order("adam"),
        lambda: in_order("sgd"),
        in_random_order,
        after_training_windows,
    )
    return dict(zip(WAYS, found, strict=True))


def tune(script: ModuleType, block_size: int) -> dict:
    """The loss of the tuning split at each rate."""
    model, corpus = trained(script, SEEDS[0], tuning=True)
    pieces = script.windows(corpus.splits["val"], block_size)
    per_char = len(corpus.splits["val"]) / len(corpus.texts["val"])
    found = {"no steps": round(script.read(model, pieces).mean().item() * per_char, 4)}
    for name, rates in RATES.items():
        found[name] = {}
        for rate in rates:
            student = copy.deepcopy(model)
            losses = script.read(student, pieces, OPTIMISERS[name](student.parameters(), lr=rate))
            found[name][str(rate)] = round(losses.mean().item() * per_char, 4)
            print(f"tuning split, {name} {rate}: {found[name][str(rate)]}", flush=True)
    return found


def run(script: ModuleType, seed: int, block_size: int, rates: dict) -> dict:
    """All ways with the model of one seed."""
    model, corpus = trained(script, seed)
    tokens, text = corpus.splits["val"], corpus.texts["val"]
    chars = torch.tensor([len(corpus.tokenizer.pieces[token]) for token in tokens.tolist()])[1:]
    masks = dict(zip(("first", "later"), names(corpus, script.PIECE), strict=True))
    found = {"seed": seed, "names": {key: int(mask.sum()) for key, mask in masks.items()}}
    for way, read in ways(script, model, corpus, block_size, rates, seed).items():
        start = time.perf_counter()
        nats = read()
        row = {"seconds": round(time.perf_counter() - start, 1)}
        # As in measure/losses.py: the first token has no loss, so the mean is over the others.
        row["val_loss"] = round(nats.mean().item() * len(tokens) / len(text), 4)
        row["tenths"] = per_char(zip(nats.chunk(10), chars.chunk(10), strict=True))
        groups = [(nats[mask], chars[mask]) for mask in masks.values()]
        row["names"] = dict(zip(masks, per_char(groups), strict=True))
        found[way] = row
        print(seed, way, row, flush=True)
    return found


def per_char(groups: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    """Nats per character of groups of tokens."""
    return [round((nats.sum() / chars.sum()).item(), 4) for nats, chars in groups]


def main() -> None:
    """Choose the rates, let all read, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rates", type=float, nargs=2, metavar=("SGD", "ADAM"), help="not tuned")
    args = parser.parse_args()
    torch.set_num_threads(1)
    script = load("reading")
    block_size = script.Config().block_size
    results = {"machine": machine()}
    if args.rates:
        rates = dict(zip(RATES, args.rates, strict=True))
    else:
        results["tuning"] = tune(script, block_size)
        rates = {
            name: min(RATES[name], key=lambda r: results["tuning"][name][str(r)]) for name in RATES
        }
    results |= {"rates": rates, "runs": [run(script, s, block_size, rates) for s in args.seeds]}
    print("| way | val loss, seed by seed | mean | new names, first | later | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        rows = [one[way] for one in results["runs"]]
        cells = [way, ", ".join(f"{row['val_loss']:.4f}" for row in rows)]
        cells.append(f"{statistics.mean(row['val_loss'] for row in rows):.4f}")
        for key in ("first", "later"):
            cells.append(f"{statistics.mean(row['names'][key] for row in rows):.2f}")
        cells.append(f"{statistics.median(row['seconds'] for row in rows):.0f}")
        print("| " + " | ".join(cells) + " |")
    if tuple(args.seeds) == SEEDS and not args.rates:
        write(results, RESULTS.with_name("reading.json"))


if __name__ == "__main__":
    main()
