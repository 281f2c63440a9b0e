"""Files from the web, fetched the way their hosts would want it, and only from the web.

Every host gets one rate limit for all threads, the pauses it asks for (Retry-After), an honest User-Agent, and rest
when it answers with a bot wall: an HTML page instead of a file.

An address in a list or an answer cannot reach into the network of this machine: a host is resolved, all its addresses
are checked, and the connection goes to one of those, while Host header, SNI and certificate stay with the name. Each
redirect starts from the top. A proxy that the environment names is used; it resolves the names and has to guard its
own network. No password is sent but that of the proxy.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
import email.utils
import errno
import gzip
import http.client
import ipaddress
import os
from pathlib import Path
import random
import re
import socket
import ssl
import tempfile
import threading
import time
from typing import IO, NamedTuple, TypeGuard, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit
import zlib

import certifi
import requests.utils
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from metart import __version__
from metart.common.flags import FULL_DISK, UserError

PORTS = {"http": 80, "https": 443}
DISK_ERRORS = {*FULL_DISK, errno.EROFS, errno.EIO}
BACKOFF_SECONDS = 0.5  # Before the second attempt; doubles, with jitter: at most 8 seconds for one address.
MAX_REDIRECTS = 5
CONNECT_SECONDS = 10
IDLE_SECONDS = 60  # Without a byte.
MAX_PAUSE_SECONDS = 600
MAX_PAUSES = 4  # A wall that outlasts these (30 s, 60 s, …) stays: the host is given up.
# So many failed answers in a row mean a pause. When the pauses are over, so many different addresses that failed mean
# that the host is given up: with fewer, each of the workers may just have a dead one.
STREAK = 20
SILENT_SECONDS = 10  # Longer waits are announced.
CHUNK_BYTES = 1 << 16
MEMORY_BYTES = 1 << 26  # Larger bodies wait on disk.
MAX_PICTURE_BYTES = 100_000_000  # The museum's largest have some 20 MB.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")  # The first that is set counts.

_UNESCAPED = "/%:@!$&'()*+,;=~"  # In a path; letters and digits as well.
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)", re.IGNORECASE)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # The only part of IPv6 given out to hosts (RFC 4291).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind a translator (RFC 6052): the last 32 bits.
# Python's releases differ on these: protocol assignments (some clouds' metadata service, Teredo), 6to4 and its
# relays, documentation.
_NOT_GLOBAL = [
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]

T = TypeVar("T")


class Unavailable(Exception):
    """An address that gives nothing, for good; the text is the reason in a few words."""


class HostGivenUp(Unavailable):
    """The address was not asked, as its host has failed too often."""


class StillFailing(Unavailable):
    """Each attempt failed in a way that may pass; the next run may get it."""


class _TransientError(Exception):
    """This attempt failed, another may succeed, after the seconds that the host asks for."""

    def __init__(self, reason: str, retry_after_seconds: float = 0):
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
        self.is_last = False  # No other should be made.


class _Redirect(Exception):
    """The answer is elsewhere; the text is where."""


class RequestPolicy(NamedTuple):
    """How hosts are asked."""

    requests_per_second: float = 10  # Limit for each host, over all threads.
    timeout_seconds: float = 60  # Limit for one request, body included.
    pause_seconds: float = 30  # First pause of a host that shows a bot wall or fails all the time; doubles.
    max_attempts: int = MAX_PAUSES + 1  # For one address; fewer give up addresses that meet a pause.
    contact: str = ""  # E-mail or web address for the User-Agent, so that a host can complain before it blocks.


class _Target(NamedTuple):
    """An address taken apart, each part as it is sent."""

    scheme: str
    host: str
    port: int
    path: str  # With the query.

    @property
    def name(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        return f"{self.scheme}://{self.name}{self.path}"


def _parse(address: str, base: str = "") -> _Target:
    try:
        parts = urlsplit(urljoin(base, address))
        if parts.scheme not in PORTS or not parts.hostname:
            raise Unavailable("refused: neither an http nor an https address")
        if parts.username is not None:
            raise Unavailable("refused: the address has a user name in it")
        host = parts.hostname.encode("idna").decode()
        if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f.]*:[0-9a-f:.]*(%[a-z0-9._-]+)?", host):
            raise ValueError("no letters of a name")
        path = quote(parts.path or "/", _UNESCAPED, errors="surrogateescape")
        if parts.query:
            path += "?" + quote(parts.query, _UNESCAPED + "?[]", errors="surrogateescape")
        return _Target(parts.scheme, host, parts.port or PORTS[parts.scheme], path)
    except ValueError:  # Of Unicode as well.
        raise Unavailable("refused: not a valid address") from None


def is_disk_error(error: Exception) -> TypeGuard[OSError]:
    """Returns whether the disk is the cause, so that no other file, and no other host, makes it better."""
    has_own_numbers = isinstance(error, ssl.SSLError | socket.gaierror)
    return isinstance(error, OSError) and not has_own_numbers and error.errno in DISK_ERRORS


class _FinalResponse(http.client.HTTPResponse):
    """The answer itself: http.client takes 103 Early Hints for one, and passes over 100 Continue alone."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, http.client.CONTINUE if 100 < status < 200 else status, reason


