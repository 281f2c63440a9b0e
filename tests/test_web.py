"""web.py against local servers that refuse, delay and mislead, and against addresses that lead inside."""

from collections.abc import Callable, Iterator
import datetime
import email.utils
import gzip
import ipaddress
import itertools
from pathlib import Path
import resource
import select
import socket
import ssl
import tempfile
import threading
import time
from typing import IO, Any
import zlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from doubles import HTML, Handler, serving
from hypothesis import given, settings, strategies
import pytest

from metart import __version__
from metart.common.flags import UserError
from metart.museum import web as web_module
from metart.museum.web import (
    MAX_PAUSES,
    MAX_REDIRECTS,
    STREAK,
    HostGivenUp,
    RequestPolicy,
    StillFailing,
    Unavailable,
    Web,
)

LIMIT = 100_000
PUBLIC = "93.184.216.34"
NAME = "pictures.example"


def read(body: IO[bytes]) -> bytes:
    return body.read()


def ignore(line: str) -> None:
    pass


def local(notify: Callable[[str], None] = ignore, **policy: Any) -> Web:
    """Returns a client that may ask this machine, and fast."""
    return Web(RequestPolicy(**{"requests_per_second": 1000, "pause_seconds": 0.2, **policy}), notify, True)


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


@pytest.mark.parametrize("status", [200, 202, 203, 403, 405])
def test_a_bot_wall_pauses_the_host_and_is_no_failure(status: int) -> None:
    notices: list[str] = []
    wall = at_first(3, lambda handler: handler.reply(status, HTML, "text/html"))
    with serving(wall) as server, local(notices.append) as web:
        assert web.fetch(server.url, LIMIT, read) == b"good"
        times = [moment for moment, _ in server.requests]
    gaps = [end - start for start, end in itertools.pairwise(times)]
    assert all(gap >= pause for gap, pause in zip(gaps, (0.2, 0.4, 0.8), strict=True))
    assert [notice.rpartition("; ")[2] for notice in notices] == ["pausing 0.2 s", "pausing 0.4 s", "pausing 0.8 s"]


