"""The download against a real server that does what servers, networks and disks do."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from conftest import ROOT, SAMPLE, bare_environment

from common import data, download, text

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 2000
unix = pytest.mark.skipif(os.name != "posix", reason="needs Unix")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.server.asked.set()
        fault = self.path.strip("/")
        hung_up = threading.Event()
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "503-once" and len(self.server.paths) == 1:
            self.send_error(503)
        elif fault == "503-for-an-hour":
            self.send_response(503)
            self.send_header("Retry-After", "3600")
            self.end_headers()
        elif fault == "redirect-to-portal":
            self.send_response(302)
            self.send_header("Location", "/portal")
            self.end_headers()
        elif fault == "stall-before-headers":
            hung_up.wait(self.server.patience)
        else:
            bodies = {"portal": b"<html>Please log in</html>", "right-size": TEXT[::-1]}
            body = bodies.get(fault, TEXT)
            self.send_response(200)
            if fault != "endless":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault in ("drop", "stall"):
                self.wfile.write(TEXT[: len(TEXT) // 2])
                if fault == "stall":
                    hung_up.wait(self.server.patience)
            elif fault == "endless":
                while True:
                    self.wfile.write(b"x" * 65536)
            elif fault == "slowly":
                for i in range(0, len(TEXT), 20_000):
                    self.wfile.write(TEXT[i : i + 20_000])
                    time.sleep(0.05)
            else:
                self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    patience = 30  # seconds that a stall lasts
    paths: list[str]  # what clients asked for
    asked: threading.Event

    def handle_error(self, *args):
        pass  # a client that hangs up


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.paths, server.asked = [], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder of its own, and no proxy between here and the server."""
    for module in (text, download):
        monkeypatch.setattr(module, "TINY_SHAKESPEARE", tmp_path / "input.txt")
    monkeypatch.setattr(download, "SIZE", len(TEXT))
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(TEXT).hexdigest())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


def url(server, fault):
    return f"http://127.0.0.1:{server.server_port}/{fault}"


def assert_the_sample_is_used_instead(home, capsys, because):
    corpus = data.load_corpus(home / "input.txt")
    assert corpus.chars == data.load_corpus(SAMPLE).chars
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert because in line
    assert "losses will differ from the README's" in line
    assert f"save {download.URL} as {home / 'input.txt'}" in line
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("fault", ["fine", "slowly", "503-once"])
def test_the_whole_right_file_is_put_in_place(server, home, monkeypatch, capsys, fault):
    monkeypatch.setattr(download, "URL", url(server, fault))
    corpus = data.load_corpus(home / "input.txt")
    assert corpus.decode(corpus.splits["train"][:14]) == "First Citizen:"
    assert capsys.readouterr().err == ""
    assert [path.name for path in home.iterdir()] == ["input.txt"]
    assert (home / "input.txt").read_bytes() == TEXT
    data.load_corpus(home / "input.txt")
    assert len(server.paths) == (2 if fault == "503-once" else 1)  # not downloaded again


@pytest.mark.parametrize(
    ("fault", "because"),
    [
        ("404", "404"),
        pytest.param("500", "500", marks=pytest.mark.slow),
        pytest.param("503-for-an-hour", "503", marks=pytest.mark.slow),
        ("portal", "not the whole text"),
        ("redirect-to-portal", "not the whole text"),
        ("right-size", "not the whole text"),
        ("endless", "not the whole text"),
        ("drop", "no answer or a broken one"),
    ],
)
def test_a_server_at_fault(server, home, monkeypatch, capsys, fault, because):
    monkeypatch.setattr(download, "URL", url(server, fault))
    assert_the_sample_is_used_instead(home, capsys, because)
    assert len(server.paths) == {"500": 3, "503-for-an-hour": 3, "redirect-to-portal": 2}.get(
        fault, 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stall-before-headers", "stall"])
def test_a_connection_that_stalls(server, home, monkeypatch, capsys, fault):
    monkeypatch.setattr(download, "URL", url(server, fault))
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.3)
    assert_the_sample_is_used_instead(home, capsys, "no answer or a broken one")


