"""What the tests share: the seven scripts, imported and as programs, and a small text."""

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.data import load_corpus

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("0[1-7]_*.py"))
STEPS = [importlib.import_module(name) for name in SCRIPTS]
torch.set_num_threads(1)  # toy models are fastest so, on a busy machine by far
SMALL = {"n_embd": 32, "n_head": 4, "n_layer": 2, "block_size": 8, "batch_size": 4}


def small_config(step, **settings):
    """A config of that step at toy size; settings that the step does not have are left out."""
    names = {field.name for field in dataclasses.fields(step.Config)}
    return step.Config(**{k: v for k, v in (SMALL | settings).items() if k in names})


def small_model(step, vocab_size=65, **settings):
    torch.manual_seed(0)
    return step.LanguageModel(small_config(step, **settings), vocab_size)


def run(script, *flags, cwd=None, **environment):
    """The script as a user starts it, with standard output and error as a pipe."""
    return subprocess.run(
        [sys.executable, str(script), *map(str, flags)],
        cwd=cwd,
        timeout=60,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.fixture(scope="session")
def corpus():
    return load_corpus(ROOT / "data" / "sample.txt")


@pytest.fixture(params=STEPS, ids=SCRIPTS)
def step(request):
    """Each of the seven scripts in turn, imported."""
    return request.param
