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
        staged = self.stage(data, kind, durable=durable)
        staged.publish()
        return staged.sha256

    def stage(self, data: bytes, kind: str, *, durable: bool = True) -> StagedArtefact:
        """The first half of `put`, for bytes that may yet turn out not to be wanted: `publish` them, or `discard`."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._locate(sha256)
        partial: Path | None = None
        with self._storing(kind, len(data)):
            if not (path.is_file() and path.read_bytes() == data):  # a damaged file is replaced
                partial = _write_partial(path, data, durable=durable)
        return StagedArtefact(self, data, sha256, kind, path, partial, durable)

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
    """Bytes that are on the disk, but not yet under their name; `partial` is None where they are already there."""

    store: ArtefactStore
    data: bytes
    sha256: str
    kind: str
    path: Path
    partial: Path | None
    durable: bool

    @property
    def size_bytes(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def publish(self) -> None:
        """Give the file its name; raises StorageError."""
        with self.store._storing(self.kind, self.size_bytes):
            partial = self.partial
            if partial is None:
                if self.path.is_file():
                    return
                partial = _write_partial(self.path, self.data, durable=self.durable)  # discarded in the meantime
            try:
                partial.replace(self.path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            if self.durable:
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)  # the new name must survive a power cut as well
                finally:
                    os.close(folder)

    def discard(self) -> None:
        """Delete the file, unless it was there before."""
        if self.partial is not None:
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
    return save_staged(session, store.stage(data, kind, durable=durable))


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


def _write_partial(path: Path, data: bytes, *, durable: bool) -> Path:
    """Write the bytes beside `path`, under a name of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: its files are for their owner only, and a store may be shared like any folder.
    partial = path.with_name(f".partial-{uuid.uuid4().hex}")
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
