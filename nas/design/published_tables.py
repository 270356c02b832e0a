"""Block tables as SpaceEvo's authors published them: `stage{1..6}_{block}_{window}.csv`, in a folder or a zip file.

A row is a sub-stage (`kernel#width#expand` for each block, joined by `_`), the shape of its input (1 x channels x
height x width), its NSR, mega-MACs, mega-parameters, and milliseconds of INT8. The tables leave out stem, stage 0 and
head; their milliseconds come from a file beside the tables. Stages are drawn independently, as in the paper: the width
that leaves one is not the width that enters the next.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidInput
from ...spaces.hyperspace import Hyperspace
from ..quality.stage_quality import Cell
from .score_tables import CellRows

FIXED_FILE = "fixed_stage_ms.json"
"""{hyperspace: {resolution: ms of everything that the tables leave out}}."""
_COLUMNS = 6


class PublishedTables:
    """The published tables of one hyperspace; `fixed_ms` by resolution is added to every network.

    Raises InvalidInput for files that are no such tables, and for tables that lack a cell.
    """

    def __init__(self, hyperspace: Hyperspace, path: Path, fixed_ms: Mapping[int, float] | None = None) -> None:
        self.hyperspace = hyperspace
        self.path = path
        self.stages = tuple(range(1, len(hyperspace.stages)))
        self.widths = (1,) * (len(self.stages) + 1)
        self._rows = {}
        for s in self.stages:
            for block in range(len(hyperspace.blocks)):
                for window in range(len(hyperspace.stages[s].windows)):
                    name = f"stage{s}_{block}_{window}.csv"
                    for resolution, rows in self._parse(name, _read(path, hyperspace.name, name), s).items():
                        self._rows[Cell(s, block, window, resolution)] = rows
        self.resolutions = tuple(sorted({cell.resolution for cell in self._rows}))
        self.fixed_ms = _read_fixed_ms(hyperspace, path) if fixed_ms is None else fixed_ms
        self._check()

    @property
    def digest(self) -> dict[str, Any]:
        """What a study notes of them, to be resumed with the same ones."""
        total_ms = sum(float(rows.ms.sum()) for rows in self._rows.values())
        fixed_ms = {str(resolution): ms for resolution, ms in self.fixed_ms.items()}
        total_nsr = sum(float(rows.nsr.sum()) for rows in self._rows.values())
        return {
            "cells": len(self._rows),
            "total_ms": round(total_ms, 3),
            "total_nsr": round(total_nsr, 3),
            "fixed_ms": fixed_ms,
        }

    def rows(self, cell: Cell) -> CellRows:
        """Rows of a cell."""
        return self._rows[cell]

    def before_ms(self, resolution: int) -> np.ndarray:
        """Milliseconds (1,) of what the tables leave out; 0 where nobody said."""
        return np.array([self.fixed_ms.get(resolution, 0.0)])

    def behind_ms(self, resolution: int) -> np.ndarray:  # noqa: ARG002 - others depend on it
        """Nothing: (1,)."""
        return np.zeros(1)

    def _parse(self, name: str, text: str, s: int) -> dict[int, CellRows]:
        stride = self.hyperspace.stem_stride
        for stage in self.hyperspace.stages[:s]:
            stride *= stage.stride
        found = defaultdict(list)
        for line, row in enumerate(csv.reader(io.StringIO(text)), 1):
            try:
                if len(row) != _COLUMNS:
                    raise ValueError(f"{len(row)} columns instead of {_COLUMNS}")
                hw = int(row[1].split("x")[2])
                nsr, ms = float(row[2]), float(row[5])
                if not (np.isfinite(nsr) and nsr > 0 and np.isfinite(ms) and ms > 0):
                    raise ValueError("NSR and milliseconds must be positive numbers")
            except (ValueError, IndexError) as error:
                raise InvalidInput(
                    f"{self.path}: line {line} of {name} is no row of a block table: {error}."
                ) from error
            found[hw * stride].append((nsr, ms))
        if not found:
            raise InvalidInput(f"{self.path}: the table {name} is empty.", "Every cell needs rows.")
        cells = {}
        for resolution, pairs in found.items():
            nsrs, latencies = np.array(pairs).T
            cells[resolution] = CellRows(nsrs, latencies[None], np.zeros(len(pairs), int))
        return cells

    def _check(self) -> None:
        """Every cell needs rows at every resolution, and every resolution a time for the rest, unless none has."""
        for s, block, window, _ in list(self._rows):
            for resolution in self.resolutions:
                if Cell(s, block, window, resolution) not in self._rows:
                    raise InvalidInput(f"{self.path}: stage{s}_{block}_{window}.csv has no row at {resolution} pixels.")
        missing = [resolution for resolution in self.resolutions if resolution not in self.fixed_ms]
        if missing and self.fixed_ms:
            raise InvalidInput(
                f"The fixed stages of '{self.hyperspace.name}' have no milliseconds at {missing[0]} pixels.",
                f"Complete {FIXED_FILE} beside the tables.",
            )


def _read(path: Path, folder: str, name: str) -> str:
    """A file of the tables, which may lie in a folder named after the hyperspace."""
    try:
        if path.is_dir():
            for place in (path / folder / name, path / name):
                if place.is_file():
                    return place.read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(path) as archive:
                for member in (f"{folder}/{name}", name):
                    if member in archive.NameToInfo:
                        return archive.read(member).decode("utf-8")
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:  # RuntimeError: encrypted
        raise InvalidInput(f"{path} is no folder or zip file of block tables: {error}.", "Check the path.") from error
    raise InvalidInput(f"{path} has no table {name} of '{folder}'.", "Every stage, block and window needs one.")


def _read_fixed_ms(hyperspace: Hyperspace, path: Path) -> dict[int, float]:
    """What the file beside the tables says of a hyperspace; empty where there is none."""
    for place in (path / FIXED_FILE, path.parent / FIXED_FILE):
        if place.is_file():
            try:
                values = json.loads(place.read_text(encoding="utf-8")).get(hyperspace.name, {})
                return {int(resolution): float(ms) for resolution, ms in values.items()}
            except (ValueError, AttributeError, TypeError) as error:
                raise InvalidInput(
                    f"{place} does not say milliseconds by hyperspace and resolution: {error}."
                ) from error
    return {}
