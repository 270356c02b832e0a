"""Tokens: shown once, kept as a hash, expiring, rotated and revoked."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from milliseek.db import devices, tokens
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotFound

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_secret_opens_its_token_and_nothing_else_does(database: Database) -> None:
    with database.session() as session:
        token, secret = tokens.create_token(session, "ann", "search")
        _, other = tokens.create_token(session, "pixel6", "device", "pixel6")
        assert re.fullmatch(r"ms_[A-Za-z0-9_-]{43}", secret)
        found = tokens.check_token(session, secret)
        assert found is token
        assert (token.name, token.scope, token.device) == ("ann", "search", None)
        for wrong in ("", secret[:-1], secret + "a", secret.lower(), token.hash):
            assert tokens.check_token(session, wrong) is None
        device = tokens.check_token(session, other)
        assert device is not None
        assert (device.scope, device.device) == ("device", "pixel6")
        assert [token.name for token in tokens.list_tokens(session)] == ["ann", "pixel6"]


def test_the_database_does_not_know_the_secret(database: Database) -> None:
    with database.session() as session:
        _, secret = tokens.create_token(session, "ann", "admin")
        rotated = tokens.rotate_token(session, "ann", 60)
        stored = str(session.execute(text("SELECT * FROM ms_token")).all())
    for shown in (secret, rotated):
        assert shown not in stored
        assert shown.removeprefix("ms_") not in stored


def test_token_expires(database: Database) -> None:
    with database.session() as session:
        _, secret = tokens.create_token(session, "ann", "search", expires_at=after(60))
        assert tokens.check_token(session, secret, now=after(59)) is not None
        assert tokens.check_token(session, secret, now=after(60)) is None


def test_revoked_token_is_dead_and_its_name_stays_taken(database: Database) -> None:
    with database.session() as session:
        token, secret = tokens.create_token(session, "ann", "search")
        rotated = tokens.rotate_token(session, "ann", 3600)
        tokens.revoke_token(session, "ann", now=NOW)
        tokens.revoke_token(session, "ann", now=after(5))
        assert token.revoked_at == NOW
        for dead in (secret, rotated):
            assert tokens.check_token(session, dead) is None
        with pytest.raises(InvalidInput, match="a token 'ann' already"):
            tokens.create_token(session, "ann", "search")
        with pytest.raises(InvalidInput, match="was revoked or has expired"):
            tokens.rotate_token(session, "ann", 60)


def test_rotation_leaves_the_old_secret_a_while(database: Database) -> None:
    with database.session() as session:
        _, first = tokens.create_token(session, "ann", "search")
        second = tokens.rotate_token(session, "ann", 60, now=NOW)
        assert second != first
        for secret in (first, second):
            assert tokens.check_token(session, secret, now=after(59)) is not None
        assert tokens.check_token(session, first, now=after(60)) is None
        assert tokens.check_token(session, second, now=after(1e6)) is not None


def test_rotated_twice_only_the_last_two_hold(database: Database) -> None:
    with database.session() as session:
        _, first = tokens.create_token(session, "ann", "search")
        second = tokens.rotate_token(session, "ann", 60, now=NOW)
        third = tokens.rotate_token(session, "ann", 60, now=after(10))
        held = [tokens.check_token(session, secret, now=after(20)) is not None for secret in (first, second, third)]
        assert held == [False, True, True]
        last = tokens.rotate_token(session, "ann", 0, now=after(30))
        held = [tokens.check_token(session, secret, now=after(30)) is not None for secret in (third, last)]
        assert held == [False, True]


def test_the_grace_of_a_rotation_does_not_outlive_the_token(database: Database) -> None:
    with database.session() as session:
        _, first = tokens.create_token(session, "ann", "search", expires_at=after(30))
        second = tokens.rotate_token(session, "ann", 3600, now=NOW)
        for secret in (first, second):
            assert tokens.check_token(session, secret, now=after(31)) is None


def test_scope_device_names_one_device_and_no_other_does(database: Database) -> None:
    with database.session() as session:
        with pytest.raises(InvalidInput, match="scope device needs a device"):
            tokens.create_token(session, "pixel6", "device")
        with pytest.raises(InvalidInput, match="scope search has no device"):
            tokens.create_token(session, "ann", "search", "pixel6")
        assert tokens.list_tokens(session) == []


def test_unknown_names_are_told(database: Database) -> None:
    with database.session() as session:
        with pytest.raises(NotFound, match="no token 'ann'"):
            tokens.revoke_token(session, "ann")
        with pytest.raises(NotFound, match="milliseek tokens list"):
            tokens.rotate_token(session, "ann", 60)


def test_removing_a_device_revokes_its_tokens(database: Database) -> None:
    with database.session() as session:
        devices.upsert_device(session, "board-1", "agent", {})
        secrets = {
            name: tokens.create_token(session, name, "device", device)[1]
            for name, device in (("a", "board-1"), ("b", "board-1"), ("c", "board-2"))
        }
        devices.remove_device(session, "board-1")
        assert [name for name, secret in secrets.items() if tokens.check_token(session, secret)] == ["c"]
