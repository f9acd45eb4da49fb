"""beyond/checkpoint.py: a run that broke off goes on to the same numbers, and no model is lost."""

import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import TABLE
from torch import nn

from common.download import SAMPLE

tool = importlib.import_module("beyond.checkpoint")
lesson = importlib.import_module(f"beyond.{TABLE['checkpoint']['extends']}")  # the last one
load = functools.partial(torch.load, weights_only=True)
TEXT = SAMPLE.read_text(encoding="utf-8")[:4000]
SHAPE = {"vocab_size": 80, "n_embd": 16, "n_head": 2, "n_layer": 1, "block_size": 8}
SHAPE |= {"n_member": 2}
RUN = {"batch_size": 4, "dropout": 0.1, "warmup_iters": 4, "device": "cpu", "max_new_tokens": 20}
RUN |= {"max_iters": 20, "eval_interval": 5, "eval_iters": 2, "save_interval": 4}


class Killed(BaseException):
    """What ends a run here as SIGKILL ends a process."""


def flags(path, *switches, **settings):
    text = path.with_name("text.txt")
    text.write_text(TEXT, encoding="utf-8")
    settings = SHAPE | RUN | {"data": text, "checkpoint": path} | settings
    words = [word for k, v in settings.items() for word in ("--" + k.replace("_", "-"), str(v))]
    return [*words, *switches]


def go(path, *switches, **settings):
    """What a run prints, without the name of its checkpoint."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(Killed):
        tool.main(tool.parse_args(flags(path, *switches, **settings)))
    return out.getvalue().replace(str(path), "PATH")


@contextlib.contextmanager
def breaks_at(step, error=Killed):
    """A run ends there, between the gradients and the optimisers' step."""
    real = tool.learning_rate_at

    def learning_rate_at(now, config):
        if now == step:
            raise error
        return real(now, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "learning_rate_at", learning_rate_at)
        yield


def refused(path, *switches, **settings):
    """The one line that a run ends with that takes no step and leaves the file alone."""
    before = path.is_file() and path.read_bytes()
    with breaks_at(20, AssertionError), pytest.raises(tool.InputError) as error:
        go(path, *switches, **{"max_iters": 30} | settings)
    assert (path.is_file() and path.read_bytes()) == before
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "PATH")


def same(a, b):
    """Equal to the last bit, all through what two checkpoints hold."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def from_step(step, printed):
    """What a run prints that goes on from this step."""
    evaluated = re.findall(r"^step \d+: train.*\n", printed, flags=re.MULTILINE)
    for line in evaluated:
        if int(line[5 : line.index(":")]) < step:
            printed = printed.replace(line, "")
    return printed


def steps_in(printed):
    return [int(step) for step in re.findall(r"^step (\d+):", printed, flags=re.MULTILINE)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of a run that nothing broke off, and what the run printed."""
    path = tmp_path_factory.mktemp("whole") / "model.pt"
    return path, go(path)


@pytest.fixture
def path(whole, tmp_path):
    """A copy of that checkpoint."""
    return Path(shutil.copy(whole[0], tmp_path))


@pytest.mark.parametrize(("broken", "start"), [(3, 1), (10, 9), (13, 13), (19, 17)])
def test_a_run_that_broke_off_goes_on_to_the_same_numbers(whole, tmp_path, broken, start):
    path = tmp_path / "model.pt"
    with breaks_at(broken):
        assert steps_in(go(path, "--resume")) == [s for s in (0, 5, 10, 15, 19) if s <= broken]
    assert load(path)["step"] == start
    assert go(path, "--resume") == from_step(start, whole[1])
    assert same(load(path), load(whole[0]))
    assert go(path, "--resume") == from_step(20, whole[1])  # a finished run only samples


def test_at_most_50_steps_are_lost_wherever_a_run_breaks(path, monkeypatch):
    assert tool.Config().save_interval == 50
    path.unlink()
    lost = {}  # steps that would be, at each step

    def learning_rate_at(step, config, real=tool.learning_rate_at):
        if step > 0:
            lost[step] = step - load(path)["step"]
        return real(step, config)

    def replace(part, path, real=Path.replace):
        if len(lost) == 8:  # the third checkpoint, after 9 steps
            raise Killed
        real(part, path)

    monkeypatch.setattr(tool, "learning_rate_at", learning_rate_at)
    monkeypatch.setattr(Path, "replace", replace)
    go(path)
    assert [*lost.values()] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert load(path)["step"] == 9 - RUN["save_interval"]


