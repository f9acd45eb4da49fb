"""Step 16: several processes train what one does, recover, and end together."""

import contextlib
import datetime
import importlib
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch
from conftest import FILES, SAMPLE, bare_environment, small_flags

STEP15, STEP16 = (importlib.import_module(name) for name in ("15_cache", "16_many"))
SCRIPT = FILES["16_many"]
RUN = {"max_iters": 20, "eval_interval": 5, "eval_iters": 1, "dropout": 0.0, "n_embd": 16}
RUN |= {"n_head": 2, "n_layer": 1, "max_new_tokens": 20}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="torchrun does not start on Windows")

# Runs the step, and rank 0 writes the means of its evaluations, unrounded, to a file.
WATCH = """
import importlib, json, os, sys
from pathlib import Path
sys.path[:0] = [{folder!r}]
step = importlib.import_module("16_many")
real, found = step.estimate_loss, []
def estimate_loss(*args):
    found.append(real(*args))
    if step.RANK == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    return found[-1]
step.estimate_loss = estimate_loss
real_forward = step.LanguageModel.forward
def forward(model, idx, targets=None, caches=None):
    assert targets is None or len(idx) == 4 // step.PROCESSES  # of batches of 4
    return real_forward(model, idx, targets, caches)
step.LanguageModel.forward = forward
step.main(step.parse_args(sys.argv[2:]))
"""


def flags(path, *more, **settings):
    settings = RUN | {"checkpoint": path} | settings
    return [*small_flags(STEP16, path.parent, **settings), "--float32", *map(str, more)]


def torchrun(processes, *words, script=SCRIPT, where=("--standalone",)):
    """A run as torchrun starts it, in a process group of its own, as in a terminal."""
    command = [sys.executable, "-m", "torch.distributed.run", *where]
    command += [f"--nproc-per-node={processes}", str(script), *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # else processes started again may find the addresses of those that died, and fail once more
        env=bare_environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
        start_new_session=True,
    )


@contextlib.contextmanager
def ends(process):
    """Whatever happens, no process is left behind."""
    try:
        yield process
    finally:
        for pid in [*workers(process), process.pid]:  # each is a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def finish(process, timeout=120):
    """What a run prints, in the end, to standard output and to standard error."""
    with ends(process):
        out, err = process.communicate(timeout=timeout)
    return out, err


def go(path, *more, step=STEP16, **settings):
    """What one process prints, here."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        words = [word for word in flags(path, *more, **settings)]
        step.main(step.parse_args(words))
    return out.getvalue()


def until(process, start):
    """Wait for a line of the output that starts so."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(process.stderr.read())


def workers(process):
    """The processes that a torchrun has started."""
    command = ["pgrep", "-P", str(process.pid)]
    return [
        int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()
    ]


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_model(a, b, tolerance=1e-3):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


def losses(printed):
    found = re.findall(r"^step (\d+): train loss ([\d.]+), val loss ([\d.]+)$", printed, flags=re.M)
    return {int(step): (float(train), float(val)) for step, train, val in found}


