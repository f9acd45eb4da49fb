"""beyond/distributed.py: several processes train what one does, and recover when one dies."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch

from common.download import SAMPLE

tool, alone = (importlib.import_module(f"beyond.{name}") for name in ("distributed", "checkpoint"))
SMALL = {"vocab_size": 80, "n_embd": 16, "n_head": 2, "n_layer": 1, "block_size": 8}
SMALL |= {"batch_size": 8, "dropout": 0.0, "warmup_iters": 10, "device": "cpu"}
SMALL |= {"max_iters": 20, "eval_interval": 5, "eval_iters": 2, "max_new_tokens": 20}
SMALL |= {"n_member": 2, "save_interval": 5}
unix = pytest.mark.skipif(os.name != "posix", reason="torchrun does not start on Windows")

# The script, with flags for each rank: each notes its slices, its random state and what it saves.
WATCH = """
import json, sys, pathlib
sys.path.insert(0, {root!r})
from beyond import distributed as tool
seen, forward, save = dict(x=[], state=[], saves=0), tool.LanguageModel.forward, tool.save
def watched_forward(model, idx, targets=None, caches=None):
    if model.training:
        seen["x"].append(idx.tolist())
        seen["state"].append(tool.torch.get_rng_state().tolist())
    return forward(model, idx, targets, caches)
def watched_save(*args):
    seen["saves"] += 1
    save(*args)
tool.LanguageModel.forward, tool.save = watched_forward, watched_save
for_ranks = json.loads(sys.argv[1])
tool.main(tool.parse_args(sys.argv[2:] + for_ranks[tool.RANK]))
seen = dict(x=seen["x"][:3], state=seen["state"][0], saves=seen["saves"])
seen["threads"] = [name.read_text() for name in pathlib.Path("/proc/self/task").glob("*/comm")]
pathlib.Path(__file__).with_name("seen%d.json" % tool.RANK).write_text(json.dumps(seen))
"""


def flags(path, *switches, **settings):
    text = path.with_name("text.txt")
    text.write_text(SAMPLE.read_text(encoding="utf-8")[:4000], encoding="utf-8")
    settings = SMALL | {"data": text, "checkpoint": path} | settings
    words = [word for k, v in settings.items() for word in ("--" + k.replace("_", "-"), str(v))]
    return [*words, "--float32", *switches]


def go(path, *switches, script=tool, **settings):
    """What one process prints: here, and without the name of its checkpoint."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        script.main(script.parse_args(flags(path, *switches, **settings)))
    return out.getvalue().replace(str(path), "PATH")


