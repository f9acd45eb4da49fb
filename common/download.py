"""Tiny Shakespeare from its home on the network: the whole, right text, or none.

A try waits at most 5 s for a connection and 5 s for each next piece of the text; there are three
tries. Nothing bounds how long the system takes to look up the host's name. Ctrl-C ends all of it.
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
    """Tiny Shakespeare, downloaded; without a network, the play that comes with the project."""
    try:
        download()
    except OSError as error:  # those of requests are OSErrors, too
        reason = type(error).__name__ if isinstance(error, requests.RequestException) else error
        print(
            f"Tiny Shakespeare could not be downloaded ({reason}), so this run learns from "
            f"{SAMPLE}; for the real text, save {URL} as {TINY_SHAKESPEARE}",
            file=sys.stderr,
        )
        return SAMPLE
    return TINY_SHAKESPEARE


def download() -> None:
    """Fetch Tiny Shakespeare and put it in place in one go. Raises OSError where that fails."""
    session = requests.Session()
    retries = Retry(2, backoff_factor=0.5, status_forcelist=range(500, 600))
    retries.respect_retry_after_header = False  # a server may ask to wait for an hour
    session.mount("https://", HTTPAdapter(max_retries=retries))
    with session.get(URL, timeout=5, stream=True) as response:
        response.raise_for_status()
        text = b"".join(tqdm(response.iter_content(1024), unit="kB", total=1090, disable=None))
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise OSError("what arrived is another text")
    part = TINY_SHAKESPEARE.with_name(f"input.txt.{os.getpid()}")
    try:
        part.write_bytes(text)
        part.replace(TINY_SHAKESPEARE)
    finally:
        part.unlink(missing_ok=True)
