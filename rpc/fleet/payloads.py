"""The files that jobs take and give."""

from __future__ import annotations

from sqlalchemy.orm import Session

from ...db.artefacts import ArtefactStore, record_artefact
from ...errors import NotFound, StorageError

PAYLOAD_KIND = "payload"


def keep_payload(store: ArtefactStore, data: bytes) -> str:
    """Store a file; its SHA-256, to be recorded with `record_payload`."""
    return store.put(data, PAYLOAD_KIND, durable=False)


def record_payload(session: Session, store: ArtefactStore, sha256: str, size_bytes: int) -> None:
    """Record a file that was stored a moment ago; StorageError if it was discarded since, as an old one's twin."""
    record_artefact(session, sha256, PAYLOAD_KIND, size_bytes)
    try:
        store.path(sha256)  # from the line above on nobody discards it
    except NotFound as error:
        raise StorageError(f"The file {sha256} was discarded while it was stored.", "Send it again.") from error