def assert_same_losses(printed, wanted):
    printed, wanted = losses(printed), losses(wanted)
    assert printed.keys() == wanted.keys() or max(printed) == max(wanted)
    for step in printed:
        assert printed[step] == pytest.approx(wanted[step], abs=1e-3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


# --- The same curve ---


def test_started_plainly_it_is_step_15(tmp_path):
    a, b = tmp_path / "15.pt", tmp_path / "16.pt"
    assert go(a, step=STEP15, dropout=0.1) == go(b, dropout=0.1)
    assert_same_model(a, b, tolerance=0)


def watched(tmp_path, processes, **settings):
    script, found = tmp_path / f"watch{processes}.py", tmp_path / f"{processes}.json"
    script.write_text(WATCH.format(folder=str(SCRIPT.parent)))
    words = flags(tmp_path / f"{processes}.pt", **settings)
    if processes == 1:
        command = [sys.executable, script, found, *words]
        subprocess.run(command, check=True, env=bare_environment(), capture_output=True)
    else:
        process = torchrun(processes, found, *words, script=script)
        _, err = finish(process)
        assert process.returncode == 0, err
    return torch.tensor([[x["train"], x["val"]] for x in json.loads(found.read_text())])


def compare(tmp_path, counts, tolerance, **settings):
    one = watched(tmp_path, 1, **settings)
    for processes in counts:
        many = watched(tmp_path, processes, **settings)
        torch.testing.assert_close(many, one, rtol=0, atol=tolerance)
    assert one[-1, 1] < one[0, 1] - 0.05  # it has learnt something


def test_two_processes_have_the_losses_of_one(tmp_path):
    compare(tmp_path, [2], 1e-5, eval_interval=1)


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one(tmp_path):
    compare(tmp_path, [4], 1e-5, eval_interval=1)


@pytest.mark.slow
def test_over_200_steps_the_curves_stay_together(tmp_path):
    compare(tmp_path, [2, 4], 1e-3, max_iters=200, eval_interval=20)


# Runs the step, and each process notes in a file of its own that it has saved.
NOTE = """
import importlib, sys
from pathlib import Path
sys.path[:0] = [{folder!r}]
step = importlib.import_module("16_many")
real = step.save
def save(*args):
    with Path({folder_of_notes!r}, f"saved_by_{{step.RANK}}").open("a") as notes:
        print(args[-1], file=notes)
    return real(*args)
step.save = save
step.main(step.parse_args(sys.argv[1:]))
"""


@pytest.mark.slow
def test_rank_0_alone_saves(path, tmp_path):
    script = tmp_path / "note.py"
    script.write_text(NOTE.format(folder=str(SCRIPT.parent), folder_of_notes=str(tmp_path)))
    process = torchrun(2, *flags(path), script=script)
    _, err = finish(process)
    assert process.returncode == 0, err
    (notes,) = tmp_path.glob("saved_by_*")
    assert notes.name == "saved_by_0"
    assert notes.read_text().split() == ["0", "5", "10", "15", "20"]


@pytest.mark.slow
def test_rank_0_alone_prints_and_once(path, tmp_path):
    process = torchrun(2, *flags(path))
    out, err = finish(process)
    assert process.returncode == 0, err
    one = tmp_path / "one.pt"
    assert out.splitlines()[0] == go(one).splitlines()[0]
    assert list(losses(out)) == [0, 5, 10, 15, 20]
    assert len(re.findall("^step", out, flags=re.M)) == 5
    assert len(out.split("\n", 6)[6]) == 20 + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "one.pt"]
    assert "Traceback" not in err
    assert "terminate called" not in err


# --- Killed, stopped, resumed ---


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["rank 0", "the other", "all"])
def test_killed_workers_are_started_again_and_end_as_never_killed(path, tmp_path, killed):
    settings = {"max_iters": 400, "eval_interval": 40}
    wanted = go(tmp_path / "whole.pt", **settings)
    where = ("--standalone", "--max-restarts=2")
    with ends(torchrun(2, *flags(path, **settings), where=where)) as process:
        until(process, "step 80:")
        pids = workers(process)
        assert len(pids) == 2
        for pid in {"rank 0": pids[:1], "the other": pids[1:], "all": pids}[killed]:
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert min(losses(out)) > 0  # it did not begin again
    assert_same_losses(out, wanted)
    assert_same_model(path, tmp_path / "whole.pt", tolerance=0.02)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.pt"]


