"""How a client reaches a service: address, TLS and token, and what a call that failed stands for."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from .. import config
from ..errors import InvalidInput, MilliseekError, NotFound, ServiceError
from ..rpc.status import error_from_status

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/\s\[\]]+):[0-9]{1,5}")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_DISTRUST = re.compile(r"handshake|verification check", re.IGNORECASE)
"""What gRPC says of a service whose certificate it does not accept."""
_SYSTEM_ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # an earlier server's back-off on the same port is not this one's
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a restarted server is found soon
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A connection that died without saying so, found while a call waits.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Endpoint:
    """A service at `host:port`, and how it is spoken to.

    TLS is used where the address is not one of this machine, or where `ca_file` is given; `tls` says otherwise. The
    service has to show a certificate that those in `ca_file` vouch for (PEM; default: those in MILLISEEK_CA_FILE, else
    the authorities that the system trusts). `token` (default: MILLISEEK_TOKEN, if set) goes along with every call, but
    never in plain text to another machine.

    Raises InvalidInput for an address not written as `host:port`, for a token that is none or that everybody could
    read on its way, and for certificates that cannot be read; NotFound if their file is missing.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if not _ADDRESS.fullmatch(address):
            raise InvalidInput(
                f"{address!r} is not the address of a latency service.",
                "Write it as host:port, for example 127.0.0.1:50051.",
            )
        self.address = address
        is_loopback = _is_loopback(address.rpartition(":")[0].strip("[]"))
        self.tls = tls if tls is not None else not is_loopback or ca_file is not None
        token = token if token is not None else config.token()
        if token and not _TOKEN.fullmatch(token):
            raise InvalidInput("The token has characters that no token has.", "Give it as it was printed.")
        if token and not self.tls and not is_loopback:
            raise InvalidInput(
                f"Everybody on the way to {address} could read the token: the connection would not be encrypted.",
                "Use TLS, or reach the service through a tunnel: ssh -L 50051:127.0.0.1:50051 THE_MACHINE",
            )
        self.metadata: Sequence[tuple[str, str]] = (("authorization", f"Bearer {token}"),) if token else ()
        self._credentials = grpc.ssl_channel_credentials(_roots(ca_file or config.ca_file())) if self.tls else None
        # A proxy cannot reach our loopback.
        self._options = (*_OPTIONS, ("grpc.enable_http_proxy", 0 if is_loopback else 1))

    def channel(self) -> grpc.Channel:
        """A new connection."""
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options=self._options)
        return grpc.secure_channel(self.address, self._credentials, options=self._options)

    def aio_channel(self, *more: tuple[str, int]) -> aio.Channel:
        """A new connection that belongs to the running event loop, with `more` options of gRPC."""
        options = (*self._options, *more)
        if self._credentials is None:
            return aio.insecure_channel(self.address, options=options)
        return aio.secure_channel(self.address, self._credentials, options=options)

    def error(self, call: grpc.RpcError, timeout_s: float | None) -> MilliseekError:
        """What a failed call stands for: what the service raised, else a `ServiceError` that says what became of it."""
        code, details = call.code(), call.details() or ""
        if error := raised_there(call):
            return error
        if code is grpc.StatusCode.UNAVAILABLE and _DISTRUST.search(details):
            return ServiceError(
                f"The service at {self.address} cannot show that it is the one that was asked for ({details}).",
                "Name its certificate, or that of its authority, with ca_file or MILLISEEK_CA_FILE; "
                "one that does not encrypt needs tls=False.",
            )
        if code is grpc.StatusCode.UNAVAILABLE:
            return ServiceError(
                f"No latency service answers {'over TLS ' if self.tls else ''}at {self.address} ({details}).",
                "Start one there with 'milliseek serve', or name another one.",
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServiceError(
                f"The latency service at {self.address} did not answer within {timeout_s:g} s.",
                "See whether 'milliseek serve' runs there and is busy, or allow more time.",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ServiceError(
                f"The program at {self.address} is no latency service of this version ({details}).",
                "Start one with 'milliseek serve' of the same version of milliseek.",
            )
        return ServiceError(
            f"The latency service at {self.address} failed with {code.name}: {details}",
            "The log of 'milliseek serve' there says more.",
        )

    def broken(self, reason: object) -> ServiceError:
        """The error of an answer that makes no sense."""
        return ServiceError(
            f"The latency service at {self.address} gave an answer that cannot be used: {reason}.",
            "Start 'milliseek serve' of the same version of milliseek there.",
        )


def raised_there(call: grpc.RpcError) -> MilliseekError | None:
    """What the service raised; None for a call that failed in any other way."""
    metadata: Any = call.trailing_metadata() or ()
    return error_from_status(call.code(), call.details() or "", metadata)


def _is_loopback(host: str) -> bool:
    """Whether nobody else can be reached under the name: a name that is looked up may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _roots(ca_file: str | os.PathLike[str] | None) -> bytes | None:
    """The certificates to trust; None leaves it to gRPC, which brings a list of its own."""
    if ca_file is None:
        candidates = (ssl.get_default_verify_paths().cafile, *_SYSTEM_ROOTS)
        return next((Path(path).read_bytes() for path in candidates if path and Path(path).is_file()), None)
    try:
        roots = Path(ca_file).read_bytes()
        ssl.create_default_context(cadata=roots.decode())
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {os.fspath(ca_file)!r}.", "Name a file with certificates (PEM).") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"The file {os.fspath(ca_file)!r} holds no certificates: {error}.", "Name a file with certificates (PEM)."
        ) from error
    return roots
