"""Tiny Shakespeare from its home on the network: the whole, right file or none at all."""

import contextlib
import hashlib
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter, Retry
from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout
from tqdm import tqdm

DATA = Path(__file__).resolve().parent.parent / "data"
TINY_SHAKESPEARE = DATA / "input.txt"
SAMPLE = DATA / "sample.txt"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SIZE = 1_115_394  # bytes
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CONNECT_TIMEOUT = 10  # seconds for the first answer, with all repetitions
READ_TIMEOUT = 5  # seconds without a byte
TOTAL_TIMEOUT = 60  # seconds for the whole text


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to in the place of path, which it replaces at the end if nothing went wrong.

    A reader of path sees the old file or the new one, never a part, whatever interrupts the writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def download_or_sample() -> Path:
    """Tiny Shakespeare, put in place whole or not at all; when that fails, data/sample.txt."""
    try:
        with whole_file(TINY_SHAKESPEARE) as part:
            part.write_bytes(fetch())
    except (OSError, ValueError) as error:  # requests raises OSErrors
        if not TINY_SHAKESPEARE.exists():  # no other run was quicker
            print(
                f"no Tiny Shakespeare ({error}): this run learns from "
                f"data/{SAMPLE.name}, so its losses will differ from the README's; for the real "
                f"text, save {URL} as {TINY_SHAKESPEARE}",
                file=sys.stderr,
            )
            return SAMPLE
    return TINY_SHAKESPEARE


def fetch() -> bytes:
    """Tiny Shakespeare from its home, or OSError or ValueError in at most a minute and a half."""
    retry = Retry(2, backoff_factor=0.5, status_forcelist=range(500, 600), raise_on_status=False)
    retry.respect_retry_after_header = False  # it may ask for an hour
    session = requests.Session()
    session.mount(URL, HTTPAdapter(max_retries=retry))
    answer: Future[requests.Response] = Future()

    def ask() -> None:
        try:
            answer.set_result(session.get(URL, timeout=(2, READ_TIMEOUT), stream=True))
        except Exception as error:
            answer.set_exception(error)

    # nothing limits how long a host's name is looked up: a daemon is left behind at the end
    threading.Thread(target=ask, daemon=True).start()
    text, start = bytearray(), time.monotonic()
    try:
        with (
            answer.result(timeout=CONNECT_TIMEOUT) as response,
            tqdm(total=SIZE, unit="B", unit_scale=True, disable=None) as bar,
        ):
            response.raise_for_status()
            for chunk in response.iter_content(2**14):
                text += chunk
                bar.update(len(chunk))
                if len(text) > SIZE or time.monotonic() > start + TOTAL_TIMEOUT:
                    break
    except (ConnectionError, Timeout, ChunkedEncodingError, TimeoutError) as error:
        raise OSError(f"no answer or a broken one, {type(error).__name__}") from error
    if len(text) != SIZE or hashlib.sha256(text).hexdigest() != SHA256:
        raise ValueError("what arrived is not the whole text")
    return bytes(text)