@contextlib.contextmanager
def torchrun(path, words, script=tool.__file__, where=("--standalone", "--nproc-per-node=2")):
    """A run that torchrun starts, in a process group of its own as in a terminal."""
    command = [sys.executable, "-m", "torch.distributed.run", *where, str(script), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment["PYTHONFAULTHANDLER"] = "1"  # a worker that aborts says where
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env=environment, start_new_session=True)
    try:
        yield process
    finally:  # whatever happens, no process is left behind
        for pid in [*workers(process), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def workers(process):
    """The processes that a torchrun has started, in the order of their ranks."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert (process.returncode != 0) == (status != 0), out + err
    return out, err


def wait_for(process, start):
    while not process.stdout.readline().startswith(start):
        assert process.poll() is None, process.stderr.read()


def losses(printed):
    found = re.findall(r"^step (\d+): train loss (.+), val loss (.+)$", printed, flags=re.MULTILINE)
    assert len({step for step, *_ in found}) == len(found)  # each once
    return {int(step): (float(train), float(val)) for step, train, val in found}


def assert_same_curve(printed, whole, first=0):
    """From a step on, to 1e-3: sums in another order are rounded differently."""
    printed, whole = losses(printed), losses(whole)
    assert list(printed) == [step for step in whole if step >= first]
    for step in printed:
        assert printed[step] == pytest.approx(whole[step], abs=1e-3)


def watch(tmp_path, *for_ranks):
    script = tmp_path / "watch.py"
    script.write_text(WATCH.format(root=str(SAMPLE.parent.parent)), encoding="utf-8")
    return script, json.dumps(for_ranks)


def seen_by(tmp_path, rank):
    return json.loads((tmp_path / f"seen{rank}.json").read_text())


def test_started_by_python_it_is_checkpoint_py(tmp_path):
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    assert go(a, dropout=0.1) == go(b, dropout=0.1, script=alone)
    for script in (tool, alone):
        name = script.__name__.split(".")[1]
        assert SAMPLE.parent.parent / "runs" / f"{name}.pt" == script.CHECKPOINT


def test_what_processes_cannot_share_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "WORLD_SIZE", 2)
    monkeypatch.setenv("LOCAL_RANK", "99")
    for batch_size, device, message in (
        (6, "cpu", "2 processes with 2 members each cannot share a batch of 6"),
        (4, "mps", "processes cannot share a Mac's GPU: add --device cpu"),
        (4, "cuda", "this machine has no device 'cuda:99'; it has .*"),
    ):
        config = tool.parse_args(flags(tmp_path / "model.pt", batch_size=batch_size))
        with pytest.raises(tool.InputError, match=f"^{message}$"):
            tool.join(config, torch.device(device))


@unix
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_what_one_does(tmp_path, processes):
    long, path = {"max_iters": 200, "eval_interval": 20}, tmp_path / "model.pt"
    script, no_flags = watch(tmp_path, *[[]] * processes)
    words = [no_flags, *flags(tmp_path / "one.pt", **long)]
    command = [sys.executable, script, *words]
    whole = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    one = seen_by(tmp_path, 0)
    where = ("--standalone", f"--nproc-per-node={processes}")
    with torchrun(path, [no_flags, *flags(path, **long)], script, where) as process:
        out, _ = finish(process)
    assert_same_curve(out, whole)
    assert losses(out)[199][1] < losses(out)[0][1] - 0.5  # it has learnt something
    assert (
        re.sub(r"\d\.\d{4}|: --.*", "", out).split("\n")[:14]
        == re.sub(r"\d\.\d{4}|: --.*", "", whole.replace("one.pt", "model.pt")).split("\n")[:14]
    )  # rank 0 alone prints
    ranks = [seen_by(tmp_path, rank) for rank in range(processes)]
    for step in range(3):
        slices = [rank["x"][step] for rank in ranks]
        assert {len(part) for part in slices} == {8 // processes}
        assert sorted(sum(slices, [])) == sorted(one["x"][step])
    assert [rank["saves"] for rank in ranks] == [41] + [0] * (processes - 1)
    assert ranks[0]["state"] == one["state"]  # so its dropout masks begin as those of one process
    assert len({tuple(rank["state"]) for rank in ranks}) == processes  # and each has its own
    # A thread of gloo that asks for the interpreter while it ends aborts the process.
    assert not [name for rank in ranks for name in rank["threads"] if "pt_gloo" in name]


@unix
@pytest.mark.slow
@pytest.mark.parametrize("killed", ["rank 0", "rank 1", "both"])
def test_workers_that_are_killed_are_started_again_and_go_on(tmp_path, killed):
    long, path = {"max_iters": 400, "eval_interval": 80}, tmp_path / "model.pt"
    whole = go(tmp_path / "one.pt", **long)
    where = ("--standalone", "--nproc-per-node=2", "--max-restarts=1")
    with torchrun(path, flags(path, "--resume", **long), where=where) as process:
        wait_for(process, "step 80:")
        pids = workers(process)
        for pid in {"rank 0": pids[:1], "rank 1": pids[1:], "both": pids}[killed]:
            os.kill(pid, signal.SIGKILL)
        out, _ = finish(process)
    assert min(losses(out)) > 0
    assert_same_curve(out, whole, first=min(losses(out)))


@unix
@pytest.mark.slow
def test_two_terminals_share_a_run_and_a_machine_without_the_checkpoint_gets_it(tmp_path):
    """Each terminal has a checkpoint of its own, as two machines without a shared folder."""
    whole, older, newer = go(tmp_path / "one.pt"), tmp_path / "older.pt", tmp_path / "newer.pt"
    go(older, max_iters=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "learning_rate_at", breaks_at_12)
        with pytest.raises(ZeroDivisionError):
            go(newer)
    script, for_ranks = watch(tmp_path, ["--checkpoint", str(older)], ["--checkpoint", str(newer)])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
    where = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=1", "--rdzv-backend=c10d"]
    where += [f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1"]
    words = [for_ranks, *flags(tmp_path / "no.pt", "--resume")]
    with (
        torchrun(older, words, script, where) as a,
        torchrun(older, words, script, where) as b,
    ):
        printed = [finish(process)[0] for process in (a, b)]
    (out,) = filter(None, printed)
    assert_same_curve(out, whole, first=11)
    assert torch.load(older, weights_only=True)["step"] == 20
    assert torch.load(newer, weights_only=True)["step"] == 11  # rank 0 alone saves


def breaks_at_12(step, config):
    return 1e-2 * alone.learning_rate_at(step, config) / (1e-2 if step < 12 else 0)


@unix
@pytest.mark.slow
def test_different_texts_are_refused(tmp_path):
    path, other = tmp_path / "model.pt", tmp_path / "other.txt"
    shutil.copy(SAMPLE, other)
    script, for_ranks = watch(tmp_path, [], ["--data", str(other)])
    with torchrun(path, [for_ranks, *flags(path)], script) as process:
        out, err = finish(process, 1)
    assert "the processes have different texts: all need the same --data" in err
    assert not path.exists()


@unix
@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_the_run_goes_on(tmp_path):
    path = tmp_path / "model.pt"
    with torchrun(path, flags(path, max_iters=100_000, eval_interval=20)) as process:
        wait_for(process, "step 20:")
        pids = workers(process)
        os.killpg(process.pid, signal.SIGINT)
        finish(process, 1)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    step = torch.load(path, weights_only=True)["step"]
    assert min(losses(go(path, "--resume", max_iters=step + 2))) >= step > 15
