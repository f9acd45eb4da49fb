"""Step 7 is kept: stopped, killed, resumed to the same numbers, sampled from, and not deceived."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, STEPS, run

STEP7 = STEPS[6]
SCRIPT = ROOT / "07_full_gpt.py"
SAMPLE = ROOT / "data" / "sample.txt"
SMALL = "--batch-size 4 --block-size 16 --n-embd 32 --n-head 2 --n-layer 2 --dropout 0.1".split()
SMALL += "--learning-rate 1e-3 --min-lr 0 --eval-interval 10 --eval-iters 2 --device cpu".split()
unix = pytest.mark.skipif(os.name != "posix", reason="needs Unix")


def flags(checkpoint, *more, iters=40, data=SAMPLE):
    return [*SMALL, "--data", data, "--checkpoint", checkpoint, "--max-iters", iters, *more]


def start(checkpoint, *more, iters=40):
    command = [sys.executable, SCRIPT, *flags(checkpoint, *more, iters=iters)]
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_line(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(text):
            return lines
    raise AssertionError(process.stderr.read())


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def from_step(stdout, step):
    return stdout[stdout.index(f"step {step}:") :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted: what it printed, and the checkpoint it left."""
    path = tmp_path_factory.mktemp("whole") / "runs" / "gpt.pt"
    result = run(SCRIPT, *flags(path))
    assert result.returncode == 0, result.stderr
    assert [p.name for p in path.parent.iterdir()] == ["gpt.pt"]
    return result.stdout, path


@unix
def test_ctrl_c_saves_and_resume_ends_at_the_same_numbers(whole, tmp_path):
    path = tmp_path / "gpt.pt"
    process = start(path)
    wait_for_line(process, "step 10:")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    stopped = int(
        re.search(r"stopped after step (\d+); --resume goes on from the step saved last", err)[1]
    )
    assert stopped == torch.load(path, weights_only=True)["step"] >= 10
    if stopped < 40:
        resumed = run(SCRIPT, *flags(path, "--resume"))
        assert resumed.returncode == 0, resumed.stderr
        printed = resumed.stdout.split("\n", 1)[1]  # without the parameter count
        assert printed == from_step(whole[0], -(-stopped // 10) * 10)
        assert_same_weights(path, whole[1])


def test_resume_between_evaluations_is_bitwise_the_same(whole, tmp_path, monkeypatch, capsys):
    """Stopped in the middle of an interval, and once more: the same losses, sample and weights."""
    path = tmp_path / "gpt.pt"
    real = torch.optim.AdamW.step
    for stop_at in (13, 27):
        argv = [str(flag) for flag in flags(path, *(["--resume"] if path.exists() else []))]
        done = torch.load(path, weights_only=True)["step"] if path.exists() else 0
        left = iter(range(done + 1, stop_at + 1))

        def step(optimizer, *args, left=left, stop_at=stop_at):
            real(optimizer, *args)
            if next(left) == stop_at:
                signal.raise_signal(signal.SIGINT)  # as Ctrl-C does

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit, match=f"stopped after step {stop_at}"):
            STEP7.main(STEP7.parse_args(argv))
        signal.signal(signal.SIGINT, handler)
        monkeypatch.undo()
    resumed = run(SCRIPT, *flags(path, "--resume"))
    assert resumed.stdout.split("\n", 1)[1] == from_step(whole[0], 30)
    assert_same_weights(path, whole[1])


def test_ctrl_c_leaves_an_evaluation_at_once(whole, tmp_path, monkeypatch):
    """The step that was about to be evaluated is saved."""
    path = tmp_path / "gpt.pt"
    real = STEP7.estimate_loss

    def estimate_loss(model, corpus, config, device):
        if path.exists() and torch.load(path, weights_only=True)["step"] == 20:
            model.eval()
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the evaluation went on")
        return real(model, corpus, config, device)

    monkeypatch.setattr(STEP7, "estimate_loss", estimate_loss)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit, match="stopped; --resume goes on from the step saved last"):
        STEP7.main(STEP7.parse_args([str(flag) for flag in flags(path)]))
    signal.signal(signal.SIGINT, handler)
    resumed = run(SCRIPT, *flags(path, "--resume"))
    assert resumed.stdout.split("\n", 1)[1] == from_step(whole[0], 20)


