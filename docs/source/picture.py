"""Makes docs/live.png, a picture of the page: seven models read a line, and step 6 is open.

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
        size = {"width": 1280, "height": 1800}
        page = chromium.new_page(viewport=size, color_scheme="light", reduced_motion="reduce")
        page.goto((DOCS / "index.html").as_uri() + "#step=6")
        page.locator("#row-6 .switches").wait_for()
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
        end = page.locator("#row-6 .two > div:last-child").bounding_box()
        clip = {"x": 24, "y": 44, "width": 1216, "height": end["y"] + end["height"] - 30}
        page.screenshot(path=DOCS / "live.png", clip=clip)
    print(f"{DOCS / 'live.png'}: {(DOCS / 'live.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
