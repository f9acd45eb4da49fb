"""Runs the exercises as a user would, and writes what they print to docs/exercises.json.

    python docs/measure_exercises.py ex2
    python docs/measure_exercises.py ex3 --pretrain-data kjv.txt --data data/input.txt
    python docs/measure_exercises.py own

The first measures the addition, and the second the fine-tuning with these texts, each with three
seeds; the README says where the large text comes from that we took. The third trains step 9 on
data/sample.txt and on parts of it. What is not named stays as it is in the file. Needs
docs/requirements.txt. The addition is timed: it takes ten minutes on two cores that do nothing
else. The fine-tuning takes half an hour for each small text, step 9 ten minutes.
"""

import argparse
import datetime
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import LINE, ROOT, SEEDS, machine, run

from common.data import TINY_SHAKESPEARE

sys.path.insert(0, str(ROOT / "exercises"))
import ex2_addition
import ex3_finetune

RESULTS = ROOT / "docs" / "exercises.json"
RIGHT = re.compile(r"right: ([\d,]+) of ([\d,]+) unseen problems")
LENGTH = re.compile(r"(\d+) digits?: (\d+) of (\d+)")


def addition(*flags: object) -> dict:
    """The addition with three seeds: what is right, by number of digits, and how long it takes."""
    runs = []
    for seed in SEEDS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:  # not in the place of a user's model
            printed = run("exercises/ex2_addition.py", "--seed", seed, "--models", folder, *flags)
        seconds = round(time.perf_counter() - start, 1)
        right, tested = (int(n.replace(",", "")) for n in RIGHT.search(printed).groups())
        one = {"seed": seed, "seconds": seconds, "right": right, "tested": tested}
        one["lengths"] = [[int(n) for n in found] for found in LENGTH.findall(printed)]
        one["val_loss"] = float(LINE.findall(printed)[-1][2])
        runs.append(one | {"wrong": re.findall(r"wrong: (.*)", printed)})
    rights = [one["right"] for one in runs]
    return {
        "date": datetime.date.today().isoformat(),
        "steps": int(LINE.findall(printed)[-1][0]),
        "parameters": int(printed.split()[0].replace(",", "")),
        "lowest": min(rights),
        "highest": max(rights),
        "tested": runs[0]["tested"],
        "seconds": round(statistics.median(one["seconds"] for one in runs)),
        "slowest": max(one["seconds"] for one in runs),
        "runs": runs,
    }


def learning(plain: bool, steps: int = 600) -> list[list]:
    """How many test problems are right on the way, as [step, one count for each seed]."""
    counts: dict[int, list] = {}
    device, estimate_loss = torch.device("cpu"), ex2_addition.estimate_loss
    for seed in SEEDS:
        config = ex2_addition.Config(plain=plain, seed=seed, max_iters=steps)
        torch.manual_seed(config.seed)
        corpus = ex2_addition.Corpus(config)
        model = ex2_addition.LanguageModel(config, corpus.vocab_size)
        at = itertools.count(0, config.eval_interval)

        def evaluate(model, corpus, *rest, at=at):  # at each evaluation that train asks for
            counts.setdefault(next(at), []).append(right(model, corpus, corpus.test))
            return estimate_loss(model, corpus, *rest)

        ex2_addition.estimate_loss = evaluate
        try:
            ex2_addition.train(model, corpus, config, device)
        finally:
            ex2_addition.estimate_loss = estimate_loss
    return [[step, *rights] for step, rights in counts.items()]


def right(model: torch.nn.Module, corpus: ex2_addition.Corpus, problems: torch.Tensor) -> int:
    """How many of the problems (n, 2) the model gets right."""
    said = ex2_addition.answers(model, corpus, problems, torch.device("cpu"))
    return sum(map(str.__eq__, said, map(str, problems.sum(dim=1).tolist())))


def finetuning(seeds: tuple[int, ...], *flags: object) -> dict:
    """Fine-tuning against training on the small text alone: all losses on the way, by seed.

    Alone as long as by itself, and as long as pretraining and fine-tuning take together.
    """
    runs = []
    both = ex3_finetune.LAPTOP["pretrain_iters"] + ex3_finetune.LAPTOP["finetune_iters"]
    longer = ["--max-iters", both, "--pretrain-iters", 0, "--finetune-iters", 0]
    for seed in seeds:
        curves = {}
        for names, more in ((("alone", "pretraining", "tuning"), []), (("longer",), longer)):
            with tempfile.TemporaryDirectory() as folder:
                words = ["--seed", seed, "--checkpoint", Path(folder) / "model.pt", *flags, *more]
                printed = run("exercises/ex3_finetune.py", *words)
            parts = re.split(r"^--- .*$", printed, flags=re.MULTILINE)[1:]
            for name, part in zip(names, parts, strict=False):
                curves[name] = [[int(n), float(a), float(b)] for n, a, b in LINE.findall(part)]
        runs.append({"seed": seed} | curves)
    dropped, characters = re.search(r"dropped ([\d,]+) of ([\d,]+)", printed).groups()
    return {
        "date": datetime.date.today().isoformat(),
        "characters": int(characters.replace(",", "")),
        "dropped": int(dropped.replace(",", "")),
        "runs": runs,
    }


