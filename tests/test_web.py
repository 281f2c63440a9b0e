"""web.py against local servers that refuse, delay and mislead, and against addresses that lead inside."""

from collections.abc import Callable, Iterator
import datetime
import email.utils
import ipaddress
import itertools
from pathlib import Path
import socket
import ssl
import threading
import time
from typing import IO, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from doubles import HTML, Handler, serving
import pytest

from metart import __version__
from metart.common.flags import UserError
from metart.museum import web as web_module
from metart.museum.web import MAX_PAUSES, MAX_REDIRECTS, Manners, Unavailable, Web

LIMIT = 100_000
PUBLIC = "93.184.216.34"
NAME = "pictures.example"


def read(body: IO[bytes]) -> bytes:
    return body.read()


def ignore(line: str) -> None:
    pass


def local(notify: Callable[[str], None] = ignore, **manners: Any) -> Web:
    """Returns a client that may ask this machine, and fast."""
    return Web(Manners(**{"requests_per_second": 1000, "pause_seconds": 0.2, **manners}), notify, True)


def at_first(count: int, refuse: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """Returns answers that refuse the first requests and are good afterwards."""
    numbers = itertools.count()

    def answer(handler: Handler) -> None:
        if next(numbers) < count:
            refuse(handler)
        else:
            handler.reply(200, b"good", "image/jpeg")

    return answer


def good(handler: Handler) -> None:
    handler.reply(200, b"good", "image/jpeg")


def send(handler: Handler, raw: bytes, then: bytes = b"", times: int = 0) -> None:
    """Sends bytes as they are, then others every 50 ms: never silent, never done."""
    handler.close_connection = True
    handler.wfile.write(raw)
    for _ in range(times):
        handler.wfile.write(then)
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "BACKOFF_SECONDS", 0.02)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", *web_module.CA_VARIABLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# Polite


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all_threads(form: str) -> None:
    def refuse(handler: Handler) -> None:
        date = email.utils.formatdate(time.time() + 2, usegmt=True)  # Whole seconds: up to one less.
        handler.reply(429, b"", "text/plain", Retry_After="1" if form == "seconds" else date)

    with serving(at_first(1, refuse)) as server, local(max_attempts=1) as web:
        with pytest.raises(Unavailable, match=r"^429 Too Many Requests$"):
            web.fetch(server.url, LIMIT, read)
        threads = [threading.Thread(target=web.fetch, args=(server.url, LIMIT, read)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first, *others = [moment for moment, _ in server.requests]
        assert len(others) == 4
        assert min(others) - first >= 0.95


@pytest.mark.parametrize("status", [200, 403])
def test_a_bot_wall_pauses_the_host_and_is_no_failure(status: int) -> None:
    notices: list[str] = []
    wall = at_first(3, lambda handler: handler.reply(status, HTML, "text/html"))
    with serving(wall) as server, local(notices.append) as web:
        assert web.fetch(server.url, LIMIT, read) == b"good"
        times = [moment for moment, _ in server.requests]
    gaps = [end - start for start, end in itertools.pairwise(times)]
    assert all(gap >= pause for gap, pause in zip(gaps, (0.2, 0.4, 0.8), strict=True))
    assert [notice.rpartition("; ")[2] for notice in notices] == ["pausing 0.2 s", "pausing 0.4 s", "pausing 0.8 s"]


def test_a_wall_that_stays_makes_the_host_given_up() -> None:
    with (
        serving(lambda handler: handler.reply(403, HTML, "text/html")) as server,
        local(pause_seconds=0.01) as web,
    ):
        with pytest.raises(Unavailable, match=r"403 Forbidden, a web page .* \(5 attempts\)"):
            web.fetch(f"{server.url}/a", LIMIT, read)
        count = len(server.requests)
        assert count == MAX_PAUSES + 1
        with pytest.raises(Unavailable, match="host given up after 4 pauses: 403 Forbidden, a web page"):
            web.fetch(f"{server.url}/b", LIMIT, read)
        assert len(server.requests) == count


def test_a_host_that_always_fails_is_left_alone_and_one_dead_address_is_not_its_fault() -> None:
    def answer(handler: Handler) -> None:
        handler.reply(500 if handler.path == "/bad" else 200, b"x", "text/plain")

    notices: list[str] = []
    with serving(answer) as server, local(notices.append, pause_seconds=0.05) as web:
        for _ in range(3):
            with pytest.raises(Unavailable, match="500"):
                web.fetch(f"{server.url}/bad", LIMIT, read)
            web.fetch(f"{server.url}/good", LIMIT, read)
        assert not notices
        bad = (Unavailable, web.fetch, f"{server.url}/bad", LIMIT, read)
        threads = [threading.Thread(target=pytest.raises, args=bad) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert any("500" in notice and "pausing 0.05 s" in notice for notice in notices)


def test_the_rate_holds_for_all_threads() -> None:
    with serving(good) as server, local(requests_per_second=50) as web:
        threads = [
            threading.Thread(target=lambda: [web.fetch(server.url, LIMIT, read) for _ in range(5)]) for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    times = [moment for moment, _ in server.requests]
    assert len(times) == 50
    assert times[-1] - times[0] >= 49 / 50 - 0.02


def test_connections_are_used_again() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n"
    ports = set()

    def answer(handler: Handler) -> None:
        ports.add(handler.client_address[1])
        if handler.path == "/chunked":
            handler.wfile.write(chunked)
        elif handler.path == "/404":
            handler.reply(404, b"no", "text/plain")
        else:
            good(handler)

    with serving(answer) as server, local() as web:
        for path in ("/", "/chunked", "/404", "/", "/chunked"):
            if path == "/404":
                with pytest.raises(Unavailable, match="404"):
                    web.fetch(server.url + path, LIMIT, read)
            else:
                assert web.fetch(server.url + path, LIMIT, read) == b"good"
    assert len(ports) == 1


def test_a_connection_that_the_host_has_closed_is_not_used_again() -> None:
    def answer(handler: Handler) -> None:
        good(handler)
        handler.close_connection = True  # Without saying so.

    with serving(answer) as server, local(max_attempts=1) as web:
        for _ in range(3):
            assert web.fetch(server.url, LIMIT, read) == b"good"
            time.sleep(0.1)


def test_the_user_agent_is_honest() -> None:
    seen: list[str] = []

    def answer(handler: Handler) -> None:
        seen.append(handler.headers["User-Agent"])
        good(handler)

    with serving(answer) as server:
        for contact in ("", "me@example.org"):
            with local(contact=contact) as web:
                web.fetch(server.url, LIMIT, read)
    assert seen[0].startswith(f"met-art/{__version__} (image classification tutorial) urllib3/")
    assert seen[1].startswith(f"met-art/{__version__} (image classification tutorial; me@example.org) urllib3/")


# Answers


def test_what_cannot_be_had_is_asked_once() -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/404":
            handler.reply(404, HTML, "text/html")
        elif handler.path == "/403":  # As buckets say that there is no such object.
            handler.reply(403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "application/xml")
        elif handler.path == "/large":
            handler.reply(200, bytes(LIMIT + 1), "image/jpeg")
        elif handler.path == "/file":
            handler.reply(301, b"", "text/plain", Location="file:///etc/hostname")
        elif handler.path == "/nowhere":
            handler.reply(302, b"", "text/plain")

    reasons = {
        "/404": "404 Not Found",
        "/403": "403 Forbidden",
        "/large": "larger than 100,000 bytes",
        "/file": "refused: neither an http nor an https address",
        "/nowhere": "302 Found",
    }
    with serving(answer) as server, local() as web:
        for path, reason in reasons.items():
            with pytest.raises(Unavailable, match=f"^{reason}$"):
                web.fetch(server.url + path, LIMIT, read)
        assert [path for _, path in server.requests] == list(reasons)


def test_redirects_are_followed_and_bounded() -> None:
    def answer(handler: Handler) -> None:
        number = int(handler.path[1:])
        if number:
            handler.reply(302, b"", "text/plain", Location=f"/{number - 1}")
        else:
            good(handler)

    with serving(answer) as server, local() as web:
        assert web.fetch(f"{server.url}/{MAX_REDIRECTS}", LIMIT, read) == b"good"
        with pytest.raises(Unavailable, match="more than 5 redirects"):
            web.fetch(f"{server.url}/{MAX_REDIRECTS + 1}", LIMIT, read)


def test_damaged_and_cut_bodies_are_fetched_again() -> None:
    def cut(handler: Handler) -> None:
        send(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

    def parse(body: IO[bytes]) -> bytes:
        text = body.read()
        if text == b"damaged":
            raise ValueError("damaged: no end")
        return text

    for refuse in (cut, lambda handler: handler.reply(200, b"damaged", "image/jpeg")):
        with serving(at_first(2, refuse)) as server, local() as web:
            assert web.fetch(server.url, LIMIT, parse) == b"good"
    with (
        serving(lambda handler: handler.reply(200, b"damaged", "image/jpeg")) as server,
        local() as web,
        pytest.raises(Unavailable, match=r"^damaged: no end \(5 attempts\)$"),
    ):
        web.fetch(server.url, LIMIT, parse)


def test_a_body_of_unknown_size_is_bounded() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"6\r\n123456\r\n" * 3 + b"0\r\n\r\n"
    with serving(lambda handler: send(handler, raw)) as server, local() as web:
        assert web.fetch(server.url, 18, read) == b"123456" * 3
        with pytest.raises(Unavailable, match=r"^larger than 17 bytes$"):
            web.fetch(server.url, 17, read)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
    ids=["header", "body", "chunk", "unknown length"],
)
def test_a_slow_answer_ends_at_the_time_limit(first: bytes) -> None:
    with (
        serving(lambda handler: send(handler, first, b"x", times=200)) as server,
        local(timeout_seconds=0.5, max_attempts=2) as web,
    ):
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"^took longer than 0.5 s \(2 attempts\)$"):
            web.fetch(server.url, LIMIT, read)
        assert time.monotonic() - start < 5


def test_silence_ends_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "IDLE_SECONDS", 0.2)
    with (
        serving(lambda handler: time.sleep(1)) as server,
        local(max_attempts=1) as web,
        pytest.raises(Unavailable, match=r"^no answer in time$"),
    ):
        web.fetch(server.url, LIMIT, read)


def test_nobody_there() -> None:
    with serving(good) as server:
        address = server.url
    notices: list[str] = []
    with local(notices.append, pause_seconds=600) as web:
        for _ in range(4):
            with pytest.raises(Unavailable, match=r"^connection failed: Connection refused \(5 attempts\)$"):
                web.fetch(address, LIMIT, read)
        with pytest.raises(Unavailable, match="host given up, it has never answered: connection failed"):
            web.fetch(address, LIMIT, read)
    assert len(notices) == 1


# Nowhere but the web


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator["Internet"]:
    """A name service and a network of which this machine is the only host."""
    network = Internet()
    real_connect = socket.socket.connect

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple]:
        network.asked.append(host)
        answers = network.names.get(host) or [host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers]

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        network.connected.append(address)
        if address[0] in network.unreachable:
            raise ConnectionRefusedError(111, "Connection refused")
        real_connect(sock, ("127.0.0.1", network.ports.get(address[1], address[1])))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    yield network


class Internet:
    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {NAME: [PUBLIC]}
        self.ports: dict[int, int] = {}  # Port asked for: port of the local server.
        self.unreachable: set[str] = set()
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []


def fetch(address: str, **keywords: Any) -> bytes:
    with Web(Manners(max_attempts=1), ignore, **keywords) as web:
        return web.fetch(address, LIMIT, read)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.jpg",
        "http://127.8.8.8:8080/",
        "http://localhost/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://198.18.0.1/",
        "http://192.88.99.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0/",
        "http://①②⑦.⓪.⓪.①/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fe80::1%lo]/",
        "http://[fc00::1]/",
        "http://[fd00:ec2::254]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[64:ff9b:1::1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/",
        "http://[2001:db8::1]/",
        "http://[3fff::1]/",
        "http://example.org@127.0.0.1/",
        "http://user:word@example.org/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.jpg",
        "gopher://127.0.0.1/",
        "data:image/png;base64,AAAA",
        "//127.0.0.1/a.jpg",
        "x.jpg",
        "http:///a.jpg",
        "http://",
        "http://[",
        "http://[bad/x.jpg",
        "http://.example.invalid/",
        f"http://{'a' * 70}.example/",
        "http://example.org:99999/",
        "http://example.org:x/",
        "",
    ],
)
def test_addresses_inside_and_of_other_kinds_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for proxy in ("", "http://127.0.0.1:9"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        if proxy and "localhost" in url:
            continue  # A name, for the proxy to judge.
        with pytest.raises(Unavailable, match=r"^refused: "):
            fetch(url)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:2800:220:1::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses_are_not_refused(address: str) -> None:
    assert web_module.refusal(ipaddress.ip_address(address), allow_private_hosts=False) is None


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "ff02::1"])
def test_metadata_addresses_stay_refused_in_a_museum(address: str) -> None:
    assert web_module.refusal(ipaddress.ip_address(address), allow_private_hosts=True)


