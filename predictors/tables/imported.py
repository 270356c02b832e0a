"""Devices that are known from a table of whole-network latencies: reading, learning, storing, predicting."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...db.artefacts import save_artefact
from ...db.devices import find_device, find_target, upsert_device
from ...db.engine import Database
from ...db.predictors import add_predictor
from ...devices.target import LOCAL, Target
from ...errors import InvalidInput, NotFound
from ...kernels.costs import macs
from ...kernels.kernel import KernelUse
from ...kernels.operators.fusion import FUSIONS, Fusion, fused, usual_fusion
from ...results import Prediction
from ..models.kernel_model import KernelModel
from ..models.predictor import Predictor, to_bytes
from ..models.report import Report, TestedNetwork
from ..models.sum_model import SumModel
from ..networks.named import named_network
from ..targets import register_target
from .latency_rows import Fields, LatencyRow, read_rows
from .sums import SumFit, TimedNetwork, fit_sums, held_out_summary

IMPORTED = "imported"
"""The runtime, and the kind of device, of what was imported."""
MAX_PER_FAMILY = 300
"""Networks of one family that are learned from, drawn at random: more of a kind teach nothing."""
ODD = 100.0
"""A latency so many times off what the network's size lets expect, beside the others, has another unit."""
_ROW = fields_of(LatencyRow)
Aggregate = Literal["min", "median", "mean"]

OnProgress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class ImportedTable:
    """What an import made: the predictor, the rows of the table, how right it is on what it left out."""

    target: str
    predictor: str
    networks: int
    held_out: dict[str, Any]


def imported_target(name: str, precision: str) -> Target:
    """The target of an imported device; raises InvalidInput for a name that no device can have."""
    if name == LOCAL:
        raise InvalidInput("'local' is this machine, which can be measured.", "Import under another name.")
    return Target(name, IMPORTED, precision)


