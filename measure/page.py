"""How fast the page is in a browser: first paint, a key typed, a forward pass, a character written.

    python measure/page.py

Opens docs/index.html in Chromium, without a window. First the time from opening the page to its
first paint, and from a key to the next paint, with all seven models awake: no row open, and rows of
which the attention is shown. Then for each step: a forward pass over a whole
context; a character while the context fills, with keys and values remembered; and one when it is
full, which computes the whole context again, since its positions have moved. Medians of --rounds.
Needs docs/requirements.txt and Chromium or Chrome.
"""

import argparse
import statistics
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS / "source"))
from picture import browser  # noqa: E402

TIME = """([name, rounds]) => {
  const one = original(name), idx = [...Array(one.block_size).keys()], random = generator(1);
  const time = (work) => {
    const start = performance.now();
    work();
    return performance.now() - start;
  };
  const whole = () => time(() => one.forward(idx));
  for (let i = 0; i < 10; i++) whole(); // until it is compiled
  const times = { whole: [], filling: [], full: [] };
  for (let i = 0; i < rounds; i++) {
    times.whole.push(whole());
    const tokens = one.generate(idx.slice(0, 1), () => 1, random);
    for (let n = 1; n < one.block_size; n++) tokens.next();
    times.filling.push(time(() => tokens.next())); // the last that still fits
    times.full.push(time(() => tokens.next()));
  }
  return times;
}"""

WATCH = """() => {
  window.seen = [];
  const kind = { type: "event", durationThreshold: 16 };
  new PerformanceObserver((list) => {
    seen.push(...list.getEntries().filter((e) => e.name === "input").map((e) => e.duration));
  }).observe(kind);
}"""  # the browser's own time from an event to the next paint, in steps of 8 ms

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def spread(times: list[float]) -> str:
    """The median and the longest of some times."""
    return f"median {statistics.median(times):.0f}, longest {max(times):.0f}"


def main() -> None:
    """Time the models of the page, and print a row for each."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21, help="of each measurement")
    rounds = parser.parse_args().rounds
    with browser() as chromium:
        print(f"Chromium {chromium.version}, in ms")
        for name in ("index.html", "beyond.html"):
            paints = []
            for _ in range(rounds):
                page = chromium.new_page()
                page.goto((DOCS / name).as_uri())
                page.wait_for_function(f"{PAINT} !== undefined")
                paints.append(page.evaluate(PAINT))
                page.close()
            print(f"{name}: first paint {spread(paints)}")
        page = chromium.new_page()
        page.goto((DOCS / "index.html").as_uri())
        page.evaluate("wake()")
        page.evaluate(WATCH)
        for row in (None, "02_self_attention", "06_residual_layernorm", "07_full_gpt"):
            page.evaluate("(name) => name && unfold(name)", row)
            page.locator("#line").fill("")
            page.wait_for_timeout(1000)
            page.evaluate("seen.length = 0")
            page.locator("#line").press_sequentially("To be, or not to be: that is", delay=150)
            page.wait_for_timeout(1000)
            times = page.evaluate("seen")
            print(f"a key to the paint, open row {row}: {spread(times)} ({len(times)} keys)")
        print(f"medians of {rounds}:")
        print(f"{'step':24}{'whole context':>16}{'a character':>16}{'context full':>16}")
        for name in page.evaluate("Object.keys(WEIGHTS)"):
            times = page.evaluate(TIME, [name, rounds])
            cells = (f"{statistics.median(row):16.2f}" for row in times.values())
            print(f"{name:24}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
