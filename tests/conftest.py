"""What the tests share: the steps, imported and as programs, and a small text."""

import dataclasses
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from common.data import load_corpus

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample.txt"
TABLE = tomllib.loads((ROOT / "docs" / "steps.toml").read_text(encoding="utf-8"))
EXERCISES = tomllib.loads((ROOT / "docs" / "exercises.toml").read_text(encoding="utf-8"))
FILES = {name: ROOT / row["file"] for name, row in TABLE.items()}
SCRIPTS = list(FILES)  # names, as 01_bigram
sys.path[:0] = sorted({str(file.parent) for file in FILES.values()})
sys.path.insert(0, str(ROOT / "exercises"))
STEPS = [importlib.import_module(name) for name in SCRIPTS]
torch.set_num_threads(1)  # toy models are fastest so, on a busy machine by far
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `pytest &` ignores Ctrl-C
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
SMALL = {"n_embd": 32, "n_head": 4, "n_layer": 2, "block_size": 8, "batch_size": 4}
SMALL |= {"eval_iters": 2, "eval_batch_size": 4, "max_new_tokens": 40}


def has(step, field):
    return field in {field.name for field in dataclasses.fields(step.Config)}


def small_config(step, **settings):
    """A config of that step at toy size; settings that the step does not have are left out."""
    return step.Config(**{k: v for k, v in (SMALL | settings).items() if has(step, k)})


def small_model(step, vocab_size=65, **settings):
    torch.manual_seed(0)
    return step.LanguageModel(small_config(step, **settings), vocab_size)


def small_flags(step, tmp_path, **settings):
    """The command line of a toy run on the bundled text; what it keeps goes to tmp_path."""
    settings = SMALL | {"data": SAMPLE, "device": "cpu"} | settings
    settings.setdefault("checkpoint", tmp_path / "model.pt")
    settings = {name: value for name, value in settings.items() if has(step, name)}
    return [word for k, v in settings.items() for word in ("--" + k.replace("_", "-"), str(v))]


def bare_environment(**more):
    """The environment without what changes how Python behaves here, and nowhere else."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return bare | {"OMP_NUM_THREADS": "1"} | more


def run(script, *flags, cwd=None, **environment):
    """The script as a user starts it, with standard output and error as a pipe."""
    return subprocess.run(
        [sys.executable, str(script), *map(str, flags)],
        cwd=cwd,
        timeout=120,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=bare_environment(**environment),
    )


@pytest.fixture(scope="session")
def corpus():
    return load_corpus(SAMPLE)


@pytest.fixture(params=STEPS, ids=SCRIPTS)
def step(request):
    """Each of the steps in turn, imported."""
    return request.param


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here to open the page in")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # who may not use the sandbox
    args = ["--no-sandbox"] if root else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()
