"""How callers reach the service: in plain text or over TLS, with tokens or without."""

from __future__ import annotations

from dataclasses import dataclass

from .live_tokens import LiveTokens
from .tls import TlsFiles


@dataclass(frozen=True)
class Access:
    """What is asked of callers; an address outside this machine needs both."""

    tls: TlsFiles | None = None
    tokens: LiveTokens | None = None


PLAIN = Access()
