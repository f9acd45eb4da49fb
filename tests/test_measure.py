"""The measuring tools, on toy sizes: what they print is what the scripts do."""

import json
import os
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import CHROMIUM, FILES, ROOT, SAMPLE, load, run, small_flags, small_model

from common.data import TINY_SHAKESPEARE

sys.path.insert(0, str(ROOT / "measure"))
import gradients  # noqa: E402
import losses  # noqa: E402
import scaling  # noqa: E402
import sliding  # noqa: E402

pytestmark = pytest.mark.slow
MEASURE = ROOT / "measure"
TOY = "--size laptop --n-embd 8 --n-head 2 --n-layer 1 --block-size 4 --batch-size 2 --device cpu"
TOY += f" --data {SAMPLE}"
needs_text = pytest.mark.skipif(not TINY_SHAKESPEARE.exists(), reason="needs data/input.txt")


# --- Losses ---


def test_the_loss_of_a_split_counts_each_character_once(corpus):
    model = small_model(load("01_bigram"), corpus.tokenizer.vocab_size)
    corpus.splits["val"] = corpus.splits["val"][:1001]  # the last window is shorter
    corpus.texts["val"] = corpus.texts["val"][:1001]
    tokens = corpus.splits["val"]
    with torch.no_grad():
        rows = model.token_embedding(tokens[:-1])  # a table looks at nothing else
    expected = F.cross_entropy(rows, tokens[1:]).item()
    assert losses.loss_of_split(model, corpus, 7) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["01_bigram", "07_full_gpt"])
def test_samples_on_the_way_change_no_loss(name, monkeypatch):
    monkeypatch.setattr(losses, "SAMPLE", 5)
    flags = small_flags(load(name), max_iters=4, eval_interval=2, dropout=0.1)
    found = losses.run(name, 1337, flags)
    printed = run(FILES[name], "--seed", 1337, *flags).stdout
    lines = re.findall(r"step (\d+): train loss ([\d.]+), val loss ([\d.]+)", printed)
    rows = [[int(step), float(train), float(val)] for step, train, val in lines]
    assert [row[:3] for row in found["evaluations"]] == rows
    assert [len(row[3]) for row in found["evaluations"]] == [5, 5, 5]


@needs_text
@pytest.mark.parametrize("name", gradients.STEPS)
def test_gradients_are_as_the_page_has_them(name):
    path = losses.RESULTS.with_name("gradients.json")
    kept = json.loads(path.read_text(encoding="utf-8"))[name]
    assert gradients.shares(name, gradients.SEEDS[0]) == pytest.approx(kept[0], abs=0.01)
    first = [row[0] for row in kept]
    if name == "05_blocks":  # "depth alone trains badly"
        assert max(first) < 0.5
    else:  # "An addition passes the gradient on"
        assert min(first) > 0.5


# --- Time ---


def test_scripts_take_turns():
    words = ["08_batched_heads", "14_muon", "--rounds", 2, "--steps", 1, "--tokens", 2]
    done = run(MEASURE / "throughput.py", *words, "--flags", TOY)
    assert done.returncode == 0, done.stderr
    ratio = r"[\d.]+ \([\d.]+ to [\d.]+\)"
    row = rf"^\| (\w+) \| [\d.]+ \| [\d,]+ \| {ratio} \| [\d,]+ \| {ratio} \|$"
    assert re.findall(row, done.stdout, flags=re.M) == ["08_batched_heads", "14_muon"]


# A script as others write it: names of its own, an evaluation of its own, no main.
SCRIPT = """
import time, torch
from torch import nn
import torch.nn.functional as F

class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(65, 65)
    def forward(self, idx, targets):
        logits = self.rows(idx)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

m = Table()
optimizer = torch.optim.SGD(m.parameters(), lr=1.0)
for i in range(7):
    if i == 3:
        time.sleep(3)
    x = torch.randint(65, (2, 9))
    _, loss = m(x[:, :-1], x[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(m.state_dict(), "model.pt")
"""


@needs_text
def test_a_script_of_others_is_watched(tmp_path):
    (tmp_path / "other.py").write_text(SCRIPT)
    words = [MEASURE / "watch.py", "--loss", 512, "found.json", "other.py"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["steps"] == 7
    assert found["ms"] < 1500  # without what it slept
    table = torch.load(tmp_path / "model.pt")["rows.weight"]
    tokens = losses.common.data.load_corpus(TINY_SHAKESPEARE, torch.device("cpu"), 0).splits["val"]
    expected = F.cross_entropy(table[tokens[:-1]], tokens[1:]).item()
    assert found["val_loss"] == pytest.approx(expected, abs=2e-4)


def test_a_folder_that_is_no_clone_is_named(tmp_path):
    done = run(MEASURE / "race.py", tmp_path, tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} has no train.py" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="torchrun does not start on Windows")
def test_two_processes_are_timed_and_more_machines_predicted():
    words = ["--batch", 1, "--steps", 3, "--rounds", 1, "--flags", TOY + " --vocab-size 64"]
    done = run(MEASURE / "scaling.py", *words)
    assert done.returncode == 0, done.stderr
    numbers = re.findall(r"^ ?(\d+) (?:process|machines)", done.stdout, flags=re.M)
    assert list(map(int, numbers)) == [1, 2, *scaling.MACHINES]


def test_a_step_on_n_machines_is_computing_and_a_ring():
    """Each sends 2 (n - 1) parts of an nth of the gradients, one after the other."""
    for n in (1, 2, 5):
        parts = [8e6 / n / 1e9 + 1e-4] * 2 * (n - 1)
        assert scaling.predict(0.5, 8e6, n, 1e9, 1e-4) == pytest.approx(0.5 + sum(parts))


@needs_text
def test_text_is_read_through_the_cache_and_without(tmp_path, monkeypatch, capsys):
    step = load("15_cache")
    monkeypatch.setattr(sliding, "MODELS", tmp_path)
    torch.manual_seed(0)
    model = step.LanguageModel(step.parse_args(["--size", "laptop", "--device", "cpu"]), 65)
    torch.save(model.state_dict(), tmp_path / "15_cache.pt")
    monkeypatch.setattr("sys.argv", ["sliding.py", "--rows", "2", "--windows", "2"])
    sliding.main()
    printed = capsys.readouterr().out
    assert printed.startswith("130 characters of the validation split")
    anew, kept = map(float, re.findall(r"\d\.\d{4}", printed))
    assert kept == pytest.approx(anew, abs=0.05)  # an untrained model guesses either way


def test_the_page_is_timed():
    pytest.importorskip("playwright", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here to time the page in")
    done = run(MEASURE / "page.py", "--rounds", 1)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+)(?: +\d+\.\d\d){3}$", done.stdout, flags=re.M)
    assert rows == [name for name in FILES if name < "08"]
