"""Makes docs/live.png, the README's picture of the page: step 6 reads a line.

    python docs/source/picture.py

Needs docs/requirements.txt and Chromium or Chrome. Another version of it, or other fonts, may give
another picture of the same page.
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextlib.contextmanager
def browser() -> Iterator:
    """Chromium without a window; where there is none, the program ends with what is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("playwright is missing: python -m pip install -r docs/requirements.txt")
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if not chromium:
        sys.exit(f"there is no browser to open the page in; one of {', '.join(NAMES)} would do")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # who may not use the sandbox
    arguments = ["--no-sandbox"] if root else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


def main() -> None:
    """Open the page, choose a position and a head, and take the picture."""
    about, details = __doc__.split("\n", 1)
    argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with browser() as chromium:
        size = {"width": 1000, "height": 1200}
        page = chromium.new_page(viewport=size, color_scheme="light", reduced_motion="reduce")
        page.goto((DOCS / "index.html").as_uri())
        page.locator("#try-6 .strip .cell").nth(20).click()
        page.locator("#try-6 .heads-of input").nth(1).check()
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
        box = page.locator("#try-6").bounding_box()
        end = page.locator("#try-6 .pair").bounding_box()
        clip = box | {"height": end["y"] + end["height"] - box["y"] + 8}
        page.screenshot(path=DOCS / "live.png", clip=clip, full_page=True)
    print(f"{DOCS / 'live.png'}: {(DOCS / 'live.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
