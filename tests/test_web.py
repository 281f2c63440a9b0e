"""web.py against local servers that refuse, delay and mislead."""

from collections.abc import Callable
import email.utils
import itertools
import threading
import time
from typing import IO

from doubles import HTML, Handler, serving
import pytest

from metart.museum.web import MAX_ATTEMPTS, MAX_REDIRECTS, Unavailable, Web

LIMIT = 100_000


def read(body: IO[bytes]) -> bytes:
    return body.read()


def fast(**settings: float) -> Web:
    return Web(**{"requests_per_second": 1000, "pause_seconds": 0.2, **settings})  # type: ignore[arg-type]


def at_first(count: int, refuse: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """Returns answers that refuse the first requests and are good afterwards."""
    numbers = itertools.count()

    def answer(handler: Handler) -> None:
        if next(numbers) < count:
            refuse(handler)
        else:
            handler.reply(200, b"good", "image/jpeg")

    return answer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.BACKOFF_SECONDS", 0.02)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all_threads(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: Handler) -> None:
        date = email.utils.formatdate(time.time() + 2, usegmt=True)  # Whole seconds: up to one less.
        handler.reply(429, b"", "text/plain", Retry_After="1" if form == "seconds" else date)

    with serving(at_first(1, refuse)) as server, fast() as web:
        monkeypatch.setattr("web.MAX_ATTEMPTS", 1)
        with pytest.raises(Unavailable, match="429"):
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
    with serving(wall) as server, Web(1000, pause_seconds=0.2, notify=notices.append) as web:
        assert web.fetch(server.url, LIMIT, read) == b"good"
        times = [moment for moment, _ in server.requests]
    gaps = [end - start for start, end in itertools.pairwise(times)]
    assert all(gap >= pause for gap, pause in zip(gaps, (0.2, 0.4, 0.8), strict=True))
    assert [notice.rpartition("; ")[2] for notice in notices] == ["pausing 0.2 s", "pausing 0.4 s", "pausing 0.8 s"]


def test_a_wall_that_stays_makes_the_host_given_up() -> None:
    with (
        serving(lambda handler: handler.reply(403, HTML, "text/html")) as server,
        Web(1000, pause_seconds=0.01, notify=lambda line: None) as web,
    ):
        with pytest.raises(Unavailable, match=r"403 Forbidden, a web page .* \(5 attempts\)"):
            web.fetch(f"{server.url}/a", LIMIT, read)
        count = len(server.requests)
        assert count == MAX_ATTEMPTS
        with pytest.raises(Unavailable, match="host given up after 4 pauses: 403 Forbidden, a web page"):
            web.fetch(f"{server.url}/b", LIMIT, read)
        assert len(server.requests) == count


def test_a_host_that_always_fails_is_left_alone_and_one_dead_address_is_not_its_fault() -> None:
    def answer(handler: Handler) -> None:
        handler.reply(500 if handler.path == "/bad" else 200, b"x", "text/plain")

    notices: list[str] = []
    with serving(answer) as server, Web(1000, pause_seconds=0.05, notify=notices.append) as web:
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

    reasons = {
        "/404": "404 Not Found",
        "/403": "403 Forbidden",
        "/large": "larger than 100,000 bytes",
        "/file": "neither an http nor an https address",
    }
    with serving(answer) as server, fast() as web:
        for path, reason in reasons.items():
            with pytest.raises(Unavailable, match=f"^{reason}$"):
                web.fetch(server.url + path, LIMIT, read)
        assert [path for _, path in server.requests] == list(reasons)
        for address in ("ftp://x/1", "file:///etc/hostname", "x.jpg", "http://", "http://[", "//x/y"):
            with pytest.raises(Unavailable, match="neither an http nor an https address"):
                web.fetch(address, LIMIT, read)


def test_redirects_are_followed_and_bounded() -> None:
    def answer(handler: Handler) -> None:
        number = int(handler.path[1:])
        if number:
            handler.reply(302, b"", "text/plain", Location=f"/{number - 1}")
        else:
            handler.reply(200, b"good", "image/jpeg")

    with serving(answer) as server, fast() as web:
        assert web.fetch(f"{server.url}/{MAX_REDIRECTS}", LIMIT, read) == b"good"
        with pytest.raises(Unavailable, match="more than 5 redirects"):
            web.fetch(f"{server.url}/{MAX_REDIRECTS + 1}", LIMIT, read)


def test_damaged_and_cut_bodies_are_fetched_again() -> None:
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True

    def parse(body: IO[bytes]) -> bytes:
        text = body.read()
        if text == b"damaged":
            raise ValueError("damaged: no end")
        return text

    for refuse in (cut, lambda handler: handler.reply(200, b"damaged", "image/jpeg")):
        with serving(at_first(2, refuse)) as server, fast() as web:
            assert web.fetch(server.url, LIMIT, parse) == b"good"
    with (
        serving(lambda handler: handler.reply(200, b"damaged", "image/jpeg")) as server,
        fast() as web,
        pytest.raises(Unavailable, match=r"^damaged: no end \(5 attempts\)$"),
    ):
        web.fetch(server.url, LIMIT, parse)


def test_a_body_without_end_is_cut_at_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.MAX_ATTEMPTS", 2)

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(1000):  # 100 seconds, without ever falling silent.
            handler.wfile.write(b"x")
            time.sleep(0.1)

    with serving(drip) as server, fast(timeout_seconds=0.5) as web:
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"took longer than 0.5 s \(2 attempts\)"):
            web.fetch(server.url, LIMIT, read)
        assert time.monotonic() - start < 30


def test_nobody_there() -> None:
    with serving(lambda handler: None) as server:
        address = server.url
    notices: list[str] = []
    with Web(1000, pause_seconds=600, notify=notices.append) as web:
        for _ in range(4):
            with pytest.raises(Unavailable, match=r"connection failed: .*refused.* \(5 attempts\)"):
                web.fetch(address, LIMIT, read)
        with pytest.raises(Unavailable, match="host given up, it has never answered: connection failed"):
            web.fetch(address, LIMIT, read)
    assert len(notices) == 1


def test_the_user_agent_is_honest() -> None:
    seen: list[str] = []

    def answer(handler: Handler) -> None:
        seen.append(handler.headers["User-Agent"])
        handler.reply(200, b"good", "image/jpeg")

    with serving(answer) as server:
        for contact in ("", "me@example.org"):
            with Web(contact=contact) as web:
                web.fetch(server.url, LIMIT, read)
    assert seen[0].startswith("met-art/1.0 (image classification tutorial) python-requests/")
    assert seen[1].startswith("met-art/1.0 (image classification tutorial; me@example.org) python-requests/")
