"""How fast the walkthrough's models are in a browser: a forward pass, and a character written.

    python benchmarks/page.py

Opens docs/index.html in Chromium, without a window. For each step: a forward pass over a whole
context; a character while the context fills, with keys and values remembered; and one when it is
full, which computes the whole context again, since its positions have moved. Medians of --rounds.
Needs docs/requirements.txt and Chromium or Chrome.
"""

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "index.html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIME = """([name, rounds]) => {
  const one = model(name), idx = [...Array(one.block_size).keys()], random = generator(1);
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
    const tokens = one.generate(idx.slice(0, 1), 1, random);
    for (let n = 1; n < one.block_size; n++) tokens.next();
    times.filling.push(time(() => tokens.next())); // the last that still fits
    times.full.push(time(() => tokens.next()));
  }
  return times;
}"""


def main() -> None:
    """Time the models of the page, and print a row for each."""
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21, help="of each measurement: 21")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds must not be {rounds}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("playwright is missing: python -m pip install -r docs/requirements.txt")
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if not chromium:
        sys.exit(f"there is no browser to measure in; one of {', '.join(NAMES)} would do")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # who may not use the sandbox
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if root else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.goto(PAGE.as_uri())
        page.locator("#try-7 .load").click()
        page.locator("#try-7 .loaded").wait_for()
        print(f"Chromium {browser.version}, medians of {rounds}, in ms")
        print(f"{'step':24}{'whole context':>16}{'a character':>16}{'context full':>16}")
        for name in page.evaluate("Object.keys(WEIGHTS)"):
            times = page.evaluate(TIME, [name, rounds])
            cells = (f"{statistics.median(row):16.2f}" for row in times.values())
            print(f"{name:24}{''.join(cells)}", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