def test_a_wall_without_a_page_and_one_of_redirects_pause_the_host_as_well() -> None:
    challenge = {"x_amzn_waf_action": "challenge"}
    notices: list[str] = []
    with (
        serving(at_first(1, lambda handler: handler.reply(202, b"", "text/plain", **challenge))) as server,
        local(notices.append, pause_seconds=0.01) as web,
    ):
        assert web.fetch(server.url, LIMIT, read) == b"good"
    with (
        serving(lambda handler: handler.reply(302, b"", "text/plain", Location=handler.path)) as server,
        local(notices.append, pause_seconds=0.01) as web,
    ):
        for number in range(STREAK // 5):
            with pytest.raises(Unavailable, match=r"^more than 5 redirects \(5 attempts\)$"):
                web.fetch(f"{server.url}/{number}", LIMIT, read)
    assert len(notices) == 2
    assert all(notice.endswith("pausing 0.01 s") for notice in notices)


FAULTS: dict[str, Callable[[Handler], None]] = {
    "403 Forbidden, a web page": lambda handler: handler.reply(403, HTML, "text/html"),
    "500 Internal Server Error": lambda handler: handler.reply(500, b"x", "text/plain"),
    "503 Service Unavailable": lambda handler: handler.reply(503, b"x", "text/plain"),
    "429 Too Many Requests": lambda handler: handler.reply(429, b"x", "text/plain", Retry_After="1"),
}


@pytest.fixture
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second that a host asks for is a hundredth, and attempts follow one another."""
    monkeypatch.setattr(web_module, "BACKOFF_SECONDS", 0.001)
    seconds = web_module._retry_after_seconds
    monkeypatch.setattr(web_module, "_retry_after_seconds", lambda headers: seconds(headers) / 100)


@pytest.mark.usefixtures("short_rests")
@pytest.mark.parametrize("reason", FAULTS)
def test_a_host_that_gives_nothing_else_is_given_up_after_its_pauses(reason: str) -> None:
    notices: list[str] = []
    with serving(FAULTS[reason]) as server, local(notices.append, pause_seconds=0.01) as web:
        for number in range(STREAK - 1):
            with pytest.raises(StillFailing, match=rf"^{reason}"):
                web.fetch(f"{server.url}/{number}", LIMIT, read)
        with pytest.raises(StillFailing, match=rf"^{reason}"):
            web.fetch(f"{server.url}/last", LIMIT, read)
        count = len(server.requests)
        assert count < 2 * STREAK + MAX_PAUSES  # Once the pauses are over, one for each address.
        with pytest.raises(HostGivenUp, match=f"^host given up after 4 pauses: {reason}"):
            web.fetch(f"{server.url}/not asked", LIMIT, read)
        assert len(server.requests) == count
    *pauses, given_up = notices
    assert [pause.rpartition("; ")[2] for pause in pauses] == [f"pausing {0.01 * 2**n:g} s" for n in range(MAX_PAUSES)]
    assert "host given up" in given_up


@pytest.mark.usefixtures("short_rests")
@pytest.mark.parametrize("num_dead", [1, STREAK - 1])
@pytest.mark.parametrize("reason", FAULTS)
def test_addresses_that_always_fail_cost_themselves_only(reason: str, num_dead: int) -> None:
    """Also at the head of a list, where each of the workers has one."""

    def answer(handler: Handler) -> None:
        FAULTS[reason](handler) if handler.path.startswith("/dead") else good(handler)

    with serving(answer) as server, local(pause_seconds=0.01) as web:
        dead = [(Unavailable, web.fetch, f"{server.url}/dead/{number}", LIMIT, read) for number in range(num_dead)]
        threads = [threading.Thread(target=pytest.raises, args=arguments) for arguments in dead]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(3):
            assert web.fetch(f"{server.url}/{number}", LIMIT, read) == b"good"


def test_a_slow_good_answer_counts_although_others_fail_meanwhile() -> None:
    asked, answered = threading.Semaphore(0), threading.Semaphore(0)

    def answer(handler: Handler) -> None:
        if handler.path != "/slow":
            return handler.reply(500, b"x", "text/plain")
        asked.release()
        answered.acquire()
        good(handler)

    notices: list[str] = []
    with serving(answer) as server, local(notices.append, max_attempts=1) as web:
        for _ in range(4):
            slow = threading.Thread(target=web.fetch, args=(f"{server.url}/slow", LIMIT, read))
            slow.start()
            asked.acquire()
            for number in range(STREAK // 2):
                with pytest.raises(Unavailable):
                    web.fetch(f"{server.url}/{number}", LIMIT, read)
            answered.release()
            slow.join()
    assert not notices


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


def test_what_is_asked_over_https_never_goes_out_in_plain_text(
    internet: "Internet", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where http and https have the same port, and a connection for http is idle."""
    authority = write_certificate(tmp_path, NAME)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    with (
        serving(lambda handler: handler.reply(200, b"plain", "image/jpeg")) as plain,
        serving(lambda handler: handler.reply(200, b"secret", "image/jpeg"), tls) as secure,
        Web(RequestPolicy(1000, max_attempts=1), ignore) as web,
    ):
        for scheme, server, body in (("http", plain, b"plain"), ("https", secure, b"secret")) * 2:
            internet.ports[8080] = server.server_port
            assert web.fetch(f"{scheme}://{NAME}:8080/", LIMIT, read) == body
    assert len(internet.connected) == 2


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


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 0 "}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:05 GMT", "Date": DATE}, 5),  # Years before our clock.
        ({"Retry-After": "Wed, 21 Oct 2015 08:28:00 GMT", "Date": DATE}, 3600),
        ({"Retry-After": "Wed, 21 Oct 2115 07:28:00 GMT", "Date": "Wed, 21 Oct 2115 07:27:58 GMT"}, 2),
        ({"Retry-After": "Wednesday, 21-Oct-15 07:28:04 GMT", "Date": DATE}, 4),  # The form of RFC 850.
        ({"Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT", "Date": DATE}, 0),  # Over.
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "-5"}, 1),
        ({"Retry-After": "1e9"}, 1),
        ({"Retry-After": "²"}, 1),
        ({"Retry-After": "9" * 5000}, float("inf")),
        ({"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT", "Date": DATE}, 1),
        ({"Retry-After": DATE, "Date": "today"}, 1),
        ({"Retry-After": DATE}, 1),
        ({}, 1),
    ],
)
def test_how_long_a_host_wants_to_be_left_alone(headers: dict[str, str], seconds: float) -> None:
    assert web_module._retry_after_seconds(headers) == seconds