class _Host:
    """What one host is owed: when the next request may start, when to rest, when to give up."""

    def __init__(self, name: str, policy: RequestPolicy, notify: Callable[[str], None]):
        self.idle: dict[str, list[HTTPConnection]] = {scheme: [] for scheme in PORTS}
        self.has_answered = False
        self._name = name
        self._interval_seconds = 1 / policy.requests_per_second
        self._pause_seconds = policy.pause_seconds
        self._notify = notify
        self._lock = threading.Lock()
        self._next_start = self._resume_at = 0.0  # Monotonic seconds.
        self._pauses = self._streak = 0
        self._failed: set[str] = set()  # Addresses, since the host served another.
        self._given_up = ""

    def wait_for_turn(self, stopped: threading.Event) -> float:
        """Sleeps until a request may start; returns when that is."""
        while True:
            with self._lock:
                if self._given_up:
                    raise HostGivenUp(self._given_up)
                now = time.monotonic()
                start = max(now, self._next_start, self._resume_at)
                self._next_start = start + self._interval_seconds
            if stopped.wait(start - now):
                raise Unavailable("stopped")
            if start >= self._resume_at:  # Otherwise a pause has begun in the meantime.
                return start

    @property
    def is_doubtful(self) -> bool:
        """Whether its pauses are over: an address that fails now is not asked again, and a row of them decides."""
        return self._pauses > MAX_PAUSES

    def served(self, started: float) -> None:
        """Forgets earlier failures if the host answers what was asked after it."""
        with self._lock:
            if started >= self._resume_at:
                self._pauses = self._streak = 0
                self._failed.clear()

    def failed(self, started: float, address: str, reason: str) -> None:
        """Counts a failed answer; a row of them is treated as a refusal."""
        with self._lock:
            self._failed.add(address)
            self._streak += 1
            if self._streak < STREAK:
                return
            if not self.has_answered:
                return self._give_up(f"host given up, it has never answered: {reason}")
        self.refused(started, address, reason)

    def refused(self, started: float, address: str, reason: str) -> None:
        """Leaves the host alone, twice as long each time; gives it up in the end."""
        with self._lock:
            self._failed.add(address)
            if started < self._resume_at:
                return  # Sent before the last pause was over, so it says nothing new.
            self._pauses += 1
            if self.is_doubtful:
                if len(self._failed) >= STREAK:
                    self._give_up(f"host given up after {MAX_PAUSES} pauses: {reason}")
                return
            pause = min(self._pause_seconds * 2 ** (self._pauses - 1), MAX_PAUSE_SECONDS)
            self._resume_at = time.monotonic() + pause
        self._notify(f"{self._name}: {reason}; pausing {pause:g} s")

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            self._given_up = reason
            self._notify(f"{self._name}: {reason}")

    def rest(self, seconds: float, reason: str) -> None:
        """Leaves the host alone as long as it asked for."""
        if not seconds:  # A rest that begins and ends now would make what is under way look outdated.
            return
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        with self._lock:
            resume_at = time.monotonic() + seconds
            is_news = seconds > SILENT_SECONDS and resume_at > self._resume_at + SILENT_SECONDS
            self._resume_at = max(self._resume_at, resume_at)
        if is_news:
            self._notify(f"{self._name}: {reason}, asks for a pause; waiting {seconds:.0f} s")


