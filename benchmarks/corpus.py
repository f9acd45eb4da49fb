"""How long a text takes to load, how much memory at the peak, and what a batch costs, by size.

    python benchmarks/corpus.py            1 MB, 10 MB, 100 MB and 1 GB
    python benchmarks/corpus.py 1 5 25     sizes in MB of your own

Each size is loaded in a process of its own, on one core where the system lets us choose. The text
is made for the purpose, in a temporary folder: random words, the same on every machine. Peak memory
is the process's own highest mark less what it held before loading; it needs Linux or macOS.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MB = 10**6


def write_text(path: Path, megabytes: int) -> None:
    """A file of that many MB: lines of twelve words, drawn from 5,000 made of random letters."""
    rng = np.random.default_rng(1337)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.;:'!?-"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(1, 9, 5000)]
    with open(path, "w", encoding="ascii", newline="\n") as file:
        left = megabytes * MB
        while left > 0:
            drawn = rng.choice(words, (10_000, 12))
            text = "\n".join(" ".join(line) for line in drawn)[: left - 1] + "\n"
            left -= file.write(text)


def peak_memory() -> int:
    """The highest mark of this process's memory so far, in bytes; 0 where nobody tells."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(path: str) -> None:
    """Load that text in this process; print seconds, peak bytes and microseconds a batch."""
    sys.path.insert(0, str(ROOT))
    from common.data import load_corpus

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    load_corpus(ROOT / "data" / "sample.txt").batch("train", 32, 8)  # what is imported on first use
    before = peak_memory()
    start = time.perf_counter()
    corpus = load_corpus(path)
    seconds = time.perf_counter() - start
    peak = peak_memory() - before
    batches = []
    for _ in range(2000):
        start = time.perf_counter()
        corpus.batch("train", 32, 8)
        batches.append(time.perf_counter() - start)
    print(seconds, peak, np.median(batches) * 1e6)


def main(sizes: list[int]) -> None:
    """Print one line for each size, and how the figures grow from the smallest to the largest."""
    print(f"{'size':>8}  {'seconds':>8}  {'MB/s':>6}  {'peak MB':>8}  {'peak/size':>9}  µs a batch")
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.txt"
            write_text(path, size)
            command = [sys.executable, __file__, "--measure", str(path)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, peak, batch = map(float, printed.split())
        rows.append((size, seconds, peak, batch))
        memory = f"{peak / MB:8.1f}  {peak / MB / size:9.2f}" if peak else f"{'?':>8}  {'?':>9}"
        print(f"{size:5} MB  {seconds:8.3f}  {size / seconds:6.0f}  {memory}  {batch:10.1f}")
    (small, *first), (large, *last) = rows[0], rows[-1]
    time_grows, _, batch_grows = (b / a if a else 0 for a, b in zip(first, last, strict=True))
    print(
        f"a text {large / small:g} times as large takes {time_grows:.0f} times as long to load, "
        f"and {batch_grows:.2f} times as long a batch"
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        about, details = __doc__.split("\n", 1)
        layout = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(description=about, epilog=details, formatter_class=layout)
        parser.add_argument("sizes", nargs="*", type=int, default=[1, 10, 100, 1000], help="in MB")
        sizes = parser.parse_args().sizes
        if min(sizes) < 1:
            parser.error("sizes begin at 1")
        main(sizes)
