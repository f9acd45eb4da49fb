"""An edit made in one step is carried into the later ones, or it is said where it did not fit."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("git"), reason="needs git")]

CARRY = ROOT / "docs" / "source" / "carry.py"
# Three steps and a leaf: each has lines of its own, and the last stands in a folder.
FIRST = """
def train(model, steps):
    optimizer = make(model)
    for step in range(steps):
        loss = model(batch())
        loss.backward()
        optimizer.step()


def main():
    model = Model()
    train(model, 10)
"""
SECOND = FIRST.replace("    model = Model()\n", "    model = Model(heads=4)\n")
THIRD = SECOND.replace("\n\ndef main", "\n\ndef save(model):\n    write(model)\n\n\ndef main")
LEAF = THIRD.replace("        loss.backward()\n", "        scale(loss).backward()\n")
FILES = {"01_a.py": FIRST, "02_b.py": SECOND, "03_c.py": THIRD, "beyond/leaf.py": LEAF}
TABLE = """
[01_a]
file = "01_a.py"
[02_b]
file = "02_b.py"
extends = "01_a"
[03_c]
file = "03_c.py"
extends = "02_b"
[leaf]
file = "beyond/leaf.py"
extends = "03_c"
"""


def git(*words):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def edit(file, old, new):
    text = Path(file).read_text()
    assert text.count(old) == 1
    Path(file).write_text(text.replace(old, new))


def carry(*words):
    return run("docs/source/carry.py", *words)


@pytest.fixture(autouse=True)
def _repository(tmp_path, monkeypatch):
    """The four files under git in the current folder, with docs/source/carry.py."""
    monkeypatch.chdir(tmp_path)
    texts = FILES | {"docs/source/steps.toml": TABLE, "docs/source/carry.py": CARRY.read_text()}
    for file, text in texts.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "steps")


def test_an_edit_reaches_every_later_file_and_no_earlier_one():
    edit("02_b.py", "make(model)\n", "make(model, 0.1)\n")
    edit("02_b.py", "    train(model, 10)\n", "    train(model, 10)\n    write(model)\n")
    planned = carry("02_b", "--dry-run")
    assert Path("03_c.py").read_text() == THIRD
    done = carry("02_b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "03_c: 2 of 2 changes carried\nleaf: 2 of 2 changes carried\n"
    assert done.stdout == planned.stdout
    carried = {
        file: text.replace("make(model)", "make(model, 0.1)") + "    write(model)\n"
        for file, text in FILES.items()
        if file != "01_a.py"
    }
    assert "leaf: 0 of 2 changes carried, 2 there already" in carry("02_b").stdout
    git("commit", "--quiet", "--all", "--message", "carried")
    assert "nothing to carry" in carry("02_b").stderr
    assert carry("02_b", "--since", "HEAD~1").returncode == 0
    for file, text in ({"01_a.py": FIRST} | carried).items():
        assert Path(file).read_text() == text


def test_what_does_not_fit_is_named_and_the_rest_carried():
    edit("01_a.py", "        loss.backward()\n", "        loss.backward(True)\n")
    edit("01_a.py", "    train(model, 10)\n", "    train(model, 20)\n")
    done = carry("1")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "02_b: 2 of 2 changes carried",
        "03_c: 2 of 2 changes carried",
        "leaf: 1 of 2 changes carried",
        'leaf: line 6 "loss.backward()" did not fit',
    ]
    assert Path("beyond/leaf.py").read_text() == LEAF.replace("10", "20")


def test_lines_that_stand_in_two_places_alike_fit_in_neither():
    twice = "    train(model, 10)\n    write(model)\n"
    edit("beyond/leaf.py", "    write(model)\n", twice)
    before = Path("beyond/leaf.py").read_text()
    edit("01_a.py", "    train(model, 10)\n", "    train(model, 20)\n")
    assert carry("01_a").returncode == 1
    assert Path("beyond/leaf.py").read_text() == before


@pytest.mark.parametrize(
    "words", [["leaf"], ["5"], ["01_a", "--since", "nowhere"], ["01_a", "--sinse", "x"]]
)
def test_what_cannot_be_done_is_said_in_one_line(words):
    edit("beyond/leaf.py", "    write(model)\n", "    write(model, 1)\n")
    done = carry(*words)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