def import_table(
    database: Database,
    name: str,
    paths: Sequence[Path],
    fields: Fields,
    *,
    precision: str = "fp32",
    leave_out: str | None = None,
    aggregate: Aggregate | None = None,
    fusion: Fusion | Literal["learned"] | None = None,
    known: Sequence[str] = (),
    profiled: KernelModel | None = None,
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> ImportedTable:
    """Read tables, learn a predictor of `NAME/imported/PRECISION` from them, store both with where they came from.

    `leave_out` names a family that is kept out. Networks that occur more than once with different latencies are refused
    unless `aggregate` says what to make of them. `fusion` None takes what the names of device and column tell of the
    runtime, `learned` what does best on families left out. `profiled` models single kernels timed there or on a like
    device, and `provenance` says of it what is to be kept.
    With `known` imported devices a few networks are enough: theirs tell the rest. Raises InvalidInput, and stores
    nothing then.
    """
    target = imported_target(name, precision)
    with database.session(read_only=True) as session:
        device = find_device(session, name)
    if device is not None and "tables" not in device.facts:
        raise InvalidInput(
            f"'{name}' is a device of kind '{device.kind}', whose own measurements an import would mix with.",
            "Import under another name.",
        )
    table = _Table(seed, aggregate)
    if known:
        from .from_devices import fit_from_devices, known_devices

        rows = _rows(table, paths, fields, leave_out, on_progress)
        theirs = known_devices(database, known, precision, rows, on_progress)
        fit, networks, accuracy = fit_from_devices(theirs, rows, seed, on_progress)
        held_out = {"networks": {"networks": len(rows), **accuracy}, "from_devices": list(known)}
    else:
        fusions = fusions_of(fusion, name, fields)
        networks = _networks(_rows(table, paths, fields, leave_out, on_progress), paths, fusions, on_progress)
        fit = fit_sums(networks, profiled, on_progress)
        held_out = held_out_summary(fit, networks)
    source = {
        "files": [{"name": path.name, "sha256": _sha256(path)} for path in paths],
        "latency": fields.latency,
        "unit": fields.unit,
        "precision": precision,
        "networks": table.rows,
        **(provenance or {}),
        "left_out": leave_out,
        "aggregate": aggregate,
        "from_devices": list(known),
        "imported_at": datetime.now(UTC).isoformat(),
    }
    predictor = Predictor(str(target), IMPORTED, fit.model, fit.correction, _report(fit, networks, imported=not known))
    return _store(database, target, predictor, table, source, held_out)


def _store(
    database: Database,
    target: Target,
    predictor: Predictor,
    table: _Table,
    source: dict[str, Any],
    held_out: dict[str, Any],
) -> ImportedTable:
    with database.session() as session:
        source = {**source, "table": save_artefact(session, database.artefacts, table.packed(), "table")}
        device = find_device(session, target.device)
        tables = [*(device.facts.get("tables", []) if device is not None else []), source]
        device = upsert_device(session, target.device, IMPORTED, {"tables": tables})
        row = register_target(session, target, device, source)
        row.settings = source  # of the newest table
        made = add_predictor(
            session,
            row.id,
            runtime_version=IMPORTED,
            artefact_sha256=save_artefact(session, database.artefacts, to_bytes(predictor), "predictor"),
            held_out=held_out,
            kernels=source.get("kernels", 0),
            networks=table.rows,
        )
        name = f"{target}@{made.version}"
    return ImportedTable(str(target), name, table.rows, held_out["networks"])


def _report(fit: SumFit, networks: Sequence[TimedNetwork], *, imported: bool) -> Report:
    """The networks left out in turn; of expectations there is nothing to report."""
    pairs = zip(networks, fit.left_out_ms, strict=True) if imported else ()
    return Report(networks=tuple(TestedNetwork(n.name, n.latency_ms, float(ms)) for n, ms in pairs))


def stored_table(database: Database, target: Target) -> str:
    """SHA-256 of the newest table of an imported target; raises NotFound."""
    with database.session(read_only=True) as session:
        row = find_target(session, str(target))
        settings = row.settings if row is not None else {}
    if "table" not in settings:
        raise NotFound(f"{target} has no imported table.", f"Import one: milliseek devices import {target.device} FILE")
    return str(settings["table"])


def read_networks(
    paths: Sequence[Path],
    fields: Fields,
    *,
    aggregate: Aggregate | None = None,
    fusion: Fusion | Literal["learned"] | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> list[TimedNetwork]:
    """The networks that an import of these tables would learn from; raises what it raises."""
    rows = _rows(_Table(seed, aggregate), paths, fields, None, on_progress)
    return _networks(rows, paths, fusions_of(fusion, "", fields), on_progress)


def fusions_of(fusion: Fusion | Literal["learned"] | None, name: str, fields: Fields) -> tuple[Fusion, ...]:
    """The ways of fusing to try: one, or all if it is to be learned."""
    if fusion == "learned":
        return FUSIONS
    return (fusion or usual_fusion(name, fields.latency),)


def predict_operators(
    predictor: Predictor, uses: Sequence[KernelUse], name: str, notes: Sequence[str] = ()
) -> Prediction:
    """A network on an imported device, from its unfused operators."""
    model = predictor.kernel_model
    assert isinstance(model, SumModel)
    return predictor.predict(fused(uses, model.fusion), name, notes)


def _rows(
    table: _Table, paths: Sequence[Path], fields: Fields, left_out: str | None, on_progress: OnProgress
) -> list[LatencyRow]:
    for path in paths:
        for row in read_rows(path, fields):
            if row.family != left_out:
                table.add(row)
                on_progress("reading", table.rows, 0)
    if not (rows := table.chosen()):
        raise InvalidInput(
            f"No network of {', '.join(map(str, paths))} has a latency.", "Check --latency and --leave-out."
        )
    return rows


def _networks(
    rows: Sequence[LatencyRow], paths: Sequence[Path], fusions: Sequence[Fusion], on_progress: OnProgress
) -> list[TimedNetwork]:
    folders = {str(path): path.parent for path in paths}
    networks = []
    for i, row in enumerate(rows):
        on_progress("networks", i, len(rows))
        networks.append(_timed(row, folders[row.place.rpartition(":")[0]], fusions))
    _check_units(rows, networks)
    return networks


def _timed(row: LatencyRow, folder: Path, fusions: Sequence[Fusion]) -> TimedNetwork:
    try:
        return TimedNetwork.of(row.name, row.family, named_network(row.network, folder), row.latency_ms, fusions)
    except InvalidInput as error:
        raise InvalidInput(f"{row.place}: {error.message}", f"{error.remedy} Nothing was stored.") from error


class _Table:
    """Rows of a table of any length: all of them packed, of each family a random sample (reservoir: Vitter 1985)."""

    def __init__(self, seed: int, aggregate: Aggregate | None) -> None:
        self.rows = 0
        self._aggregate = aggregate
        self._seen: dict[int, float] = {}
        self._repeated: dict[int, list[float]] = {}
        self._samples: dict[str, list[LatencyRow]] = defaultdict(list)
        self._counts: Counter[str] = Counter()
        self._rng = np.random.default_rng(seed)
        self._buffer = io.BytesIO()
        self._file = _packing(self._buffer)

    def add(self, row: LatencyRow) -> None:
        """Take in a row; raises InvalidInput for a network that was there before with another latency."""
        digest = row.digest
        if (before := self._seen.get(digest)) is not None:
            if self._aggregate is None and before != row.latency_ms:
                raise InvalidInput(
                    f"{row.place}: the network '{row.name}' was there before with another latency, "
                    f"{before:.6g} ms and now {row.latency_ms:.6g} ms.",
                    "Say what to make of repeated networks: --aggregate min, median or mean. Nothing was stored.",
                )
            self._repeated.setdefault(digest, [before]).append(row.latency_ms)
            return
        self._seen[digest] = row.latency_ms
        self.rows += 1
        self._pack(row)
        self._counts[row.family] += 1
        sample = self._samples[row.family]
        if len(sample) < MAX_PER_FAMILY:
            sample.append(row)
        elif (place := int(self._rng.integers(self._counts[row.family]))) < MAX_PER_FAMILY:
            sample[place] = row

    def chosen(self) -> list[LatencyRow]:
        """The sample, family by family; repeated networks once."""
        return [self._combined(row) for sample in self._samples.values() for row in sample]

    def packed(self) -> bytes:
        """The whole table as JSON lines, gzip, repeated networks once; nothing can be added any more."""
        self._file.close()
        if not self._repeated:
            return self._buffer.getvalue()
        before, self._buffer = self._buffer, io.BytesIO()
        self._file = _packing(self._buffer)
        for content in _unpacked(before.getvalue()):
            self._pack(self._combined(LatencyRow(**content)))
        self._file.close()
        return self._buffer.getvalue()

    def _combined(self, row: LatencyRow) -> LatencyRow:
        if (repeated := self._repeated.get(row.digest)) is None:
            return row
        combine: Any = {"median": np.median, "mean": np.mean}.get(self._aggregate or "", min)
        return replace(row, latency_ms=float(combine(repeated)))

    def _pack(self, row: LatencyRow) -> None:
        kept = {field.name: value for field in _ROW if (value := getattr(row, field.name)) is not None}
        self._file.write(json.dumps(kept, separators=(",", ":")).encode() + b"\n")


def _packing(buffer: io.BytesIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0)


def _unpacked(data: bytes) -> Iterator[dict[str, Any]]:
    with gzip.open(io.BytesIO(data), "rt") as file:
        for line in file:
            yield json.loads(line)


def _check_units(rows: Sequence[LatencyRow], networks: Sequence[TimedNetwork]) -> None:
    """Raise InvalidInput for a latency that the other networks make impossible, as one in microseconds would be."""
    work = np.array([_size(next(iter(network.kernels.values()))) for network in networks])
    ratio = np.array([network.latency_ms for network in networks]) / work
    usual = float(np.median(ratio))
    for row, each in zip(rows, ratio / usual, strict=True):
        if not 1 / ODD <= each <= ODD:
            raise InvalidInput(
                f"{row.place}: {row.latency_ms:.6g} ms is {max(each, 1 / each):.0f} times "
                f"{'more' if each > 1 else 'less'} than the other networks let expect of '{row.name}'.",
                "Are the units mixed? Give all values in one. Nothing was stored.",
            )


def _size(kernels: Mapping[Any, int]) -> float:
    """Roughly what a network takes: multiply-accumulates, elements moved, and something for every kernel."""
    return math.fsum(
        times * (macs(kernel) + 10 * sum(spec.size for spec in kernel.outputs if spec is not None) + 1e5)
        for kernel, times in kernels.items()
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def stored_rows(database: Database, table_sha256: str) -> Iterable[dict[str, Any]]:
    """The rows of an imported table, as `LatencyRow`'s fields."""
    return _unpacked(database.artefacts.read(table_sha256))
