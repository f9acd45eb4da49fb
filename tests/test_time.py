"""The second ladder: how a curve is taken, how the shortest run is searched, what is shown."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SAMPLE, SCRIPTS, bare_environment

from benchmarks import curve, peers

sys.path.insert(0, str(ROOT / "docs"))
import measure_time  # noqa: E402

pytestmark = pytest.mark.slow

# A script as others write it: names of its own, an evaluation of its own, no main.
SCRIPT = """
import time
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)

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
        m.eval()
        time.sleep(3)
        m.train()
    x = torch.randint(65, (2, 9))
    _, loss = m(x[:, :-1], x[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(m.state_dict(), "model.pt")
"""


@pytest.fixture
def text(tmp_path, monkeypatch):
    """The bundled text in the place of Tiny Shakespeare."""
    monkeypatch.setattr(curve, "TINY_SHAKESPEARE", SAMPLE)
    return SAMPLE


def test_a_curve_has_its_points_and_evaluations_do_not_count(tmp_path):
    if not curve.TINY_SHAKESPEARE.exists():
        pytest.skip("needs data/input.txt")
    (tmp_path / "other.py").write_text(SCRIPT)
    words = [ROOT / "benchmarks" / "curve.py", "--context", 8, 3, "curve.json", "other.py"]
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
        env=bare_environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "curve.json").read_text())
    assert [point[0] for point in points] == [3, 6, 7]
    seconds = [point[1] for point in points]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 3  # what it slept in evaluation mode
    table = torch.load(tmp_path / "model.pt")["rows.weight"]
    tokens = curve.load_corpus().splits["val"].long()
    n = (len(tokens) - 1) // 8 * 8
    losses = torch.nn.functional.cross_entropy(table[tokens[:n]], tokens[1 : n + 1])
    assert points[-1][2] == pytest.approx(losses.item(), abs=2e-4)


def test_a_script_that_fails_is_passed_on(tmp_path):
    (tmp_path / "other.py").write_text("raise SystemExit('no such thing')")
    words = [ROOT / "benchmarks" / "curve.py", 3, "curve.json", "other.py"]
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
        env=bare_environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode
    assert "no such thing" in done.stderr


def test_losses_and_steps_are_read_between_the_points_of_a_curve():
    points = [[0, 4.0], [100, 2.0], [200, 1.8], [300, 1.9]]
    assert measure_time.at_loss(points, 3.0) == 50
    assert measure_time.at_loss(points, 1.9) == pytest.approx(150)
    assert measure_time.at_loss(points, 1.7) is None
    assert measure_time.at_steps(points, 150) == pytest.approx(1.9)
    assert measure_time.at_steps(points, 300) == pytest.approx(1.9)
    with pytest.raises(ValueError, match="ends before step 301"):
        measure_time.at_steps(points, 301)


@pytest.mark.parametrize("shortest", [100, 250, 450, 1100, 2000])
@pytest.mark.parametrize("start", [300, 600, 1500])
def test_the_search_ends_at_the_shortest_length_that_reaches_the_goal(shortest, start):
    def loss(n):  # falls with the length, as losses do
        return measure_time.GOAL + 0.3 * (shortest - n) / (n + 100)

    tried = {start: loss(start)}
    while length := measure_time.next_length(tried):
        assert length not in tried
        assert length in measure_time.LENGTHS
        tried[length] = loss(length)
    reached = [n for n, value in tried.items() if value <= measure_time.GOAL]
    assert min(reached) == shortest
    assert len(tried) < 10


def test_a_goal_out_of_reach_ends_the_search():
    tried = {600: 2.5}
    while length := measure_time.next_length(tried):
        tried[length] = 2.4
    assert max(tried) == measure_time.LENGTHS[-1]


def test_an_edit_of_words_asks_for_no_new_run_and_one_of_code_does(monkeypatch, tmp_path):
    file = tmp_path / "11_recipe.py"
    monkeypatch.setattr(measure_time, "ROOT", tmp_path)
    monkeypatch.setitem(measure_time.TABLE, "11_recipe", {"file": file.name})
    hashes = []
    body = "def f():\n    'F.'\n    return"
    for source in (f'"""A."""\n{body} 1\n', f'"""B."""\n# why\n{body} 1\n', f"{body} 2\n"):
        file.write_text(source)
        hashes.append(measure_time.code("11_recipe"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_video_of_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "TINY_SHAKESPEARE", SAMPLE)
    (tmp_path / "gpt.py").write_text("batch_size = 64\nblock_size = 256\n")
    with pytest.raises(SystemExit, match="gpt.py has no constant max_iters"):
        peers.video(tmp_path, 10, 5)


def test_folders_that_are_no_clones_are_named(tmp_path):
    words = [ROOT / "benchmarks" / "peers.py", tmp_path, tmp_path]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{tmp_path} has no train.py" in done.stderr


def test_every_step_of_the_second_ladder_was_measured_as_it_is():
    """With three seeds, in the code that the scripts have now."""
    results = json.loads(measure_time.RESULTS.read_text())
    assert results["goal"] == measure_time.GOAL
    for row in results["steps"]:
        assert row["steps_to_goal"], row["step"]
        source = measure_time.SAME.get((row["step"], row["precision"]), row["step"])
        runs = [run for run in results["runs"] if run["step"] == source]
        assert {run["seed"] for run in runs} == set(measure_time.SEEDS)
        assert {run["script"] for run in runs} == {measure_time.code(source)}
        if row["precision"] == "float32":
            assert len(row["losses_in_time"]) == 3
    assert {row["step"] for row in results["steps"]} == {n for n in SCRIPTS if "07" <= n < "15"}


def test_each_step_shortens_the_time_to_the_loss_or_the_page_says_why_not():
    """What the README and the page say of the second ladder, from first to last."""
    results = json.loads(measure_time.RESULTS.read_text())
    seconds = {
        row["step"]: row["seconds_to_goal"]
        for row in results["steps"]
        if row["precision"] == "float32"
    }
    assert seconds["11_recipe"] < seconds["08_batched_heads"] < seconds["07_full_gpt"]
    assert seconds["12_rotary"] < seconds["11_recipe"]
    assert seconds["14_muon"] < seconds["13_modern"]
