"""An edit of a script is carried into all that extend it, or marked where it does not fit."""

import shutil
import subprocess

import pytest
from conftest import ROOT, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("git"), reason="needs git")]

TRAIN = '\n\ndef train():\n    """Train."""\n    start()\n    a = 1\n    b = 2\n    end()\n'
# Each script of the chain has words of its own in the docstring, and a line below the one before.
TEXTS = {name: f'"""Step {name}.\n\nTry --n 3.\n"""\n' + TRAIN for name in "abcd"}
TEXTS["c"] = TEXTS["c"].replace("b = 2", "b = 3")
TEXTS["d"] = TEXTS["d"].replace("b = 2", "b = 3") + "    save()\n"
EXTENDS = {"b": "a", "c": "b", "d": "c"}


@pytest.fixture
def folder(tmp_path):
    """The scripts a to d, committed, and carry.py, which finds its root from where it lies."""
    source = tmp_path / "docs" / "source"
    source.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "source" / "carry.py", source)
    table = [f'[{n}]\nfile = "{n}.py"\nextends = "{EXTENDS.get(n, "")}"\n' for n in TEXTS]
    (source / "steps.toml").write_text("".join(table))
    for name, text in TEXTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    for words in ["init"], ["add", "."], ["commit", "--message", "scripts"]:
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def edit(file, *pairs):
    text = file.read_text()
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)
    return text


def test_an_edit_goes_through_the_chain_and_no_docstring_conflicts(folder):
    edit(folder / "b.py", ("start()", "begin()"), ("Step b", "The step b"), ("--n 3", "--n 4"))
    done = run(folder / "docs/source/carry.py", "b")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "a.py").read_text() == TEXTS["a"]
    for name in "cd":
        carried = TEXTS[name].replace("start()", "begin()").replace("--n 3", "--n 4")
        assert (folder / f"{name}.py").read_text() == carried


def test_what_does_not_fit_is_marked_and_goes_on_from_there_once_mended(folder):
    edit(folder / "a.py", ("b = 2", "b = 20"))
    done = run(folder / "docs/source/carry.py", "a")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "c.py: does not fit in line 11")
    marked = "<<<<<<< mine\n    b = 3\n=======\n    b = 20\n>>>>>>> new\n"
    assert marked in (folder / "c.py").read_text()
    assert (folder / "d.py").read_text() == TEXTS["d"]
    edit(folder / "c.py", (marked, "    b = 30\n"))
    assert run(folder / "docs/source/carry.py", "c").returncode == 0
    assert (folder / "d.py").read_text() == TEXTS["d"].replace("b = 3", "b = 30")
