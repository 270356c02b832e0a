"""Stored predictors: one version or the newest of a target, loaded once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from ...db.devices import find_target, list_targets
from ...db.engine import Database
from ...db.models import Predictor as Row
from ...db.predictors import find_predictor, latest_predictor
from ...errors import NotFound, NotReady
from ..models.predictor import Predictor, from_bytes
from ..targets import parse_target

_VERSIONED = re.compile(r"(.+)@([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True)
class PredictorVersion:
    """A predictor as the database knows it: row, version number, held-out accuracy, when it was made (UTC)."""

    predictor: Predictor
    row_id: int
    version: int
    kernels: int
    networks: int
    held_out: dict[str, Any]
    created_at: datetime
    sha256: str

    @property
    def name(self) -> str:
        """`TARGET@VERSION`."""
        return f"{self.predictor.target}@{self.version}"


def predictor_version(database: Database, name: str) -> PredictorVersion:
    """The predictor `TARGET@VERSION`, or the newest one of `TARGET`.

    `...@3` may also be the target on core 3: where there is a version 3 without `@3`, that is meant. Raises what
    `newest_predictor` raises, and NotFound for a version that there is not.
    """
    if match := _VERSIONED.fullmatch(name):
        target, version = str(parse_target(match[1])), int(match[2])
        with database.session(read_only=True) as session:
            row = find_predictor(session, target, version)
            newest = latest_predictor(session, target)
            pinned = find_target(session, f"{target}@{version}")
        if row is not None:
            return _loaded(database, row)
        if newest is not None and pinned is None:
            raise NotFound(
                f"The predictor of {target} has no version {version}.", f"The newest is {target}@{newest.version}."
            )
    return newest_predictor(database, name)


def newest_predictor(database: Database, target: str) -> PredictorVersion:
    """The newest predictor of a target named by `target` (`local/...` allowed).

    Raises InvalidInput for a malformed name, NotFound for an unknown target, NotReady for one without a predictor.
    """
    parsed = parse_target(target)
    name = str(parsed)
    made_by = f"devices import {parsed.device} FILE" if parsed.runtime == "imported" else f"profile {target}"
    with database.session(read_only=True) as session:
        row = latest_predictor(session, name)
        if row is None:
            if find_target(session, name) is not None:
                raise NotReady(f"The target {name} has no predictor yet.", f"Make one: milliseek {made_by}")
            known = ", ".join(t.name for t in list_targets(session)) or "none"
            raise NotFound(f"The target {name} is not known; known targets: {known}.", f"Make it: milliseek {made_by}")
    return _loaded(database, row)


def _loaded(database: Database, row: Row) -> PredictorVersion:
    predictor = _load(str(database.artefacts.path(row.artefact_sha256)), row.artefact_sha256, database)
    return PredictorVersion(
        predictor,
        row.id,
        row.version,
        row.kernels,
        row.networks,
        row.held_out,
        row.created_at,
        row.artefact_sha256,
    )


@lru_cache(maxsize=16)
def _load(_path: str, sha256: str, database: Database) -> Predictor:
    return from_bytes(database.artefacts.read(sha256))
