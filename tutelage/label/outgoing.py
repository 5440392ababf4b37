"""Calls to other servers that cannot be turned against this network. One address is resolved, checked and pinned.

Private, loopback, link-local and metadata addresses are refused unless the operator's settings name host and port.
Redirects are not followed, answers are cut at a limit, and what a server says in an error is never shown to anybody.
"""

import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tutelage.errors import DataError

TIMEOUT_S = 60.0
MOST = 4 << 20  # bytes of an answer


@dataclass(frozen=True, slots=True)
class Address:
    """A place on the network that was checked: connections go to `ip`, whatever the name means a moment later."""

    scheme: str
    host: str
    port: int
    ip: str
    path: str


def resolve(url: str, *, private: Collection[str] = ()) -> Address:
    """Checks an address. Raises DataError when it may not be called.

    private  host:port of servers on private addresses that the operator allows
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as e:
        raise DataError(f"{url!r} is no address ({e}). Give something like https://api.example.org/v1.") from e
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("https", "http") or not host or parts.username or parts.password:
        raise DataError(f"{url!r} is no address of a server. Give http(s)://host/path without a password in it.")
    is_allowed = f"{host}:{port}" in private
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise DataError(f"{host} cannot be found ({e}). Check the name.") from e
    ips = [str(entry[4][0]) for entry in found]
    if not is_allowed:
        if parts.scheme != "https":
            raise DataError(f"{url!r} is not https: keys and prompts would cross the network in the clear.")
        for ip in ips:
            if not ipaddress.ip_address(ip.split("%")[0]).is_global:
                raise DataError(
                    f"{host} lies on a private or local address. If it is your own model server, its operator can "
                    f"allow it: start with --private-endpoint {host}:{port}."
                )
    return Address(parts.scheme, host, port, ips[0], parts.path.rstrip("/"))


class _Pinned(http.client.HTTPSConnection):
    """Connects to the checked address and asks for the certificate of the name."""

    def __init__(self, at: Address) -> None:
        super().__init__(at.host, at.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
        self._ip = at.ip
        self._tls = ssl.create_default_context()

    def connect(self) -> None:
        plain = socket.create_connection((self._ip, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def call_json(at: Address, path: str, body: Mapping[str, Any] | bytes | None, headers: Mapping[str, str]) -> Any:
    """One request, POST when there is a body. Raises DataError when there is no good answer."""
    connection: http.client.HTTPConnection = (
        _Pinned(at) if at.scheme == "https" else http.client.HTTPConnection(at.ip, at.port, timeout=TIMEOUT_S)
    )
    sent = {
        "Host": at.host if at.port in (80, 443) else f"{at.host}:{at.port}",
        "Accept": "application/json",
        **headers,
    }
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if isinstance(body, Mapping):
        sent["Content-Type"] = "application/json"
    try:
        connection.request("GET" if data is None else "POST", at.path + path, body=data, headers=sent)
        answer = connection.getresponse()
        text = answer.read(MOST + 1)
    except (OSError, http.client.HTTPException) as e:
        raise DataError(f"{at.host}:{at.port} did not answer ({type(e).__name__}). Check that it runs.") from e
    finally:
        connection.close()
    if answer.status != 200:
        raise DataError(f"{at.host}:{at.port} answered with status {answer.status}. Check the address, model and key.")
    if len(text) > MOST:
        raise DataError(f"{at.host}:{at.port} answered with more than {MOST >> 20} MiB.")
    try:
        return json.loads(text)
    except ValueError as e:
        raise DataError(f"{at.host}:{at.port} answered with something that is not JSON. Check the address.") from e
