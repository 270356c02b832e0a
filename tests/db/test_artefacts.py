"""The artefact store: content-addressed, all or nothing, verified when read."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from milliseek.db.artefacts import ArtefactStore, forget_artefact, record_artefact, save_artefact, save_staged
from milliseek.db.engine import Database
from milliseek.db.models import Artefact
from milliseek.errors import InvalidInput, NotFound, StorageError


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(tmp_path / "artefacts")


def files(store: ArtefactStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("data", [b"", b"weights", bytes(1_000_000)])
def test_what_was_put_is_read(store: ArtefactStore, data: bytes) -> None:
    sha256 = store.put(data, "predictor")
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert store.read(sha256) == data
    assert store.path(sha256) == store.root / sha256[:2] / sha256


def test_same_bytes_are_one_file_written_once(store: ArtefactStore) -> None:
    path = store.path(store.put(b"weights", "predictor"))
    before = path.stat().st_mtime_ns
    store.put(b"weights", "onnx")
    assert files(store) == [path]
    assert path.stat().st_mtime_ns == before


def test_missing_artefact(store: ArtefactStore) -> None:
    with pytest.raises(NotFound, match=f"{'a' * 64} is missing"):
        store.path("a" * 64)


def test_damaged_artefact_is_noticed_and_healed_by_the_next_put(store: ArtefactStore) -> None:
    sha256 = store.put(b"weights", "predictor")
    store.path(sha256).write_bytes(b"weighty")
    with pytest.raises(StorageError, match="is damaged"):
        store.read(sha256)
    store.put(b"weights", "predictor")
    assert store.read(sha256) == b"weights"


def test_artefacts_are_as_readable_as_other_files(store: ArtefactStore, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    path = store.path(store.put(b"weights", "predictor"))
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("text", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "a/" * 32])
def test_only_hashes_become_paths(store: ArtefactStore, text: str) -> None:
    for use in (store.path, store.read, store.discard):
        with pytest.raises(InvalidInput, match="not a SHA-256"):
            use(text)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "writable"), (errno.EACCES, "writable")],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_nothing(
    store: ArtefactStore, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
        with pytest.raises(StorageError, match=rf"predictor of 7 bytes .*{os.strerror(code)}.*{remedy}"):
            store.put(b"weights", "predictor")
    assert files(store) == []
    store.put(b"weights", "predictor")


def test_what_is_easily_made_again_is_not_waited_for(store: ArtefactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("waits for the disk"))
    sha256 = store.put(b"upload", "model", durable=False)
    assert store.read(sha256) == b"upload"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        ArtefactStore(tmp_path / "file" / "artefacts").put(b"weights", "predictor")


def test_recording_twice_is_recording_once(database: Database) -> None:
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, b"weights", "predictor")
        record_artefact(session, sha256, "predictor", 7)
    with database.session(read_only=True) as session:
        row = session.scalars(select(Artefact)).one()
    assert (row.sha256, row.kind, row.size_bytes) == (sha256, "predictor", 7)


def test_only_what_nothing_refers_to_is_forgotten(stock, database: Database) -> None:
    used = stock.model
    with database.session() as session:
        unused = save_artefact(session, database.artefacts, b"old checkpoint", "checkpoint")
        assert forget_artefact(session, unused)
        assert not forget_artefact(session, used)
    database.artefacts.discard(unused)
    database.artefacts.discard(unused)
    with pytest.raises(NotFound):
        database.artefacts.path(unused)
    assert database.artefacts.read(used) == b"network"


def test_what_is_stored_again_while_it_is_discarded_is_there(database: Database) -> None:
    store = database.artefacts

    def store_again() -> str:
        with database.session() as session:
            return save_staged(session, staged)

    with database.session() as session:
        save_artefact(session, store, b"payload", "payload", durable=False)
    staged = store.stage(b"payload", "payload", durable=False)
    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            assert forget_artefact(session, staged.sha256)
            store.discard(staged.sha256)
            again = pool.submit(store_again)
        sha256 = again.result()
    assert store.read(sha256) == b"payload"
    with database.session(read_only=True) as session:
        assert session.get(Artefact, sha256) is not None
