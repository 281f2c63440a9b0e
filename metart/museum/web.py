"""Files from the web, fetched the way their hosts would want it.

Every host gets one rate limit for all threads, the pauses it asks for (Retry-After), an honest
User-Agent, and rest when it answers with a bot wall: an HTML page in the place of a file.
"""

from collections import deque
from collections.abc import Callable
import math
import random
import sys
import tempfile
import threading
import time
from types import TracebackType
from typing import IO, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

MAX_ATTEMPTS = 5  # For one address; the waits between them add up to 8 seconds at most.
BACKOFF_SECONDS = 0.5  # Before the second attempt; doubles, with jitter.
MAX_REDIRECTS = 5
CONNECT_TIMEOUT_SECONDS = 10
MAX_PAUSE_SECONDS = 600
# A wall that outlasts these pauses (30 s, 60 s, …) stays: the host is given up. Not more than an address has
# attempts, so that a wall costs no address its chance.
MAX_PAUSES = MAX_ATTEMPTS - 1
STREAK = 20  # Failed answers in a row that mean the host, not the address.
CHUNK_BYTES = 1 << 16
MEMORY_BYTES = 1 << 26  # Larger bodies wait on disk.

# A host counts arrivals, which the network and a busy machine shift by milliseconds. So requests start a little
# further apart than the limit allows, and a full window of them a little earlier than a second ago.
SPACING = 1.02
WINDOW_MARGIN_SECONDS = 0.015  # 0.005 was too little on a machine with more to do; below SPACING it costs nothing.
CATCH_UP_SECONDS = 0.1  # So much of a late start is made good by the next ones.

T = TypeVar("T")


class Unavailable(Exception):
    """An address that gives nothing, for good; the text is the reason in a few words."""


class _Trouble(Exception):
    """This attempt failed, another may succeed."""


class _Request:
    """When a request started, and when it had reached its host at the latest (monotonic seconds)."""

    def __init__(self, started: float):
        self.started = self.arrived = started


class _Host:
    """What one host is owed: when the next request may start, when to rest, when to give up."""

    def __init__(self, name: str, requests_per_second: float, pause_seconds: float, notify: Callable[[str], None]):
        self._name = name
        self._interval_seconds = SPACING / requests_per_second
        # As many requests as a window may hold, the oldest first.
        self._recent: deque[_Request] = deque(maxlen=math.ceil(requests_per_second))
        self._window_seconds = math.ceil(requests_per_second) / requests_per_second + WINDOW_MARGIN_SECONDS
        self._fastest_seconds = 0.0
        self._pause_seconds = pause_seconds
        self._notify = notify
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._next_start = 0.0
        self._resume_at = 0.0
        self._pauses = 0
        self._streak = 0
        self.given_up = ""

    def wait_for_turn(self, stopped: threading.Event) -> _Request:
        """Sleeps until a request may start."""
        with self._turn:  # One thread waits for the next start, the others wait for that thread.
            while (wait := self._earliest_start() - time.monotonic()) > 0:
                if self.given_up or stopped.wait(wait):
                    break
            request = _Request(time.monotonic())
            self._recent.append(request)
            self._next_start = max(self._next_start, request.started - CATCH_UP_SECONDS) + self._interval_seconds
        if stopped.is_set() or self.given_up:
            raise Unavailable(self.given_up or "stopped")
        return request

    def _earliest_start(self) -> float:
        full = len(self._recent) == self._recent.maxlen
        window_end = self._recent[0].arrived + self._window_seconds if full else 0.0
        return max(self._next_start, self._resume_at, window_end)

    def answered(self, request: _Request) -> None:
        """Learns when a request arrived: what it took longer than the fastest may have passed on the way there."""
        seconds = time.monotonic() - request.started
        with self._state:
            request.arrived = request.started + max(0.0, seconds - self._fastest_seconds)
            self._fastest_seconds = min(self._fastest_seconds or seconds, seconds)

    def served(self, request: _Request) -> None:
        """Forgets earlier trouble if the host answers what was asked after it."""
        with self._state:
            if request.started >= self._resume_at:
                self._pauses = self._streak = 0

    def failed(self, request: _Request, reason: str) -> None:
        """Counts a failed answer; a row of them is treated as a refusal."""
        with self._state:
            self._streak += 1
            if self._streak < STREAK:
                return
            if not self._fastest_seconds and not self.given_up:
                self._give_up(f"host given up, it has never answered: {reason}")
        self.refused(request, reason)

    def refused(self, request: _Request, reason: str) -> None:
        """Leaves the host alone, twice as long each time; gives it up in the end."""
        with self._state:
            if self.given_up or request.started < self._resume_at:
                return  # Sent before the last pause was over, so it says nothing new.
            self._pauses += 1
            if self._pauses > MAX_PAUSES:
                return self._give_up(f"host given up after {MAX_PAUSES} pauses: {reason}")
            pause = min(self._pause_seconds * 2 ** (self._pauses - 1), MAX_PAUSE_SECONDS)
            self._resume_at = time.monotonic() + pause
        self._notify(f"{self._name}: {reason}; pausing {pause:g} s")

    def _give_up(self, reason: str) -> None:
        self.given_up = reason
        self._notify(f"{self._name}: {reason}")

    def rest(self, seconds: float) -> None:
        """Leaves the host alone as long as it asked for."""
        with self._state:
            self._resume_at = max(self._resume_at, time.monotonic() + min(seconds, MAX_PAUSE_SECONDS))


def _print_notice(line: str) -> None:
    print(line, file=sys.stderr)


