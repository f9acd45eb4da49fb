"""The val loss of each step, over the whole validation split, with three seeds.

    python measure/losses.py
    python measure/losses.py 03_multihead 05_blocks
    python measure/losses.py 03_multihead --flags "--n-head 8"
    python measure/losses.py 07_full_gpt --flags "--learning-rate 2e-3" --tuning

Trains the steps of docs/source/steps.toml with the seeds 1337 to 1339, and once more with the flags
that their docstrings tell a reader to try. The losses go to measure/results/losses.json, the models
of seed 1337 to runs/measured/, from where docs/source/export.py takes them. With --flags or
--tuning the losses are printed and nothing is written. --tuning takes them over the last tenth of
the training split, and the models learn from the rest of it: settings are chosen there. Of a step
that trains twice, the last model is measured. Each run has one thread.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import io
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # finds common/ and the steps from any folder
import common.data  # noqa: E402
from common.data import Corpus, read_text  # noqa: E402

TABLE = tomllib.loads((ROOT / "docs" / "source" / "steps.toml").read_text(encoding="utf-8"))
STEPS = [name for name, row in TABLE.items() if row["kind"] in ("step", "lesson")]
RESULTS = ROOT / "measure" / "results" / "losses.json"
MODELS = ROOT / "runs" / "measured"
SEEDS = (1337, 1338, 1339)
SAMPLE = 200  # characters that the model of the first seed writes at each evaluation


def lesson(idea: str) -> str:
    """The lesson with this idea, whatever its number."""
    return next(name for name in STEPS if name.split("_", 1)[1] == idea)


def arguments(doc: str) -> argparse.ArgumentParser:
    """A command line whose help is a docstring as it is."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=layout)


def processes(jobs: int | None = None) -> concurrent.futures.Executor:
    """As many processes as there are cores; each job has a fresh one, for it may patch a script."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor
    return pool(jobs or os.cpu_count(), context, max_tasks_per_child=1)


@torch.no_grad()
def loss_of_split(model: nn.Module, corpus: Corpus, block_size: int, split: str = "val") -> float:
    """Nats per character over a whole split, cut into windows: each token is predicted once."""
    model.eval()
    tokens, nats = corpus.splits[split], 0.0

    def batches(tokens: Tensor) -> list[Tensor]:
        """Windows side by side, up to 4,096 tokens of them, and the last, which is shorter."""
        n = len(tokens) // block_size
        windows = tokens[: n * block_size].view(n, block_size).split(max(1, 4096 // block_size))
        return [*windows, tokens[None, n * block_size :]]

    for x, y in zip(batches(tokens[:-1]), batches(tokens[1:]), strict=True):
        if y.numel():
            nats += model(x, y)[1].item() * y.numel()
    return nats / (len(tokens) - 1) * len(tokens) / len(corpus.texts[split])


def load(name: str, edits: list[tuple[str, str]] = ()) -> ModuleType:
    """A step as a module, with each old text in its source replaced by the new one."""
    path = ROOT / TABLE[name]["file"]
    source = path.read_text(encoding="utf-8")
    for old, new in edits:
        if old not in source:
            raise ValueError(f"{path} has no {old!r}")
        source = source.replace(old, new)
    step = sys.modules[name] = ModuleType(name)
    step.__file__ = str(path)
    exec(compile(source, path, "exec"), step.__dict__)
    return step


def tuning_texts(path: str | Path) -> dict[str, str]:
    """The training split alone, its last tenth in the place of the validation split."""
    text = read_text(path)["train"]
    n = int(0.9 * len(text))
    return {"train": text[:n], "val": text[n:]}


def run(
    name: str, seed: int, flags: list[str], tuning: bool = False, edits: list[tuple[str, str]] = ()
) -> dict:
    """Train a step as its script does, in a process of its own; what came of it."""
    torch.set_num_threads(1)
    step = load(name, edits)
    if tuning:
        common.data.read_text = step.read_text = tuning_texts
    config = step.parse_args(["--seed", str(seed), "--max-new-tokens", "0", *flags])
    estimate_loss, evaluations, models = step.estimate_loss, [], []

    def watch(model, corpus, config):
        """The step's own evaluation; the first seed's model writes a sample, too."""
        if model not in models:  # of two that are trained, the second is the one to measure
            models.append(model)
            evaluations.clear()
        text = ""
        if seed == SEEDS[0]:
            with torch.random.fork_rng():  # the training draws what it draws without the sample
                torch.manual_seed(seed)
                start = torch.zeros(1, 1, dtype=torch.long, device=corpus.splits["val"].device)
                text = corpus.tokenizer.decode(map(int, model.generate(start, SAMPLE)))
        means = estimate_loss(model, corpus, config)
        at = min(len(evaluations) * config.eval_interval, config.max_iters - 1)
        evaluations.append([at, round(means["train"], 4), round(means["val"], 4), text])
        return means

    step.estimate_loss = watch
    with contextlib.redirect_stdout(io.StringIO()):
        model, corpus = step.main(config)
    if seed == SEEDS[0] and not flags and not edits and not tuning:
        MODELS.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), MODELS / f"{name}.pt")
    return {
        "seed": seed,
        "val_loss": round(loss_of_split(model, corpus, config.block_size), 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": hyperparameters(config),
        "evaluations": evaluations,
    }


def hyperparameters(config: object) -> dict:
    """What a Config sets of the model and its training, and not of a single run."""
    of_a_run = ("data", "device", "seed", "prompt", "max_new_tokens")
    return {key: value for key, value in vars(config).items() if key not in of_a_run}


def summary(runs: list[dict]) -> dict:
    """The mean, the lowest and the highest val loss of some seeds."""
    losses = [one["val_loss"] for one in runs]
    mean = round(statistics.mean(losses), 4)
    return {"val_loss": mean, "lowest": min(losses), "highest": max(losses)}


def machine() -> dict:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "avx512_bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }


def write(results: dict, path: Path = RESULTS) -> None:
    """Write the results as JSON, rows of numbers on one line each."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    rows = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(rows + "\n", encoding="utf-8", newline="\n")


