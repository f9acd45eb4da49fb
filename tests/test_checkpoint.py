"""A model is kept: stopped, killed, resumed to the same numbers, sampled from, and not deceived."""

import contextlib
import dataclasses
import errno
import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import torch
from conftest import (
    FILES,
    SAMPLE,
    STEPS,
    bare_environment,
    has,
    run,
    small_config,
    small_flags,
    small_model,
)

STEP9 = STEPS[8]
KEEPING = [step for step in STEPS if has(step, "resume")]
RUN = {"max_iters": 20, "eval_interval": 5, "eval_iters": 1, "dropout": 0.1}
TINY = {"n_embd": 16, "n_head": 2, "n_layer": 1, "max_new_tokens": 20}
unix = pytest.mark.skipif(os.name != "posix", reason="needs Unix")


def flags(path, *more, step=STEP9, **settings):
    settings = RUN | TINY | {"checkpoint": path} | settings
    return [*small_flags(step, path.parent, **settings), *map(str, more)]


def go(path, *more, step=STEP9, **settings):
    """What a run prints that keeps its model at path, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        step.main(step.parse_args(flags(path, *more, step=step, **settings)))
    return out.getvalue()


def stopped(path, *more, **settings):
    """The message that the run ends with: one line, and Ctrl-C is what it was."""
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as exit:
        go(path, *more, **settings)
    assert exit.type is SystemExit
    assert signal.getsignal(signal.SIGINT) is handler
    message = exit.value.code.removeprefix("\n")  # what the terminal shows for Ctrl-C is above
    assert "\n" not in message
    return message


def refused(path, *more, **settings):
    """The message of a run that takes no step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", None)
        return stopped(path, *more, **settings)


def load(path):
    return torch.load(path, weights_only=True)


def assert_same_weights(a, b):
    a, b = load(a)["model"], load(b)["model"]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def from_step(printed, step):
    return printed[printed.index(f"step {step}:") :]


def without_count(printed):
    return printed.split("\n", 1)[1]


def files_beside(path):
    return [p.name for p in path.parent.iterdir()]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Runs that nobody interrupted, by step: what they printed, and the checkpoint they left."""
    runs = {}

    def finish(step):
        if step not in runs:
            path = tmp_path_factory.mktemp("whole") / "a folder" / "model.pt"
            runs[step] = SimpleNamespace(printed=go(path, step=step), path=path)
            assert files_beside(path) == ["model.pt"]
            assert load(path)["step"] == 20
        return runs[step]

    return finish


@pytest.fixture
def whole(finished):
    return finished(STEP9)


@pytest.fixture
def path(whole, tmp_path):
    """A copy of a whole run's checkpoint."""
    return Path(shutil.copy(whole.path, tmp_path))


@contextlib.contextmanager
def ctrl_c_after_step(number, first=1):
    """Ctrl-C is pressed during the optimiser step of that number, counted from first."""
    real, taken = torch.optim.AdamW.step, first - 1

    def step(optimizer, *args):
        nonlocal taken
        real(optimizer, *args)
        taken += 1
        if taken == number:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        yield


# --- Ctrl-C ---


@pytest.mark.parametrize("step", KEEPING)
def test_stopped_twice_and_resumed_is_bitwise_as_never_stopped(step, finished, tmp_path):
    """In the middle of an interval, both times: the same losses, sample and weights."""
    whole, path = finished(step), tmp_path / "model.pt"
    with ctrl_c_after_step(7):
        message = stopped(path, step=step)
    assert message.startswith(f"stopped after step 7; {path} holds step 7: ")
    assert "--resume" in message
    with ctrl_c_after_step(13, first=8):
        message = stopped(path, "--resume", step=step)
    assert message.startswith(f"stopped after step 13; {path} holds step 13: ")
    resumed = go(path, "--resume", step=step)
    assert without_count(resumed) == from_step(whole.printed, 15)
    assert_same_weights(path, whole.path)