def summary(runs: list[dict]) -> dict:
    """What the page says of fine-tuning: means over the seeds, and the spread of what is gained."""
    ways = {}
    for way in ("alone", "longer", "tuning"):
        curves = [{step: val for step, _, val in one[way]} for one in runs]
        lowest = [min(curve.values()) for curve in curves]
        ways[way] = {
            "last": round(statistics.mean(curve[max(curve)] for curve in curves), 3),
            "lowest": round(statistics.mean(lowest), 3),
            "at": [min(curve, key=curve.get) for curve in curves],
            "each": lowest,
        }
    pairs = list(zip(ways["alone"]["each"], ways["tuning"]["each"], strict=True))
    gains = [round(alone - tuned, 3) for alone, tuned in pairs]
    others = zip(ways["longer"]["each"], ways["tuning"]["each"], strict=True)
    longer = [round(alone - tuned, 3) for alone, tuned in others]
    below = [
        next((step for step, _, val in one["tuning"] if val < alone), None)
        for one, (alone, _) in zip(runs, pairs, strict=True)
    ]
    return ways | {
        "pretrained": round(statistics.mean(one["tuning"][0][2] for one in runs), 3),
        "gain": round(statistics.mean(gains), 3),
        "gains": [min(gains), max(gains)],
        "gain_longer": round(statistics.mean(longer), 3),  # against as many steps alone
        "gains_longer": [min(longer), max(longer)],
        "below_after": below,  # the steps of fine-tuning that it took to be below the lowest alone
    }


def own_text() -> dict:
    """Step 9 on the bundled text, on parts of it, and with dropout: the losses on the way."""
    text = (ROOT / "data" / "sample.txt").read_text(encoding="utf-8")
    found = {}
    for name, length, flags in (
        ("whole", len(text), ["--max-iters", 2000]),
        ("dropout", len(text), ["--max-iters", 2000, "--dropout", 0.2]),
        ("third", len(text) // 3, ["--max-iters", 1000]),
        ("tenth", len(text) // 10, ["--max-iters", 1000]),
        ("tenth, dropout", len(text) // 10, ["--max-iters", 1000, "--dropout", 0.2]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part.txt"
            part.write_text(text[:length], encoding="utf-8")
            places = ["--data", part, "--checkpoint", part.with_suffix(".pt")]
            printed = run("beyond/09_keep.py", "--eval-interval", 125, *places, *flags)
        curve = [
            [int(step), float(train), float(val)] for step, train, val in LINE.findall(printed)
        ]
        found[name] = {"characters": length, "curve": curve}
    return found | {"date": datetime.date.today().isoformat()}


class Shorter(ex2_addition.Corpus):
    """Problems whose lines have room for one digit more than their numbers have."""

    def draw(self, n: int) -> torch.Tensor:
        """Numbers without the digit that there is room for."""
        return super().draw(n) % 10 ** (self.digits - 1)


def longer(count: int = 1000) -> dict:
    """How many sums of four-digit numbers a model gets right that has trained on three digits."""
    config = ex2_addition.Config(digits=4)
    torch.manual_seed(config.seed)
    device, corpus = torch.device("cpu"), Shorter(config)
    model = ex2_addition.LanguageModel(config, corpus.vocab_size)
    ex2_addition.train(model, corpus, config, device)
    long = torch.randint(1000, 10_000, (count, 2))
    problems = {"seen": corpus.test, "longer": long}
    return {name: [right(model, corpus, those), len(those)] for name, those in problems.items()}


def main() -> None:
    """Measure what the command line names, then write it in one go."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exercise", choices=["ex2", "ex3", "own"])
    parser.add_argument("--pretrain-data", type=Path, help="for ex3: the large text")
    parser.add_argument("--data", type=Path, default=TINY_SHAKESPEARE, help="the small one")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="for ex3")
    args, flags = parser.parse_known_args()  # other flags are those of exercise 3
    found = {}
    if args.exercise == "ex3":
        texts = ["--data", args.data.resolve()]
        if args.pretrain_data:
            texts += ["--pretrain-data", args.pretrain_data.resolve()]
        found = finetuning(args.seeds, *texts, *flags) | {"flags": " ".join(flags)}
    elif args.exercise == "own":
        found = own_text()
    else:
        found = {"reversed": addition(), "plain": addition("--plain"), "longer": longer()}
        found["learning"] = {"reversed": learning(False), "plain": learning(True)}
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results["machine"] = machine()
    if args.exercise == "ex2":
        results["addition"] = found
    elif args.exercise == "own":
        results["own_text"] = found
    else:
        large = args.pretrain_data.stem if args.pretrain_data else "the default"
        key = f"{large} to {args.data.stem}"
        results.setdefault("finetuning", {}).setdefault(key, {"runs": []})
        old = [one for one in results["finetuning"][key]["runs"] if one["seed"] not in args.seeds]
        found["runs"] = sorted(old + found["runs"], key=lambda one: one["seed"])
        results["finetuning"][key] = found | {"summary": summary(found["runs"])}
    text = json.dumps(results, indent=1, ensure_ascii=False)
    rows = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    RESULTS.write_text(rows + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
