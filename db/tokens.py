"""Tokens: who may call the service, and for what. A secret is shown once; the database knows its SHA-256 only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from ..errors import InvalidInput, NotFound
from .columns import utc_now
from .conflicts import insert_row
from .models import Token

Scope = Literal["admin", "search", "device"]


def create_token(
    session: Session, name: str, scope: Scope, device: str | None = None, expires_at: datetime | None = None
) -> tuple[Token, str]:
    """A new token and its secret, `ms_` and 43 characters; it holds until `expires_at`, or until it is revoked.

    A token of scope device names the one device that it may act as; the others name none. InvalidInput if it is the
    other way round, or if the name is taken (those of revoked tokens are).
    """
    if (scope == "device") != (device is not None):
        raise InvalidInput(
            f"A token of scope {scope} {'needs a' if device is None else 'has no'} device.",
            "Name a device for the scope device, and for no other.",
        )
    secret = _new_secret()

    def find() -> None:
        if session.scalar(select(Token.id).where(Token.name == name)) is not None:
            raise InvalidInput(f"There is a token '{name}' already.", "Choose another name, or rotate it.")

    def make() -> Token:
        return Token(name=name, scope=scope, device=device, hash=_hash(secret), expires_at=expires_at)

    return insert_row(session, make, find), secret


def check_token(session: Session, secret: str, now: datetime | None = None) -> Token | None:
    """The token of this secret if it holds: not revoked, not expired, and not rotated away for too long."""
    now = now or utc_now()
    hashed = _hash(secret)  # the secret is random and long: a look-up by its hash gives nothing away
    query = select(Token).where(
        or_(Token.hash == hashed, and_(Token.previous_hash == hashed, Token.previous_expires_at > now)),
        or_(Token.expires_at.is_(None), Token.expires_at > now),
        Token.revoked_at.is_(None),
    )
    return session.scalars(query).one_or_none()


def revoke_token(session: Session, name: str, *, now: datetime | None = None) -> None:
    """End a token for good, at once; NotFound if there is none of this name, nothing if it was revoked before."""
    token = _get_token(session, name)
    token.revoked_at = token.revoked_at or now or utc_now()
    session.flush()


def revoke_device_tokens(session: Session, device: str, *, now: datetime | None = None) -> None:
    """Revoke all tokens that may act as this device."""
    theirs = (Token.device == device, Token.revoked_at.is_(None))
    session.execute(update(Token).where(*theirs).values(revoked_at=now or utc_now()))


def rotate_token(session: Session, name: str, grace_s: float, *, now: datetime | None = None) -> str:
    """A new secret for a token; the one before lives `grace_s` seconds longer, any older one ends.

    NotFound if there is no such token, InvalidInput if it was revoked or has expired.
    """
    token = _get_token(session, name)
    now = now or utc_now()
    if token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now):
        raise InvalidInput(f"The token '{name}' was revoked or has expired.", "Create a new one.")
    secret = _new_secret()
    token.previous_hash, token.previous_expires_at = token.hash, now + timedelta(seconds=grace_s)
    token.hash = _hash(secret)
    session.flush()
    return secret


def list_tokens(session: Session) -> Sequence[Token]:
    """All tokens by name, those that hold no more among them."""
    return session.scalars(select(Token).order_by(Token.name)).all()


def _get_token(session: Session, name: str) -> Token:
    query = select(Token).where(Token.name == name).with_for_update().execution_options(populate_existing=True)
    if (token := session.scalars(query).one_or_none()) is None:
        raise NotFound(f"There is no token '{name}' here.", "`milliseek tokens list` names them.")
    return token


def _new_secret() -> str:
    return f"ms_{secrets.token_urlsafe(32)}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
