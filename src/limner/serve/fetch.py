"""Fetching what a client points at, guarded: http(s) only, public addresses only, bounded in bytes, seconds, redirects.

A name is resolved once per hop, every address that it has must be allowed, and the connection goes to an address that
was checked: a name that resolves otherwise a moment later gains nothing. Proxies of the environment are not used, no
cookie and no credential is sent, and what comes back is data of an allowed type or an error.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 65_536
_STANDING_FOR = tuple(
    ipaddress.ip_network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
"""IPv6 addresses that stand for IPv4 ones: compatible, translated, NAT64 and local NAT64."""


@dataclass(frozen=True)
class Fetching:
    """What may be fetched. `timeout` seconds hold for one item, redirects included; `networks` ("10.1.0.0/16") are
    allowed though they are not public.
    """

    max_bytes: int = 20_000_000
    timeout: float = 10.0
    max_redirects: int = 3
    networks: Sequence[str] = ()


@dataclass(frozen=True)
class Fetched:
    """A body, and the last part of the path that it came from."""

    data: bytes
    name: str


def fetch(url: str, *, types: Sequence[str], fetching: Fetching) -> Fetched:
    """The body behind an address. `types` are beginnings of allowed media types.

    Raises ValueError for an address, a type or a size that is not allowed, and where nothing comes in time.
    """
    deadline = time.monotonic() + fetching.timeout
    for _ in range(fetching.max_redirects + 1):
        found = _hop(url, types=types, fetching=fetching, deadline=deadline)
        if isinstance(found, Fetched):
            return found
        url = urljoin(url, found)
    raise ValueError(f"`{url:.80}` is behind more than {fetching.max_redirects} redirects")


def _hop(url: str, *, types: Sequence[str], fetching: Fetching, deadline: float) -> Fetched | str:
    """One request: the body, or where a redirect points."""
    parts, host, port = _target(url)
    if time.monotonic() >= deadline:  # a lookup has no time limit of its own
        raise ValueError(f"`{url:.80}` took too long")
    address = _allowed_address(host, port, networks=fetching.networks, url=url)
    # What is found inside the network must not be told by the kind of failure.
    try:
        with _connected(address, parts, host=host, deadline=deadline) as connection:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"Host": parts.netloc, "Accept-Encoding": "identity", "User-Agent": "limner"}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in _REDIRECTS and location:
                return location
            _check(response, types=types, max_bytes=fetching.max_bytes, url=url)
            data = _body(response, max_bytes=fetching.max_bytes, deadline=deadline, url=url)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        late = time.monotonic() >= deadline or isinstance(error, TimeoutError)
        raise ValueError(f"`{url:.80}` {'took too long' if late else 'cannot be fetched'}") from error
    if time.monotonic() >= deadline:
        raise ValueError(f"`{url:.80}` took too long")
    return Fetched(data, unquote(parts.path).rpartition("/")[2] or "item")


def _target(url: str) -> tuple[SplitResult, str, int]:
    """(parts, host, port) of an address. Raises ValueError for what is no plain http(s) one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"`{url:.80}` is no address ({error})") from error
    if parts.scheme not in _PORTS or not host:
        raise ValueError(f"`{url:.80}` is not fetched; expected http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("an address with a user name is not fetched")
    if any(ord(character) <= 32 or ord(character) > 126 for character in url):
        raise ValueError("an address with spaces, control or other characters is not fetched; expected it quoted")
    return parts, host, port or _PORTS[parts.scheme]


def _allowed_address(host: str, port: int, *, networks: Sequence[str], url: str) -> tuple[str, int]:
    """An address of a host, all of whose addresses are allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"`{url:.80}` cannot be fetched") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_allowed(address, networks=networks) for address in addresses):
        raise ValueError(f"`{url:.80}` is not fetched: it does not point to a public address")
    return addresses[0], port


def is_allowed(address: str, *, networks: Sequence[str] = ()) -> bool:
    """Whether an IP address is public, or in one of `networks`."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if any(found in ipaddress.ip_network(network) for network in networks):
        return True
    if isinstance(found, ipaddress.IPv6Address):
        stands_for_another = any(found in network for network in _STANDING_FOR)
        if found.sixtofour or found.teredo or found.is_site_local or stands_for_another:
            return False
    return found.is_global and not found.is_multicast


@contextlib.contextmanager
def _connected(
    address: tuple[str, int], parts: SplitResult, *, host: str, deadline: float
) -> Iterator[http.client.HTTPConnection]:
    """A connection that is cut at the deadline, whatever it is doing."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(address, timeout=left))
        # A server that sends a byte now and then never runs into a socket's own timeout.
        watched = stack.enter_context(plain.dup())
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (watched,))
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)
        connection = http.client.HTTPConnection(host, address[1])
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = stack.enter_context(context.wrap_socket(plain, server_hostname=host))
        else:
            connection.sock = plain
        yield connection


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _check(response: http.client.HTTPResponse, *, types: Sequence[str], max_bytes: int, url: str) -> None:
    if response.status != 200:
        raise ValueError(f"`{url:.80}` answers with status {response.status}")
    kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if not any(kind.startswith(beginning) for beginning in types):
        raise ValueError(f"`{url:.80}` is `{kind:.60}`; expected {' or '.join(types)}")
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise ValueError(f"`{url:.80}` is compressed for transfer; it was asked for as it is")
    if response.length is not None and response.length > max_bytes:
        raise ValueError(f"`{url:.80}` has more than {max_bytes} bytes")


def _body(response: http.client.HTTPResponse, *, max_bytes: int, deadline: float, url: str) -> bytes:
    data = bytearray()
    while chunk := response.read(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise ValueError(f"`{url:.80}` has more than {max_bytes} bytes")
        if time.monotonic() >= deadline:
            raise TimeoutError
    if response.length:
        raise ValueError(f"`{url:.80}` ended before its end")
    return bytes(data)
