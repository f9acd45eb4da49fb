"""Practice with a checker, beyond/reward.py, beside its controls: right answers against seconds.

    python measure/reward.py
    python measure/reward.py --runs practice --seeds 1 2 --tuning
    python measure/reward.py --picture

Each run is the script with the flags of RUNS, on one core. The right answers are to 1,000 problems
that the model has not seen. The seconds are the processor's, for training and practice without
evaluations. With --tuning the test has other problems, and those of the real test are not drawn:
so the settings were chosen. The figures go to measure/results/reward.json and the picture to
docs/reward.svg; with any flag but --picture the figures go to standard output alone. --picture
measures nothing and draws the figures that are kept. Needs half an hour on two cores.
"""

import argparse
import concurrent.futures
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import statistics
import time

import torch
from losses import RESULTS, ROOT, SEEDS, machine, write

LONGER = "--solved 100000 --max-iters 1000 --extra-digits 1 --updates 150"
RUNS = {  # the flags of each run, and what the table and the picture call it
    "practice": ("", "practice with a checker"),
    "imitate": ("--imitate", "right answers imitated"),
    "supervised": (
        "--max-iters 2000 --eval-interval 200 --updates 0",
        "more steps on the 200 sums",
    ),
    "lenient": ("--lenient --updates 150", "only the last digit checked"),
    "longer": (LONGER, "four digits rewarded"),
    "divided": (LONGER + " --divide", "four digits rewarded, divided by the spread"),
}


def hold_out_others(corpus_class: type) -> type:
    """The corpus with another test: its problems leave the remainder 1 and not 0."""

    class TuningCorpus(corpus_class):
        def draw(self, split: str, n: int, extra: int = 0) -> torch.Tensor:
            pairs = torch.empty(0, 2, dtype=torch.long)
            while len(pairs) < n:
                drawn = super().draw("train", n, extra)
                held_out = (drawn.sum(dim=1) + drawn.prod(dim=1)) % 11 == 1  # (n,)
                pairs = torch.cat((pairs, drawn[held_out == (split == "val")]))
            return pairs[:n]

    return TuningCorpus


def run(name: str, seed: int, tuning: bool) -> dict:
    """Rows of seconds and right answers, and what the script printed."""
    torch.set_num_threads(1)
    reward = importlib.import_module("beyond.reward")
    if tuning:
        reward.Corpus = hold_out_others(reward.Corpus)
    flags = [*RUNS[name][0].split(), "--device", "cpu", "--seed", str(seed)]
    config = reward.parse_args(flags)
    # A corpus of its own, so that the run draws what it draws without us.
    corpus = reward.Corpus(config, torch.device("cpu"))
    test = corpus.test(config.test_size)
    count, rows, apart = reward.count_right, [], 0.0
    began = time.process_time()

    def watched(function):
        def evaluate(model, *args):
            nonlocal apart
            now = time.process_time()
            rows.append([round(now - began - apart, 1), count(model, corpus, test)])
            result = function(model, *args)
            apart += time.process_time() - now
            return result

        return evaluate

    reward.estimate_loss = watched(reward.estimate_loss)
    reward.count_right = watched(reward.count_right)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        model, _ = reward.main(config)
    rows.append([round(time.process_time() - began - apart, 1), count(model, corpus, test)])
    lines = printed.getvalue().splitlines()  # the last two have right and wrong answers
    return {"flags": RUNS[name][0], "seed": seed, "rows": rows, "printed": lines}


def table(runs: dict[str, list[dict]]) -> str:
    """In Markdown: right answers at the end, seed by seed, and the longer sums' where rewarded."""
    lines = [
        "| run | right at the end, seed by seed | mean | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in runs.items():
        rights = [one["rows"][-1][1] for one in found]
        seconds = statistics.mean(one["rows"][-1][0] for one in found)
        seeds = ", ".join(f"{right:,}" for right in rights)
        mean = f"{statistics.mean(rights):,.0f}"
        if "--extra-digits" in RUNS[name][0]:
            longer = ", ".join(one["printed"][-2].split()[1] for one in found)
            seeds += f" (longer sums: {longer})"
        lines.append(f"| {RUNS[name][1]} | {seeds} | {mean} | {seconds:.0f} |")
    return "\n".join(lines)


def draw(runs: dict[str, list[dict]]) -> None:
    """Right answers against seconds, a thin line for each seed, to docs/reward.svg."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    # The same figures give the same bytes.
    mpl.rcParams["svg.hashsalt"] = "reward"
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, name in enumerate(("practice", "imitate", "supervised", "lenient")):
        for j, one in enumerate(runs[name]):
            label = RUNS[name][1] if j == 0 else None
            axes.plot(*zip(*one["rows"], strict=True), color=f"C{i}", lw=1, label=label)
    axes.set(xlabel="seconds of one core", ylabel="right answers of 1,000", ylim=(0, 1000))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(ROOT / "docs" / "reward.svg", metadata={"Date": None})


def main() -> None:
    """Measure, print the table, and keep the figures and the picture."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tuning", action="store_true", help="with a test of other problems")
    parser.add_argument("--picture", action="store_true", help="of the figures that are kept")
    args = parser.parse_args()
    path = RESULTS.with_name("reward.json")
    if args.picture:
        draw(json.loads(path.read_text(encoding="utf-8"))["runs"])
        return
    # A run replaces functions of the script, so each has a process of its own.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        os.cpu_count(), context, max_tasks_per_child=1
    ) as pool:
        jobs = [(n, pool.submit(run, n, s, args.tuning)) for s in args.seeds for n in args.runs]
        runs = {name: [] for name in args.runs}
        for name, job in jobs:
            runs[name].append(job.result())
            print(name, job.result()["seed"], job.result()["rows"], flush=True)
    print(table(runs))
    if not args.tuning and tuple(args.seeds) == SEEDS and args.runs == list(RUNS):
        write({"machine": machine(), "columns": "seconds, right of 1,000", "runs": runs}, path)
        draw(runs)


if __name__ == "__main__":
    main()