def keep(name: str, flags: str, runs: list[dict]) -> None:
    """Write what came of a step, or of its experiment, beside what is kept of the others."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"steps": {}}
    if flags:
        found["steps"][name]["try"] = {"flags": flags, "machine": machine()} | summary(runs)
    else:
        found["steps"][name] = measured(runs)
        found["machine"] = machine()
    found["steps"] = {key: found["steps"][key] for key in TABLE if key in found["steps"]}
    write(found)


def measured(runs: list[dict]) -> dict:
    """What is kept of the runs of a step, one for each seed."""
    first = runs[0]
    step = {"date": datetime.date.today().isoformat(), "parameters": first["parameters"]}
    step |= summary(runs) | {"settings": first["settings"], "evaluations": first["evaluations"]}
    for one in runs:
        one["curve"] = [row[:3] for row in one["evaluations"]]
    step["runs"] = [{key: one[key] for key in ("seed", "val_loss", "curve")} for one in runs]
    return step


def main() -> None:
    """Start all runs, then print and write each step's as soon as they are done."""
    parser = arguments(__doc__)
    parser.add_argument("steps", nargs="*", help="those to measure; all, where none is named")
    parser.add_argument("--flags", help="for the steps; the losses are printed and not kept")
    parser.add_argument("--tuning", action="store_true", help="on the last tenth of training")
    parser.add_argument("--jobs", type=int, help="runs side by side; as many as cores")
    args = parser.parse_args()
    if unknown := set(args.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    kept = args.flags is None and not args.tuning
    with processes(args.jobs) as pool:
        jobs = {}
        for name in args.steps or STEPS:
            tries = [args.flags or ""]
            if kept and "try" in TABLE[name]:
                tries.append(TABLE[name]["try"])
            for flags in tries:
                words = flags.split()
                jobs[name, flags] = [
                    pool.submit(run, name, seed, words, args.tuning) for seed in SEEDS
                ]
        for (name, flags), seeds in jobs.items():
            runs = [one.result() for one in seeds]
            print(name, flags, *summary(runs).values(), flush=True)
            if kept:
                keep(name, flags, runs)


if __name__ == "__main__":
    main()
