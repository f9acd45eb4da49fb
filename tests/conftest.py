"""What the tests share: the steps, as modules and as programs, and toy settings for them."""

import contextlib
import dataclasses
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import torch

from common.data import load_corpus
from common.download import SAMPLE

ROOT = Path(__file__).resolve().parent.parent
TABLE = tomllib.loads((ROOT / "docs" / "source" / "steps.toml").read_text(encoding="utf-8"))
FILES = {name: ROOT / row["file"] for name, row in TABLE.items()}
CPU = torch.device("cpu")
SMALL = {"n_embd": 32, "n_head": 4, "n_layer": 2, "block_size": 8, "batch_size": 4}
SMALL |= {"eval_iters": 2, "max_new_tokens": 40}
torch.set_num_threads(1)  # toy models are fastest so
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `pytest &` ignores Ctrl-C
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


def load(name):
    """The script of that name, imported."""
    return importlib.import_module(TABLE[name]["file"].removesuffix(".py").replace("/", "."))


STEPS = [load(name) for name in TABLE if name < "09"]  # 01_bigram to 08_batched_heads


def toy(step, **settings):
    """The toy settings that a step has, and these."""
    fields = {field.name for field in dataclasses.fields(step.Config)}
    return {name: value for name, value in (SMALL | settings).items() if name in fields}


def small_config(step, **settings):
    return step.Config(**toy(step, **settings))


def small_model(step, vocab_size=65, **settings):
    torch.manual_seed(0)
    return step.LanguageModel(small_config(step, **settings), vocab_size)


def small_flags(step, **settings):
    """The command line of a toy run on the bundled text."""
    settings = toy(step, **{"data": SAMPLE, "device": "cpu"} | settings)
    return [word for k, v in settings.items() for word in ("--" + k.replace("_", "-"), str(v))]


def bare_environment(**more):
    """The environment without what changes how Python behaves here, and nowhere else."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return bare | {"OMP_NUM_THREADS": "1"} | more


@contextlib.contextmanager
def start(*command, cwd=None, **environment):
    """A Python program as a user starts it, its output as pipes; killed where it hangs."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=bare_environment(**environment),
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def run(*command, cwd=None, **environment):
    """The same to its end."""
    with start(*command, cwd=cwd, **environment) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.fixture(params=STEPS, ids=lambda step: step.__name__.removeprefix("beyond."))
def step(request):
    """Each of the steps 1 to 8 in turn."""
    return request.param


@pytest.fixture
def corpus():
    return load_corpus(SAMPLE, CPU, seed=5)


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
