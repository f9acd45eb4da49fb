"""The benchmarks: what they print, and what they say to a command line that is wrong."""

import re

import pytest
from conftest import CHROMIUM, ROOT, SCRIPTS, run

from benchmarks import throughput

pytestmark = pytest.mark.slow
THROUGHPUT = ROOT / "benchmarks" / "throughput.py"
QUICK = ["--rounds", 1, "--turn", 1, "--threads", 1, "--device", "cpu"]
TOY = ["--n-embd", 8, "--n-head", 2, "--n-layer", 1, "--block-size", 4, "--batch-size", 2]
ROW = r"^(\w+) +[\d.,]+ ms +[\d.,]+ tokens/s +[\d.,]+ characters/s +[\d.]+% of [\d,]+ GFLOP/s$"
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


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_step_can_be_measured(script, monkeypatch, capsys):
    words = [script, *QUICK, "--block-size", 4, "--batch-size", 2]
    monkeypatch.setattr("sys.argv", ["throughput.py", *map(str, words)])
    monkeypatch.setattr(throughput, "best_matmul", lambda *_: 1e9)  # which takes a second
    throughput.main()
    printed = capsys.readouterr().out
    assert re.findall(ROW, printed, flags=re.M) == [script]
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