def test_a_finished_run_goes_on_with_more_steps_and_other_settings(path, monkeypatch):
    seen = []

    def step(adamw):
        seen.append([adamw.param_groups[0][name] for name in ("lr", "weight_decay")])

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    printed = go(path, "--resume", max_iters=40, learning_rate=0.01, weight_decay=0.3)
    assert steps_in(printed) == [20, 25, 30, 35, 39]
    # The warm-up of 4 steps is over, and 20 of the 36 steps that follow are left.
    assert "\nlearning rate 0.0056: step 20 of 40\nstep 20: train" in printed
    assert seen[0] == pytest.approx([0.01 * 20 / 36, 0.3])
    assert "learning rate" not in go(path, "--resume", max_iters=40)


def test_the_generator_of_a_gpu_goes_on_too(path, monkeypatch):
    gpu = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.cuda, "default_generators", (gpu,))
    path.unlink()
    state, printed = gpu.get_state(), go(path)
    gpu.manual_seed(6)
    go(path, "--resume")
    assert torch.equal(gpu.get_state(), state)
    monkeypatch.setattr(torch.cuda, "default_generators", ())  # on a machine without one
    assert go(path, "--resume") == from_step(20, printed)


def test_the_sample_is_of_the_weights_with_the_lowest_val_loss(path, monkeypatch):
    losses, weights = iter([3.0, 2.0, 2.5, 2.5, 2.1, 2.2, 1.9]), []

    def estimate_loss(model, *_):
        weights.append({name: p.clone() for name, p in model.state_dict().items()})
        return {"train": 1.0, "val": next(losses)}

    monkeypatch.setattr(tool, "estimate_loss", estimate_loss)
    path.unlink()
    model, corpus = tool.main(tool.parse_args(flags(path)))
    assert "".join(corpus.texts.values()) == TEXT
    assert same(model.state_dict(), weights[1])
    assert same(load(path)["best"]["model"], weights[1])
    assert "\nPATH: --resume goes on from step 20\nsample of step 5:\n" in go(path, "--sample")
    resumed = go(path, "--resume", max_iters=21)
    assert same(load(path)["best"]["model"], weights[1])
    assert "\nPATH: --resume goes on from step 21\nsample of step 5:\n" in resumed
    # The newest weights come after the evaluation that is now the lowest.
    model, _ = tool.main(tool.parse_args(flags(path, "--resume", max_iters=22)))
    assert same(model.state_dict(), load(path)["model"])
    assert "\nsample of step 22:\n" in go(path, "--sample")


def test_ctrl_c_says_where_the_run_goes_on_and_samples_from_the_newest_weights(path):
    path.unlink()
    with breaks_at(0, KeyboardInterrupt):  # before there is a checkpoint
        assert "--resume" not in go(path)
    assert not path.exists()
    config = tool.parse_args(flags(path, eval_interval=50))
    with breaks_at(12, KeyboardInterrupt), contextlib.redirect_stdout(io.StringIO()) as out:
        model, _ = tool.main(config)
    assert steps_in(out.getvalue()) == [0]
    assert f"\n{path}: --resume goes on from step 9\n" in out.getvalue()
    assert "sample of step" not in out.getvalue()
    assert "\nsample of step 9:\n" in go(path, "--sample")
    path.unlink()
    with breaks_at(12):
        go(path, eval_interval=50, save_interval=1)
    assert load(path)["step"] == 12
    assert same(model.state_dict(), load(path)["model"])


