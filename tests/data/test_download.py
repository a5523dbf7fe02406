"""Downloads: checked, resumed, and clear about what went wrong. Servers run in the test itself."""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import pytest

from pyro_vrnn.data import download

CONTENT = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT at /file, with the faults that the server object asks for."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        first = 0
        span = self.headers.get("Range")
        if span is not None and self.server.resumable:
            first = int(span.removeprefix("bytes=").removesuffix("-"))
            if first >= len(CONTENT):
                self.send_error(416)
                return
            first -= self.server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        self.wfile.write(CONTENT[first : self.server.stops_at])

    def log_message(self, *args):
        """Say nothing."""


@contextmanager
def running(**faults):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.ranges, server.redirects = [], {}
    server.resumable, server.tells_length, server.stops_at, server.shift = True, True, None, 0
    for name, value in faults.items():
        setattr(server, name, value)
    server.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sets" / "a.txt"


def get(server, path, sha256=SHA256):
    return download(server.url, path, sha256=sha256, progress=False)


def names(path):
    return sorted(p.name for p in path.parent.iterdir())


@pytest.mark.parametrize("faults", [{}, {"tells_length": False}], ids=["plain", "no-length"])
def test_a_file_arrives_whole(path, faults):
    with running(**faults) as server:
        assert get(server, str(path), SHA256.upper()) == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.txt"]


def test_a_file_that_is_there_is_not_asked_for(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    with running() as server:
        get(server, path)
    assert server.ranges == []


def test_another_file_in_its_place_is_kept(path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with running() as server, pytest.raises(ValueError, match=f"SHA-256 {SHA256}, got .* remove"):
        get(server, path)
    assert path.read_bytes() == b"mine"


def test_a_broken_download_goes_on_where_it_stopped(path):
    with (
        running(stops_at=1_500_000) as server,
        pytest.raises(ConnectionError, match=r"run it again to go on .*a\.txt\.part") as caught,
    ):
        get(server, path)
    assert "\n" not in str(caught.value)
    assert (path.parent / "a.txt.part").read_bytes() == CONTENT[:1_500_000]
    assert names(path) == ["a.txt.part"]
    with running() as server:
        get(server, path)
    assert server.ranges == ["bytes=1500000-"]
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.txt"]


@pytest.mark.parametrize(
    "faults", [{"resumable": False}, {"shift": 1}], ids=["no-range", "another-range"]
)
def test_a_server_that_cannot_go_on_sends_all_again(path, faults):
    path.parent.mkdir()
    (path.parent / "a.txt.part").write_bytes(CONTENT[:1000])
    with running(**faults) as server:
        if "shift" in faults:  # what it sends is no beginning: nothing of it is kept
            with pytest.raises(ConnectionError, match="from byte 1000 on, got bytes 999-"):
                get(server, path)
            assert (path.parent / "a.txt.part").read_bytes() == CONTENT[:1000]
        else:
            get(server, path)
            assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_part_that_is_whole_gets_its_name(path):
    path.parent.mkdir()
    (path.parent / "a.txt.part").write_bytes(CONTENT)
    with running() as server:
        get(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "part", [CONTENT + b"more", b"other" + CONTENT[5:], b"other"], ids=["long", "whole", "begun"]
)
def test_a_part_of_another_file_is_removed(path, part):
    path.parent.mkdir()
    (path.parent / "a.txt.part").write_bytes(part)
    with running() as server:
        with pytest.raises(ValueError, match="to have SHA-256"):
            get(server, path)
        assert names(path) == []
        get(server, path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(path):
    wrong = "0" * 64
    message = rf"Expected http://.*/file to have SHA-256 {wrong}, got {SHA256}: .* not kept\.$"
    with running() as server, pytest.raises(ValueError, match=message):
        get(server, path, wrong)
    assert names(path) == []


def test_a_missing_page_is_named(path):
    with (
        running() as server,
        pytest.raises(ConnectionError, match=r"file at .*/file2, got HTTP 404"),
    ):
        download(f"{server.url}2", path, sha256=SHA256, progress=False)
    assert names(path) == []


def test_a_server_that_is_not_there_is_named(path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        ConnectionError, match=r"Expected to reach http://127\.0\.0\.1:\d+/a, got"
    ) as e:
        download(f"http://127.0.0.1:{port}/a", path, sha256=SHA256, progress=False)
    assert "\n" not in str(e.value)
    assert names(path) == []


def test_a_name_that_no_one_knows_is_named(path, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        ConnectionError, match=r"reach http://data\.test/a, got: .* name resolution"
    ):
        download("http://data.test/a", path, sha256=SHA256, progress=False)


def test_an_interrupt_keeps_the_part(path, monkeypatch):
    class Interrupted(Exception):
        pass

    class Bar:
        def __init__(self, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def update(self, count):
            raise Interrupted

    monkeypatch.setattr(import_module("pyro_vrnn.data.download"), "tqdm", Bar)
    with running() as server, pytest.raises(Interrupted):
        get(server, path)
    kept = (path.parent / "a.txt.part").read_bytes()
    assert 0 < len(kept) < len(CONTENT)
    assert CONTENT.startswith(kept)


def test_redirects_are_followed(path):
    with running(redirects={"/old": "/file"}) as server:
        download(server.url.replace("/file", "/old"), path, sha256=SHA256, progress=False)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/file"])
def test_redirects_lead_to_web_pages_alone(path, target):
    with running(redirects={"/old": target}) as server, pytest.raises(ConnectionError, match="old"):
        download(server.url.replace("/file", "/old"), path, sha256=SHA256, progress=False)
    assert names(path) == []


def test_a_file_address_is_copied(path, tmp_path):
    source = tmp_path / "source of it.txt"
    source.write_bytes(CONTENT)
    download(source.as_uri(), path, sha256=SHA256, progress=False)
    assert path.read_bytes() == source.read_bytes() == CONTENT


def test_a_file_address_starts_anew(path, tmp_path):
    (tmp_path / "source.txt").write_bytes(CONTENT)
    path.parent.mkdir()
    (path.parent / "a.txt.part").write_bytes(CONTENT[:10])
    download((tmp_path / "source.txt").as_uri(), path, sha256=SHA256, progress=False)
    assert path.read_bytes() == CONTENT


def test_a_file_address_without_a_file(path, tmp_path):
    url = (tmp_path / "none.txt").as_uri()
    with pytest.raises(FileNotFoundError, match=r"a file at file://.*none\.txt, got none"):
        download(url, path, sha256=SHA256, progress=False)


@pytest.mark.parametrize(
    ("url", "sha256", "message"),
    [
        ("ftp://a/b", SHA256, "an address with http, https, file, got 'ftp://a/b'"),
        ("a.txt", SHA256, "an address with http, https, file, got 'a.txt'"),
        ("http://a/é", SHA256, "address of ASCII characters without spaces, got 'http://a/é'"),
        ("http://a/b c", SHA256, "ASCII characters without spaces, got 'http://a/b c'"),
        ("http://a/b", "abc", "sha256 of 64 hexadecimal digits, got 'abc'"),
        ("http://a/b", "g" * 64, "sha256 of 64 hexadecimal digits, got 'ggg"),
    ],
    ids=["ftp", "no-scheme", "accent", "space", "short", "letters"],
)
def test_bad_arguments_are_refused(path, url, sha256, message):
    with pytest.raises(ValueError, match=message):
        download(url, path, sha256=sha256)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_if_wanted(path, capsys, progress):
    with running() as server:
        download(server.url, path, sha256=SHA256, progress=progress)
    assert ("a.txt: 100%" in capsys.readouterr().err) == progress