def test_a_name_that_points_inside_is_refused(internet: Internet) -> None:
    internet.names[NAME] = [PUBLIC, "10.0.0.7"]
    with pytest.raises(Unavailable, match=r"^refused: pictures.example is 10.0.0.7, .*--allow_private_hosts"):
        fetch(f"http://{NAME}/a.jpg")
    assert internet.connected == []


def test_what_a_person_typed_is_asked_wherever_it_is() -> None:
    with serving(good) as mirror, serving(good) as inside:
        assert fetch(f"{mirror.url}/1.jpg", trusted=[f"{mirror.url}/bucket"]) == b"good"
        with pytest.raises(Unavailable, match=r"^refused: 127.0.0.1 is 127.0.0.1, "):
            fetch(f"{inside.url}/1.jpg", trusted=[f"{mirror.url}/bucket"])
    with pytest.raises(UserError, match=r"^bucket/: refused: neither an http nor an https address$"):
        fetch("http://example.org", trusted=["bucket/"])


def test_the_checked_address_is_the_one_asked(internet: Internet) -> None:
    """A name service that would answer otherwise the second time gets no second question."""
    seen: list[tuple[str, str]] = []

    def answer(handler: Handler) -> None:
        seen.append((handler.path, handler.headers["Host"]))
        good(handler)

    with serving(answer) as server:
        internet.ports[80] = server.server_port
        assert fetch(f"http://{NAME}/a b.jpg?size=1") == b"good"
    assert internet.asked.count(NAME) == 1
    assert internet.connected == [(PUBLIC, 80)]
    assert seen == [("/a%20b.jpg?size=1", NAME)]


