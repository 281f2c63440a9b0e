"""Pictures from the web, fetched so that an address in a list cannot reach into the network of this machine.

A host is resolved once, every address it has is checked, and the connection goes to the address that was
checked, while Host header, SNI and certificate stay with the name. Each redirect starts from the top. Proxies of
the environment are not used: they would resolve the name again.
"""

from collections.abc import Iterator
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from metart.records.pictures import BadPicture

USER_AGENT = "met-art/1.0 (image classifier; one request a picture)"
MAX_BYTES = 64_000_000  # The museum's largest originals are about 20 MB.
MAX_SECONDS = 60.0  # For one picture, redirects and slow bodies included.
IDLE_SECONDS = 10.0  # Without a connection or a byte.
MAX_REDIRECTS = 5

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # The only part of IPv6 given out to hosts (RFC 4291).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind a translator (RFC 6052): the last 32 bits.
# Python's releases differ on these: protocol assignments (some clouds' metadata service, Teredo), 6to4 and its
# relays, documentation.
_NOT_GLOBAL = [
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
_REDIRECTS = (301, 302, 303, 307, 308)


def fetch_picture(url: str, allow_private_hosts: bool = False) -> bytes:
    """Downloads a picture.

    Args:
        url: An http or https address.
        allow_private_hosts: Also from this machine and from private networks, as inside a museum. Link-local
            addresses stay refused: the metadata services of clouds answer there.

    Returns:
        The body as sent, at most MAX_BYTES; whether it is a picture is for `pictures.open_picture` to say.

    Raises:
        BadPicture: The address is refused, or there is no complete answer; the reason in a few words.
    """
    deadline = time.monotonic() + MAX_SECONDS
    try:
        for _ in range(MAX_REDIRECTS + 1):
            body, location = _get(url, allow_private_hosts, deadline)
            if location is None:
                return body
            url = urljoin(url, location)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise BadPicture(f"no complete answer within {MAX_SECONDS:g} s") from None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadPicture(f"not fetched: {reason}") from None
    raise BadPicture(f"more than {MAX_REDIRECTS} redirects")


def _get(url: str, allow_private_hosts: bool, deadline: float) -> tuple[bytes, str | None]:
    """Returns (body, None), or (b"", the address the server redirects to)."""
    parts = _split(url)
    host, secure = str(parts.hostname), parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host.encode("idna").decode() if not host.isascii() else host, port)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?[]") if parts.query else ""
    )
    connection.sock = sock = _connect(connection.host, port, secure, allow_private_hosts, deadline)
    with contextlib.closing(connection), _shut_down_at(deadline, sock):
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection.request("GET", target, headers={"User-Agent": USER_AGENT, "Connection": "close"})
        with connection.getresponse() as response:
            if response.status in _REDIRECTS and response.headers["Location"]:
                return b"", response.headers["Location"]
            if response.status != http.client.OK:
                raise BadPicture(f"the server answers {response.status} {response.reason}".rstrip())
            if (response.length or 0) > MAX_BYTES:
                raise BadPicture(f"{response.length:,} bytes, more than {MAX_BYTES:,}")
            body = response.read(MAX_BYTES + 1)
            if len(body) > MAX_BYTES:
                raise BadPicture(f"more than {MAX_BYTES:,} bytes")
            if response.length:  # What the server announced and did not send.
                raise ConnectionError(f"the connection broke off {response.length:,} bytes before the end")
            return body, None


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise BadPicture(f"refused: {parts.scheme or 'no scheme'} in the address, only http and https are fetched")
    if not parts.hostname:
        raise BadPicture("refused: the address has no host")
    if parts.username is not None:
        raise BadPicture("refused: the address has a user name in it")
    return parts


def _connect(host: str, port: int, secure: bool, allow_private_hosts: bool, deadline: float) -> socket.socket:
    """Resolves a host, checks all its addresses and connects to the first that answers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        reason = _refusal(ipaddress.ip_address(address[0]), allow_private_hosts)
        if reason:
            raise BadPicture(f"refused: {host} is {address[0]}, {reason}")
    for position, (family, kind, protocol, _, address) in enumerate(found, 1):
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(max(0.001, min(IDLE_SECONDS, deadline - time.monotonic())))
        try:
            sock.connect(address)
            sock.settimeout(IDLE_SECONDS)
        except OSError:
            sock.close()
            if position == len(found) or time.monotonic() >= deadline:
                raise
            continue
        if not secure:
            return sock
        # The handshake waits until the deadline watches over it.
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    raise OSError(f"{host} has no address")


def _refusal(address: IPAddress, allow_private_hosts: bool) -> str | None:
    """Returns why an address must not be asked, or None."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return _refusal(embedded, allow_private_hosts)
    is_special = address.is_link_local or address.is_multicast or address.is_unspecified
    if is_special or any(address in network for network in _NOT_GLOBAL):
        return "an address that no picture comes from"
    if address.is_private:
        return None if allow_private_hosts else "an address of a private network (see --allow_private_hosts)"
    if not address.is_global or (address.version == 6 and address not in _GLOBAL_UNICAST):
        return "not a public address"
    return None


@contextlib.contextmanager
def _shut_down_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """Ends all waiting on a socket at the deadline: a timeout alone starts again with every byte received."""

    def shut_down() -> None:
        with contextlib.suppress(OSError):  # Closed meanwhile.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # Below TLS, whose own shutdown is not thread-safe.

    timer = threading.Timer(deadline - time.monotonic(), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
        if time.monotonic() >= deadline:  # A body of unknown size just looks shorter.
            raise TimeoutError
    finally:
        timer.cancel()