@unix
def test_kill_loses_at_most_the_time_since_the_last_evaluation(whole, tmp_path):
    path = tmp_path / "gpt.pt"
    process = start(path)
    wait_for_line(process, "step 20:")
    process.kill()
    process.communicate(timeout=60)
    assert torch.load(path, weights_only=True)["step"] >= 20
    resumed = run(SCRIPT, *flags(path, "--resume"))
    printed = resumed.stdout.split("\n", 1)[1]
    assert whole[0].endswith(printed)
    assert_same_weights(path, whole[1])


@unix
def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    """A run that saves after each step is killed again and again."""
    path = tmp_path / "gpt.pt"
    for pause in (0.0, 0.11):
        process = start(path, "--eval-interval", 1, "--eval-iters", 1, iters=3000)
        wait_for_line(process, "step 2:")
        time.sleep(pause)
        process.kill()
        process.communicate(timeout=60)
        assert torch.load(path, weights_only=True)["step"] >= 2


@unix
def test_two_runs_at_once_leave_one_whole_checkpoint(tmp_path):
    path = tmp_path / "gpt.pt"
    runs = [start(path, "--seed", seed) for seed in (1, 2)]
    for process in runs:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    assert [p.name for p in tmp_path.iterdir()] == ["gpt.pt"]
    assert torch.load(path, weights_only=True)["step"] == 40


@unix
def test_a_full_disk_keeps_the_old_checkpoint_and_the_run_going(whole, tmp_path):
    """A limit on the size of files makes the kernel refuse the write half-way."""
    path = shutil.copy(whole[1], tmp_path)
    limited = f"ulimit -f 20; exec '{sys.executable}' '{SCRIPT}' " + " ".join(
        f"'{flag}'" for flag in flags(path, iters=20)
    )
    result = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert [line[:21] for line in result.stderr.splitlines()] == [
        "step 10 is not saved:",
        "step 20 is not saved:",
    ]
    assert "step 20: train loss" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["gpt.pt"]
    assert_same_weights(path, whole[1])


