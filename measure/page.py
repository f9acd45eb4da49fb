"""How fast the pages are in a browser: their first paint, and the paint after a key.

    python measure/page.py

Opens the pages in Chromium, without a window. First the time from opening a page to its first
paint, --rounds times. Then on docs/index.html, with all seven models awake, the time from a key to
the next paint: with no row open, and with rows of which the attention is shown. Needs
docs/requirements.txt and Chromium or Chrome.
"""

import statistics
import sys

from losses import ROOT, arguments

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "source"))
from picture import browser  # noqa: E402

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
    """Open the pages, type, and print the times."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="how often a page is opened")
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


if __name__ == "__main__":
    main()
