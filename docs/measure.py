"""Runs the seven scripts as a user would, and writes what they print to docs/results.json.

    python docs/measure.py

Steps 1 to 6 run with three seeds, step 7 once, at the size that this machine's default gives; its
model then writes a sample and shows what its heads look at. Takes some minutes, and a machine that
does nothing else; needs docs/requirements.txt. Everything that the README and the page say was
measured comes from that file.
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
import threading
import time
from pathlib import Path

import numpy as np
import torch
from attention import TEXT, attention_weights, from_checkpoint, head_names

from common.data import TINY_SHAKESPEARE, load_corpus
from common.device import fast_math, select_device

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results.json"
SEEDS = (1337, 1338, 1339)
SAMPLE = ["--sample", "--prompt", "ROMEO:", "--temperature", "0.8", "--top-k", "20"]
FIRST = re.compile(r"([\d,]+) parameters on (\S+)\n")
LINE = re.compile(r"step (\d+): train loss ([\d.]+), val loss ([\d.]+)\n")


def run(*words: object) -> str:
    """What a script prints; one that fails ends the program with what it said."""
    print("python", *words, file=sys.stderr)
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
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


def measure(script: str, seeds: tuple[int, ...], *flags: object) -> dict:
    """A script's runs, one for each seed: seconds are from the start to the end of the process."""
    runs = []
    for seed in seeds:
        start = time.perf_counter()
        printed = run(f"{script}.py", "--seed", seed, *flags)
        seconds = time.perf_counter() - start
        runs.append({"seed": seed, "seconds": round(seconds, 1)} | parse(printed))
    finals = [one["curve"][-1][2] for one in runs]
    result = {
        "script": script,
        "parameters": runs[0]["parameters"],
        "device": runs[0]["device"],
        "val_loss": round(statistics.mean(finals), 4),
        "lowest": min(finals),
        "highest": max(finals),
        "seconds": round(statistics.median(one["seconds"] for one in runs)),
        "sample": runs[0]["sample"],
    }
    return result | {"runs": [{k: one[k] for k in ("seed", "seconds", "curve")} for one in runs]}


def forecast(checkpoint: Path) -> int | None:
    """The minutes that step 7 forecasts for its full size, or None where it sees no need."""
    command = [sys.executable, "07_full_gpt.py", "--size", "full", "--checkpoint", str(checkpoint)]
    pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command, cwd=ROOT, **pipe) as process:
        enough = threading.Timer(120, process.kill)
        enough.start()
        try:
            for line in process.stderr:
                if said := re.match(r"this takes about (\d+) minutes", line):
                    return int(said[1])
        finally:
            enough.cancel()
            process.kill()
    return None


def look(checkpoint: Path) -> dict:
    """Three heads of step 7: one looks widely, one looks one back, one to where a speech began."""
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


def compare() -> dict:
    """Step 7 against step 6 at step 7's laptop size: how many times as fast."""
    step7 = importlib.import_module("07_full_gpt")
    config = step7.parse_args(["--size", "laptop"])
    names = "batch_size", "block_size", "n_embd", "n_head", "n_layer", "dropout"
    flags = [w for n in names for w in ("--" + n.replace("_", "-"), getattr(config, n))]
    printed = run("benchmarks/throughput.py", "06_residual_layernorm", "07_full_gpt", *flags)
    found = re.findall(r"07_full_gpt (trains|samples) ([\d.]+) times", printed)
    return {word: round(float(ratio), 1) for word, ratio in found}


def machine() -> dict:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = re.search(r"model name\s*: (.*)", info.read_text() + "model name: " + cpu)[1]
    device = select_device()
    with fast_math(device):
        bfloat16 = torch.is_autocast_enabled(device.type)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpu": gpu,
        "bfloat16": bfloat16,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
    }


def main() -> None:
    """Measure everything, then write it in one go."""
    about, details = __doc__.split("\n", 1)
    argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    load_corpus()  # downloads it, so that no run has to
    if not TINY_SHAKESPEARE.exists():
        sys.exit(f"{TINY_SHAKESPEARE} is missing; what is measured is a run on Tiny Shakespeare")
    scripts = sorted(path.stem for path in ROOT.glob("0[1-7]_*.py"))
    steps = [measure(script, SEEDS) for script in scripts[:-1]]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "gpt.pt"
        step7 = measure(scripts[-1], SEEDS[:1], "--checkpoint", checkpoint)
        settings = torch.load(checkpoint, weights_only=True)["settings"]
        full = importlib.import_module(scripts[-1]).parse_args(["--size", "full"])
        step7["size"] = "full" if settings["n_embd"] == full.n_embd else "laptop"
        step7["settings"] = {k: v for k, v in settings.items() if k != "data"}
        steps.append(step7)
        kept = {
            "flags": " ".join(SAMPLE),
            "text": run("07_full_gpt.py", *SAMPLE, "--checkpoint", checkpoint).rstrip("\n"),
        }
        attention = look(checkpoint)
        full_size_minutes = None if step7["size"] == "full" else forecast(Path(folder) / "full.pt")
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "steps": steps,
        "kept": kept,
        "attention": attention,
        "step_7_to_step_6": compare(),
        "full_size_minutes": full_size_minutes,
    }
    text = json.dumps(results, indent=1, ensure_ascii=False)
    rows = re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found[0].split()), text)
    RESULTS.write_text(rows + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