class Bomb:
    """What a foreign file may hold: code that would run when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "flipped", "text", "code", "pickle", "foreign", "tensor"]
)
@pytest.mark.parametrize("mode", ["--resume", "--sample"])
def test_what_is_no_checkpoint_is_refused(whole, tmp_path, damage, mode, capsys):
    path, bomb = tmp_path / "gpt.pt", tmp_path / "bomb"
    content = whole[1].read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:100] + bytes(200) + content[300:])
    elif damage == "text":
        path.write_text("step 1: train loss 0.0001")
    elif damage == "code":
        torch.save({"settings": Bomb(str(bomb))}, path)
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Bomb(str(bomb))))
    elif damage == "foreign":
        torch.save({"model": {"weight": torch.zeros(3)}, "iter_num": 5}, path)
    elif damage == "tensor":
        torch.save(torch.zeros(3), path)
    with pytest.raises(SystemExit) as exit:
        STEP7.main(STEP7.parse_args([str(flag) for flag in flags(path, mode)]))
    assert f"{path} is no checkpoint of ours" in exit.value.code
    assert "\n" not in exit.value.code
    assert not bomb.exists()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (["--n-embd", "64"], "n_embd 32, not 64"),
        (["--n-layer", "3", "--dropout", "0"], "n_layer 2, not 3; dropout 0.1, not 0.0"),
        (["--learning-rate", "0.1"], "learning_rate 0.001, not 0.1"),
    ],
)
def test_resuming_with_other_settings_names_them(whole, changed, what):
    argv = [str(flag) for flag in flags(whole[1], "--resume", *changed)]
    with pytest.raises(SystemExit) as exit:
        STEP7.main(STEP7.parse_args(argv))
    assert exit.value.code == f"{whole[1]} cannot go on, it was made with {what}"


def test_resuming_with_another_text_is_refused(whole, tmp_path):
    text = SAMPLE.read_text()
    (tmp_path / "text.txt").write_text(text.replace("herring", "haddock"))
    argv = [str(flag) for flag in flags(whole[1], "--resume", data=tmp_path / "text.txt")]
    with pytest.raises(SystemExit, match=r"made with data text \w+, not text \w+$"):
        STEP7.main(STEP7.parse_args(argv))


def test_a_diverged_run_does_not_replace_a_good_checkpoint(whole, tmp_path):
    path = shutil.copy(whole[1], tmp_path)
    result = run(SCRIPT, *flags(path, "--learning-rate", 1e18))
    assert "try a lower --learning-rate" in result.stderr
    assert_same_weights(path, whole[1])


# --- Sampling ---


def sample(path, *more):
    """Without the flags of the training run: the checkpoint knows its sizes and characters."""
    result = run(SCRIPT, "--sample", "--checkpoint", path, "--device", "cpu", *more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_sampling_needs_the_checkpoint_alone_and_goes_on_from_the_prompt(whole, tmp_path):
    path = shutil.copy(whole[1], tmp_path)
    text = sample(path, "--prompt", "MARGERY:", "--max-new-tokens", 30)
    assert re.fullmatch(r"MARGERY:(.|\n){30}\n", text)
    assert text == sample(path, "--prompt", "MARGERY:", "--max-new-tokens", 30)
    assert text != sample(path, "--prompt", "MARGERY:", "--max-new-tokens", 30, "--seed", 1)
    long = "The light is out, and who shall light it now? " * 3
    assert sample(path, "--prompt", long, "--max-new-tokens", 5).startswith(long)


def test_a_prompt_with_unknown_characters_names_them(whole):
    for flags_ in (["--sample"], []):
        argv = ["--checkpoint", str(whole[1]), "--data", str(SAMPLE), "--prompt", "f(x)", *flags_]
        with pytest.raises(SystemExit, match=r"not in the vocabulary: '\(', '\)'"):
            STEP7.main(STEP7.parse_args([*argv, "--device", "cpu"]))


def model_with(temperature=1.0, top_k=0):
    torch.manual_seed(0)
    config = STEP7.Config(n_embd=8, n_head=2, n_layer=1, temperature=temperature, top_k=top_k)
    model = STEP7.LanguageModel(config, 5)
    for p in model.parameters():
        p.data.mul_(60 if p.dim() == 2 else 1)
    return model.eval()


@pytest.mark.parametrize("top_k", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_temperature_and_top_k(temperature, top_k):
    model = model_with(temperature, top_k)
    prompt = torch.zeros((20_000, 1), dtype=torch.long)
    logits = model(prompt[:1])[0][0, -1]
    probs = torch.softmax(logits / temperature, dim=0)
    if top_k:
        probs[probs.argsort(descending=True)[top_k:]] = 0
        probs /= probs.sum()
    (token,) = model.generate(prompt, 1)
    drawn = torch.bincount(token.flatten(), minlength=5) / 20_000
    torch.testing.assert_close(drawn, probs.detach(), rtol=0, atol=0.015)


# --- The forecast ---


def test_a_long_run_is_forecast_in_one_line(tmp_path, corpus, monkeypatch, capsys):
    class EnoughError(Exception):
        pass

    def enough(*args):
        raise EnoughError

    monkeypatch.setattr(STEP7, "estimate_loss", enough)
    config = STEP7.parse_args([str(flag) for flag in flags(tmp_path / "gpt.pt", iters=1000)])
    handler = signal.getsignal(signal.SIGINT)
    for seconds, forecast in (
        (0.1, ""),
        (6.0, "this takes about 114 minutes, --size laptop a few\n"),
    ):
        monkeypatch.setattr(STEP7, "seconds_for", lambda run, device, seconds=seconds: seconds)
        with pytest.raises(EnoughError):
            STEP7.train(
                STEP7.LanguageModel(config, corpus.vocab_size), corpus, config, torch.device("cpu")
            )
        assert capsys.readouterr().err == forecast
    signal.signal(signal.SIGINT, handler)