class Web:
    """A polite client for many threads; use as a context manager, which stops all waiting at its end.

    Args:
        policy: How hosts are asked.
        notify: Gets a line for each pause.
        allow_private_hosts: Also this machine and private networks, as inside a museum. Link-local addresses stay
            refused: the metadata services of clouds answer there.
        trusted: Addresses that a person typed; their hosts are asked wherever they are.

    Raises:
        UserError: What is trusted is no address; see also `load_certificates`.
    """

    def __init__(
        self,
        policy: RequestPolicy,
        notify: Callable[[str], None],
        allow_private_hosts: bool = False,
        trusted: Collection[str] = (),
    ):
        self._policy = policy
        self._allow_private_hosts = allow_private_hosts
        self._trusted = set()
        for address in trusted:
            try:
                self._trusted.add(_parse(address).name)
            except Unavailable as error:
                raise UserError(f"{address}: {error}") from None
        self._notify = notify
        self._certificates = load_certificates()
        # A letter that no header can hold is percent-encoded, as in an address.
        contact = quote(policy.contact, "".join(map(chr, range(32, 127))), errors="surrogateescape")
        purpose = "; ".join(filter(None, ["image classification tutorial", contact]))
        self._user_agent = f"met-art/{__version__} ({purpose}) urllib3/{urllib3.__version__}"
        self._hosts: dict[str, _Host] = {}
        self._hosts_lock = threading.Lock()
        self._stopped = threading.Event()

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()

    def fetch(self, address: str, max_bytes: int, parse: Callable[[IO[bytes]], T]) -> T:
        """Fetches an address and returns what `parse` makes of the body.

        Args:
            address: http or https; redirects are followed, each in its host's turn.
            max_bytes: Larger bodies are refused.
            parse: Gets the body; its ValueError means a damaged body, worth another attempt, its Unavailable that none
                is.

        Raises:
            Unavailable: Not there, not allowed, and the kinds below.
            StillFailing: Also after several attempts.
            HostGivenUp: Not asked.
        """
        for attempt in range(self._policy.max_attempts):
            if attempt:
                self._stopped.wait(BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
            try:
                return self._follow(address, max_bytes, parse)
            except _TransientError as error:
                reason, attempts = str(error), attempt + 1
                if error.is_last:
                    break
            except HostGivenUp:
                if not attempt:
                    raise
                break  # How it failed itself says more.
        raise StillFailing(reason if attempts == 1 else f"{reason} ({attempts} attempts)")

    def _follow(self, address: str, max_bytes: int, parse: Callable[[IO[bytes]], T]) -> T:
        target = _parse(address)
        for _ in range(MAX_REDIRECTS + 1):
            with self._hosts_lock:
                if target.name not in self._hosts:
                    self._hosts[target.name] = _Host(target.name, self._policy, self._notify)
            host = self._hosts[target.name]
            started = host.wait_for_turn(self._stopped)
            with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as body:
                try:
                    answer = self._get(host, target, max_bytes, body)
                    return _parse_answer(host, started, target.address, answer, body, parse)
                except _TransientError as error:
                    host.failed(started, target.address, str(error))
                    host.rest(error.retry_after_seconds, str(error))  # At last: it would hide the failure.
                    error.is_last = host.is_doubtful
                    raise
                except _Redirect as redirect:
                    asked, target = target, _parse(str(redirect), target.address)
                    if target.name != asked.name:  # This host has done its part.
                        host.served(started)
        # Of a host that does it all the time another kind of wall: a browser would bring a cookie.
        reason = f"more than {MAX_REDIRECTS} redirects"
        host.failed(started, target.address, reason)
        raise _TransientError(reason)

    def _get(self, host: _Host, target: _Target, max_bytes: int, body: IO[bytes]) -> urllib3.HTTPResponse:
        """Sends one request and reads the answer into `body`, within the limits of bytes and time."""
        seconds = self._policy.timeout_seconds
        deadline = time.monotonic() + seconds
        try:
            connection = self._connect(host, target, deadline)
            with _until(deadline, connection):
                answer = self._ask(connection, target)
                host.has_answered = True
                # Some hosts pack what nobody asked them to; urllib3 would take a packed body that is cut off for whole.
                is_packed = answer.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip")
                content = gzip.GzipFile(fileobj=answer, mode="rb") if is_packed else answer
                while chunk := content.read1(CHUNK_BYTES):
                    body.write(chunk)
                    if body.tell() > max_bytes:
                        raise Unavailable(f"larger than {max_bytes:,} bytes")
        except (OSError, HTTPError, http.client.HTTPException, EOFError, zlib.error) as error:
            if is_disk_error(error):  # Of the body's temporary file.
                raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
            is_late = time.monotonic() >= deadline
            raise _TransientError(f"took longer than {seconds:g} s" if is_late else _reason(error)) from None
        if not connection.is_closed:  # The host keeps it open for the next request.
            host.idle[target.scheme].append(connection)
        return answer

    def _ask(self, connection: HTTPConnection, target: _Target) -> urllib3.HTTPResponse:
        headers = {"Host": target.name, "User-Agent": self._user_agent, "Accept": "*/*"}
        if connection.proxy_is_forwarding:
            headers |= _authorization(connection.proxy)
        path = target.address if connection.proxy_is_forwarding else target.path
        connection.response_class = _FinalResponse
        connection.request("GET", path, headers=headers, preload_content=False, decode_content=False)
        return connection.getresponse()

    def _connect(self, host: _Host, target: _Target, deadline: float) -> HTTPConnection:
        """Returns a connection that is still open, or a new one to an address that was checked."""
        idle = host.idle[target.scheme]
        while idle:
            with contextlib.suppress(IndexError):  # Another thread took it.
                connection = idle.pop()
                if connection.is_connected:
                    return connection
                connection.close()
        proxy = _proxy_for(target)
        error: Exception = OSError("the host has no address")
        for address in self._resolve(target, proxy):
            connection = self._connection(target, address, proxy)
            connection.timeout = max(0.001, min(CONNECT_SECONDS, deadline - time.monotonic()))
            try:
                connection.connect()
                connection.timeout = min(IDLE_SECONDS, self._policy.timeout_seconds)
                return connection
            except BaseException as failure:
                connection.close()
                if not isinstance(failure, (NewConnectionError, ConnectTimeoutError)):
                    raise
                error = failure  # The next address may do.
        raise error

    def _resolve(self, target: _Target, proxy: urllib3.util.Url | None) -> list[str]:
        """Returns the addresses to connect to, once it is sure that the host may be asked at each of them."""
        try:
            flags = socket.AI_NUMERICHOST if proxy else 0
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=flags)
        except socket.gaierror:
            if proxy is None:
                raise
            found = []  # A name, for the proxy to resolve.
        addresses = [str(address[0]) for *_, address in found]
        for address in addresses if target.name not in self._trusted else ():
            reason = refusal(ipaddress.ip_address(address), self._allow_private_hosts)
            if reason:
                raise Unavailable(f"refused: {target.host} is {address}, {reason}")
        return [str(proxy.host)] if proxy else addresses

    def _connection(self, target: _Target, address: str, proxy: urllib3.util.Url | None) -> HTTPConnection:
        port = (proxy.port or 80) if proxy else target.port
        if target.scheme == "http":
            return HTTPConnection(address, port, proxy=proxy)
        tls = self._certificates
        connection = HTTPSConnection(address, port, proxy=proxy, ssl_context=tls, server_hostname=target.host)
        if proxy:
            connection.set_tunnel(target.host, target.port, _authorization(proxy))
        return connection


