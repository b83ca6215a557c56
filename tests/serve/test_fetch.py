"""What a client points at is fetched only where nobody minds."""

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from limner.serve.fetch import Fetching, fetch, is_allowed

OURS = Fetching(max_bytes=1000, timeout=1.5, max_redirects=2, networks=("127.0.0.1/32",))


class Site(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        name, _, argument = self.path[1:].partition("?to=")
        headers = {"Content-Type": "image/png"}
        body, status = b"pixels", 200
        match name:
            case "redirect":
                status, headers["Location"] = 302, argument
            case "round":
                status, headers["Location"] = 302, "/round"
            case "page.html":
                headers["Content-Type"] = "text/html"
            case "large.png":
                body = b"0" * 1001
            case "lying.png":
                headers["Content-Length"] = "400"
            case "zipped.png":
                headers["Content-Encoding"] = "gzip"
            case "lost.png":
                status = 404
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if name == "endless.png":
            body = b"0" * 100_000
        if name == "slow.png":
            body = b""
            for _ in range(40):
                self._send(b"0")
                time.sleep(0.1)
        self._send(body)

    def _send(self, body: bytes) -> None:
        # Who has enough goes away.
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_picture_behind_a_redirect_is_fetched(site: str) -> None:
    found = fetch(f"{site}/redirect?to=/a%20b.png", types=["image/"], fetching=OURS)
    assert (found.data, found.name) == (b"pixels", "a b.png")


def test_loopback_is_refused_unless_its_network_is_allowed(site: str) -> None:
    with pytest.raises(ValueError, match="does not point to a public address"):
        fetch(f"{site}/a.png", types=["image/"], fetching=Fetching())


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://172.16.3.4/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://224.0.0.1/",
        "https://localhost/",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="does not point to a public address"):
        fetch(address, types=["image/"], fetching=Fetching())


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://example.com/a", "gopher://example.com/", "http://", "//example.com/a", "http://a:b/"],
)
def test_other_than_http_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected http|is no address"):
        fetch(address, types=["image/"], fetching=OURS)


@pytest.mark.parametrize("address", ["http://me:secret@example.com/a", "http://example.com/a b", "http://ex\u00e4.de/"])
def test_addresses_with_more_in_them_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not fetched"):
        fetch(address, types=["image/"], fetching=OURS)


def _resolve_to(patch: pytest.MonkeyPatch, answers: list[list[str]]) -> list[str]:
    """Let names resolve to the next of `answers`; the names asked for."""
    asked: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    patch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize("answers", [["127.0.0.2"], ["93.184.216.34", "10.0.0.1"], ["127.0.0.1", "169.254.169.254"]])
def test_a_name_that_resolves_to_a_private_address_is_refused(answers: list[str], monkeypatch) -> None:
    asked = _resolve_to(monkeypatch, [answers])
    with pytest.raises(ValueError, match="does not point to a public address"):
        fetch("http://pictures.example/a.png", types=["image/"], fetching=OURS)
    assert asked == ["pictures.example"]


def test_the_connection_goes_to_the_address_that_was_checked(site: str, monkeypatch) -> None:
    """A name that changes its mind between the check and the connection is asked but once."""
    connected: list[tuple[str, int]] = []
    port = int(site.rpartition(":")[2])
    _resolve_to(monkeypatch, [["127.0.0.1"], ["10.0.0.1"]])

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        plain.settimeout(timeout)
        plain.connect(address)
        return plain

    monkeypatch.setattr(socket, "create_connection", connect)
    assert fetch(f"http://pictures.example:{port}/a.png", types=["image/"], fetching=OURS).data == b"pixels"
    assert connected == [("127.0.0.1", port)]


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.2/a.png", "http://169.254.169.254/", "http://[::1]/", "http://localhost.localdomain.invalid/"],
)
def test_a_redirect_to_what_is_not_allowed_is_refused(site: str, target: str) -> None:
    with pytest.raises(ValueError, match=r"does not point to a public address|cannot be fetched"):
        fetch(f"{site}/redirect?to={target}", types=["image/"], fetching=OURS)


def test_a_redirect_to_a_file_is_refused(site: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        fetch(f"{site}/redirect?to=file:///etc/passwd", types=["image/"], fetching=OURS)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("round", "more than 2 redirects"),
        ("page.html", "is `text/html`; expected image/"),
        ("large.png", "more than 1000 bytes"),
        ("endless.png", "more than 1000 bytes"),
        ("lying.png", "ended before its end"),
        ("zipped.png", "compressed for transfer"),
        ("lost.png", "status 404"),
    ],
)
def test_what_is_too_much_or_something_else_is_refused(site: str, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(f"{site}/{path}", types=["image/"], fetching=OURS)


def test_a_server_that_drips_is_left_in_time(site: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match="took too long"):
        fetch(f"{site}/slow.png", types=["image/"], fetching=OURS)
    assert time.monotonic() - begun < 3.5


def test_nobody_at_home_is_told_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=r"^`http://127.0.0.1:\d+/a.png` cannot be fetched$"):
        fetch(f"http://127.0.0.1:{port}/a.png", types=["image/"], fetching=OURS)


def test_public_addresses_are_allowed() -> None:
    assert is_allowed("93.184.216.34")
    assert is_allowed("2606:2800:220:1:248:1893:25c8:1946")
    assert not is_allowed("64:ff9b::7f00:1")
    assert not is_allowed("2002:7f00:1::")
    assert is_allowed("10.1.2.3", networks=["10.1.0.0/16"])