# The script, which sends itself a signal between the gradients and the optimisers' step.
SIGNALLED = """
import os, sys
sys.path.insert(0, {root!r})
from beyond import checkpoint as tool
signal, at, real = int(sys.argv[1]), int(sys.argv[2]), tool.learning_rate_at
def learning_rate_at(step, config):
    if step == at:
        os.kill(os.getpid(), signal)
    return real(step, config)
tool.learning_rate_at = learning_rate_at
tool.main(tool.parse_args(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs Unix signals")
def test_a_process_that_signals_end_again_and_again_ends_at_the_same_numbers(tmp_path):
    whole, path, script = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "signalled.py"
    script.write_text(SIGNALLED.format(root=str(SAMPLE.parent.parent)), encoding="utf-8")

    def process(path, number=0, at=-1):
        """Exit status and output of a run with the default intervals."""
        words = flags(path, "--resume", max_iters=600, eval_interval=500, save_interval=50)
        words = [sys.executable, script, str(int(number)), str(at), *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.stderr == ""
        return done.returncode, done.stdout.replace(str(path), "PATH")

    _, printed = process(whole)
    breaks = ((signal.SIGKILL, 177, 151), (signal.SIGTERM, 251, 251), (signal.SIGINT, 350, 301))
    for number, at, kept in (*breaks, (signal.SIGKILL, 550, 501)):
        status, out = process(path, number, at)
        assert status == (0 if number == signal.SIGINT else -number)
        assert load(path)["step"] == kept
        if number == signal.SIGINT:
            assert "\nPATH: --resume goes on from step 301\n" in out
    assert process(path) == (0, from_step(501, printed))
    assert same(load(path), load(whole))


def test_a_file_that_is_written_half_way_replaces_nothing(path):
    """The system refuses more than some bytes: a full disk, and as far as a kill could get."""
    resource = pytest.importorskip("resource", reason="needs Unix")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(tool.InputError, match=f"^cannot write {path}: File too large$"):
            go(path, "--resume", max_iters=21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.pt", "text.txt"]


def test_what_does_not_fit_is_refused_by_name(path, monkeypatch):
    message = refused(path)
    assert message.startswith("PATH exists: ")
    assert all(way in message for way in ("--resume", "--sample", "--checkpoint"))
    for name in SHAPE:
        message = refused(path, "--resume", **{name: 2 * SHAPE[name]})
        assert message.startswith(f"PATH was made with another {name}; ")
    other = path.with_name("other.txt")
    other.write_text(TEXT[1:] + TEXT[0], encoding="utf-8")  # with the same characters and merges
    monkeypatch.setattr(tool, "learn_merges", lambda *_: load(path)["merges"])
    message = refused(path, "--resume", data=other)
    assert message.startswith("PATH was made with another text; ")


class Bomb:
    """What a foreign file may hold: it runs code where it is loaded carelessly."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("mode", ["--resume", "--sample"])
def test_what_is_no_checkpoint_is_refused(path, tmp_path, monkeypatch, mode):
    monkeypatch.chdir(tmp_path)
    content, found = path.read_bytes(), load(path)
    for damaged in (content[:-100], b"", b"step 0", found | {"step": Bomb()}, {"model": 1}, [1]):
        if isinstance(damaged, bytes):
            path.write_bytes(damaged)
        else:
            torch.save(damaged, path)
        assert refused(path, mode) == "PATH is damaged, or no checkpoint of this script"
    assert not Path("exploded").exists()
    path.unlink()
    assert refused(path, "--sample") == "cannot read PATH: No such file or directory"


def test_sample_needs_the_checkpoint_alone(path):
    def sample(*words):
        fixed = ["--sample", "--device", "cpu", "--data", "none", "--prompt", "The "]
        words = [*fixed, "--checkpoint", str(path), "--max-new-tokens", "20", *words]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert tool.main(tool.parse_args(words))[1] is None
        return out.getvalue()

    before, text = path.read_bytes(), sample()
    assert re.search(r"\nsample of step \d+:\nThe [^~]{20,}\n$", text)
    assert text == sample() != sample("--seed", "1")
    assert sample("--temperature", "0") == sample("--top-k", "1", "--seed", "1") != text
    assert path.read_bytes() == before


def a_model(step):
    torch.manual_seed(0)
    model = step.LanguageModel(step.Config(**SHAPE), 80)
    for p in model.parameters():
        nn.init.normal_(p)
    return model


@pytest.mark.parametrize(("temperature", "top_k"), [(0.5, 0), (2.0, 5), (1.0, 99), (0, 0), (0, 7)])
def test_temperature_and_top_k_set_the_probabilities(monkeypatch, temperature, top_k):
    model, idx, seen, draw = a_model(tool), torch.tensor([[1, 2, 3]]), [], torch.multinomial
    assert same([*model.generate(idx, 20)], [*a_model(lesson).generate(idx, 20)])
    monkeypatch.setattr(torch, "multinomial", lambda p, **how: seen.append(p) or draw(p, **how))
    for token in model.generate(idx, 5, temperature, top_k):
        logits = model(idx)[0][0, -1]
        likeliest = logits.topk(1 if temperature == 0 else min(top_k or 80, 80))
        want = torch.zeros(80)
        want[likeliest.indices] = F.softmax(likeliest.values / (temperature or 1), dim=-1)
        torch.testing.assert_close(seen.pop()[0], want, rtol=0, atol=1e-5)
        idx = torch.cat((idx, token), dim=1)
    assert idx.shape[1] == 8
