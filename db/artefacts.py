"""The store of large artefacts: files named by the SHA-256 of their bytes, and their rows in the database."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from pathlib import Path

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..errors import InvalidInput, NotFound, StorageError
from .conflicts import get_or_create
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
        path = self._locate(sha256)
        try:
            if not (path.is_file() and path.read_bytes() == data):  # a damaged file is replaced
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_atomically(path, data, durable=durable)
        except OSError as error:
            raise StorageError(
                f"The {kind} of {len(data)} bytes cannot be stored in {self.root}: {error.strerror}.",
                _REMEDY.get(error.errno or 0, "Make the folder writable, or name another one with --db."),
            ) from error
        return sha256

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
        """Delete an artefact's file if it is there; call it after `forget_artefact` is committed."""
        self._locate(sha256).unlink(missing_ok=True)

    def _locate(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput(f"'{sha256[:80]}' is not a SHA-256.", "Give 64 lower-case hexadecimal digits.")
        return self.root / sha256[:2] / sha256


def record_artefact(session: Session, sha256: str, kind: str, size_bytes: int) -> Artefact:
    """The row of a stored artefact, inserted if it is new."""
    return get_or_create(session, Artefact, {"sha256": sha256}, {"kind": kind, "size_bytes": size_bytes})


def save_artefact(session: Session, store: ArtefactStore, data: bytes, kind: str, *, durable: bool = True) -> str:
    """Store `data` (see `ArtefactStore.put`) and record its row; returns the SHA-256.

    If the session fails later, the file stays, unreferenced and harmless.
    """
    sha256 = store.put(data, kind, durable=durable)
    record_artefact(session, sha256, kind, len(data))
    return sha256


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


def _write_atomically(path: Path, data: bytes, *, durable: bool) -> None:
    # Not tempfile's: its files are for their owner only, and a store may be shared like any folder.
    partial = path.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name must survive a power cut as well
    finally:
        os.close(folder)
