"""Downloads Tiny Shakespeare: the whole text, checked by its hash, or nothing.

There are three tries. Each waits at most 5 s for a connection and 5 s for each next piece of the
text. Nothing limits how long the system takes to look up the host's name. Ctrl-C ends the program.
"""

import hashlib
import os
import sys
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter, Retry
from tqdm import tqdm

DATA = Path(__file__).resolve().parent.parent / "data"
TINY_SHAKESPEARE = DATA / "input.txt"
SAMPLE = DATA / "sample.txt"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def download_or_sample() -> Path:
    """The path of Tiny Shakespeare, downloaded; without a network, that of the bundled sample."""
    try:
        download()
    except OSError as error:  # errors of requests are OSErrors, too
        reason = type(error).__name__ if isinstance(error, requests.RequestException) else error
        print(
            f"Tiny Shakespeare could not be downloaded ({reason}). The text is {SAMPLE}, and the "
            "losses in the docstrings are those of Tiny Shakespeare. "
            f"To get it, save {URL} as {TINY_SHAKESPEARE}",
            file=sys.stderr,
        )
        return SAMPLE
    return TINY_SHAKESPEARE


def download() -> None:
    """Download Tiny Shakespeare; the file appears when it is whole. Raises OSError otherwise."""
    session = requests.Session()
    retries = Retry(2, backoff_factor=0.5, status_forcelist=range(500, 600))
    # A server may ask to wait for an hour.
    retries.respect_retry_after_header = False
    session.mount("https://", HTTPAdapter(max_retries=retries))
    with session.get(URL, timeout=5, stream=True) as response:
        response.raise_for_status()
        text = b"".join(tqdm(response.iter_content(1024), unit="kB", total=1090, disable=None))
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise OSError("the server sent another text")
    part = TINY_SHAKESPEARE.with_name(f"input.txt.{os.getpid()}")
    try:
        part.write_bytes(text)
        part.replace(TINY_SHAKESPEARE)
    finally:
        part.unlink(missing_ok=True)
