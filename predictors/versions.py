"""Stored predictors: the newest of a target, loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..db.devices import find_target, list_targets
from ..db.engine import Database
from ..db.predictors import latest_predictor
from ..errors import NotFound, NotReady
from .predictor import Predictor, from_bytes
from .targets import parse_target


@dataclass(frozen=True)
class PredictorVersion:
    """A predictor as the database knows it: row, version number, held-out accuracy."""

    predictor: Predictor
    row_id: int
    version: int
    kernels: int
    networks: int

    @property
    def name(self) -> str:
        """`TARGET@VERSION`."""
        return f"{self.predictor.target}@{self.version}"


def newest_predictor(database: Database, target: str) -> PredictorVersion:
    """The newest predictor of a target named by `target` (`local/...` allowed).

    Raises InvalidInput for a malformed name, NotFound for an unknown target, NotReady for one without a predictor.
    """
    name = str(parse_target(target))
    with database.session(read_only=True) as session:
        row = latest_predictor(session, name)
        if row is None:
            if find_target(session, name) is not None:
                raise NotReady(f"The target {name} has no predictor yet.", f"Make one: milliseek profile {target}")
            known = ", ".join(t.name for t in list_targets(session)) or "none"
            raise NotFound(
                f"The target {name} is not known; known targets: {known}.", f"Make it: milliseek profile {target}"
            )
    predictor = _load(str(database.artefacts.path(row.artefact_sha256)), row.artefact_sha256, database)
    return PredictorVersion(predictor, row.id, row.version, row.kernels, row.networks)


@lru_cache(maxsize=16)
def _load(_path: str, sha256: str, database: Database) -> Predictor:
    return from_bytes(database.artefacts.read(sha256))
