"""The download against a server on this machine that does what servers, networks and disks do."""

import hashlib
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from conftest import CPU, SAMPLE

from common import data, download

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 2000
unix = pytest.mark.skipif(os.name != "posix", reason="needs Unix")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        """What the path asks for: 503-503-200 is two errors, then the text."""
        self.server.requests += 1
        faults = self.path.strip("/").split("-")
        fault = faults[min(self.server.requests, len(faults)) - 1]
        if fault in ("404", "500", "503"):
            self.send_response(int(fault))
            self.send_header("Retry-After", "3600")
            self.end_headers()
            return
        if fault == "silent":
            self.server.over.wait(30)
        body = b"<html>Please log in</html>" if fault == "portal" else TEXT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if fault == "interrupted":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as Ctrl-C does
        if fault in ("interrupted", "stalled"):
            self.server.over.wait(30)
        if fault != "broken":
            self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a text to an empty data folder, with no proxy between and limits of a twentieth."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *args: None  # one that hangs up
    server.requests, server.over = 0, threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def ask_for(faults):
        port = server.server_port if faults else 1  # which is nobody's
        monkeypatch.setattr(download, "URL", f"http://127.0.0.1:{port}/{faults}")

    server.ask_for, server.file = ask_for, tmp_path / "input.txt"
    for module in (data, download):
        monkeypatch.setattr(module, "TINY_SHAKESPEARE", server.file)
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(TEXT).hexdigest())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    get, mount, sleep = requests.Session.get, requests.Session.mount, time.sleep

    def mount_both(session, prefix, adapter):  # what is for https holds for this server, too
        mount(session, prefix, adapter)
        mount(session, prefix.replace("https", "http"), adapter)

    monkeypatch.setattr(requests.Session, "mount", mount_both)
    monkeypatch.setattr(
        requests.Session, "get", lambda *args, timeout, **kw: get(*args, timeout=timeout / 20, **kw)
    )
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 20))
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def load(server):
    return data.load_corpus(server.file, CPU, seed=1)


@pytest.mark.parametrize("faults", ["200", "503-500-200", "silent-silent-200"])
def test_the_text_is_put_in_place_once_and_for_all(server, capsys, faults):
    server.ask_for(faults)
    assert load(server).texts["train"].startswith("First Citizen:\n")
    assert server.file.read_bytes() == TEXT
    assert list(server.file.parent.iterdir()) == [server.file]
    load(server)
    assert server.requests == len(faults.split("-"))  # not downloaded again
    assert capsys.readouterr() == ("", "")


def assert_the_sample_is_used_instead(server, capsys, because):
    assert load(server).texts == data.read_text(SAMPLE)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert f"({because}" in line
    assert f"The text is {SAMPLE}, and the losses in the docstrings are those of Tiny" in line
    assert line.endswith(f"To get it, save {download.URL} as {server.file}")
    assert list(server.file.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("faults", "because", "requests"),
    [
        ("", "Connect", 0),  # nobody listens
        ("404", "HTTPError", 1),
        ("503", "RetryError", 3),
        ("portal", "the server sent another text", 1),
        ("broken", "ChunkedEncodingError", 1),
        ("silent", "ConnectionError", 3),
        ("stalled", "ConnectionError", 1),
    ],
)
def test_a_server_at_fault(server, capsys, faults, because, requests):
    server.ask_for(faults)
    assert_the_sample_is_used_instead(server, capsys, because)
    assert server.requests == requests


@unix
def test_ctrl_c_is_no_fault_that_another_text_makes_up_for(server, capsys):
    server.ask_for("interrupted")
    with pytest.raises(KeyboardInterrupt):
        load(server)
    assert list(server.file.parent.iterdir()) == []
