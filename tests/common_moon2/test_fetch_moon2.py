"""Downloads reach the public Internet only, and end: redirects, sizes and times are bounded."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common_moon2 import fetch as fetching
from common_moon2.fetch import fetch
from conftest import picture
from pictures_moon2 import load_picture


class Site(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        name, _, rest = self.path[1:].partition("/")
        getattr(self, f"send_{name}", self.send_missing)(rest)

    def answer(self, status: int, body: bytes = b"", **headers):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def send_missing(self, rest):
        self.answer(404)

    def send_photo(self, rest):
        file = io.BytesIO()
        picture(20, 10).save(file, "PNG")
        self.answer(200, file.getvalue())

    def send_echo(self, rest):
        self.answer(200, rest.encode())

    def send_hops(self, rest):
        self.answer(302, Location=f"/hops/{int(rest) - 1}" if int(rest) else "/echo/arrived")

    def send_to(self, rest):
        self.answer(301, Location=rest)

    def send_bytes(self, rest):
        self.answer(200, bytes(int(rest)))

    def send_endless(self, rest):
        self.answer(200, **{"Content-Length": str(10**12)})
        self.drip(bytes(2**16), 0)

    def send_slow(self, rest):
        self.answer(200, **{"Content-Length": "1000"})
        self.drip(b".", 0.05)

    def send_slow_headers(self, rest):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.drip(b".", 0.05)

    def drip(self, data: bytes, seconds: float):
        try:
            while True:
                self.wfile.write(data)
                time.sleep(seconds)
        except OSError:
            pass  # the client has gone

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def is_local_allowed(monkeypatch):
    """The tests' server counts as public; every other address is judged as ever."""
    judge = fetching._is_public
    monkeypatch.setattr(fetching, "_is_public", lambda address: address == "127.0.0.1" or judge(address))


def test_nothing_on_this_machine_is_reached(site):
    Site.asked.clear()
    port = site.rsplit(":", 1)[1]
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0"):
        with pytest.raises(ValueError, match="not an address of the public Internet"):
            fetch(f"http://{host}:{port}/photo")
    with pytest.raises(ValueError, match="not an address of the public Internet"):
        load_picture(f"{site}/photo", fetch=fetch)
    assert Site.asked == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
     "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%lo", "fec0::1", "fd00::1", "ff0e::1",
     "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:db8::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not fetching._is_public(address)


def test_addresses_that_are_public():
    assert fetching._is_public("93.184.216.34") and fetching._is_public("2606:4700:4700::1111")


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(monkeypatch):
    """A name server that answers with a public address first and with a private one a moment later."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, **_: [(socket.AF_INET, 1, 6, "", (next(answers), port))]
    )
    connected = []

    def refuse(place, timeout):
        connected.append(place)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ValueError, match="refused"):
        fetch("http://rebinding.example/photo")
    assert connected == [("93.184.216.34", 80)]


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    places = [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with pytest.raises(ValueError, match="mixed.example is at 10.0.0.1"):
        fetch("https://mixed.example/photo")


def test_the_next_address_is_tried_where_one_does_not_answer(site, is_local_allowed, monkeypatch):
    def connect(place, timeout):
        if place[0] != "127.0.0.1":
            raise TimeoutError("timed out")
        connection = socket.socket()
        connection.connect(place)
        return connection

    places = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert fetch(f"http://two.example:{site.rsplit(':', 1)[1]}/echo/second") == b"second"


def test_a_picture_is_fetched(site, is_local_allowed):
    assert load_picture(f"{site}/photo", fetch=fetch) == picture(20, 10)
    assert fetch(f"{site}/echo/a?b=c&d=%20e#part") == b"a?b=c&d=%20e"
    assert fetch(f"{site}/echo/红 杯") == b"%E7%BA%A2%20%E6%9D%AF"


def test_proxies_of_the_environment_are_not_used(site, is_local_allowed, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(f"{site}/echo/straight") == b"straight"


def test_redirects_are_followed_and_judged(site, is_local_allowed, monkeypatch):
    assert fetch(f"{site}/hops/{fetching.MAX_REDIRECTS - 1}") == b"arrived"
    with pytest.raises(ValueError, match="more than 5 redirects"):
        fetch(f"{site}/hops/{fetching.MAX_REDIRECTS}")
    port = site.rsplit(":", 1)[1]
    for target, words in [
        (f"http://127.0.0.2:{port}/photo", "127.0.0.2, which is not an address of the public"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254, which is not"),
        ("https://[::1]/", "::1, which is not"),
        ("file:///etc/passwd", "file:///etc/passwd is not an http or https address"),
        ("ftp://127.0.0.1/p.jpg", "not an http or https address"),
    ]:
        with pytest.raises(ValueError, match=words):
            fetch(f"{site}/to/{target}")


def test_sizes_are_bounded(site, is_local_allowed, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 2**20)
    assert len(fetch(f"{site}/bytes/{2**20}")) == 2**20
    for path in (f"bytes/{2**20 + 1}", "endless"):
        with pytest.raises(ValueError, match="more than 1 MiB"):
            fetch(f"{site}/{path}")


@pytest.mark.parametrize("path", ["slow", "slow_headers"])
def test_the_whole_time_is_bounded(site, is_local_allowed, monkeypatch, path):
    """The server sends a byte now and then, so that a time-out of the socket never comes."""
    monkeypatch.setattr(fetching, "MAX_SECONDS", 0.4)
    start = time.monotonic()
    with pytest.raises(ValueError, match="takes more than 0.4 seconds"):
        fetch(f"{site}/{path}")
    assert time.monotonic() - start < 2


def test_what_goes_wrong_is_said(site, is_local_allowed):
    for url, words in [
        (f"{site}/nothing", "answers 404 Not Found"),
        ("http://", "not an http or https address"),
        ("http://name with spaces/", "fetching .* failed|not an http"),
        ("http://127.0.0.1:1/", "fetching http://127.0.0.1:1/ failed: .*refused"),
        (f"{site.replace('http', 'https')}/photo", "fetching .* failed"),
        ("http://127.0.0.1:99999/", "[Pp]ort"),
    ]:
        with pytest.raises(ValueError, match=words):
            fetch(url)
