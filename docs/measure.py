"""Runs the steps as a user would, and writes what they print to docs/results.json.

    python docs/measure.py
    python docs/measure.py 07_full_gpt 09_keep

The first measures all steps of docs/steps.toml, the second those two again, and leaves the rest of
the file as it is. Steps 1 to 8 run with three seeds, those from 9 on with one: docs/measure_time.py
has more of these. Step 9's model writes a sample and shows what its heads look at. Steps 7 and up
run at the size that this machine's default gives. Then docs/export.py trains each step once more,
for what the page shows of its training and for the models that run in it. Takes about fifty minutes
on two cores, and a machine that does nothing else; needs docs/requirements.txt. What the README and
the page say was measured comes from that file. Steps 15 and 16 train as step 14 does, to the digit,
and step 10 in float32 as step 9: they are not trained again; of step 15 it is timed how fast it
samples.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from attention import TEXT, attention_weights, from_checkpoint, head_names
from export import export, write_results

from common.data import TINY_SHAKESPEARE, load_corpus

ROOT = Path(__file__).resolve().parent.parent
TABLE = tomllib.loads((ROOT / "docs" / "steps.toml").read_text(encoding="utf-8"))
RESULTS = ROOT / "docs" / "results.json"
SEEDS = (1337, 1338, 1339)
AS_BEFORE = ("10_fast", "15_cache", "16_many")
KEEPS = "09_keep"  # the step that makes a checkpoint
SAMPLE = ["--sample", "--prompt", "ROMEO:", "--temperature", "0.8", "--top-k", "20"]
FIRST = re.compile(r"([\d,]+) parameters on (\S+)\n")
LINE = re.compile(r"step (\d+): train loss ([\d.]+), val loss ([\d.]+)\n")
# Milliseconds for each of a few optimiser steps of step 7.
TIME_STEPS = """
import contextlib, importlib, io, time, torch
step = importlib.import_module("07_full_gpt")
config = step.parse_args("--size laptop --device cpu --eval-iters 1 --eval-batch-size 1".split())
config.max_iters = config.eval_interval = {steps}
corpus = step.load_corpus(config.data, config.block_size)
model = step.LanguageModel(config, corpus.vocab_size)
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    step.train(model, corpus, config, torch.device("cpu"))
print(1000 * (time.perf_counter() - start) / {steps})
"""


def module(name: str) -> ModuleType:
    """A step, imported."""
    return importlib.import_module(TABLE[name]["file"].removesuffix(".py").replace("/", "."))


def run(*words: object, **environment: str) -> str:
    """What a script prints; one that fails ends the program with what it said."""
    print("python", *(word for word in map(str, words) if "\n" not in word), file=sys.stderr)
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
        env=os.environ | environment,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def parse(printed: str) -> dict:
    """The figures in what a script prints: parameters, device, curve, and the sample below it."""
    first = FIRST.match(printed)
    lines = list(LINE.finditer(printed))
    return {
        "parameters": int(first[1].replace(",", "")),
        "device": first[2],
        "curve": [[int(m[1]), float(m[2]), float(m[3])] for m in lines],
        "sample": printed[lines[-1].end() :].rstrip("\n"),
    }


def measure(name: str, seeds: tuple[int, ...], *flags: object) -> dict:
    """A step's runs, one for each seed: seconds are from the start to the end of the process."""
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            keep = ["--checkpoint", Path(folder) / "model.pt"] if name > KEEPS else []
            start = time.perf_counter()
            printed = run(TABLE[name]["file"], "--seed", seed, *keep, *flags)
            seconds = time.perf_counter() - start
        runs.append({"seed": seed, "seconds": round(seconds, 1)} | parse(printed))
    finals = [one["curve"][-1][2] for one in runs]
    result = {
        "date": datetime.date.today().isoformat(),
        "parameters": runs[0]["parameters"],
        "device": runs[0]["device"],
        "val_loss": round(statistics.mean(finals), 4),
        "lowest": min(finals),
        "highest": max(finals),
        "seconds": round(statistics.median(one["seconds"] for one in runs)),
        "sample": runs[0]["sample"],
    }
    step = module(name)
    if hasattr(step, "LAPTOP"):
        config = step.parse_args([])  # what the runs had, but for their flags
        result["size"] = "laptop" if config.n_embd == step.LAPTOP["n_embd"] else "full"
        names = "batch_size", "block_size", "n_embd", "n_head", "n_layer", "dropout"
        result["settings"] = {key: getattr(config, key) for key in names}
    return result | {"runs": [{k: one[k] for k in ("seed", "seconds", "curve")} for one in runs]}


