"""The README and the scripts' docstrings name what there is, and link to where it is shown."""

import importlib
import re
import shlex
import subprocess

import pytest
from conftest import EXERCISES, FILES, ROOT, SCRIPTS, STEPS, TABLE, small_flags
from torch.distributed.run import get_args_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")
ALL = [*FILES.values(), *(ROOT / row["file"] for row in EXERCISES.values())]
VIDEO = "https://www.youtube.com/watch?v=kCc8FmEb1nY"

# The chapters of the video that a section or a script may link to.
CHAPTERS = """
0:07:52 0:09:28 0:14:27 0:22:11 0:34:53 0:38:00 0:42:13 0:47:11 0:51:54 0:54:42 0:58:26 1:00:18
1:02:00 1:11:38 1:16:56 1:19:11 1:21:59 1:24:25 1:26:48 1:28:00 1:32:51 1:37:49 1:42:39 1:46:22
1:48:53
""".split()

# The ten sections: where the video has them and which file is their home.
SECTIONS = [
    ("0:07:52", "common/data.py"),
    ("0:22:11", "01_bigram.py"),
    ("0:42:13", "#averaging-the-past-three-times"),
    ("1:00:18", "02_self_attention.py"),
    ("1:02:00", "02_self_attention.py"),
    ("1:21:59", "03_multihead.py"),
    ("1:24:25", "04_feedforward.py"),
    ("1:26:48", "05_blocks.py"),
    ("1:28:00", "06_residual_layernorm.py"),
    ("1:37:49", "07_full_gpt.py"),
]


def seconds(moment):
    hours, minutes, rest = map(int, moment.split(":"))
    return 3600 * hours + 60 * minutes + rest


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def commands():
    return [line for block in code_blocks("sh") for line in block.splitlines()]


def test_every_link_to_a_moment_says_that_moment_and_is_a_chapter():
    links = re.findall(r"\[([\d:]+)\]\(" + re.escape(VIDEO) + r"&t=(\d+)s\)", README)
    assert len(links) == README.count("&t=")
    for moment, second in links:
        assert moment in CHAPTERS
        assert seconds(moment) == int(second)


@pytest.mark.parametrize("script", [name for name in SCRIPTS if "video" in TABLE[name]])
def test_docstrings_link_to_a_chapter_they_name(script):
    text = STEPS[SCRIPTS.index(script)].__doc__
    moments = re.findall(r"\d:\d\d:\d\d", text)
    assert moments
    assert set(moments) <= set(CHAPTERS)
    (second,) = re.findall(re.escape(VIDEO) + r"&t=(\d+)s", text)
    assert int(second) in map(seconds, moments)


def rows(heading):
    """The rows of the table below a heading that begin with a number, by that number."""
    below = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {int(row[1]): row[0] for row in re.finditer(r"^\| (\d+) \|.*$", below, flags=re.M)}


def test_the_ten_sections_have_their_home_and_their_moment():
    found = rows("The ten sections")
    assert list(found) == list(range(1, 11))
    for number, (moment, home) in enumerate(SECTIONS, start=1):
        assert f"[{moment}]({VIDEO}&t={seconds(moment)}s)" in found[number]
        assert f"({home})" in found[number]


def test_the_steps_after_the_video_are_in_their_table():
    found, later = rows("After the video"), SCRIPTS[7:]
    assert list(found) == [int(name.split("_")[0]) for name in later]
    for name, row in zip(later, found.values(), strict=True):
        assert f"[{TABLE[name]['file']}]({TABLE[name]['file']})" in row
        if moment := TABLE[name].get("video"):
            assert f"[{moment}]({VIDEO}&t={seconds(moment)}s)" in row


def test_every_linked_file_and_heading_exists():
    headings = re.findall(r"^#+ (.*)$", README, flags=re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target in anchors
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_every_script_is_named_with_its_section_and_its_loss():
    for name in SCRIPTS:
        file = TABLE[name]["file"]
        least = 1 if name >= "09" else 2  # whose losses are in a table of their own
        assert README.count(f"[{file}]({file})") >= least


def test_commands_in_code_blocks_run_or_parse():
    kinds = set()
    for command in commands():
        for part in command.split(" && "):
            words = shlex.split(part)
            while re.fullmatch("[A-Z_]+=.*", words[0]):  # a variable for the command
                words = words[1:]
            kinds.add(words[0])
            if words[0] == "git":  # exit status 1: the files differ
                assert subprocess.run(words, cwd=ROOT, capture_output=True).returncode == 1
            elif words[0] == "torchrun":
                args = get_args_parser().parse_args(words[1:])
                step = STEPS[list(FILES.values()).index(ROOT / args.training_script)]
                step.parse_args(args.training_script_args)
            elif words[1:3] == ["-m", "pip"]:
                if "-r" in words:
                    assert (ROOT / words[-1]).is_file()
            elif words[1].startswith(("benchmarks/", "docs/")):
                assert (ROOT / words[1]).is_file()
            elif words[1].endswith(".py"):
                assert ROOT / words[1] in ALL
                step = importlib.import_module(words[1].split("/")[-1].removesuffix(".py"))
                step.parse_args(words[2:])
            else:
                assert words[1:3] in (["-m", "venv"], ["-m", "pytest"]), part
    assert {"python3", "git", "python", ".venv/bin/python"} <= kinds


def test_windows_commands_are_the_same_two():
    (windows,) = code_blocks("powershell")
    unix = code_blocks("sh")[0].replace("python3 ", "py ").replace(" && ", "; ")
    assert windows.replace("\\", "/") == unix.replace(".venv/bin/", ".venv/Scripts/")


def test_the_cpu_only_line_installs_the_torch_of_the_requirements():
    (line,) = [command for command in commands() if "--index-url" in command]
    (pin,) = re.findall(r"torch==[\d.]+", line)
    assert pin in (ROOT / "requirements.txt").read_text("utf-8")


def test_a_kept_model_can_be_used_from_python(tmp_path, monkeypatch, capsys):
    stop, code = (block for block in code_blocks("python") if ">>>" not in block)
    step = STEPS[SCRIPTS.index("09_keep")]
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "runs" / "09_keep.pt"
    step.main(step.parse_args(small_flags(step, tmp_path, max_iters=1, checkpoint=checkpoint)))
    capsys.readouterr()
    names = {}
    exec(code, names)
    assert len(capsys.readouterr().out) == 200 + len("\n")

    decode, speech = names["vocabulary"].decode, "\nBy your leave.\n\nJULIET:"
    tokens = iter(names["vocabulary"].encode(speech))
    monkeypatch.setattr(names["vocabulary"], "decode", lambda _: decode([next(tokens)]))
    exec(stop, names)  # the model's own characters would come to an empty line by chance alone
    assert capsys.readouterr().out == "ROMEO:\nBy your leave.\n\n\n"