@pytest.mark.parametrize("step", KEEPING)
@pytest.mark.parametrize(("at", "times"), [(0, 1), (10, 1), (20, 1), (0, 2), (10, 2)])
def test_ctrl_c_in_an_evaluation(step, at, times, finished, tmp_path, monkeypatch):
    """Pressed once, the next step is the last and is saved; pressed again, the evaluation ends."""
    whole, path = finished(step), tmp_path / "model.pt"
    real, evaluations, forwards = step.estimate_loss, iter(range(0, 100, 5)), []

    def estimate_loss(model, *args):
        if next(evaluations) != at:
            return real(model, *args)

        def press(*_):
            if len(forwards) < times:
                signal.raise_signal(signal.SIGINT)
            forwards.append(True)

        with model.register_forward_pre_hook(press):
            return real(model, *args)

    monkeypatch.setattr(step, "estimate_loss", estimate_loss)
    if times == 1 and at < 20:
        kept = at + 1
        assert stopped(path, step=step).startswith(f"stopped after step {kept}; {path} holds step ")
    else:
        kept = at
        with pytest.raises(KeyboardInterrupt):
            go(path, step=step)
    assert len(forwards) == (2 if times == 1 else 1)  # one batch of each split, or the first alone
    monkeypatch.undo()
    assert load(path)["step"] == kept
    resumed = go(path, "--resume", step=step)
    assert without_count(resumed) == from_step(whole.printed, -(-kept // 5) * 5)
    assert_same_weights(path, whole.path)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("moment", ["half-written", "written"])
def test_ctrl_c_while_saving_leaves_a_whole_file(whole, tmp_path, monkeypatch, moment, times):
    """Pressed once, the file is written and a step follows; again, the last checkpoint is there."""
    path, write, saves = tmp_path / "model.pt", Path.write_bytes, []

    def press():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)

    def write_bytes(part, content):
        saves.append(True)
        if len(saves) == 3 and moment == "half-written":  # of steps 0, 5 and 10
            write(part, content[: len(content) // 2])
            press()
        write(part, content)
        if len(saves) == 3 and moment == "written":
            press()

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    if times == 1:
        assert stopped(path).startswith(f"stopped after step 11; {path} holds step 11: ")
    else:
        with pytest.raises(KeyboardInterrupt):
            go(path)
    monkeypatch.undo()
    assert files_beside(path) == ["model.pt"]
    left = 11 if times == 1 else 5
    assert load(path)["step"] == left
    assert without_count(go(path, "--resume")) == from_step(whole.printed, 15 if times == 1 else 5)
    assert_same_weights(path, whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("share", [i / 25 for i in range(25)])
def test_ctrl_c_at_any_line_of_the_script(share, whole, tmp_path):
    """Whatever line the script is at, what is left is whole and is resumed to the same numbers."""
    file, lines = STEP9.__file__, 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            lines += 1
            if lines == stop_at:
                signal.raise_signal(signal.SIGINT)
        return trace

    def traced(path):
        nonlocal lines
        lines = 0
        config = STEP9.parse_args(flags(path))
        sys.settrace(trace)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                STEP9.main(config)
        finally:
            sys.settrace(None)

    stop_at = 0
    traced(tmp_path / "model.pt")
    stop_at = 1 + int(share * lines)
    path = tmp_path / "stopped" / "model.pt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        traced(path)
    if path.exists():
        assert files_beside(path) == ["model.pt"]
        assert whole.printed.endswith(without_count(go(path, "--resume")))
    else:
        assert go(path) == whole.printed
    assert_same_weights(path, whole.path)


# --- Killed, no space, several runs ---


def start(path, *more, program=None, **settings):
    command = [FILES["09_keep"]] if program is None else ["-c", program, FILES["09_keep"]]
    return subprocess.Popen(
        [sys.executable, *map(str, command), *flags(path, *more, **settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=bare_environment(),
    )


def wait_for_line(process, text):
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(process.stderr.read())


@unix
@pytest.mark.slow
def test_ctrl_c_in_a_terminal(whole, tmp_path):
    path = tmp_path / "model.pt"
    process = start(path, max_iters=100_000)
    wait_for_line(process, "step 10:")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    pattern = r"\nstopping .*\nstopped after step (\d+); .* holds step \1: .* --resume .*\n"
    found = re.fullmatch(pattern, err)
    step = found[1]
    resumed = run(FILES["09_keep"], *flags(path, "--resume", max_iters=int(step) + 5))
    assert resumed.returncode == 0, resumed.stderr


KILLER = """
import os, runpy, signal, sys
from pathlib import Path

def die(name, moment, number):
    real, calls = getattr(Path, name), 0
    def write(path, *args):
        nonlocal calls
        calls += 1
        if calls == number and moment == "half":
            real(path, args[0][: len(args[0]) // 2])
        elif calls != number or moment == "after":
            real(path, *args)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(Path, name, write)

die(*{moment!r})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@unix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "left"),
    [
        (("write_bytes", "half", 3), 5),
        (("write_bytes", "after", 3), 5),
        (("replace", "before", 3), 5),
        (("replace", "after", 3), 10),
    ],
)
def test_killed_at_any_moment_the_file_is_whole(whole, tmp_path, moment, left):
    """kill -9 while step 10 is saved, after those at 0 and 5."""
    path = tmp_path / "model.pt"
    process = start(path, program=KILLER.replace("{moment!r}", repr(moment)))
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert load(path)["step"] == left
    assert without_count(go(path, "--resume")) == from_step(whole.printed, left)
    assert_same_weights(path, whole.path)


@unix
@pytest.mark.slow
def test_kill_loses_at_most_the_steps_since_the_last_evaluation(tmp_path):
    path = tmp_path / "model.pt"
    process = start(path, max_iters=100_000, eval_interval=20)
    wait_for_line(process, "step 20:")
    process.kill()
    process.communicate(timeout=60)
    step = load(path)["step"]
    assert step >= 20
    assert step % 20 == 0
    go(path, "--resume", max_iters=step + 1)
    assert load(path)["step"] == step + 1


@unix
@pytest.mark.slow
def test_two_runs_at_once_leave_one_whole_checkpoint(path):
    runs = [start(path, "--resume", max_iters=60, seed=seed, eval_interval=1) for seed in (1, 2)]
    for process in runs:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    assert files_beside(path) == ["model.pt"]
    assert load(path)["step"] == 60


@pytest.fixture
def half_way(tmp_path):
    """A checkpoint of step 10 of 20."""
    path = tmp_path / "model.pt"
    with ctrl_c_after_step(10):
        stopped(path)
    return path


@contextlib.contextmanager
def no_space_left():
    """The kernel refuses a file of more than a few kB half-way, as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_old_checkpoint_and_the_run_goes_on(half_way, whole, capsys):
    before = half_way.read_bytes()
    with no_space_left():
        printed = go(half_way, "--resume")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:22].strip() for line in lines] == [
        "step 15 is not saved:",
        "step 20 is not saved:",
    ]
    assert all(str(half_way.parent) in line and "File too large" in line for line in lines)
    assert without_count(printed) == from_step(whole.printed, 10)
    assert files_beside(half_way) == ["model.pt"]
    assert half_way.read_bytes() == before


def test_a_full_disk_is_named(half_way, monkeypatch, capsys):
    def write_bytes(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    go(half_way, "--resume")
    line = capsys.readouterr().err.splitlines()[0]
    assert str(half_way.with_suffix("")) in line
    assert "no space left on device" in line.lower()


@pytest.mark.parametrize("step", KEEPING)
def test_a_file_where_a_folder_should_be_is_named(step, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    message = refused(tmp_path / "file" / "model.pt", step=step, data=SAMPLE)
    assert message == "no model can be kept there: name another --checkpoint"
    assert str(tmp_path / "file" / "model.") in capsys.readouterr().err


def test_ctrl_c_on_a_full_disk_says_which_step_is_kept(half_way, tmp_path):
    with no_space_left(), ctrl_c_after_step(17, first=11):
        message = stopped(half_way, "--resume")
    assert message.startswith(f"stopped after step 17; {half_way} holds step 10: ")


def test_a_run_that_cannot_save_its_model_takes_no_step(tmp_path):
    with no_space_left():
        message = refused(tmp_path / "none" / "model.pt")
    assert "name another --checkpoint" in message
    assert files_beside(tmp_path / "none" / "model.pt") == []


# --- What a run may not destroy ---


@pytest.mark.parametrize("step", KEEPING)
def test_a_run_not_told_to_resume_refuses_and_leaves_the_file(step, finished, tmp_path):
    path = Path(shutil.copy(finished(step).path, tmp_path))
    before = path.read_bytes(), path.stat().st_mtime_ns
    message = refused(path, step=step)
    assert str(path) in message
    assert all(way in message for way in ("--resume", "--sample", "--checkpoint"))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert files_beside(path) == ["model.pt"]


def test_a_diverged_run_does_not_replace_a_good_checkpoint(whole, path):
    changed = {"learning_rate": 1e18, "max_iters": 40, "eval_interval": 5}
    assert "try a lower --learning-rate" in stopped(path, "--resume", **changed)
    assert_same_weights(path, whole.path)


def test_ctrl_c_in_a_diverged_run_does_not_either(whole, path):
    changed = {"learning_rate": 1e18, "max_iters": 40, "eval_interval": 40}
    with ctrl_c_after_step(30, first=21):
        message = stopped(path, "--resume", **changed)
    assert message.startswith(f"stopped after step 30; {path} holds step 20: ")
    assert_same_weights(path, whole.path)


# --- What is no checkpoint, or none of this run ---


class Bomb:
    """What a foreign file may hold: code that would run when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


DAMAGED = "is damaged, cut off or no checkpoint"
LACKS = "lacks .*: another program or version made it"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "no checkpoint .*model.pt: No such file or directory"),
        ("folder", "no checkpoint .*model.pt: (Is a directory|Permission denied)"),
        ("empty", DAMAGED),
        ("cut", DAMAGED),
        ("cut by a byte", DAMAGED),
        ("zeros", DAMAGED),
        ("text", DAMAGED),
        ("pickle", DAMAGED),
        ("tensor", "no checkpoint"),
        ("zip", DAMAGED),
        ("code", "holds other things than weights and settings, and was not loaded"),
        ("foreign", LACKS),
        ("list", LACKS),
    ],
)
@pytest.mark.parametrize("mode", ["--resume", "--sample"])
def test_what_is_no_checkpoint_is_refused(path, tmp_path, damage, reason, mode):
    bomb, content = tmp_path / "bomb", path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "cut by a byte":
        path.write_bytes(content[:-1])
    elif damage == "zeros":
        path.write_bytes(content[:100] + bytes(200) + content[300:])
    elif damage == "text":
        path.write_text("step 1: train loss 0.0001")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Bomb(str(bomb))))
    elif damage == "tensor":
        torch.save(torch.zeros(3), path)
    elif damage == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("holiday.txt", "by the sea")
    elif damage == "code":
        torch.save({"settings": Bomb(str(bomb))}, path)
    elif damage == "foreign":
        torch.save({"model": {"weight": torch.zeros(3)}, "iter_num": 5}, path)
    elif damage == "list":
        torch.save([torch.zeros(3)], path)
    if mode == "--resume":
        message = refused(path, "--resume")
    else:
        with pytest.raises(SystemExit) as exit:
            sample(path)
        message = exit.value.code
    assert re.search(reason, message)
    assert str(path) in message
    assert "\n" not in message
    assert not bomb.exists()


def test_a_flipped_byte_is_noticed_in_every_part_of_a_checkpoint(path):
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        parts = [part for part in file.infolist() if part.file_size]
    for part in parts:
        name_and_extra = content[part.header_offset + 26 : part.header_offset + 30]
        start = part.header_offset + 30 + sum(name_and_extra[::2]) + 256 * sum(name_and_extra[1::2])
        for place in (start, start + part.file_size // 2, start + part.file_size - 1):
            flipped = bytearray(content)
            flipped[place] ^= 0x20
            path.write_bytes(flipped)
            with pytest.raises(SystemExit, match=DAMAGED):
                STEP9.load(path)


PARTS = "script step config random block_size n_embd n_head n_layer chars text model optimizer"


@pytest.mark.parametrize("part", PARTS.split())
def test_a_checkpoint_that_lacks_something_says_what(path, part):
    checkpoint = load(path)
    assert set(checkpoint) == set(PARTS.split())
    del checkpoint[part]
    torch.save(checkpoint, path)
    message = refused(path, "--resume")
    assert message == f"{path} lacks {part}: another program or version made it"


def test_a_checkpoint_of_another_script_is_refused(path):
    torch.save(load(path) | {"script": "99_other"}, path)
    message = f"{path} is a model of 99_other.py, not of 09_keep.py"
    assert refused(path, "--resume") == message
    with pytest.raises(SystemExit, match=re.escape(message)):
        sample(path)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"n_embd": 32}, "n_embd 16, not 32"),
        ({"block_size": 4, "n_layer": 2}, "block_size 8, not 4; n_layer 1, not 2"),
        ({"n_head": 4}, "n_head 2, not 4"),
        ({"max_iters": 10}, "20 steps, more than --max-iters 10"),
    ],
)
def test_resuming_another_model_is_refused_by_name(path, changed, what):
    message = refused(path, "--resume", **changed)
    assert message == f"{path} cannot be resumed, it has {what}"


@pytest.mark.parametrize("more", ["", "~"])
def test_resuming_with_another_text_is_refused_by_its_name(path, tmp_path, more):
    other = tmp_path / "other.txt"
    other.write_text(SAMPLE.read_text().replace("herring", "haddock") + more)
    message = refused(path, "--resume", data=other)
    assert message.endswith(f"it has the text {SAMPLE}, not {other} as it is now")


def test_the_same_text_from_another_place_is_the_same(path, tmp_path):
    other = shutil.copy(SAMPLE, tmp_path / "other.txt")
    go(path, "--resume", max_iters=21, data=other)
    assert load(path)["step"] == 21


# --- What may change ---


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 5e-4},
        {"dropout": 0.3},
        {"eval_interval": 3},
        {"eval_iters": 2},
        {"batch_size": 8},
        {"seed": 5},
        {"max_iters": 30},
    ],
    ids=str,
)
def test_a_resumed_run_may_have_other_settings_and_they_count(half_way, whole, changed):
    """But for the seed: the random numbers go on where they were."""
    unchanged = half_way.with_name("unchanged.pt")
    shutil.copy(half_way, unchanged)
    go(unchanged, "--resume")
    printed = go(half_way, "--resume", **changed)
    (setting,) = changed
    end = changed.get("max_iters", 20)
    assert load(half_way)["step"] == end
    assert load(half_way)["config"][setting] == changed[setting]
    if setting == "seed":
        assert_same_weights(half_way, unchanged)
    else:
        with pytest.raises(AssertionError):
            assert_same_weights(half_way, unchanged)
    interval = changed.get("eval_interval", 5)
    evaluated = sorted({*(s for s in range(10, end) if s % interval == 0), end})
    assert [int(s) for s in re.findall(r"^step (\d+):", printed, flags=re.M)] == evaluated


def test_a_new_learning_rate_is_used(half_way, monkeypatch):
    rates, real = [], torch.optim.AdamW.step

    def step(optimizer, *args):
        rates.extend(group["lr"] for group in optimizer.param_groups)
        return real(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    go(half_way, "--resume", learning_rate=5e-4)
    assert rates == [5e-4] * 10


def test_a_field_that_a_learner_adds_breaks_nothing(half_way, whole, monkeypatch):
    """Neither does one that is taken away again."""
    fields = [
        ("colour", Annotated[str, "of the paper"], "white"),
        ("paper", Annotated[Path, "to write on"], Path("paper.txt")),
    ]
    wider = dataclasses.make_dataclass("Config", fields, bases=(STEP9.Config,))
    monkeypatch.setattr(STEP9, "Config", wider)
    with ctrl_c_after_step(15, first=11):
        stopped(half_way, "--resume")
    assert load(half_way)["config"]["colour"] == "white"
    assert len(sample(half_way)) == 501
    monkeypatch.undo()
    go(half_way, "--resume")
    assert_same_weights(half_way, whole.path)


# --- A GPU's own random numbers ---


class Generator:
    def __init__(self, state):
        self.state = state

    def get_rng_state(self):
        return self.state

    def set_rng_state(self, state):
        self.state = state


def test_every_generator_is_kept_and_put_back(tmp_path, monkeypatch):
    path, gpu = tmp_path / "model.pt", Generator(torch.arange(5))
    monkeypatch.setattr(STEP9, "generators", lambda model: [torch, gpu])
    with ctrl_c_after_step(7):
        stopped(path)
    gpu.state = torch.zeros(5)
    go(path, "--resume")
    assert torch.equal(gpu.state, torch.arange(5))


def test_generators_are_those_of_the_cpu_and_of_the_models_device():
    def on(device):
        return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=device)]))

    assert STEP9.generators(on(torch.device("cpu"))) == [torch]
    assert STEP9.generators(on(torch.device("mps"))) == [torch, torch.mps]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_dropout_draws_the_same_masks_after_a_resume(tmp_path):
    whole = go(tmp_path / "whole.pt", device="cuda", dropout=0.5)
    path = tmp_path / "model.pt"
    with ctrl_c_after_step(7):
        stopped(path, device="cuda", dropout=0.5)
    resumed = go(path, "--resume", device="cuda", dropout=0.5)
    assert without_count(resumed) == from_step(whole, 10)
    assert_same_weights(path, tmp_path / "whole.pt")


# --- Sampling ---


def sample(path, *more, step=STEP9):
    """Without the flags of the training run: the checkpoint knows its sizes and characters."""
    words = ["--sample", "--checkpoint", str(path), "--device", "cpu", *map(str, more)]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        step.main(step.parse_args(words))
    return out.getvalue()


@pytest.mark.parametrize("step", KEEPING)
def test_sampling_needs_the_checkpoint_alone_and_goes_on_from_the_prompt(step, finished):
    path = finished(step).path
    before = path.read_bytes()
    words = ["--prompt", "MARGERY:", "--max-new-tokens", 30]
    text = sample(path, *words, step=step)
    assert re.fullmatch(r"MARGERY:(.|\n){30}\n", text)
    assert text == sample(path, *words, step=step)
    assert text != sample(path, *words, "--seed", 1, step=step)
    long = "The light is out, and who shall light it now? " * 3
    words = ["--prompt", long, "--max-new-tokens", 5]
    assert sample(path, *words, step=step).startswith(long)
    assert path.read_bytes() == before


def test_the_model_sampled_from_is_the_one_that_was_trained(whole, tmp_path):
    """Resumed at its last step, it writes what the whole run wrote; another model does not."""
    path = shutil.copy(whole.path, tmp_path)
    wrote = from_step(whole.printed, 20)
    assert without_count(go(Path(path), "--resume")) == wrote
    greedy = ["--prompt", "M", "--top-k", 1, "--max-new-tokens", 30]
    text = sample(path, *greedy)
    checkpoint = load(path)
    model = STEP9.LanguageModel(small_config(STEP9, **TINY), len(checkpoint["chars"]))
    model.load_state_dict(checkpoint["model"])
    vocabulary = STEP9.Vocabulary(checkpoint["chars"])
    idx = torch.tensor([vocabulary.encode("M")])
    for _ in range(30):
        idx = torch.cat([idx, model(idx[:, -8:])[0][:, -1:].argmax(-1)], dim=1)
    assert text == vocabulary.decode(idx[0]) + "\n"


def test_a_prompt_with_unknown_characters_names_them(path):
    with pytest.raises(SystemExit, match=r"^not in the vocabulary: '\(', '\)'$"):
        sample(path, "--prompt", "f(x)")
    assert refused(path, "--resume", prompt="f(x)") == "not in the vocabulary: '(', ')'"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--resume"], "--resume"),
        (["--data", SAMPLE], "--data"),
        (["--max-iters", 7], "--max-iters"),
        (["--n-embd", 32, "--learning-rate", 1e-2], "--learning-rate, --n-embd"),
    ],
)
def test_flags_that_sampling_would_ignore_are_refused(path, more, named, capsys):
    with pytest.raises(SystemExit) as exit:
        sample(path, *more)
    assert exit.value.code == 2
    line = capsys.readouterr().err
    assert line.endswith(f"no use for {named}\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize("top_k", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_temperature_and_top_k(temperature, top_k):
    model = small_model(STEP9, 5, n_embd=8, n_head=2, n_layer=1, dropout=0.0)
    for p in model.parameters():
        p.data.mul_(60 if p.dim() == 2 else 1)
    prompt = torch.zeros((20_000, 1), dtype=torch.long)
    logits = model(prompt[:1])[0][0, -1]
    probs = torch.softmax(logits / temperature, dim=0)
    if top_k:
        probs[probs.argsort(descending=True)[top_k:]] = 0
        probs /= probs.sum()
    (token,) = model.generate(prompt, 1, temperature, top_k)
    drawn = torch.bincount(token.flatten(), minlength=5) / 20_000
    torch.testing.assert_close(drawn, probs.detach(), rtol=0, atol=0.015)


def test_temperature_and_top_k_are_flags_of_a_sample(path):
    plain, cold, greedy = (
        sample(path, "--max-new-tokens", 60, *more)
        for more in ([], ["--temperature", 1e-4], ["--top-k", 1])
    )
    assert cold == greedy != plain