def describe_heads(checkpoint: Path) -> dict:
    """Three heads: one looks widely, one looks one back, one to where a speech began."""
    model, vocabulary = from_checkpoint(checkpoint)
    weights = attention_weights(model, vocabulary.encode(TEXT)).numpy()  # (heads, T, T)
    entropy = -(weights * np.log(weights.clip(1e-9))).sum(axis=-1).mean(axis=-1)  # (heads,)
    back = weights.diagonal(-1, axis1=1, axis2=2).mean(axis=-1)  # (heads,)
    speaker, start = np.zeros(len(weights)), 0
    speeches = TEXT.split("\n\n")
    for speech in speeches:
        line_break = start + speech.index("\n")  # behind the name
        words = slice(line_break + 2, start + len(speech))  # from the second character on
        speaker += weights[:, words, line_break].mean(axis=-1) / len(speeches)
        start += len(speech) + 2
    heads = {}
    for role, score in (("wide", entropy), ("back", back), ("speaker", speaker)):
        best = int(score.argmax())
        heads[role] = {
            "name": head_names(model, len(weights))[best],
            "score": round(float(score[best]), 2),
            "weights": [[round(float(w), 3) for w in row] for row in weights[best]],
        }
    return {"text": TEXT, "heads": heads}


def keep(flags: tuple) -> dict:
    """Step 9: a run, what its saved model writes, and what the heads of it look at."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pt"
        result = measure(KEEPS, SEEDS[:1], "--checkpoint", checkpoint, *flags)
        text = run(TABLE[KEEPS]["file"], *SAMPLE, "--checkpoint", checkpoint)
        return {
            "steps": {KEEPS: result},
            "sample": {"flags": " ".join(SAMPLE), "text": text.rstrip("\n")},
            "attention": describe_heads(checkpoint),
        }


def gradients(name: str, seeds: range = range(1337, 1343)) -> list[float]:
    """How long the first block's gradient is beside the last's in the first step, by seed."""
    step, corpus, ratios = module(name), load_corpus(), []
    for seed in seeds:
        torch.manual_seed(seed)
        config = step.Config()
        model = step.LanguageModel(config, corpus.vocab_size)
        x, y = corpus.batch("train", config.batch_size, config.block_size)
        model(x, y)[1].backward()
        first, last = (
            torch.cat([p.grad.flatten() for p in model.blocks[i].parameters()]).norm()
            for i in (0, -1)
        )
        ratios.append(round((first / last).item(), 3))
    return ratios


def compare(old: str, new: str, *flags: object) -> dict:
    """One step against another at the laptop size: how many times as fast."""
    printed = run("benchmarks/throughput.py", old, new, "--size", "laptop", *flags)
    found = re.findall(rf"{new} (trains|samples) ([\d.]+) times", printed)
    return {word: float(ratio) for word, ratio in found}


def sampling(rounds: int = 11, sizes: tuple[str, ...] = ("laptop", "full")) -> dict:
    """How fast step 15 samples when the context is full, against step 14 and step 7, by size."""
    found: dict[str, dict] = {}
    for size in sizes:
        found[size] = {"characters": {}, "times": {}}
        for old in ("07_full_gpt", "14_muon"):
            flags = ["--turn", 0, "--rounds", rounds, "--size", size]
            printed = run("benchmarks/throughput.py", old, "15_cache", *flags)
            for name, characters in re.findall(r"^(\w+) +([\d,]+) characters/s$", printed, re.M):
                found[size]["characters"][name] = int(characters.replace(",", ""))
            found[size]["times"][old] = float(re.search(r"samples ([\d.]+) times", printed)[1])
        reads = re.search(r"15_cache reads ([\d.]+) GB .* of ([\d.]+) GB/s", printed)
        found[size] |= {"reads": float(reads[1]), "memory": float(reads[2])}
    return found


def waiting(repeats: int = 3, steps: int = 20) -> dict | None:
    """Step 7 with the threads' ways of waiting, beside programs that keep all cores busy or none.

    Milliseconds a step, the lowest and the highest of the repeats. What GOMP_SPINCOUNT sets is in
    libgomp, torch's OpenMP on Linux: elsewhere there is nothing to measure.
    """
    if platform.system() != "Linux":
        return None
    ways = {
        "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
        "GOMP_SPINCOUNT=300000": {"GOMP_SPINCOUNT": "300000"},  # libgomp's default
        "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},  # as OMP_WAIT_POLICY=passive
        "one thread": {"OMP_NUM_THREADS": "1"},
    }
    ms: dict[str, dict[str, list]] = {way: {"quiet": [], "busy": []} for way in ways}
    for _ in range(repeats):
        for way, environment in ways.items():
            for state in ("quiet", "busy"):
                programs = machine()["cores"] if state == "busy" else 0
                loop = [sys.executable, "-c", "while True: pass"]
                others = [subprocess.Popen(loop) for _ in range(programs)]
                try:
                    printed = run("-c", TIME_STEPS.format(steps=steps), **environment)
                finally:
                    for other in others:
                        other.kill()
                        other.wait()
                ms[way][state].append(round(float(printed)))
    return {
        way: {state: [min(times), max(times)] for state, times in states.items()}
        for way, states in ms.items()
    }


def machine() -> dict:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = re.search(r"model name\s*: (.*)", info.read_text() + "model name: " + cpu)[1]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "avx512_bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
    }


def measure_all(names: list[str], old: dict, *flags: object) -> dict:
    """The results, with those steps measured anew and the others as they were."""
    results = old | {"machine": machine(), "steps": dict(old.get("steps", {}))}
    for name in names:
        if name == KEEPS:
            found = keep(flags)
            results["steps"] |= found.pop("steps")
            results |= found
        elif name not in AS_BEFORE:
            seeds = SEEDS if name < KEEPS else SEEDS[:1]
            results["steps"][name] = measure(name, seeds, *flags)
    results["steps"] = {name: results["steps"][name] for name in TABLE if name in results["steps"]}
    deep = ("05_blocks", "06_residual_layernorm")
    if set(deep) & set(names):
        results["gradients"] = {name: gradients(name) for name in deep}
    pair = ("07_full_gpt", "08_batched_heads")
    if set(pair) & set(names):
        results["step_8_to_step_7"] = compare(*pair)
    if "07_full_gpt" in names:
        results["waiting"] = waiting()
    if "15_cache" in names:
        results["sampling"] = sampling()
    return results


def main() -> None:
    """Measure what the command line names, then write it in one go."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", help="those to measure again; all, where none is named")
    names = parser.parse_args().steps
    if unknown := set(names) - set(TABLE):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(TABLE)}")
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if names else {}
    if names and old["machine"] != machine():
        parser.error(f"{RESULTS} was measured on another machine or version: measure all steps")
    load_corpus()  # downloads it, so that no run has to
    if not TINY_SHAKESPEARE.exists():
        sys.exit(f"{TINY_SHAKESPEARE} is missing; what is measured is a run on Tiny Shakespeare")
    results = measure_all(names or list(TABLE), old)
    results["data"] = run("common/data.py")
    results["learning"] = old.get("learning", {}) | export(names or list(TABLE))
    write_results(results)


if __name__ == "__main__":
    main()
