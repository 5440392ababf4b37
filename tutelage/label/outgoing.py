"""Calls to other servers that cannot be turned against this network. One address is resolved, checked and pinned.

Private, loopback, link-local and metadata addresses are refused unless the operator's settings name host and port.
Redirects are not followed, answers are cut at a limit of bytes and of seconds, and what a server says in an error is
never shown to anybody.
"""

import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tutelage.errors import DataError

CONNECT_S = 10.0
TIMEOUT_S = 120.0  # of a whole call, however slowly the answer drips
MOST = 4 << 20  # bytes of an answer
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 addresses behind a translator


class NoAnswer(DataError):
    """A server that was called and gave no good answer.

    status   what it said; 0 when it said nothing
    after_s  when it wants to be asked again, where it says so
    """

    def __init__(self, why: str, status: int = 0, after_s: float | None = None) -> None:
        super().__init__(why)
        self.status, self.after_s = status, after_s


@dataclass(frozen=True, slots=True)
class Address:
    """A place on the network that was checked: connections go to `ip`, whatever the name means a moment later."""

    scheme: str
    host: str
    port: int
    ip: str
    path: str  # with its query

    @property
    def name(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS = {"https": 443, "http": 80}


def resolve(url: str, *, private: Collection[str] = ()) -> Address:
    """Checks an address. Raises DataError when it may not be called.

    private  host:port of servers on private addresses that the operator allows
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError as e:
        raise DataError(f"{url!r} is no address ({e}). Give something like https://api.example.org/v1.") from e
    if parts.scheme not in _PORTS or not host or parts.username is not None or parts.password is not None or port == 0:
        raise DataError(f"{url!r} is no address of a server. Give http(s)://host/path without a password in it.")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if not url.isascii() or any(not "!" <= c <= "~" for c in path):
        raise DataError(f"{url!r} holds a character that no address may hold. Write it percent-encoded.")
    port = port or _PORTS[parts.scheme]
    is_allowed = f"{f'[{host}]' if ':' in host else host}:{port}" in private
    if not is_allowed and parts.scheme != "https":
        raise DataError(
            f"{url!r} is not https: keys and prompts would cross the network in the clear. If it is your own model "
            f"server, its operator can allow it: start with --private-endpoint {host}:{port}."
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise DataError(f"{host} cannot be found ({e}). Check the name.") from e
    ips = [str(entry[4][0]) for entry in found]
    if not is_allowed and not all(is_public(ip) for ip in ips):
        raise DataError(
            f"{host} lies on a private or local address. If it is your own model server, its operator can "
            f"allow it: start with --private-endpoint {host}:{port}."
        )
    return Address(parts.scheme, host, port, ips[0], path)


def is_public(ip: str) -> bool:
    """Whether an address lies on the open Internet, and not behind a wrapping of IPv6 on a private one."""
    at = ipaddress.ip_address(ip.split("%")[0])
    if isinstance(at, ipaddress.IPv6Address) and at in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(at) & 0xFFFFFFFF)))
    if at.is_multicast or at.is_reserved or not at.is_global:
        return False
    wrapped = [] if isinstance(at, ipaddress.IPv4Address) else [at.ipv4_mapped, at.sixtofour, *(at.teredo or ())]
    return all(is_public(str(inner)) for inner in wrapped if inner is not None)


class _Pinned(http.client.HTTPSConnection):
    """Connects to the checked address and asks for the certificate of the name."""

    def __init__(self, at: Address) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(at.host, at.port, timeout=CONNECT_S, context=self._tls)
        self._ip = at.ip

    def connect(self) -> None:
        plain = socket.create_connection((self._ip, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def call_json(
    at: Address,
    path: str,
    body: Mapping[str, Any] | bytes | None,
    headers: Mapping[str, str],
    *,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """One request, POST when there is a body. Raises NoAnswer when there is no good answer.

    path  joins the address; empty: the address itself
    """
    connection: http.client.HTTPConnection = (
        _Pinned(at) if at.scheme == "https" else http.client.HTTPConnection(at.ip, at.port, timeout=CONNECT_S)
    )
    sent = {"Host": at.name, "Accept": "application/json", **headers}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if isinstance(body, Mapping):
        sent["Content-Type"] = "application/json"
    where = (at.path.rstrip("/") + path if path else at.path) or "/"
    try:
        status, after, text = _exchange(connection, "GET" if data is None else "POST", where, data, sent, timeout_s)
    except TimeoutError as e:
        raise NoAnswer(f"{at.name} did not answer in time. Check that it runs.") from e
    except (OSError, http.client.HTTPException) as e:
        raise NoAnswer(f"{at.name} did not answer ({type(e).__name__}). Check that it runs.") from e
    if status != 200:
        why = f"{at.name} answered with status {status}. Check the address, model and key."
        raise NoAnswer(why, status, float(after) if after.isdecimal() and len(after) < 6 else None)
    if len(text) > MOST:
        raise NoAnswer(f"{at.name} answered with more than {MOST >> 20} MiB.", status)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise NoAnswer(f"{at.name} answered with something that is not JSON. Check the address.", status) from e


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    where: str,
    data: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
) -> tuple[int, str, bytes]:
    """(status, Retry-After, bytes) of one request. Raises TimeoutError when it is not over in time."""
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        if connection.sock is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    watch = threading.Timer(timeout_s, cut)
    watch.daemon = True
    watch.start()
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.request(method, where, body=data, headers=dict(headers))
        answer = connection.getresponse()
        with answer:
            text = answer.read(MOST + 1)
    except (OSError, http.client.HTTPException) as e:
        if is_over.is_set():
            raise TimeoutError from e
        raise
    finally:
        watch.cancel()
        connection.close()
    if is_over.is_set():
        raise TimeoutError
    return answer.status, answer.getheader("Retry-After") or "", text