STOP = """
import importlib, os, signal, sys
sys.path[:0] = [{folder!r}]
step = importlib.import_module("16_many")
real, taken = step.muon, []
def press(*args):
    real(*args)
    taken.append(1)
    if len(taken) == 7 and step.RANK == {rank}:
        signal.raise_signal(signal.SIGINT)
step.muon = press
step.main(step.parse_args(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_that_is_stopped_stops_all_and_the_run_goes_on_with_another_number(
    path, tmp_path, rank
):
    """Stopped on two, resumed on one, to the losses of a run on one that was never stopped."""
    wanted = go(tmp_path / "whole.pt")
    script = tmp_path / "stop.py"
    script.write_text(STOP.format(folder=str(SCRIPT.parent), rank=rank))
    process = torchrun(2, *flags(path), script=script)
    _, err = finish(process)
    assert process.returncode != 0
    assert f"stopped after step 7; {path} holds step 7" in err
    assert torch.load(path, weights_only=True)["step"] == 7
    assert_same_losses(go(path, "--resume"), wanted)
    assert_same_model(path, tmp_path / "whole.pt")


@pytest.mark.slow
def test_stopped_on_one_and_resumed_on_two(path, tmp_path):
    wanted = go(tmp_path / "whole.pt")
    script = tmp_path / "stop.py"
    script.write_text(STOP.format(folder=str(SCRIPT.parent), rank=0))
    command = [sys.executable, script, *flags(path)]
    subprocess.run(command, env=bare_environment(), capture_output=True)
    assert torch.load(path, weights_only=True)["step"] == 7
    process = torchrun(2, *flags(path, "--resume"))
    out, err = finish(process)
    assert process.returncode == 0, err
    assert_same_losses(out, wanted)
    assert_same_model(path, tmp_path / "whole.pt")


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_all_saved_with_one_message(path):
    """A terminal sends it to torchrun, which hands it on to the workers."""
    with ends(torchrun(2, *flags(path, max_iters=100_000))) as process:
        until(process, "step 10:")
        pids = workers(process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    (step,) = re.findall(
        r"^stopped after step (\d+); .* holds step \1: .*--resume", err, flags=re.M
    )
    assert "terminate called" not in err
    assert torch.load(path, weights_only=True)["step"] == int(step)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# --- Two machines ---


@pytest.fixture
def endpoint():
    """An address of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def machine(endpoint, *words, patience=60, restarts=0):
    """One of two torchruns, as on two machines, that meet at that address."""
    where = [
        f"--max-restarts={restarts}",
        "--nnodes=2",
        "--rdzv-backend=c10d",
        "--rdzv-id=play",
        f"--rdzv-endpoint={endpoint}",
    ]
    where += [f"--rdzv-conf=join_timeout={patience},read_timeout={patience}"]
    where += ["--local-addr=127.0.0.1"]
    return torchrun(1, *words, where=where)


@pytest.mark.slow
def test_two_machines_have_the_losses_of_one(path, tmp_path, endpoint):
    wanted = go(tmp_path / "whole.pt")
    with ends(machine(endpoint, *flags(path))) as a, ends(machine(endpoint, *flags(path))) as b:
        printed = [process.communicate(timeout=120) for process in (a, b)]
    assert (a.returncode, b.returncode) == (0, 0), printed
    (out,) = (out for out, _ in printed if out)  # of rank 0, wherever it is
    assert_same_losses(out, wanted)
    assert_same_model(path, tmp_path / "whole.pt")


@pytest.mark.slow
def test_ctrl_c_on_one_of_two_machines_ends_training_on_both(path, endpoint):
    """The other one does not take it for a failure that it has to start again after."""
    words = flags(path, max_iters=100_000, eval_interval=1)
    pair = [machine(endpoint, *words, restarts=2) for _ in range(2)]
    with ends(pair[0]), ends(pair[1]):
        while not path.exists():
            assert all(process.poll() is None for process in pair)
        pids = [pid for process in pair for pid in workers(process)]
        os.killpg(pair[1].pid, signal.SIGINT)
        _, err = pair[1].communicate(timeout=60)
        assert f"{path} holds step" in err
        for pid in pids:
            while pathlib.Path("/proc", str(pid)).exists():  # until it is gone
                assert pair[0].poll() is None or not workers(pair[0])
        pair[0].kill()  # its torchrun waits for the other one
        out, err = pair[0].communicate(timeout=60)
        assert f"{path} holds step" in err
        assert out.count("parameters on") <= 1  # nothing began again


