"""The store of large artefacts: files named by the SHA-256 of their bytes, and their rows in the database."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..errors import InvalidInput, NotFound, StorageError
from .conflicts import insert_row
from .models import Artefact

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = {
    errno.ENOSPC: "Free some space and try again.",
    errno.EDQUOT: "Free some space in your quota and try again.",
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`) and try again.",
}


class ArtefactStore:
    """Files under `root`/ab/abcdef..., written once, never changed; safe for many processes at once.

    Every method that takes a SHA-256 raises InvalidInput for text that is none: it may come from the network,
    and becomes a path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes, kind: str, *, durable: bool = True) -> str:
        """Store `data` and return its SHA-256; storing the same bytes twice costs one file.

        The file appears complete or not at all. If it need not be `durable`, as it is easily made again, a power cut in
        the first seconds may damage it, which `read` will notice. `kind` says what it is, for the message of the
        StorageError raised when the disk is full or read-only.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._is_whole(sha256, data, kind):
            self._stage(data, kind, durable, sha256).publish()
        return sha256

    def stage(self, data: bytes, kind: str, *, durable: bool = True) -> StagedArtefact:
        """The first half of `put`, for bytes that may yet turn out not to be wanted: `publish` them, or `discard`."""
        return self._stage(data, kind, durable)

    def holds(self, sha256: str) -> bool:
        """Whether the file of an artefact is there."""
        return self._locate(sha256).is_file()

    def path(self, sha256: str) -> Path:
        """The file of an artefact; NotFound if it is not there."""
        path = self._locate(sha256)
        if not path.is_file():
            raise NotFound(
                f"The artefact {sha256} is missing from {self.root}.",
                "Restore the folder from your backup, or make the artefact again.",
            )
        return path

    def read(self, sha256: str) -> bytes:
        """The bytes of an artefact; StorageError if they are no longer those that were stored."""
        path = self.path(sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StorageError(
                f"{path} is damaged: its SHA-256 is not its name.",
                "Restore it from your backup, or delete it and make the artefact again.",
            )
        return data

    def discard(self, sha256: str) -> None:
        """Delete an artefact's file if it is there, after `forget_artefact`.

        Before that is committed, where the same bytes may come again: who stores them waits for the commit.
        """
        self._locate(sha256).unlink(missing_ok=True)

    def _stage(self, data: bytes, kind: str, durable: bool, sha256: str | None = None) -> StagedArtefact:
        with self._storing(kind, len(data)):
            return StagedArtefact(self, data, kind, durable, _write_partial(self.root, data, durable=durable), sha256)

    def _is_whole(self, sha256: str, data: bytes, kind: str) -> bool:
        """Whether the file is there and undamaged."""
        path = self._locate(sha256)
        with self._storing(kind, len(data)):
            return path.is_file() and path.read_bytes() == data

    @contextmanager
    def _storing(self, kind: str, size_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The {kind} of {size_bytes} bytes cannot be stored in {self.root}: {error.strerror}.",
                _REMEDY.get(error.errno or 0, "Make the folder writable, or name another one with --db."),
            ) from error

    def _locate(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput(f"'{sha256[:80]}' is not a SHA-256.", "Give 64 lower-case hexadecimal digits.")
        return self.root / sha256[:2] / sha256


@dataclass(frozen=True)
class StagedArtefact:
    """Bytes that are on the disk, in the file `partial`, but not yet under their name."""

    store: ArtefactStore
    data: bytes
    kind: str
    durable: bool
    partial: Path
    known_sha256: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The name that the file will have; hashing takes longer than writing, so it is left to whoever needs it."""
        return self.known_sha256 or hashlib.sha256(self.data).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def publish(self) -> None:
        """Give the file its name, in place of a damaged one that has it; raises StorageError."""
        path = self.store._locate(self.sha256)
        with self.store._storing(self.kind, self.size_bytes):
            try:
                if not self.store._is_whole(self.sha256, self.data, self.kind):
                    path.parent.mkdir(exist_ok=True)
                    self.partial.replace(path)
            finally:
                self.discard()  # what has its name now is not touched
            if self.durable:
                for folder in (path.parent, self.store.root):  # the new names must survive a power cut as well
                    _sync(folder)

    def discard(self) -> None:
        """Delete the file."""
        self.partial.unlink(missing_ok=True)


def record_artefact(session: Session, sha256: str, kind: str, size_bytes: int) -> Artefact:
    """The row of a stored artefact, inserted if it is new; until the session ends nobody else can forget it."""
    query = select(Artefact).where(Artefact.sha256 == sha256).with_for_update(read=True, key_share=True)
    return insert_row(
        session,
        lambda: Artefact(sha256=sha256, kind=kind, size_bytes=size_bytes),
        lambda: session.scalars(query).one_or_none(),
    )


def save_artefact(session: Session, store: ArtefactStore, data: bytes, kind: str, *, durable: bool = True) -> str:
    """Store `data` (see `ArtefactStore.put`) and record its row; returns the SHA-256.

    If the session fails later, the file stays, unreferenced and harmless.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    if not store._is_whole(sha256, data, kind):
        return save_staged(session, store._stage(data, kind, durable, sha256))
    record_artefact(session, sha256, kind, len(data))
    return store.put(data, kind, durable=durable)  # it was there, and may have been discarded in the meantime


def save_staged(session: Session, staged: StagedArtefact) -> str:
    """Record what was staged and give it its name, in this order: once it is recorded, nobody discards the file."""
    try:
        record_artefact(session, staged.sha256, staged.kind, staged.size_bytes)
    except BaseException:
        staged.discard()
        raise
    staged.publish()
    return staged.sha256


def forget_artefact(session: Session, sha256: str) -> bool:
    """Delete the row of an artefact that nothing refers to; False (and no change) if something does.

    For artefacts that replace each other, such as checkpoints: write the new one, then forget the old one.
    """
    session.flush()
    try:
        with session.begin_nested():
            session.execute(delete(Artefact).where(Artefact.sha256 == sha256))
    except IntegrityError:
        return False
    return True


def _write_partial(root: Path, data: bytes, *, durable: bool) -> Path:
    """Write the bytes into the folder, under a name of their own."""
    root.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: its files are for their owner only, and a store may be shared like any folder.
    partial = root / f".partial-{uuid.uuid4().hex}"
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
