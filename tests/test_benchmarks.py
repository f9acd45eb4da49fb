"""The benchmarks: what they print, and what they say to a command line that is wrong."""

import os
import re

import pytest
from conftest import CHROMIUM, FILES, ROOT, SCRIPTS, STEPS, run, small_flags

from benchmarks import scaling, throughput

pytestmark = pytest.mark.slow
THROUGHPUT = ROOT / "benchmarks" / "throughput.py"
QUICK = ["--rounds", 1, "--turn", 1, "--threads", 1, "--device", "cpu"]
TOY = ["--n-embd", 8, "--n-head", 2, "--n-layer", 1, "--block-size", 4, "--batch-size", 2]
ROW = r"^(\w+) +[\d.,]+ ms +[\d.,]+ tokens/s +[\d.,]+ characters/s +[\d.]+% of [\d,]+ GFLOP/s$"
READS = r"^(\w+) reads [\d.]+ GB of weights a second when it samples, \d+% of [\d.]+ GB/s$"
RATIO = r"^(\w+) (trains|samples) [\d.]+ times as fast \([\d.]+ to [\d.]+\)$"


@pytest.mark.parametrize("rounds", [1, 2])
def test_two_steps_are_compared_with_the_settings_of_the_last(rounds):
    done = run(THROUGHPUT, "06_residual_layernorm.py", "7", *QUICK, *TOY, "--rounds", rounds)
    assert done.returncode == 0, done.stderr
    rows = re.findall(ROW, done.stdout, flags=re.M)
    ratios = re.findall(RATIO, done.stdout, flags=re.M)
    assert rows == ["06_residual_layernorm", "07_full_gpt"]
    assert ratios == [("07_full_gpt", "trains"), ("07_full_gpt", "samples")]
    (settings,) = re.findall("both with the settings of 07_full_gpt: (.*)", done.stdout)
    assert {"batch_size 2", "n_embd 8", "dropout 0.0", "learning_rate 0.001"} <= set(
        settings.split(", ")
    )


def test_sampling_alone_is_compared():
    done = run(THROUGHPUT, "14", "15", *QUICK, *TOY, "--turn", 0)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+) +[\d,]+ characters/s$", done.stdout, flags=re.M) == [
        "14_muon",
        "15_cache",
    ]
    assert re.findall(RATIO, done.stdout, flags=re.M) == [("15_cache", "samples")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_step_can_be_measured(script, monkeypatch, capsys):
    words = [script, *QUICK, "--block-size", 4, "--batch-size", 2]
    monkeypatch.setattr("sys.argv", ["throughput.py", *map(str, words)])
    monkeypatch.setattr(throughput, "best_matmul", lambda *_: 1e9)  # which takes a second
    monkeypatch.setattr(throughput, "best_read", lambda *_: 1e9)
    throughput.main()
    printed = capsys.readouterr().out
    assert re.findall(ROW, printed, flags=re.M) == [script]
    assert re.findall(READS, printed, flags=re.M) == [script]
    assert not re.search(RATIO, printed, flags=re.M)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["7", "--n-embed", 3], "--n-embed"),
        (["7", "--batch", 3], "--batch"),
        (["1", "--n-embd", 3], "--n-embd"),
        (["07_full"], "'07_full'"),
        (["5", "6", "7"], "two"),
        (["7", "--n-embd", 97, "--n-head", 3], "n_embd 97"),
        (["7", "--rounds", 0], "--rounds"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(flags, names, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["throughput.py", *map(str, flags)])
    with pytest.raises(SystemExit) as stopped:
        throughput.main()
    assert stopped.value.code
    (line,) = capsys.readouterr().err.splitlines()
    assert names in line


def test_the_size_of_a_text_and_its_times():
    done = run(ROOT / "benchmarks" / "corpus.py", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +1 MB +[\d.]+ ", done.stdout, flags=re.M)


def test_threads_wait_as_in_the_steps():
    line = r'os\.environ\.setdefault\("GOMP_SPINCOUNT", "\d+"\)'
    (here,) = re.findall(line, THROUGHPUT.read_text(encoding="utf-8"))
    assert here in (ROOT / "07_full_gpt.py").read_text(encoding="utf-8")


def test_the_page_is_timed():
    pytest.importorskip("playwright", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here to time the page in")
    done = run(ROOT / "benchmarks" / "page.py", "--rounds", 1)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+)(?: +\d+\.\d\d){3}$", done.stdout, flags=re.M)
    assert rows == SCRIPTS[:7]


@pytest.mark.skipif(os.name != "posix", reason="torchrun does not start on Windows")
def test_processes_are_timed_and_more_machines_predicted():
    words = ["--size", "laptop", "--batch", 1, "--steps", 2, "--rounds", 1]
    done = run(ROOT / "benchmarks" / "scaling.py", *words, "--bandwidth", 10)
    assert done.returncode == 0, done.stderr
    rows = r"^ *(\d+) (?:process|processes|machines) +\d+ ms a step .*, efficiency \d+%$"
    assert list(map(int, re.findall(rows, done.stdout, flags=re.M))) == [1, 2, *scaling.MACHINES]


def test_a_step_on_n_machines_is_computing_and_a_ring():
    """Each sends 2 (n - 1) parts of an nth of the gradients, one after the other."""
    assert scaling.predict(0.5, 8e6, 1, 1e9, 1e-4) == 0.5
    for n in (2, 5):
        parts = [8e6 / n / 1e9 + 1e-4] * 2 * (n - 1)
        assert scaling.predict(0.5, 8e6, n, 1e9, 1e-4) == pytest.approx(0.5 + sum(parts))


def test_text_is_read_through_the_cache_and_without(tmp_path):
    step = STEPS[SCRIPTS.index("15_cache")]
    done = run(FILES["15_cache"], *small_flags(step, tmp_path, max_iters=5))
    assert done.returncode == 0, done.stderr
    words = ["--checkpoint", tmp_path / "model.pt", "--rows", 2, "--windows", 3]
    done = run(ROOT / "benchmarks" / "sliding.py", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("34 characters of the validation split")
    assert re.search(r"recomputed \d\.\d{4}, through the cache \d\.\d{4} nats", done.stdout)
