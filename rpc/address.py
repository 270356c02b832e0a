"""Where the service may listen: on this machine only, until it knows who is asking."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from ..errors import Busy, InvalidInput

DEFAULT_PORT = 50051
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"


def loopback_address(address: str) -> str:
    """`address` as numeric `host:port` (`[host]:port` for IPv6), fit for binding; port 0 means any free one.

    Raises `InvalidInput` unless it is written as `host:port` and every address of the host is a loopback
    address.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidInput(f"'{address}' is not an address.", f"Write it as host:port, for example {DEFAULT_ADDRESS}.")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    numeric = _resolve(host, address)
    if not numeric or not all(ip.is_loopback for ip in numeric):
        raise InvalidInput(
            f"The latency service does not listen on '{address}': it has neither TLS nor tokens, "
            "so that anybody who reaches an address outside this machine could use it.",
            f"Listen on 127.0.0.1:{port} and reach it from elsewhere through a tunnel: "
            f"ssh -L {port}:127.0.0.1:{port} THIS_MACHINE",
        )
    chosen = min(numeric, key=lambda ip: ip.version)
    return f"{chosen}:{port}" if chosen.version == 4 else f"[{chosen}]:{port}"


def check_free(address: str) -> None:
    """Raise `Busy` if another program listens on a numeric address, `InvalidInput` if nobody may."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        cls = Busy if error.errno == errno.EADDRINUSE else InvalidInput
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise cls(
            f"The latency service cannot listen on {address}: {reason}.",
            "Choose another port, or 0 for any free one.",
        ) from error


def _resolve(host: str, address: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Every address of the host; none for the empty host, which would mean all interfaces."""
    if not host:
        return []
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
