"""The measuring tools, on toy sizes: what they print is what the scripts do."""

import json
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import CHROMIUM, FILES, ROOT, SAMPLE, load, run, small_flags, small_model
from test_lessons import T, lesson, looks_back, make_model

from common.data import TINY_SHAKESPEARE

sys.path.insert(0, str(ROOT / "measure"))
import gradients  # noqa: E402
import losses  # noqa: E402
import race  # noqa: E402
import sliding  # noqa: E402
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


@slow
@needs_text
@pytest.mark.parametrize("name", gradients.STEPS)
def test_gradients_are_as_the_page_has_them(name):
    path = losses.RESULTS.with_name("gradients.json")
    kept = json.loads(path.read_text(encoding="utf-8"))[name]
    assert gradients.shares(name, gradients.SEEDS[0]) == pytest.approx(kept[0], abs=0.01)


# --- Time ---


@slow
def test_scripts_take_turns():
    words = ["07_full_gpt", losses.lesson("muon"), "--rounds", 2, "--steps", 3, "--tokens", 2]
    flags = small_flags(load("08_batched_heads"))
    flags = " ".join(flags[: flags.index("--eval-iters")]) + f" --data {SAMPLE} --device cpu"
    done = run(MEASURE / "throughput.py", *words, "--flags", flags)
    assert done.returncode == 0, done.stderr
    cells = r" \| ".join([r"[\d.]+", r"[\d.]+ \([\d.]+ to [\d.]+\)"] * 2)
    rows = re.findall(rf"^\| (\w+) \| {cells} \|$", done.stdout, flags=re.M)
    assert rows == ["07_full_gpt", losses.lesson("muon")]


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


@slow
@needs_text
def test_a_script_of_others_is_watched(tmp_path):
    (tmp_path / "other.py").write_text(SCRIPT)
    found = watch("other.py", options=["--loss", 512], folder=tmp_path)
    assert found["steps"] == 7
    assert found["ms"] < 1500 < 1000 * found["seconds"]  # without what it slept, and with it
    table = torch.load(tmp_path / "model.pt")["rows.weight"]
    tokens = losses.common.data.load_corpus(TINY_SHAKESPEARE, torch.device("cpu"), 0).splits["val"]
    expected = F.cross_entropy(table[tokens[:-1]], tokens[1:]).item()
    assert found["val_loss"] == pytest.approx(expected, abs=2e-4)


def test_a_folder_that_is_no_clone_is_named(tmp_path):
    done = run(MEASURE / "race.py", tmp_path, tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} has no train.py" in done.stderr


# The command for a CPU in nanoGPT's README.
PUBLISHED = """
python train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20
--log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128
--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0
"""


def test_nanogpts_recipe_is_the_published_one(tmp_path, monkeypatch):
    """What is given to train.py: only evaluations, what is printed and the folder may differ."""
    (tmp_path / "nanoGPT").mkdir()
    (tmp_path / "nanoGPT" / "train.py").write_text("")
    given = []
    monkeypatch.setattr(race, "watch", lambda script, *flags, **how: given.append(flags))
    race.other(tmp_path, "nanoGPT's recipe", *race.OTHERS["nanoGPT's recipe"][1], seed=1)
    ours, theirs = (
        {flag for flag in flags if not re.match("--(eval|log|out)_", flag)}
        for flags in (given[0], PUBLISHED.split()[2:])
    )
    assert ours == theirs


def test_text_is_read_through_the_cache_and_without():
    """Against a model whose mask hides what the cache has dropped, and against single windows."""
    model = make_model("cache", shake=0.5).eval()
    step, rows = lesson("cache"), torch.randint(65, (2, 3 * T + 1))
    caches = [step.Cache(T) for _ in model.blocks]
    kept, anew = (
        sliding.losses_after_full_windows(model, rows, how).flatten() for how in (caches, None)
    )
    with torch.no_grad():
        logits, _ = looks_back(model, 3 * T)(rows[:, :-1])
        windows = rows[:, :-1].unfold(1, T, 1).flatten(0, 1)  # each of T characters
        last = model(windows)[0][:, -1]
    targets = rows[:, T:].flatten()
    for found, rows in ((kept, logits[:, T - 1 :].flatten(0, 1)), (anew, last)):
        wanted = F.cross_entropy(rows, targets, reduction="none")
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert (kept - anew).abs().mean() > 0.1


@slow
def test_the_pages_are_timed():
    pytest.importorskip("playwright", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here to time the page in")
    done = run(MEASURE / "page.py", "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"median \d+, longest \d+", done.stdout)) == 6
