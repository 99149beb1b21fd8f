"""Files from the public Internet, and from nowhere else: nothing on this machine or its own network is reached."""

import http.client
import ipaddress
import socket
import string
import threading
import time
from contextlib import suppress
from urllib.parse import quote, urljoin, urlsplit

from pictures_moon2 import address

# Our choices. The time is that of the whole download, redirects included, but for the system's look-up of names.
MAX_SECONDS = 20.0
MAX_BYTES = 32 * 2**20
MAX_REDIRECTS = 5


class _Connection(http.client.HTTPConnection):
    """A connection to public addresses only, cut off at its `deadline`, in seconds of `time.monotonic`."""

    deadline: float
    handle: socket.socket | None = None

    def connect(self):
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        hosts = list(dict.fromkeys(place[0] for *_, place in found))
        for host in hosts:
            if not _is_public(host):
                raise ValueError(f"{self.host} is at {host}, which is not an address of the public Internet")
        # Connecting to the very addresses that were judged: the name may mean another one a moment later.
        for host in hosts:
            try:
                self.sock = socket.create_connection((host, self.port), self.timeout / len(hosts))
                break
            except OSError:
                if host == hosts[-1]:
                    raise
        # A socket's own time-out starts anew with every byte, hence someone who cuts it off, whoever is reading.
        self.handle = self.sock.dup()
        self.timer = threading.Timer(self.deadline - time.monotonic(), self._cut)
        self.timer.start()

    def _cut(self):
        with suppress(OSError):  # it has ended already
            self.handle.shutdown(socket.SHUT_RDWR)

    def end(self):
        if self.handle:
            self.timer.cancel()
            self.handle.close()
        self.close()


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """The order of the bases matters: the address is judged before the first byte of TLS is sent."""


CONNECTIONS = {"http": _Connection, "https": _SecureConnection}


def fetch(url: str) -> bytes:
    """Return what is at an http or https address, without proxies of the environment.

    Raises:
        ValueError: it is not on the public Internet, not there, too large, or too slow.
    """
    deadline = time.monotonic() + MAX_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        try:
            status, reason, location, data = _get(url, deadline)
        except (OSError, http.client.HTTPException) as error:
            late = f"it takes more than {MAX_SECONDS:g} seconds" if time.monotonic() >= deadline else ""
            raise ValueError(late or f"fetching {address(url)} failed: {error or type(error).__name__}") from error
        if location is None:
            break
        url = urljoin(url, location)
    else:
        raise ValueError(f"it is behind more than {MAX_REDIRECTS} redirects")
    if status != 200:
        raise ValueError(f"{address(url)} answers {status} {reason}")
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES / 2**20:g} MiB")
    return data


def _get(url: str, deadline: float) -> tuple[int, str, str | None, bytes]:
    """Return status, reason, target of a redirect, and at most one byte more than is allowed."""
    parts = urlsplit(url)
    if parts.scheme not in CONNECTIONS or not parts.hostname:
        raise ValueError(f"{address(url)} is not an http or https address")
    kind = CONNECTIONS[parts.scheme]
    seconds = max(0.001, deadline - time.monotonic())
    connection = kind(parts.hostname, parts.port or kind.default_port, timeout=seconds)
    connection.deadline = deadline
    try:
        path = quote(parts._replace(scheme="", netloc="", fragment="").geturl(), safe=string.punctuation)
        connection.request("GET", path or "/", headers={"User-Agent": "moon2"})
        with connection.getresponse() as response:
            location = response.headers["Location"] if 300 <= response.status < 400 else None
            data = b"" if location else response.read(MAX_BYTES + 1)
    finally:
        connection.end()
    if time.monotonic() >= deadline:  # what was cut off looks like an end
        raise TimeoutError
    return response.status, response.reason, location, data


def _is_public(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    inside = ip.version == 6 and (ip.is_site_local or ip.sixtofour)  # 6to4: an IPv4 address, which may be any
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or inside)
