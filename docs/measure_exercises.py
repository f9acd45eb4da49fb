"""Runs the exercises as a user would, and writes what they print to docs/exercises.json.

    python docs/measure_exercises.py ex2
    python docs/measure_exercises.py ex3 --pretrain-data kjv.txt

The first measures the addition, each with three seeds, and the second the fine-tuning, for which
a large text is needed: the README says where the one that we took comes from. What is not named
stays as it is in the file. Needs docs/requirements.txt, and a machine that does nothing else.
"""

import argparse
import datetime
import itertools
import json
import re
import statistics
import sys
import time

import torch
from measure import LINE, ROOT, SEEDS, machine, run

sys.path.insert(0, str(ROOT / "exercises"))
import ex2_addition

RESULTS = ROOT / "docs" / "exercises.json"
RIGHT = re.compile(r"right: ([\d,]+) of ([\d,]+) unseen problems")
LENGTH = re.compile(r"(\d+) digits?: (\d+) of (\d+)")


def addition(*flags: object) -> dict:
    """The addition with three seeds: what is right, by number of digits, and how long it takes."""
    runs = []
    for seed in SEEDS:
        start = time.perf_counter()
        printed = run("exercises/ex2_addition.py", "--seed", seed, *flags)
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
    parser.add_argument("exercises", nargs="+", choices=["ex2", "ex3"])
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results["machine"] = machine()
    if "ex2" in args.exercises:
        found = {"reversed": addition(), "plain": addition("--plain"), "longer": longer()}
        found["learning"] = {"reversed": learning(False), "plain": learning(True)}
        results["addition"] = found
    text = json.dumps(results, indent=1, ensure_ascii=False)
    rows = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    RESULTS.write_text(rows + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