def refusal(address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow_private_hosts: bool) -> str | None:
    """Returns why an address must not be asked, or None."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.ipv4_mapped or address in _NAT64:
            return refusal(embedded, allow_private_hosts)
    is_special = address.is_link_local or address.is_multicast or address.is_unspecified
    if is_special or any(address in network for network in _NOT_GLOBAL):
        return "an address that no picture comes from"
    if address.is_private:
        return None if allow_private_hosts else "an address of a private network (see --allow_private_hosts)"
    is_public = address.is_global and (address.version == 4 or address in _GLOBAL_UNICAST)
    return None if is_public else "not a public address"


def load_certificates() -> ssl.SSLContext:
    """Returns whom to trust: what the environment names, otherwise the lists of the system and of certifi.

    Raises:
        UserError: What the environment names is not there, or holds no certificate.
    """
    for variable in CA_VARIABLES:
        if path := os.environ.get(variable):
            try:
                is_folder = Path(path).is_dir()
                return ssl.create_default_context(
                    cafile=None if is_folder else path, capath=path if is_folder else None
                )
            except OSError as error:  # Of ssl as well.
                reason = error.strerror or error
                raise UserError(f"{variable}={path} gives no certificates: {reason}; correct or unset it") from None
    certificates = ssl.create_default_context()
    certificates.load_verify_locations(certifi.where())
    return certificates


def _proxy_for(target: _Target) -> urllib3.util.Url | None:
    text = requests.utils.select_proxy(target.address, requests.utils.get_environ_proxies(target.address))
    if not text:
        return None
    with contextlib.suppress(HTTPError):
        proxy = urllib3.util.parse_url(text if "://" in text else f"http://{text}")
        if proxy.scheme == "http" and proxy.host:
            return proxy
    raise Unavailable(f"the environment names a proxy for {target.scheme} that is not http://host:port")


def _authorization(proxy: urllib3.util.Url | None) -> dict[str, str]:
    return urllib3.make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy and proxy.auth else {}


@contextlib.contextmanager
def _until(deadline: float, connection: HTTPConnection) -> Iterator[None]:
    """Ends all waiting on a connection at the deadline: a timeout alone starts again with every byte received."""
    sock = connection.sock

    def shut_down() -> None:
        with contextlib.suppress(OSError):  # Closed in the meantime.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # Below TLS, whose own shutdown is not thread-safe.

    timer = threading.Timer(deadline - time.monotonic(), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
        if time.monotonic() >= deadline:  # A body of unknown size just looks shorter.
            raise TimeoutError
    except BaseException:
        connection.close()
        raise
    finally:
        timer.cancel()


def _parse_answer(
    host: _Host,
    started: float,
    address: str,
    answer: urllib3.HTTPResponse,
    body: IO[bytes],
    parse: Callable[[IO[bytes]], T],
) -> T:
    """Returns what `parse` makes of a good answer: what it can read is good, whatever the host calls it."""
    reason = f"{answer.status} {_words(answer.reason or '')}".rstrip()
    body.seek(0)
    is_page = bool(_PAGE.match(body.read(256)))
    if answer.status in (200, 203) and not is_page:  # 203: a proxy has changed it.
        body.seek(0)
        try:
            result = parse(body)
            host.served(started)
            return result
        except (ValueError, RecursionError) as error:
            damage = str(error)
    asks_for_rest = answer.status in (429, 503) or "Retry-After" in answer.headers
    rest_seconds = _retry_after_seconds(answer.headers) if asks_for_rest else 0
    is_page |= "html" in answer.headers.get("Content-Type", "").lower() or "x-amzn-waf-action" in answer.headers
    if answer.status in (200, 202, 203, 403, 405) and is_page:
        # Not `served`, so that a wall on every answer is recognised as one that stays.
        reason += ", a web page instead of the file (bot wall?)"
        host.refused(started, address, reason)
        raise _TransientError(reason, rest_seconds)
    if answer.status in (408, 429) or answer.status >= 500:
        raise _TransientError(reason, rest_seconds)
    if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
        # Bytes that are not ASCII are UTF-8, as in browsers; others are handed back as they are.
        raise _Redirect(answer.headers["Location"].encode("latin-1").decode("utf-8", "surrogateescape"))
    host.served(started)
    if answer.status in (200, 203):
        raise _TransientError(damage)
    raise Unavailable(reason)


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Returns how long a host wants to be left alone; a date counts from the host's own Date, not from our clock."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text)  # Infinite, if need be: `rest` has a limit.
    try:
        until, now = (email.utils.parsedate_to_datetime(date) for date in (text, headers["Date"]))
        return max(0.0, (until - now).total_seconds())
    except (KeyError, TypeError, ValueError, OverflowError):
        return 1.0


def _reason(error: BaseException) -> str:
    """Returns the innermost cause of a connection error, without addresses of objects in memory."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return f"connection failed: {_words(getattr(error, 'strerror', None) or error) or type(error).__name__}"


def _words(text: object) -> str:
    """Returns what may be shown of a text that comes from a host."""
    return "".join(letter for letter in str(text)[:200] if letter.isprintable())