def test_a_trickle_is_given_up(server, home, monkeypatch, capsys):
    monkeypatch.setattr(download, "URL", url(server, "slowly"))
    monkeypatch.setattr(download, "TOTAL_TIMEOUT", 0.1)
    assert_the_sample_is_used_instead(home, capsys, "not the whole text")


@pytest.mark.slow
def test_nobody_listens(home, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(download, "URL", f"http://127.0.0.1:{port}/")
    assert_the_sample_is_used_instead(home, capsys, "ConnectionError")


def test_a_proxy_is_used_as_requests_does(server, home, monkeypatch, capsys):
    monkeypatch.setattr(download, "URL", "http://home.of.shakespeare.invalid/input.txt")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    data.load_corpus(home / "input.txt")
    assert server.paths == ["http://home.of.shakespeare.invalid/input.txt"]
    assert (home / "input.txt").read_bytes() == TEXT


# --- In processes of their own, as a user's scripts run ---

DRIVER = f"""
import runpy, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from common import data, download, text
url, folder, what = sys.argv[1:]
for module in (data, download, text):
    module.TINY_SHAKESPEARE = Path(folder, "input.txt")
download.URL, download.SIZE = url, {len(TEXT)}
download.SHA256 = {hashlib.sha256(TEXT).hexdigest()!r}
if what == "no name server":
    import socket, time
    socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
elif what == "a limit":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
elif what == "a step":
    sys.argv = ["01_bigram.py"]
    runpy.run_path({str(ROOT / "01_bigram.py")!r}, run_name="__main__")
corpus = data.load_corpus(data.TINY_SHAKESPEARE)
print(sum(map(len, corpus.splits.values())))
"""


def start(server, home, fault, *what):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, url(server, fault), str(home), *(what or ["nothing"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=bare_environment(NO_PROXY="127.0.0.1"),
    )


@pytest.mark.slow
def test_two_scripts_started_at_once(server, home):
    racers = [start(server, home, "slowly") for _ in range(2)]
    for racer in racers:
        out, err = racer.communicate(timeout=60)
        assert (out, err) == (f"{len(TEXT)}\n", "")
    assert [path.name for path in home.iterdir()] == ["input.txt"]
    assert (home / "input.txt").read_bytes() == TEXT


@pytest.mark.slow
def test_a_name_server_that_never_answers(server, home):
    """The fall-back and the end of the program come long before the name server's answer."""
    begin = time.monotonic()
    out, err = start(server, home, "fine", "no name server").communicate(timeout=120)
    assert time.monotonic() - begin < 55
    assert out == f"{SAMPLE.stat().st_size}\n"
    assert len(err.splitlines()) == 1
    assert "TimeoutError" in err
    assert list(home.iterdir()) == []


@unix
@pytest.mark.slow
def test_a_full_disk(server, home):
    """A limit on the size of files makes the kernel refuse the write half-way, as a full disk."""
    out, err = start(server, home, "fine", "a limit").communicate(timeout=60)
    assert out == f"{SAMPLE.stat().st_size}\n"
    assert len(err.splitlines()) == 1
    assert "File too large" in err
    assert list(home.iterdir()) == []


def test_ctrl_c_is_no_failure_that_another_text_makes_up_for(server, home, monkeypatch):
    real = requests.Response.iter_content

    def iter_content(response, size):
        yield next(real(response, size))
        signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
        raise AssertionError("the download went on")

    monkeypatch.setattr(requests.Response, "iter_content", iter_content)
    monkeypatch.setattr(download, "URL", url(server, "fine"))
    with pytest.raises(KeyboardInterrupt):
        data.load_corpus(home / "input.txt")
    assert list(home.iterdir()) == []


@unix
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stall-before-headers", "stall"])
def test_ctrl_c_during_the_download_ends_the_program(server, home, fault):
    process = start(server, home, fault, "a step")
    try:
        assert server.asked.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert (out, err) == ("", "\nstopped\n")
    assert list(home.iterdir()) == []
