"""Where the service may listen: on this machine, or anywhere once it has TLS and knows who is asking."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

from ...errors import Busy, InvalidInput

DEFAULT_PORT = 50051
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"


@dataclass(frozen=True)
class Address:
    """A numeric address to bind, and whether only this machine reaches it; port 0 means any free one."""

    host: str
    port: int
    loopback: bool

    def __str__(self) -> str:
        """`host:port`, `[host]:port` for IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(address: str) -> Address:
    """The address written as `host:port`; of a host with several, an IPv4 address if there is one.

    Raises `InvalidInput` unless it is written so and the host can be found. `loopback` holds where every address
    of the host is one.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidInput(f"'{address}' is not an address.", f"Write it as host:port, for example {DEFAULT_ADDRESS}.")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    numeric = _resolve(host, address)
    chosen = min(numeric, key=lambda ip: ip.version)
    return Address(str(chosen), int(port), all(ip.is_loopback for ip in numeric))


def check_exposure(address: Address, *, tls: bool, tokens: bool) -> None:
    """Raise `InvalidInput` for an address that others reach without TLS and tokens: there is no way around it."""
    if address.loopback or (tls and tokens):
        return
    missing = " and ".join(
        name for name, there in (("a TLS certificate with its key", tls), ("tokens", tokens)) if not there
    )
    raise InvalidInput(
        f"The latency service does not listen on '{address}' without {missing}: "
        "anybody who reaches that address could use it or read along.",
        "Give --tls-cert, --tls-key and --tokens (see SECURITY.md), or listen on "
        f"127.0.0.1:{address.port} and reach it through a tunnel: "
        f"ssh -L {address.port}:127.0.0.1:{address.port} THIS_MACHINE",
    )


def check_free(address: Address) -> None:
    """Raise `Busy` if another program listens there, `InvalidInput` if nobody may."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        cls = Busy if error.errno == errno.EADDRINUSE else InvalidInput
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise cls(
            f"The latency service cannot listen on {address}: {reason}.",
            "Choose another port, or 0 for any free one.",
        ) from error


def _resolve(host: str, address: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Every address of the host, at least one."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass  # not numeric: a name
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(
            f"The host of '{address}' cannot be found: {error}.", f"Listen on {DEFAULT_ADDRESS}."
        ) from error
    return [ipaddress.ip_address(entry[4][0]) for entry in found]