def test_the_next_address_is_tried_where_one_is_down(internet: Internet) -> None:
    internet.names[NAME] = ["93.184.216.35", PUBLIC]
    internet.unreachable.add("93.184.216.35")
    with serving(good) as server:
        internet.ports[80] = server.server_port
        assert fetch(f"http://{NAME}/a.jpg") == b"good"


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1/", "//169.254.169.254/", "http://inside.example/", "file:///etc", "http://[bad/"]
)
def test_a_redirect_inside_is_refused(location: str, internet: Internet) -> None:
    internet.names["inside.example"] = ["192.168.0.9"]
    with serving(lambda handler: handler.reply(302, b"", "text/plain", Location=location)) as server:
        internet.ports[80] = server.server_port
        with pytest.raises(Unavailable, match=r"^refused: "):
            fetch(f"http://{NAME}/a.jpg")
    assert internet.connected == [(PUBLIC, 80)]


def test_certificate_and_sni_are_of_the_name(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = write_certificate(tmp_path, NAME)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    asked: list[str] = []
    tls.sni_callback = lambda _, name, __: asked.append(name)
    internet.names["other.example"] = [PUBLIC]
    with serving(good, tls) as server:
        internet.ports[443] = server.server_port
        with pytest.raises(Unavailable, match=r"^its certificate is not trusted: self-signed certificate"):
            fetch(f"https://{NAME}/a.jpg")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert fetch(f"https://{NAME}/a.jpg") == b"good"
        with pytest.raises(Unavailable, match=r"^its certificate is not trusted: Hostname mismatch"):
            fetch("https://other.example/a.jpg")
    assert asked == [NAME, NAME, "other.example"]
    assert set(internet.connected) == {(PUBLIC, 443)}


def write_certificate(folder: Path, name: str) -> Path:
    """Writes a self-signed certificate and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    path = folder / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
