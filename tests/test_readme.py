"""What the pages and docstrings tell a reader to do can be done, and what they link to exists."""

import contextlib
import importlib.util
import itertools
import re
import runpy
import shlex
import sys

import pytest
import torch
from conftest import FILES, ROOT, load, small_flags
from packaging.requirements import Requirement

from common import InputError

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted({*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md")})
}
SCRIPTS = {
    file.relative_to(ROOT).as_posix(): name for name, file in FILES.items() if file.is_file()
}


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def commands(text):
    """Those of code blocks, and those in the middle of a sentence."""
    for block in code_blocks(text, "(?:sh|bash)"):
        yield from block.replace("\\\n", " ").splitlines()
    for code in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        if re.match(r"([A-Z_]+=\S+ )?(python|%run|git diff|torchrun) ", code):
            yield " ".join(code.split())


# --- Commands ---


def check(command):
    """The files, modules and flags of a command are there; each script reads its own flags."""
    words = shlex.split(command, comments=True)
    for option, file in itertools.pairwise(words):
        if option == "-r":
            assert (ROOT / file).is_file(), file
    if words[1:2] == ["-m"]:
        assert words[2] == "pip" or importlib.util.find_spec(words[2]), command
    if words[:1] == ["git"]:
        assert all((ROOT / word).exists() for word in words if word.endswith(".py")), command
        return
    script = next((i for i, word in enumerate(words) if re.search(r"\w\.py$", word)), None)
    if script is None:
        return
    file, *rest = words[script:]
    assert (ROOT / file).is_file(), file
    if file in SCRIPTS:
        with contextlib.suppress(InputError):  # of a device that this machine lacks
            load(SCRIPTS[file]).parse_args(rest)
    else:
        source = (ROOT / file).read_text(encoding="utf-8")
        if inner := next((word for word in rest if word in SCRIPTS), None):  # which it runs
            at = rest.index(inner)
            check(shlex.join(["python", *rest[at:]]))
            rest = rest[:at]
        for before, word in itertools.pairwise(["", *rest]):
            if before == "--flags":  # of the script that the command names first
                load(rest[0]).parse_args(word.split())
                continue
            assert not word.startswith("--") or f'"{word.split("=")[0]}"' in source, (file, word)


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_files_and_flags_that_exist(page):
    for command in commands(PAGES[page]):
        for part in command.split(" && "):
            check(part)


@pytest.mark.parametrize("name", SCRIPTS.values())
def test_docstrings_name_flags_that_exist(name):
    script = load(name)
    own = re.sub(r"torchrun .*\.py", "", script.__doc__)  # without torchrun's own
    for flag in re.findall(r"--[a-z][a-z0-9-]*", own):
        assert hasattr(script.Config(), flag[2:].replace("-", "_")), flag


def test_the_first_block_is_the_two_commands_that_ci_runs():
    """.ci/run takes the first line as what trains step 1, and the second as the tests.

    What else a reader types before them stands in blocks of another language, bash.
    """
    unix = code_blocks(README, "sh")[0]
    step, tests = unix.splitlines()
    assert step.endswith("python 01_bigram.py")
    assert tests.endswith("python -m pytest")
    windows = (
        code_blocks(PAGES["docs/install.md"], "powershell")[0]
        .replace("\\", "/")
        .replace("/Scripts/", "/bin/")
    )
    assert windows == unix.replace("python3 ", "py ").replace(" && ", "; ")


def test_a_model_is_kept_and_filled_again_in_a_new_run_as_the_readme_says(tmp_path, monkeypatch):
    def run_step_7(**settings):
        flags = small_flags(load("07_full_gpt"), max_new_tokens=0, **settings)
        monkeypatch.setattr(sys, "argv", ["07_full_gpt.py", *flags])
        return runpy.run_path(str(FILES["07_full_gpt"]), run_name="__main__")

    monkeypatch.chdir(tmp_path)
    keep, fill = code_blocks(README, "python")
    trained, fresh = run_step_7(max_iters=2), run_step_7(max_iters=0)
    exec(keep, trained)
    assert not torch.equal(trained["model"].lm_head.weight, fresh["model"].lm_head.weight)
    exec(fill, fresh)
    weights = [names["model"].state_dict() for names in (fresh, trained)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


# --- Links ---


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_and_headings_exist(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match("https?:", target):
            continue
        path, _, heading = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / page
        assert file.exists(), target
        assert not heading or heading in anchors(file.read_text(encoding="utf-8")), target


def test_links_to_the_video_go_to_the_moment_that_they_name():
    texts = [*PAGES.values(), *(file.read_text("utf-8") for file in ROOT.glob("common/*.py"))]
    texts += [(ROOT / file).read_text(encoding="utf-8") for file in SCRIPTS]
    video = r"https://www\.youtube\.com/watch\?v=(\S+?)&t=(\d+)s"
    link = r"(\d:\d\d:\d\d)(?:\]\(|,\s(?:[^,\n]+,\s)?)" + video
    found = [match for text in texts for match in re.findall(link, text)]
    assert len(found) == "".join(texts).count("&t=")
    for moment, video, second in found:
        hours, minutes, rest = map(int, moment.split(":"))
        assert (video, int(second)) == ("kCc8FmEb1nY", 3600 * hours + 60 * minutes + rest)


# --- What pip installs ---


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14", "3.15"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_each_machine_gets_one_line_for_each_package(python, platform):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    machine = {"python_version": python, "sys_platform": platform}
    fitting = [r.name for r in wanted if not r.marker or r.marker.evaluate(machine)]
    assert sorted(fitting) == ["numpy", "requests", "torch", "tqdm"]
