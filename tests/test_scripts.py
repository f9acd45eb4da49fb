"""Each script as a user runs it: output, exit status, and one line for what is wrong."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from typing import get_args

import pytest
import torch
from conftest import FILES, ROOT, SAMPLE, SCRIPTS, STEPS, bare_environment, has, run, small_flags

QUICK = {"max_iters": 25, "eval_interval": 10}
LOSSES = re.compile(r"step (\d+): train loss \d\.\d{4}, val loss \d\.\d{4}")


@pytest.fixture
def main(step, tmp_path, capsys):
    """What a toy run prints, in this process."""

    def run_main(*flags, **settings):
        quick = small_flags(step, tmp_path, **QUICK | settings)
        step.main(step.parse_args([*quick, *flags]))
        (tmp_path / "model.pt").unlink(missing_ok=True)
        return capsys.readouterr().out

    return run_main


@pytest.mark.parametrize("script", SCRIPTS)
def test_run_prints_losses_and_a_sample_and_does_so_again(script, tmp_path, monkeypatch, capsys):
    step = STEPS[SCRIPTS.index(script)]
    checkout = tmp_path / "a path" / "with spaces"
    shutil.copytree(ROOT / "common", checkout / "common")
    copy = checkout / FILES[script].relative_to(ROOT)
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(FILES[script], copy)
    shutil.copy(SAMPLE, tmp_path / "my play.txt")
    flags = small_flags(step, checkout, **QUICK, data="my play.txt")
    first = run(copy, *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # no progress bar in a pipe
    head, *losses = first.stdout.splitlines()[:5]
    assert re.fullmatch(r"[\d,]+ parameters on cpu", head)
    assert [int(LOSSES.fullmatch(line)[1]) for line in losses] == [0, 10, 20, 25]
    sample = first.stdout.split("\n", 5)[5]
    assert len(sample) == 40 + 1  # and the line end that follows it
    assert set(sample) <= set(SAMPLE.read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a path", "my play.txt"]

    monkeypatch.chdir(tmp_path)
    flags = small_flags(step, tmp_path, **QUICK, data="my play.txt")
    step.main(step.parse_args(flags))
    assert capsys.readouterr().out == first.stdout


def test_another_seed_gives_another_run(main):
    first, again, other = (main(seed=seed).splitlines() for seed in (1, 1, 2))
    assert first == again
    assert first[0] == other[0]  # the count of parameters
    for line, another in zip(first[1:5], other[1:5], strict=True):
        assert line != another
    assert first[5:] != other[5:]


def test_the_sample_goes_on_from_the_prompt(step, main, corpus, monkeypatch):
    given, real = [], step.LanguageModel.generate

    def generate(model, idx, *args):
        given.append(idx.tolist())
        return real(model, idx, *args)

    monkeypatch.setattr(step.LanguageModel, "generate", generate)
    prompt = "MARGERY:\nThe light is out"  # longer than block_size
    sample = main(prompt=prompt, max_iters=0).split("\n", 2)[2]
    assert sample.startswith(prompt)
    assert len(sample) == len(prompt) + 40 + 1
    main("--prompt", "", max_iters=0)
    main(max_iters=0)
    assert given == [[corpus.encode(prompt)], [[0]], [[0]]]  # else from the first of chars


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-iterations", "5"], "--max-iterations"),
        (["--max-iters", "many"], "--max-iters"),
        (["--batch-size", "0"], "batch_size must not be 0"),
        (["--max-iters", "-1"], "max_iters must not be -1"),
        (["--max-new-tokens", "-1"], "max_new_tokens must not be -1"),
        (["--learning-rate", "nan"], "learning_rate must not be nan"),
        (["--learning-rate", "inf"], "learning_rate must not be inf"),
        (["--seed", "18446744073709551616"], "seed must not be 18446744073709551616"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--data", str(ROOT)], str(ROOT)),
        (["--data", str(SAMPLE), "--block-size", "100000"], "1,000,001"),
        (["--data", str(SAMPLE), "--prompt", "f(x)"], "not in the vocabulary: '(', ')'"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_usage_gets_one_line_and_nothing_is_run(step, tmp_path, flags, words, capsys):
    flags = small_flags(step, tmp_path) + flags
    with pytest.raises(SystemExit) as exit:
        step.main(step.parse_args(flags))
    captured = capsys.readouterr()
    # a message that sys.exit was given is printed by the interpreter, with exit status 1
    line = exit.value.code if isinstance(exit.value.code, str) else captured.err
    assert exit.value.code != 0
    assert words in line
    assert "\n" not in line.rstrip("\n")
    assert captured.out == ""


def test_no_number_may_be_negative_nan_or_endless(step):
    for field in dataclasses.fields(step.Config):
        kind = get_args(field.type)[0]
        if kind in (int, float):
            wrong = [-1] if kind is int else [-1.0, float("nan"), float("inf")]
            for value in wrong:
                with pytest.raises(ValueError, match=field.name):
                    step.Config(**{field.name: value})


@pytest.mark.parametrize("step", [step for step in STEPS if has(step, "n_head")])
def test_heads_must_divide_the_width(step, capsys):
    with pytest.raises(SystemExit) as exit:
        step.parse_args(["--n-embd", "30", "--n-head", "4"])
    assert exit.value.code != 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "n_embd 30 must be a multiple of n_head 4" in line


@pytest.mark.parametrize("step", [step for step in STEPS if has(step, "size")])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dropout", "1"], "dropout 1.0 must be below 1"),
        (["--size", "huge"], "size huge must be full, laptop or auto"),
    ],
)
def test_dropout_and_size_have_their_limits(step, flags, words, capsys):
    with pytest.raises(SystemExit):
        step.parse_args(flags)
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1


def test_help_names_every_setting_with_its_default(step, capsys):
    with pytest.raises(SystemExit) as exit:
        step.parse_args(["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(step.Config):
        assert f"--{field.name.replace('_', '-')} " in text
        assert f" = {field.default}" in text


def test_hopeless_learning_rate_ends_with_a_sentence(main):
    with pytest.raises(SystemExit, match="try a lower --learning-rate"):
        main(learning_rate=1e18)


def test_importing_the_steps_does_nothing():
    """Nothing is printed, and the importing program keeps its threads and its environment."""
    program = """