@pytest.mark.slow
def test_machines_with_different_texts_say_so(path, endpoint, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(SAMPLE.read_text(encoding="utf-8").replace("a", "o", 1), encoding="utf-8")
    texts = [["--data", SAMPLE], ["--data", other]]
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(ends(machine(endpoint, *flags(path), *t))) for t in texts]
        for process in pair:
            _, err = process.communicate(timeout=60)
            assert process.returncode != 0
            assert "the processes have different texts" in err
    assert not path.exists()


@pytest.mark.slow
def test_a_machine_that_nobody_joins_gives_up_in_the_time_it_was_given(path, endpoint):
    with ends(machine(endpoint, *flags(path), patience=3)) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "RendezvousTimeoutError" in err
    assert not path.exists()


# --- What is wrong is said in one line ---


@pytest.mark.slow
def test_a_batch_that_the_processes_do_not_divide(path):
    process = torchrun(2, *flags(path, batch_size=5))
    out, err = finish(process)
    assert process.returncode != 0
    said = err.count("batch_size 5 and eval_batch_size 4 must be multiples of the 2 processes")
    assert said in (1, 2)  # twice where the second process was faster by more than a second
    assert "File" not in err.split("torch/distributed")[0]
    assert out == ""


@pytest.mark.slow
def test_a_checkpoint_is_not_overwritten_though_torchrun_tries_again(path, tmp_path):
    go(path)
    before = path.read_bytes()
    where = ("--standalone", "--max-restarts=1")
    process = torchrun(2, *flags(path, max_iters=30), where=where)
    _, err = finish(process)
    assert process.returncode != 0
    assert err.count(f"{path} exists: add --resume") == 2  # once each time
    assert path.read_bytes() == before


@pytest.fixture
def second(monkeypatch):
    """This process as the second of two whose first is not there."""
    monkeypatch.setattr(STEP16, "RANK", 1)
    monkeypatch.setattr(STEP16, "PROCESSES", 2)
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_processes_that_do_not_meet_end_with_one_line(second, monkeypatch):
    real, given = torch.distributed.init_process_group, []

    def impatient(backend, timeout):
        given.append(timeout)
        real(backend, timeout=datetime.timedelta(seconds=1))

    monkeypatch.setattr(torch.distributed, "init_process_group", impatient)
    with pytest.raises(SystemExit, match="^the processes have not met: .*") as exit:
        STEP16.join(torch.device("cpu"))
    assert "\n" not in exit.value.code
    assert given == [datetime.timedelta(minutes=5)]


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="NCCL is here")
def test_a_backend_that_is_missing_is_named_in_one_line(second, endpoint, monkeypatch):
    monkeypatch.setattr(STEP16, "select_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)  # which a CPU build lacks
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": endpoint.split(":")[1]}
    for name, value in variables.items():  # so that there is nobody to wait for
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="NCCL") as exit:
        STEP16.join(torch.device("cuda"))
    assert "\n" not in exit.value.code


def test_more_processes_than_gpus_is_said_with_those_there_are(second):
    with pytest.raises(ValueError, match="no device 'cuda:1'; it has "):
        STEP16.join(torch.device("cuda"))


def test_a_gpu_with_a_number_is_refused(second):
    with pytest.raises(ValueError, match="a GPU each: --device cuda, without a number"):
        STEP16.join(torch.device("cuda:1"))


def test_a_batch_concerns_only_those_who_train(second):
    STEP16.Config(batch_size=3, sample=True)
    with pytest.raises(ValueError, match="multiples of the 2 processes"):
        STEP16.Config(batch_size=3)


def test_on_a_mac_the_processes_take_the_cpu(second):
    with pytest.raises(ValueError, match="add --device cpu"):
        STEP16.join(torch.device("mps"))