class Web:
    """A polite client for many threads; use as a context manager, which stops all waiting at its end.

    Args:
        requests_per_second: Limit for each host, over all threads.
        timeout_seconds: Limit for one attempt at one address, body included.
        pause_seconds: First pause of a host that shows a bot wall or fails all the time; doubles.
        max_connections: Connections kept open to each host.
        contact: E-mail or web address for the User-Agent, so that a host can complain before it blocks.
        notify: Gets a line for each pause.
    """

    def __init__(
        self,
        requests_per_second: float = 10,
        timeout_seconds: float = 60,
        pause_seconds: float = 30,
        max_connections: int = 16,
        contact: str = "",
        notify: Callable[[str], None] = _print_notice,
    ):
        self._timeout_seconds = timeout_seconds
        self._new_host = lambda name: _Host(name, requests_per_second, pause_seconds, notify)
        self._hosts: dict[str, _Host] = {}
        self._hosts_lock = threading.Lock()
        self._stopped = threading.Event()
        self._session = requests.Session()
        purpose = "; ".join(filter(None, ["image classification tutorial", contact]))
        self._session.headers["User-Agent"] = f"met-art/1.0 ({purpose}) {requests.utils.default_user_agent()}"
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=max_connections)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def __enter__(self) -> "Web":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._session.close()

    def fetch(self, address: str, max_bytes: int, parse: Callable[[IO[bytes]], T]) -> T:
        """Fetches an address and returns what `parse` makes of the body.

        Args:
            address: http or https; redirects are followed, each in its host's turn.
            max_bytes: Larger bodies are refused.
            parse: Gets the body; its ValueError means a damaged body, worth another attempt.

        Raises:
            Unavailable: Not there, not allowed, or still in trouble after several attempts.
        """
        reason = ""
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                self._stopped.wait(BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
            try:
                return self._follow(address, max_bytes, parse)
            except _Trouble as trouble:
                reason = str(trouble)
        raise Unavailable(f"{reason} ({MAX_ATTEMPTS} attempts)")

    def _follow(self, address: str, max_bytes: int, parse: Callable[[IO[bytes]], T]) -> T:
        for _ in range(MAX_REDIRECTS + 1):
            host = self._host_of(address)
            request = host.wait_for_turn(self._stopped)
            with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as body:
                try:
                    response = self._get(host, request, address, max_bytes, body)
                    location = self._judge(host, request, response, body)
                except requests.exceptions.InvalidURL:
                    raise Unavailable("not a valid address") from None
                except (_Trouble, requests.RequestException, urllib3.exceptions.HTTPError) as error:
                    reason = str(error) if isinstance(error, _Trouble) else _reason(error)
                    host.failed(request, reason)
                    raise _Trouble(reason) from None
                if not location:
                    body.seek(0)
                    try:
                        return parse(body)
                    except ValueError as error:
                        raise _Trouble(str(error)) from None
            address = urljoin(address, location)
        raise Unavailable(f"more than {MAX_REDIRECTS} redirects")

    def _host_of(self, address: str) -> _Host:
        try:
            parts = urlsplit(address)
            known = parts.scheme in ("http", "https") and parts.hostname
        except ValueError:
            known = None
        if not known:
            raise Unavailable("neither an http nor an https address")
        name = parts.netloc.lower()
        with self._hosts_lock:
            if name not in self._hosts:
                self._hosts[name] = self._new_host(name)
            return self._hosts[name]

    def _get(self, host: _Host, request: _Request, address: str, max_bytes: int, body: IO[bytes]) -> requests.Response:
        """Sends one request and reads the answer into `body`, within the limits of bytes and time."""
        deadline = time.monotonic() + self._timeout_seconds
        timeouts = (min(CONNECT_TIMEOUT_SECONDS, self._timeout_seconds), self._timeout_seconds)
        with self._session.get(address, stream=True, allow_redirects=False, timeout=timeouts) as response:
            host.answered(request)
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                body.write(chunk)
                if body.tell() > max_bytes:
                    raise Unavailable(f"larger than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise _Trouble(f"took longer than {self._timeout_seconds:g} s")
        return response

    def _judge(self, host: _Host, request: _Request, response: requests.Response, body: IO[bytes]) -> str:
        """Returns where a redirect leads, or "" for a good answer; raises for all others."""
        status = response.status_code
        reason = f"{status} {response.reason}"
        if status in (200, 403) and _is_web_page(response, body):
            # Not `served`, so that a wall on every answer is recognised as one that stays.
            reason += ", a web page in the place of the file (bot wall?)"
            host.refused(request, reason)
            raise _Trouble(reason)
        if status in (429, 503):
            host.rest(_retry_after_seconds(response))
            raise _Trouble(reason)
        if status == 408 or status >= 500:
            raise _Trouble(reason)
        host.served(request)
        if response.is_redirect:
            return response.headers["Location"]
        if status != 200:
            raise Unavailable(reason)
        return ""


def _is_web_page(response: requests.Response, body: IO[bytes]) -> bool:
    body.seek(0)
    start = body.read(256).lstrip().lower()
    return "html" in response.headers.get("Content-Type", "") or start.startswith((b"<!doctype html", b"<html"))


def _retry_after_seconds(response: requests.Response) -> float:
    try:
        return urllib3.util.Retry().parse_retry_after(response.headers.get("Retry-After", "1"))
    except urllib3.exceptions.InvalidHeader:
        return 1.0


def _reason(error: Exception) -> str:
    """Returns the innermost cause of a connection error, without addresses of objects in memory."""
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    while error.__context__ is not None and isinstance(error.__context__, Exception):
        error = error.__context__
    return f"connection failed: {error or type(error).__name__}"
