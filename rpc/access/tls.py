"""The certificate that the service shows, read again when its files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from ...errors import InvalidInput

_LOG = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the certificate with those that vouch for it, and its private key without a password."""

    certificate: Path
    key: Path

    def pair(self) -> tuple[bytes, bytes]:
        """Key and certificates as gRPC takes them; raises `InvalidInput` if they cannot be read or do not match."""
        try:
            for path in (self.certificate, self.key):
                path.open("rb").close()  # the errors of ssl do not name the file
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password=_no_password)
            return self.key.read_bytes(), self.certificate.read_bytes()
        except ssl.SSLError as error:
            raise InvalidInput(
                f"'{self.certificate}' and '{self.key}' are not a certificate and its key: {error.reason or error}.",
                "Give PEM files that belong together, the key without a password.",
            ) from error
        except OSError as error:
            raise InvalidInput(
                f"The file '{error.filename}' cannot be read: {error.strerror}.", "Check --tls-cert and --tls-key."
            ) from error

    def stamp(self) -> _Stamp:
        """Changes when a file is replaced or written; raises `OSError` if one is missing."""
        found = (path.stat() for path in (self.certificate, self.key))
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that look at the files at every handshake: a renewed certificate needs no restart.

    Files that do not fit together, as while they are being replaced, leave the last good pair in use; the log says so.
    Raises `InvalidInput` as `TlsFiles.pair` does.
    """
    stamp = files.stamp() if files.certificate.exists() and files.key.exists() else ()
    first = grpc.ssl_server_certificate_configuration([files.pair()])
    # That None means no change is missing from the stubs.
    return grpc.dynamic_ssl_server_credentials(first, _fetcher(files, stamp))  # type: ignore[arg-type]


def _fetcher(files: TlsFiles, stamp: _Stamp) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    def changed() -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks in its own thread: the new pair, or None to go on with the one it has."""
        nonlocal stamp
        try:
            if (now := files.stamp()) == stamp:
                return None
            pair = files.pair()
        except (InvalidInput, OSError) as error:
            _LOG.warning("the certificate could not be read again, the last one stays in use: %s", error)
            return None
        stamp = now
        _LOG.info("the certificate was read again from %s", files.certificate)
        return grpc.ssl_server_certificate_configuration([pair])

    return changed


def _no_password() -> str:
    raise InvalidInput(
        "The key of the certificate has a password, and nobody is there to type it.",
        "Give the key without one: openssl pkey -in KEY -out NEW_KEY",
    )
