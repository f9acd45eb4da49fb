"""The measuring tools, on toy sizes: what they print is what the scripts do."""

import json
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import FILES, ROOT, load, run, small_flags, small_model

from common.data import TINY_SHAKESPEARE

sys.path.insert(0, str(ROOT / "measure"))
import losses  # noqa: E402
import race  # noqa: E402
from watch import watch  # noqa: E402

slow = pytest.mark.slow
MEASURE = ROOT / "measure"
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


@pytest.mark.parametrize("name", losses.STEPS)
def test_the_defaults_are_those_that_were_measured(name):
    """Who changes a default has to measure again; step 7 is measured at its laptop size."""
    step, kept = load(name), json.loads(losses.RESULTS.read_text(encoding="utf-8"))["steps"]
    defaults = vars(step.SIZES["laptop"] if name == "07_full_gpt" else step.Config())
    of_a_run = ("data", "device", "seed", "prompt", "max_new_tokens")
    wanted = {key: value for key, value in defaults.items() if key not in of_a_run}
    assert kept.get(name, {}).get("settings") == wanted, f"run python measure/losses.py {name}"


@slow
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


# --- Time ---


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
    def generate(self, idx, n):
        for _ in range(n):
            time.sleep(0.01)
            yield idx

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


@slow
@needs_text
def test_a_script_of_others_is_watched(tmp_path):
    (tmp_path / "other.py").write_text(SCRIPT)
    found = watch("other.py", options=["--loss", 512, "--sample", 3], folder=tmp_path)
    assert 0 < found["ms"] < 1500  # without what it slept
    assert 10 < found["token_ms"] < 1000
    table = torch.load(tmp_path / "model.pt")["rows.weight"]
    tokens = losses.common.data.load_corpus(TINY_SHAKESPEARE, torch.device("cpu"), 0).splits["val"]
    expected = F.cross_entropy(table[tokens[:-1]], tokens[1:]).item()
    assert found["val_loss"] == pytest.approx(expected, abs=2e-4)


TWICE = """
import time, torch
from torch import nn

for pause in (0.2, 0.1):
    model = nn.Linear(2, 2)
    optimizers = [torch.optim.SGD([p], lr=1.0) for p in model.parameters()]
    for i in range(5):
        time.sleep(pause)
        model(torch.ones(2)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
"""


@slow
def test_of_two_trainings_one_step_each_is_timed(tmp_path):
    """Two optimisers that take turns are one training."""
    (tmp_path / "twice.py").write_text(TWICE)
    assert 300 < watch("twice.py", folder=tmp_path)["ms"] < 550


def test_nanogpts_recipe_is_the_one_for_a_cpu_in_its_readme():
    published = {"--device=cpu", "--compile=False", "--block_size=64", "--batch_size=12"}
    published |= {"--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"}
    assert set(race.RECIPE.split()) == published