import importlib, os, sys, torch
before = torch.get_num_threads(), dict(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert before == (torch.get_num_threads(), dict(os.environ))
"""
    folders = os.pathsep.join({str(file.parent) for file in FILES.values()})
    result = run("-c", program, *SCRIPTS, PYTHONPATH=folders)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# --- As programs ---


def test_missing_text_as_a_user_sees_it():
    result = run(ROOT / "01_bigram.py", "--data", "nowhere.txt")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.slow
def test_full_size_is_the_one_of_the_video():
    flags = ("--size", "full", "--max-iters", 0, "--eval-iters", 1, "--eval-batch-size", 1)
    result = run(ROOT / "07_full_gpt.py", *flags, "--data", SAMPLE, "--max-new-tokens", 5)
    assert result.returncode == 0, result.stderr
    parameters = 10_788_929 - 5 * (2 * 384 + 1)  # the sample lacks five of the 65 characters
    assert result.stdout.startswith(f"{parameters:,} parameters on ")


def test_any_character_prints_in_a_console_without_unicode(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\u65e5\u672c\u8a9e\U0001f3ad\n" * 100, encoding="utf-8")
    flags = small_flags(STEPS[0], tmp_path, **QUICK, data=path)
    result = run(ROOT / "01_bigram.py", *flags, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split("\n", 5)[5]) <= {"?", "\n"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")
def test_a_reader_that_leaves_early_gets_no_traceback():
    """Without any setting of Python's that is not there on a fresh machine."""
    command = f"'{sys.executable}' 01_bigram.py --data data/sample.txt --max-iters 200 | head -n 1"
    environment = bare_environment()
    assert not [name for name in environment if name.startswith("PYTHON")]
    result = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert result.stdout.startswith("3,600 parameters on ")
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


def test_the_lesson_on_data_runs_from_anywhere(tmp_path):
    """`python common/data.py` shows section 1, here with the bundled sample as its text."""
    shutil.copytree(ROOT / "common", tmp_path / "common")
    (tmp_path / "data").mkdir()
    shutil.copy(SAMPLE, tmp_path / "data" / "input.txt")
    result = run(tmp_path / "common" / "data.py", cwd=tmp_path.parent)
    assert (result.returncode, result.stderr) == (0, "")
    text = SAMPLE.read_text()
    chars, line = sorted(set(text)), text[:14]
    assert f"{len(chars)} distinct characters: {''.join(chars)!r}" in result.stdout
    ids = [chars.index(char) for char in line]
    assert f"{line!r} is {ids}\n" in result.stdout
    assert f"{ids} is {line!r}\n" in result.stdout
    assert f"{len(text) * 9 // 10:,} tokens to train on" in result.stdout
    pairs = re.findall(r"after (['\"].*) comes ('.*')", result.stdout)
    window = "".join([eval(pairs[0][0]), *(eval(char) for _, char in pairs)])
    assert window in text
    assert [eval(context) for context, _ in pairs] == [window[: t + 1] for t in range(8)]


def test_steps_1_to_6_compute_on_one_thread_and_later_ones_on_those_there_are(step, main):
    torch.set_num_threads(2)
    try:
        main(max_iters=0)
        assert torch.get_num_threads() == (1 if step.__name__ < "07" else 2)
    finally:
        torch.set_num_threads(1)


def test_from_step_7_on_threads_are_told_how_to_wait_before_torch_starts_them():
    """Unless the user has it otherwise; the import of torch is where this program looks."""
    program = """
import os, runpy, sys
class Torch:
    def find_spec(name, *rest):
        if name == "torch":
            raise SystemExit
sys.meta_path.insert(0, Torch)
for file in sys.argv[1:]:
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit:
        print(os.environ.pop("GOMP_SPINCOUNT", "no word"))
"""
    early, late = FILES[SCRIPTS[5]], [FILES[s.__name__] for s in STEPS if has(s, "size")]
    found = run("-c", program, early, *late).stdout.split("\n")
    assert found == ["no word", *["3000" for _ in late], ""]
    assert run("-c", program, late[0], GOMP_SPINCOUNT="5").stdout == "5\n"
