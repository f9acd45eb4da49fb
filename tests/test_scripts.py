"""Each script as a user runs it: output, exit status, and one line for what is wrong."""

import dataclasses
import importlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS, STEPS, run

SAMPLE = ROOT / "data" / "sample.txt"
QUICK = ("--max-iters", 25, "--eval-interval", 10, "--eval-iters", 2, "--max-new-tokens", 40)
LOSSES = re.compile(r"step (\d+): train loss \d\.\d{4}, val loss \d\.\d{4}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_run_prints_losses_and_a_sample_and_does_so_again(script, tmp_path, capsys, monkeypatch):
    checkout = tmp_path / "a path" / "with spaces"
    shutil.copytree(ROOT / "common", checkout / "common")
    shutil.copy(ROOT / f"{script}.py", checkout)
    shutil.copy(SAMPLE, tmp_path / "my play.txt")
    flags = ["--data", "my play.txt", "--device", "cpu", *map(str, QUICK)]
    first = run(checkout / f"{script}.py", *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # no progress bar in a pipe
    head, *losses = first.stdout.splitlines()[:5]
    assert re.fullmatch(r"[\d,]+ parameters on cpu", head)
    assert [int(LOSSES.fullmatch(line)[1]) for line in losses] == [0, 10, 20, 25]
    sample = first.stdout.split("\n", 5)[5]
    assert len(sample) == 40 + 1  # and the line end that follows it
    assert set(sample) <= set(SAMPLE.read_text())

    monkeypatch.chdir(tmp_path)
    step = importlib.import_module(script)
    if script == SCRIPTS[6]:
        flags += ["--checkpoint", str(tmp_path / "gpt.pt")]
    handler = signal.getsignal(signal.SIGINT)
    step.main(step.parse_args(flags))
    signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().out == first.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-iterations", "5"], "--max-iterations"),
        (["--max-iters", "many"], "--max-iters"),
        (["--batch-size", "0"], "batch_size must not be 0"),
        (["--max-iters", "-1"], "max_iters must not be -1"),
        (["--learning-rate", "nan"], "learning_rate must not be nan"),
        (["--seed", "18446744073709551616"], "seed must not be 18446744073709551616"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--data", str(ROOT)], str(ROOT)),
        (["--data", str(SAMPLE), "--block-size", "100000"], "1,000,001"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_usage_gets_one_line(step, flags, words, capsys):
    with pytest.raises(SystemExit) as exit:
        step.main(step.parse_args(flags))
    captured = capsys.readouterr()
    # a message that sys.exit was given is printed by the interpreter, with exit status 1
    line = exit.value.code if isinstance(exit.value.code, str) else captured.err
    assert exit.value.code != 0
    assert words in line
    assert "\n" not in line.rstrip("\n")
    assert captured.out == ""


@pytest.mark.parametrize("step", STEPS[2:])
def test_heads_must_divide_the_width(step, capsys):
    with pytest.raises(SystemExit) as exit:
        step.parse_args(["--n-embd", "30", "--n-head", "4"])
    assert exit.value.code != 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "n_embd 30 must be a multiple of n_head 4" in line


def test_missing_text_as_a_user_sees_it():
    result = run(ROOT / "01_bigram.py", "--data", "nowhere.txt")
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_help_names_every_setting_with_its_default(step, capsys):
    with pytest.raises(SystemExit) as exit:
        step.parse_args(["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(step.Config):
        assert f"--{field.name.replace('_', '-')} " in text
        assert f" = {field.default}" in text


def test_hopeless_learning_rate_ends_with_a_sentence(step, corpus, capsys):
    flags = ["--data", str(SAMPLE), "--device", "cpu", "--learning-rate", "1e18"]
    with pytest.raises(SystemExit, match="try a lower --learning-rate"):
        step.main(step.parse_args([*flags, *map(str, QUICK)]))


def test_full_size_is_the_one_of_the_video():
    flags = ("--size", "full", "--max-iters", 0, "--eval-iters", 1, "--batch-size", 1)
    result = run(ROOT / "07_full_gpt.py", *flags, "--data", SAMPLE, "--max-new-tokens", 5)
    assert result.returncode == 0, result.stderr
    parameters = 10_788_929 - 5 * (2 * 384 + 1)  # the sample lacks five of the 65 characters
    assert result.stdout.startswith(f"{parameters:,} parameters on ")


def test_any_character_prints_in_a_console_without_unicode(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\u65e5\u672c\u8a9e\U0001f3ad\n" * 100, encoding="utf-8")
    flags = ("--data", path, "--device", "cpu", *QUICK)
    result = run(ROOT / "01_bigram.py", *flags, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split("\n", 5)[5]) <= {"?", "\n"}


def test_nothing_is_written_beside_the_text(tmp_path):
    path = shutil.copy(SAMPLE, tmp_path)
    run(ROOT / "07_full_gpt.py", "--data", path, *QUICK, "--n-layer", 1, cwd=tmp_path)
    assert [str(p) for p in tmp_path.iterdir()] == [str(path)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")
def test_a_reader_that_leaves_early_gets_no_traceback():
    command = f"'{sys.executable}' 01_bigram.py --data data/sample.txt --max-iters 200 | head -n 1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.startswith("3,600 parameters on ")
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr
