"""An edit made in one step is carried into the later ones, or it is said where it did not fit."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("git"), reason="needs git")]

# Four steps: the second and third grow, the fourth stands in a folder and has another loss.
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
FOURTH = THIRD.replace("        loss.backward()\n", "        scale(loss).backward()\n")
FILES = {"01_a.py": FIRST, "02_b.py": SECOND, "03_c.py": THIRD, "beyond/04_d.py": FOURTH}
EXERCISES = """
[ex2_e]
file = "exercises/ex2_e.py"
extends = "02_b"
"""
TABLE = """
[01_a]
file = "01_a.py"
[02_b]
file = "02_b.py"
extends = "01_a"
[03_c]
file = "03_c.py"
extends = "02_b"
[04_d]
file = "beyond/04_d.py"
extends = "03_c"
"""


class Repository:
    """The four steps under git, with docs/carry.py."""

    def __init__(self, path, exercises=""):
        self.path = path
        for folder in ("docs", "beyond"):
            (path / folder).mkdir()
        shutil.copy(ROOT / "docs" / "carry.py", path / "docs")
        (path / "docs" / "steps.toml").write_text(TABLE)
        (path / "docs" / "exercises.toml").write_text(exercises)
        for file, text in FILES.items():
            (path / file).write_text(text)
        self.git("init", "--quiet")
        self.git("add", ".")
        self.commit()

    def git(self, *words):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=self.path, check=True, capture_output=True)

    def commit(self):
        self.git("commit", "--quiet", "--all", "--message", "steps")

    def edit(self, file, old, new):
        assert self.read(file).count(old) == 1
        (self.path / file).write_text(self.read(file).replace(old, new))

    def read(self, file):
        return (self.path / file).read_text()

    def carry(self, *words):
        command = [sys.executable, "docs/carry.py", *words]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def test_an_edit_reaches_every_later_step_and_no_earlier_one(repository):
    repository.edit("02_b.py", "make(model)\n", "make(model, 0.1)\n")
    repository.edit("02_b.py", "    train(model, 10)\n", "    train(model, 10)\n    write(model)\n")
    done = repository.carry("02_b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "03_c: 2 of 2 changes carried\n04_d: 2 of 2 changes carried\n"
    assert repository.read("01_a.py") == FIRST
    for file in ("03_c.py", "beyond/04_d.py"):
        text = FILES[file].replace("make(model)", "make(model, 0.1)") + "    write(model)\n"
        assert repository.read(file) == text


def test_an_edit_reaches_an_exercise_after_the_steps(tmp_path):
    repository = Repository(tmp_path, EXERCISES)
    (tmp_path / "exercises").mkdir()
    (tmp_path / "exercises" / "ex2_e.py").write_text(SECOND.replace("range(steps)", "range(9)"))
    repository.edit("01_a.py", "        loss.backward()\n", "        loss.backward(True)\n")
    done = repository.carry("01_a")
    assert done.stdout.splitlines()[-1] == "ex2_e: 1 of 1 changes carried"
    assert "range(9)" in repository.read("exercises/ex2_e.py")
    assert "backward(True)" in repository.read("exercises/ex2_e.py")


def test_what_does_not_fit_is_named_and_the_rest_carried(repository):
    repository.edit("01_a.py", "        loss.backward()\n", "        loss.backward(True)\n")
    repository.edit("01_a.py", "    train(model, 10)\n", "    train(model, 20)\n")
    done = repository.carry("1")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "02_b: 2 of 2 changes carried",
        "03_c: 2 of 2 changes carried",
        "04_d: 1 of 2 changes carried",
        '04_d: line 6 "loss.backward()" did not fit',
    ]
    assert repository.read("beyond/04_d.py") == FOURTH.replace("10", "20")


def test_carried_twice_is_carried_once(repository):
    repository.edit(
        "01_a.py", "        optimizer.step()\n", "        optimizer.step()\n        log()\n"
    )
    repository.edit("01_a.py", "    optimizer = make(model)\n", "")
    assert repository.carry("01_a.py").returncode == 0
    once = {file: repository.read(file) for file in FILES}
    done = repository.carry("01_a.py")
    assert done.returncode == 0
    assert "04_d: 0 of 2 changes carried, 2 there already" in done.stdout
    assert {file: repository.read(file) for file in FILES} == once


def test_dry_run_writes_nothing(repository):
    repository.edit("03_c.py", "    write(model)\n", "    write(model, 1)\n")
    done = repository.carry("beyond/../03_c.py", "--dry-run")
    assert done.stdout == "04_d: 1 of 1 changes carried\n"
    assert repository.read("beyond/04_d.py") == FOURTH


def test_an_edit_since_an_earlier_commit(repository):
    repository.edit("03_c.py", "    write(model)\n", "    write(model, 1)\n")
    repository.commit()
    done = repository.carry("03_c")
    assert done.returncode == 1
    assert done.stderr == "03_c.py is as it was in HEAD: nothing to carry\n"
    assert repository.carry("03_c", "--since", "HEAD~1").returncode == 0
    assert "write(model, 1)" in repository.read("beyond/04_d.py")


def test_lines_that_stand_in_two_places_alike_fit_in_neither(repository):
    repository.edit(
        "beyond/04_d.py", "    write(model)\n", "    train(model, 10)\n    write(model)\n"
    )
    repository.commit()
    before = repository.read("beyond/04_d.py")
    repository.edit("01_a.py", "    train(model, 10)\n", "    train(model, 20)\n")
    repository.edit("01_a.py", "    model = Model()\n", "    model = Model(1)\n")
    done = repository.carry("01_a")
    assert done.returncode == 1
    assert repository.read("beyond/04_d.py") == before


def test_an_edit_of_the_last_step_has_nowhere_to_go(repository):
    repository.edit("beyond/04_d.py", "    write(model)\n", "    write(model, 1)\n")
    done = repository.carry("04")
    assert (done.returncode, done.stderr) == (1, "no step extends 04_d: nothing to carry it into\n")


@pytest.mark.parametrize("words", [["5"], ["01_a", "--since", "nowhere"], ["01_a", "--sinse", "x"]])
def test_a_wrong_command_line_is_answered_in_one_line(repository, words):
    done = repository.carry(*words)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