@pytest.mark.parametrize(
    ("asked", "announced"),
    [("1", []), ("10", []), ("11", ["waiting 11 s"]), ("3600", ["waiting 600 s"]), ("9" * 20, ["waiting 600 s"])],
)
@pytest.mark.parametrize("status", ["503 Service Unavailable", "403 Forbidden"])
def test_a_long_wait_is_announced_once(status: str, asked: str, announced: list[str]) -> None:
    """Also the one that a wall asks for, beside the pause for the wall itself."""
    notices: list[str] = []
    busy = threading.Barrier(4)

    def answer(handler: Handler) -> None:
        busy.wait()
        handler.reply(int(status[:3]), b"<html>", "text/html", Retry_After=asked)

    with serving(answer) as server, local(notices.append, max_attempts=1) as web:
        threads = [
            threading.Thread(target=pytest.raises, args=(Unavailable, web.fetch, server.url, LIMIT, read))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    waits = [notice for notice in notices if "pausing" not in notice]
    assert [notice.rpartition("; ")[2] for notice in waits] == announced
    assert all(status in notice and ", asks for a pause" in notice for notice in waits)


@pytest.mark.parametrize(
    ("contact", "sent"),
    [
        ("王@example.org", "%E7%8E%8B@example.org"),
        ("Zoë <zoe@example.org>", "Zo%C3%AB <zoe@example.org>"),
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil: 1"),
        ("\x00\udcff\x7f", "%00%FF%7F"),
        ("https://example.org/~me?a=b&c=%20", "https://example.org/~me?a=b&c=%20"),
        ("😀", "%F0%9F%98%80"),
    ],
)
def test_a_contact_may_have_any_letters(contact: str, sent: str) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(handler: Handler) -> None:
        seen.append((handler.headers["User-Agent"], handler.headers["X-Evil"]))
        good(handler)

    with serving(answer) as server, local(contact=contact) as web:
        web.fetch(server.url, LIMIT, read)
    ((agent, injected),) = seen
    assert f"tutorial; {sent})" in agent
    assert injected is None


# Answers


@pytest.mark.parametrize("content_type", ["text/html", "text/html; charset=utf-8", "application/octet-stream", "", "x"])
def test_what_can_be_read_is_good_whatever_it_is_called(content_type: str) -> None:
    with serving(lambda handler: handler.reply(200, b"good", content_type)) as server, local() as web:
        for _ in range(3):
            assert web.fetch(server.url, LIMIT, read) == b"good"
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html><body>robot?", "image/jpeg"),
        (b"\xef\xbb\xbf\n  <!DOCTYPE HTML><title>robot?", "image/jpeg"),
        (b"<!doctype html>", ""),
        (b"<script>robot()</script>", "text/html"),
        (b"Are you a robot?", "text/HTML; charset=utf-8"),
    ],
)
def test_a_page_is_a_wall_whatever_it_is_called(body: bytes, content_type: str) -> None:
    def parse(body: IO[bytes]) -> bytes:
        raise ValueError("not a picture")

    with (
        serving(lambda handler: handler.reply(200, body, content_type)) as server,
        local(pause_seconds=0.01) as web,
        pytest.raises(Unavailable, match=r"^200 OK, a web page instead of the file \(bot wall\?\) \(5 attempts\)$"),
    ):
        web.fetch(server.url, LIMIT, parse)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/café/é.jpg".encode(), "/caf%C3%A9/%C3%A9.jpg"),
        ("/Å中à….jpg".encode(), "/%C3%85%E4%B8%AD%C3%A0%E2%80%A6.jpg"),
        ("/😀.jpg?q=中&r=é".encode(), "/%F0%9F%98%80.jpg?q=%E4%B8%AD&r=%C3%A9"),
        (b"/caf\xe9.jpg", "/caf%E9.jpg"),  # Latin-1: the bytes go back as they came.
        (b"/a b.jpg", "/a%20b.jpg"),
        (b"/%C3%A9%2F.jpg?x=%20", "/%C3%A9%2F.jpg?x=%20"),
        (b"../x/./y.jpg#part", "/x/y.jpg"),
        (b'/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        (b"?only=query", "/start/here?only=query"),
    ],
)
def test_a_redirect_may_have_any_letters(location: bytes, path: str) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/start/here":
            raw = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
            handler.wfile.write(raw)
        else:
            good(handler)

    with serving(answer) as server, local(max_attempts=1) as web:
        assert web.fetch(f"{server.url}/start/here", LIMIT, read) == b"good"
        assert [asked for _, asked in server.requests] == ["/start/here", path]


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_what_comes_before_an_answer_is_not_the_answer(status: str) -> None:
    """Otherwise each later answer on the connection would be taken for that of the request before it."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status}\r\nLink: </x>; rel=preload\r\n\r\n".encode() * 2)
        handler.reply(200, handler.path.encode(), "image/jpeg")

    with serving(answer) as server, local(max_attempts=1) as web:
        for path in ("/1", "/2", "/3"):
            assert web.fetch(server.url + path, LIMIT, read) == path.encode()


STATUS = b"HTTP/1.1 200 OK\r\n"
HOSTILE = {
    "silence": b"",
    "noise": bytes(range(256)) * 4,
    "no status": b"\r\n\r\n",
    "negative length": STATUS + b"Content-Length: -5\r\n\r\nx",
    "two lengths": STATUS + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "huge length": STATUS + b"Content-Length: " + b"9" * 50 + b"\r\n\r\nx",
    "200 headers": STATUS + b"X: y\r\n" * 200 + b"\r\n",
    "long header": STATUS + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
    "bad chunk": STATUS + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx",
    "no gzip": STATUS + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
    "odd encoding": STATUS + b"Content-Encoding: br, \xff\r\nContent-Length: 1\r\n\r\nx",
    "odd status": b"HTTP/1.1 999 \x1b[31mred\r\nContent-Length: 0\r\n\r\n",
    "no header": b"HTTP/1.1 302 Found\r\nLocation\r\nContent-Length: 0\r\n\r\n",
    "folded": b"HTTP/1.1 302 Found\r\nLocation: /a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "old": b"HTTP/0.9 200\r\n\r\nx",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "again and again": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "odd redirect": b"HTTP/1.1 302 \r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "long name": b"HTTP/1.1 302 \r\nLocation: http://" + b"a." * 200 + b"b/\r\nContent-Length: 0\r\n\r\n",
    "nul": b"HTTP/1.1 302 \r\nLocation: http://\x00/\r\nContent-Length: 0\r\n\r\n",
    "odd port": b"HTTP/1.1 302 \r\nLocation: http://x:99999999/\r\nContent-Length: 0\r\n\r\n",
}


def fail(body: IO[bytes]) -> bytes:
    raise ValueError("not a picture")


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_no_answer_does_more_than_fail(raw: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        serving(lambda handler: send(handler, raw)) as server,
        local(max_attempts=1, timeout_seconds=5) as web,
        pytest.raises(Unavailable) as error,
    ):
        web.fetch(server.url, LIMIT, fail)
    assert str(error.value).isprintable()
    assert capsys.readouterr().err == ""


@settings(max_examples=60, deadline=None)
@given(
    raw=strategies.binary(max_size=200), start=strategies.sampled_from([*HOSTILE.values(), STATUS, b"HTTP/1.1 302 "])
)
def test_no_bytes_do_more_than_fail(raw: bytes, start: bytes) -> None:
    with (
        serving(lambda handler: send(handler, start + raw)) as server,
        local(max_attempts=1, timeout_seconds=5) as web,
        pytest.raises(Unavailable),
    ):
        web.fetch(server.url, LIMIT, fail)


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


PACKED = gzip.compress(b"go") + gzip.compress(b"od")


@pytest.mark.parametrize(
    "body",
    [PACKED[:-15], PACKED[:-9], PACKED[:-1], PACKED[:-8] + bytes(8), b"good"],
    ids=["a half", "without its last byte", "without its size", "wrong checksum", "not packed"],
)
def test_a_packed_body_is_whole_or_fetched_again(body: bytes) -> None:
    def answer(handler: Handler) -> None:
        handler.reply(200, PACKED if len(server.requests) > 1 else body, "image/jpeg", Content_Encoding="gzip")

    with serving(answer) as server, local() as web:
        assert web.fetch(server.url, 4, read) == b"good"
        assert len(server.requests) == 2


def test_a_body_in_a_code_that_nobody_asked_for_is_not_guessed() -> None:
    body = zlib.compress(b"good")
    with (
        serving(lambda handler: handler.reply(200, body, "image/jpeg", Content_Encoding="deflate")) as server,
        local() as web,
    ):
        assert web.fetch(server.url, LIMIT, read) == body


def test_a_full_disk_is_not_the_fault_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "MEMORY_BYTES", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(lambda handler: handler.reply(200, bytes(LIMIT), "image/jpeg")) as server, local() as web:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # Bytes a file: as if the disk were full.
        try:
            with pytest.raises(OSError, match="File too large") as error:
                web.fetch(server.url, LIMIT, read)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert error.value.filename == tempfile.gettempdir()
        assert len(server.requests) == 1


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
        serving(lambda handler: send(handler, first, b"x", times=2000)) as server,
        local(timeout_seconds=0.5, max_attempts=2) as web,
    ):
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"^took longer than 0.5 s \(2 attempts\)$"):
            web.fetch(server.url, LIMIT, read)
        assert time.monotonic() - start < 60  # Of the 100 that one answer lasts.


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
    with Web(RequestPolicy(max_attempts=1), ignore, **keywords) as web:
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
        "http://\x1b[31m/",
        "http://a b/",
        "http://a%00b/\x00",
        "http://a'b/",
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


# The environment


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe", "folder"])
def test_certificates_that_are_not_there_are_named(
    variable: str, content: bytes | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path /= "no folder"
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(UserError, match=rf"^{variable}={path} gives no certificates: .+; correct or unset it$"):
        fetch("http://example.org")


def test_certificates_of_the_environment_are_trusted(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = write_certificate(tmp_path, NAME)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    with serving(good, tls) as server:
        internet.ports[443] = server.server_port
        for variable in web_module.CA_VARIABLES:
            monkeypatch.setenv(variable, str(authority))
            assert fetch(f"https://{NAME}/") == b"good"
            monkeypatch.delenv(variable)


def test_no_password_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of ~/.netrc, whose `default` is for every host, nor to where a redirect leads."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password word\ndefault login me password word\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    seen: list[str | None] = []

    def answer(handler: Handler) -> None:
        seen.append(handler.headers["Authorization"])
        if handler.path == "/moved":
            handler.reply(302, b"", "text/plain", Location="/")
        else:
            good(handler)

    with serving(answer) as server, local() as web:
        web.fetch(f"{server.url}/moved", LIMIT, read)
        with pytest.raises(Unavailable, match=r"^refused: the address has a user name in it"):
            web.fetch(server.url.replace("//", "//me:word@"), LIMIT, read)
    assert seen == [None, None]


class Proxy:
    """A proxy that knows one name, and what it was asked: "GET http://…" or "CONNECT host:port"."""

    def __init__(self, port: int):
        self.asked: list[tuple[str, str | None]] = []
        self._port = port

    def __call__(self, handler: Handler) -> None:
        self.asked.append((f"{handler.command} {handler.path}", handler.headers["Proxy-Authorization"]))
        with socket.create_connection(("127.0.0.1", self._port)) as target:
            if handler.command == "CONNECT":
                handler.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = handler.path.split("/", 3)[3]
                target.sendall(f"GET /{path} HTTP/1.1\r\nHost: {handler.headers['Host']}\r\n\r\n".encode())
            pairs = {handler.connection: target, target: handler.connection}
            while pairs:
                for end in select.select(list(pairs), [], [], 5)[0] or list(pairs):
                    data = end.recv(65536)
                    if not data:
                        pairs.clear()
                        break
                    pairs[end].sendall(data)
        handler.close_connection = True


def test_a_proxy_resolves_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = write_certificate(tmp_path, NAME)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with serving(good) as plain, serving(good, tls) as secure:
        for address, target in ((f"http://{NAME}/a b", plain), (f"https://{NAME}/a b", secure)):
            proxy = Proxy(target.server_port)
            with serving(proxy) as server:
                for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
                    monkeypatch.setenv(variable, server.url.replace("//", "//me:w%20d@"))
                assert fetch(address) == b"good"
                how = f"CONNECT {NAME}:443" if "https" in address else f"GET {address.replace(' ', '%20')}"
                assert proxy.asked == [(how, "Basic bWU6dyBk")]
                for number in ("127.0.0.1", "169.254.169.254", "0x7f000001", "[::1]"):
                    with pytest.raises(Unavailable, match=r"^refused: "):
                        fetch(f"http://{number}/")
                assert len(proxy.asked) == 1


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", "example.org,127.0.0.0/8", ".example, 127.0.0.1"])
def test_no_proxy_for_what_is_excepted(exception: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good) as server, local(max_attempts=1) as web:
        monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")  # Without a scheme, as curl takes it; nobody is there.
        with pytest.raises(Unavailable, match=r"^connection failed: Connection refused$"):
            web.fetch(server.url, LIMIT, read)
        monkeypatch.setenv("NO_PROXY", exception)
        assert web.fetch(server.url, LIMIT, read) == b"good"


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:9", "https://127.0.0.1:9", "http://", "http://[::1", "://", "a b"]
)
def test_a_proxy_of_another_kind_is_named(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with (
        local(max_attempts=1) as web,
        pytest.raises(Unavailable, match=r"the environment names a proxy for http that|connection failed"),
    ):
        web.fetch("http://example.org", LIMIT, read)
