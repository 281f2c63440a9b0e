from collections.abc import Callable, Iterator
import contextlib
import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import ipaddress
from pathlib import Path
import socket
import ssl
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
import pytest

from metart.museum import remote_picture
from metart.museum.remote_picture import fetch_picture
from metart.records.pictures import BadPicture

PICTURE = b"\xff\xd8 the bytes of a picture"
PUBLIC = "93.184.216.34"
NAME = "pictures.example"

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serve(answers: dict[str, Answer], tls: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    """Runs a web server on the loopback; `requests` of it lists (path, headers) of what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                answers[self.path](self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def body(data: bytes, status: int = 200, announced: int | None = None, location: str | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data) if announced is None else announced))
        if location:
            handler.send_header("Location", location)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(location: str) -> Answer:
    return body(b"", 302, location=location)


def drip(first: bytes) -> Answer:
    """Sends `first`, then a byte every 50 ms for 10 s: never idle, never done."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(first)
        for _ in range(200):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    return answer


def local(server: ThreadingHTTPServer, path: str = "/a.jpg") -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator["Internet"]:
    """A name service and a network of which this machine is the only host."""
    network = Internet()
    real_connect = socket.socket.connect

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple]:
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
        "http:///a.jpg",
        "http://",
        "",
    ],
)
def test_addresses_inside_and_other_schemes_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(BadPicture, match=r"^refused: "):
        fetch_picture(url)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:2800:220:1::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses_are_not_refused(address: str) -> None:
    assert remote_picture._refusal(ipaddress.ip_address(address), allow_private_hosts=False) is None


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "ff02::1"])
def test_metadata_addresses_stay_refused_in_a_museum(address: str) -> None:
    assert remote_picture._refusal(ipaddress.ip_address(address), allow_private_hosts=True)


def test_a_name_that_points_inside_is_refused(internet: Internet) -> None:
    internet.names[NAME] = [PUBLIC, "10.0.0.7"]
    with pytest.raises(BadPicture, match=r"refused: pictures.example is 10.0.0.7, .*--allow_private_hosts"):
        fetch_picture(f"http://{NAME}/a.jpg")
    assert internet.connected == []


def test_the_checked_address_is_the_one_asked(internet: Internet) -> None:
    """A name service that would answer otherwise the second time gets no second question."""
    with serve({"/a%20b.jpg?size=1": body(PICTURE)}) as server:
        internet.ports[80] = server.server_port
        assert fetch_picture(f"http://{NAME}/a b.jpg?size=1") == PICTURE
    assert internet.asked == [NAME]
    assert internet.connected == [(PUBLIC, 80)]
    ((_, headers),) = server.requests  # type: ignore[attr-defined]
    assert headers["Host"] == NAME
    assert headers["User-Agent"] == remote_picture.USER_AGENT


def test_the_next_address_is_tried_where_one_is_down(internet: Internet) -> None:
    internet.names[NAME] = ["93.184.216.35", PUBLIC]
    internet.unreachable.add("93.184.216.35")
    with serve({"/a.jpg": body(PICTURE)}) as server:
        internet.ports[80] = server.server_port
        assert fetch_picture(f"http://{NAME}/a.jpg") == PICTURE


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1/", "//169.254.169.254/", "http://inside.example/", "file:///etc"]
)
def test_a_redirect_inside_is_refused(location: str, internet: Internet) -> None:
    internet.names["inside.example"] = ["192.168.0.9"]
    with serve({"/a.jpg": redirect(location)}) as server:
        internet.ports[80] = server.server_port
        with pytest.raises(BadPicture, match=r"^refused: "):
            fetch_picture(f"http://{NAME}/a.jpg")
    assert internet.connected == [(PUBLIC, 80)]


def test_redirects_are_followed_so_far() -> None:
    answers = {f"/{number}": redirect(f"/{number + 1}") for number in range(10)} | {"/9": body(PICTURE)}
    with serve(answers) as server:
        assert fetch_picture(local(server, "/4"), allow_private_hosts=True) == PICTURE
        with pytest.raises(BadPicture, match="more than 5 redirects"):
            fetch_picture(local(server, "/3"), allow_private_hosts=True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (body(b"", 404), "the server answers 404 Not Found"),
        (body(b"", 403), "the server answers 403 Forbidden"),
        (body(b"", 302), "the server answers 302 Found"),
        (body(b"12345678901"), "11 bytes, more than 10"),
        (body(b"1234", announced=8), "broke off 4 bytes before the end"),
    ],
)
def test_an_incomplete_answer_has_a_reason(answer: Answer, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_picture, "MAX_BYTES", 10)

    def answer_and_close(handler: BaseHTTPRequestHandler) -> None:
        answer(handler)
        handler.close_connection = True

    with serve({"/a.jpg": answer_and_close}) as server, pytest.raises(BadPicture, match=reason):
        fetch_picture(local(server), allow_private_hosts=True)


def test_a_body_of_unknown_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"6\r\n123456\r\n" * 3 + b"0\r\n\r\n")

    with serve({"/a.jpg": chunked}) as server:
        assert fetch_picture(local(server), allow_private_hosts=True) == b"123456" * 3
        monkeypatch.setattr(remote_picture, "MAX_BYTES", 10)
        with pytest.raises(BadPicture, match="more than 10 bytes"):
            fetch_picture(local(server), allow_private_hosts=True)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
def test_a_slow_answer_ends_at_the_deadline(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_picture, "MAX_SECONDS", 0.5)
    with serve({"/a.jpg": drip(first)}) as server:
        start = time.monotonic()
        with pytest.raises(BadPicture, match=r"no complete answer within 0\.5 s"):
            fetch_picture(local(server), allow_private_hosts=True)
        assert time.monotonic() - start < 2


def test_silence_ends_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_picture, "IDLE_SECONDS", 0.2)
    with (
        serve({"/a.jpg": lambda _: time.sleep(1)}) as server,
        pytest.raises(BadPicture, match="not fetched: timed out"),
    ):
        fetch_picture(local(server), allow_private_hosts=True)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(BadPicture, match="not fetched: Connection refused"):
            fetch_picture(url, allow_private_hosts=True)


def test_certificate_and_sni_are_of_the_name(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = write_certificate(tmp_path, NAME)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    asked: list[str] = []
    tls.sni_callback = lambda _, name, __: asked.append(name)
    internet.names["other.example"] = [PUBLIC]
    with serve({"/a.jpg": body(PICTURE)}, tls) as server:
        internet.ports[443] = server.server_port
        with pytest.raises(BadPicture, match=r"not fetched: .*self-signed certificate"):
            fetch_picture(f"https://{NAME}/a.jpg")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert fetch_picture(f"https://{NAME}/a.jpg") == PICTURE
        with pytest.raises(BadPicture, match=r"not fetched: .*Hostname mismatch"):
            fetch_picture("https://other.example/a.jpg")
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
