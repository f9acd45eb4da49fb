"""Steps 1 to 8 as a user runs them: what is printed, when, and what is said of mistakes."""

import dataclasses
import io
import re
import runpy
import shutil
import signal
import sys

import pytest
import torch
from conftest import FILES, ROOT, SAMPLE, STEPS, load, run, small_flags, start

from common import InputError

QUICK = {"max_iters": 12, "eval_interval": 5}
STEP7 = STEPS[6]


@pytest.fixture
def printed(step, capsys):
    """What a toy run prints, in this process."""

    def main(**settings):
        step.main(step.parse_args(small_flags(step, **QUICK | settings)))
        return capsys.readouterr().out

    return main


def losses(text):
    return [line.split(":")[0] for line in text.splitlines() if ": train loss " in line]


@pytest.mark.parametrize("name", ["01_bigram", "07_full_gpt", "08_batched_heads"])
def test_a_run_from_another_folder_and_the_same_text_once_more(name, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "a path with spaces" / FILES[name].relative_to(ROOT)
    copy.parent.mkdir(parents=True)
    shutil.copy(FILES[name], copy)
    shutil.copytree(ROOT / "common", tmp_path / "a path with spaces" / "common")
    shutil.copy(SAMPLE, tmp_path / "my play.txt")
    flags = small_flags(load(name), **QUICK, data="my play.txt")
    first = run(copy, *flags, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")  # no progress bar in a pipe
    assert losses(first.stdout) == ["step 0", "step 5", "step 10", "step 11"]
    sample = first.stdout.split("step 11")[1].split("\n", 1)[1]
    assert len(sample) == 40 + 1  # and a line end
    assert set(sample) <= set(SAMPLE.read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a path with spaces", "my play.txt"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(copy), *flags])
    left = runpy.run_path(str(FILES[name]), run_name="__main__")  # as python -i leaves it
    assert capsys.readouterr().out == first.stdout
    continued = left["model"](left["corpus"].splits["val"][None, :8])
    assert continued[0].shape == (1, 8, left["corpus"].tokenizer.vocab_size)


def test_another_seed_gives_other_losses(printed):
    (head, *one), (same, *other) = (re.split(r"step \d+:", printed(seed=n)) for n in (1, 2))
    assert head == same
    assert len(one) == 4
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_the_sample_goes_on_from_the_prompt(step, printed, corpus, monkeypatch):
    given, real = [], step.LanguageModel.generate

    def generate(model, idx, *args):
        given.append(idx.tolist())
        return real(model, idx, *args)

    monkeypatch.setattr(step.LanguageModel, "generate", generate)
    prompt = "MARGERY:\nThe light is out"  # longer than block_size
    text = printed(prompt=prompt, max_iters=0)
    assert losses(text) == []
    assert len(text.split(prompt)[1]) == 40 + 1
    assert printed(prompt=prompt, max_iters=0, max_new_tokens=0).endswith(f"\n{prompt}\n")
    printed(max_iters=0)
    assert given[::2] == [[corpus.tokenizer.encode(prompt)], [[0]]]  # else from the first of chars


# --- While it runs ---


def test_all_that_is_printed_is_shown_before_the_model_goes_on(step, monkeypatch):
    class Screen(io.StringIO):
        shown = ""

        def flush(self):
            self.shown = self.getvalue()

    def forward(*args):
        assert screen.shown == screen.getvalue()
        return real(*args)

    screen, real = Screen(), step.LanguageModel.forward
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(step.LanguageModel, "forward", forward)
    step.main(step.parse_args(small_flags(step, **QUICK, max_new_tokens=5)))
    assert len(losses(screen.shown)) == 4


def test_ctrl_c_ends_the_training_and_another_the_sample(step, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    flags = small_flags(step, **QUICK, prompt="MARGERY", seed=7)
    monkeypatch.setattr(step, "estimate_loss", interrupt)
    model, corpus = step.main(step.parse_args(flags))
    assert corpus.generator.initial_seed() == 7  # the batches, too, are those of the seed
    assert len(capsys.readouterr().out.split("MARGERY")[1]) == 40 + 1
    monkeypatch.setattr(step.LanguageModel, "generate", interrupt)
    assert isinstance(step.main(step.parse_args(flags))[0], step.LanguageModel)  # for python -i


@pytest.mark.skipif(sys.platform == "win32", reason="needs Unix signals")
def test_ctrl_c_in_a_terminal_leaves_a_sample_and_no_traceback():
    step, endless = FILES["01_bigram"], {"max_iters": 10**9}
    with start(step, *small_flags(load("01_bigram"), **endless)) as process:
        assert any(map(losses, process.stdout))
        process.send_signal(signal.SIGINT)
        while losses(sample := process.stdout.read(40)):  # printed before the signal came
            process.stdout.readline()
        assert set(sample) <= set(SAMPLE.read_text())
        assert (process.stdout.read(), process.stderr.read()) == ("\n", "")
        assert process.wait() == 0


# --- Mistakes ---


MISTAKES = [
    ({"data": "nowhere.txt"}, "nowhere.txt"),
    ({"data": ROOT}, str(ROOT)),
    ({"data": "short.txt", "block_size": 9}, "has 9 tokens"),  # in its last tenth
    ({"prompt": "f(x)"}, "'(', ')'"),
    ({"device": "abacus"}, "'abacus'"),
]


@pytest.mark.parametrize(("settings", "words"), MISTAKES)
def test_a_mistake_ends_the_run_before_the_training_with_a_line_on_it(
    step, settings, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("\nabcdefgh" * 10)
    flags = small_flags(step, **settings)
    with pytest.raises(InputError) as mistake:
        step.main(step.parse_args(flags))
    assert words in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert losses(capsys.readouterr().out) == []


@pytest.mark.parametrize("step", STEPS[2:])
def test_heads_must_divide_the_width(step):
    with pytest.raises(AssertionError, match="n_head 5 does not divide n_embd 32"):
        step.LanguageModel(step.Config(n_embd=32, n_head=5), 65)


# --- Flags and sizes ---


def test_every_field_of_a_config_is_a_flag_of_its_type(step):
    for field in dataclasses.fields(step.Config):
        value = {"device": "cpu", "size": "laptop"}.get(field.name, field.type("3"))
        flag = "--" + field.name.replace("_", "-")
        given = getattr(step.parse_args(["--device", "cpu", flag, str(value)]), field.name)
        assert (given, type(given)) == (value, type(value))
    with pytest.raises(SystemExit, match="2"):  # what argparse says of a wrong flag
        step.parse_args(["--batch-sise", "3"])


def test_help_shows_every_setting_with_its_default_and_its_meaning(step, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["100%.py"])  # argparse has a meaning for a percent sign
    with pytest.raises(SystemExit, match="0"):
        step.parse_args(["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(step.Config):
        assert re.search(rf"^ +{field.name}: \w+ = .+  # \w+", text, flags=re.M), field.name
    if step is STEP7:
        laptop = step.SIZES["laptop"]
        assert f"'n_embd': {laptop.n_embd}" in text


def test_the_size_is_the_one_for_the_device_and_flags_change_it(monkeypatch):
    step, full, laptop = STEP7, STEP7.SIZES["full"], STEP7.SIZES["laptop"]
    assert (full.size, laptop.size) == ("full", "laptop")

    def config(*flags):
        return dataclasses.replace(step.parse_args(flags), device="auto")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert config() == config("--device", "mps") == full
    assert config("--device", "cpu") == config("--size", "laptop") == laptop
    assert config("--device", "cpu", "--size", "full") == full
    assert config("--device", "cpu", "--n-layer", "2") == dataclasses.replace(laptop, n_layer=2)
    assert config("--n-layer", "2") == dataclasses.replace(full, n_layer=2)
