"""Tables of whole-network latencies: JSON lines or CSV, gzip or not, read row by row and checked."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ...errors import InvalidInput
from ...kernels.operators.nasbench201 import is_cell
from ...spaces.space import SPACE_PATTERN

Unit = Literal["ms", "us"]
IN_MS: dict[Unit, float] = {"ms": 1.0, "us": 1e-3}
NETWORK_FIELDS = ("graph", "network", "model", "name", "arch", "file", "path")
FASTEST_MS, SLOWEST_MS = 1e-3, 3.6e6
"""No network takes less than a microsecond or more than an hour: such a value has another unit."""
MAX_LINE_BYTES = 1 << 24
_DAMAGE = (OSError, EOFError, zlib.error, UnicodeDecodeError)


@dataclass(frozen=True)
class Fields:
    """Where in a row things are: names of columns, or paths into JSON objects with dots.

    `network` None takes the first of NETWORK_FIELDS that a row has; `zoo` (`timm` or `pytorchcv`) is where plain names
    of networks belong, `resolution` that of their pictures where the name does not say it. `spread` and `runs` are None
    where the table has none.
    """

    latency: str
    unit: Unit = "ms"
    network: str | None = None
    family: str = "family"
    spread: str | None = None
    runs: str | None = None
    zoo: str | None = None
    resolution: int | None = None


@dataclass(frozen=True)
class LatencyRow:
    """A network and its latency; `written` is what the table says of the network, as JSON.

    Kept as text: parsed, the operators of many networks would take ten times the memory.
    """

    place: str
    name: str
    family: str
    written: str
    latency_ms: float
    spread_ms: float | None = None
    runs: int | None = None

    @property
    def network(self) -> Any:
        """A list of operators, or a text that names the network."""
        return json.loads(self.written)

    @cached_property
    def digest(self) -> int:
        """Equal for equal networks; 63 bits, so that a million of them need little memory."""
        return int.from_bytes(hashlib.sha256(self.written.encode()).digest()[:8], "big") >> 1


def read_rows(path: Path, fields: Fields) -> Iterator[LatencyRow]:
    """The rows of one file, one at a time; rows of networks that were not measured there are left out.

    Not measured means that the latency is a path into an object (`latency_ms.pixel4`) and this object is there, but has
    no such key. Raises InvalidInput, naming file, line and reason, for anything else that is no positive number of
    milliseconds or microseconds, and for a row without a network.
    """
    for line, row in lines(path):
        place = f"{path}:{line}"
        value, known = _find(row, fields.latency)
        if not known:
            if isinstance(row, dict) and "." in fields.latency and fields.latency not in row:
                parent, there = _find(row, fields.latency.rpartition(".")[0])
                if there and isinstance(parent, dict):
                    continue
            fields_there = ", ".join(map(str, list(row)[:12])) if isinstance(row, dict) else type(row).__name__
            raise _refused(place, f"there is no latency '{fields.latency}'", f"The row has: {fields_there}.")
        latency_ms = positive(place, fields.latency, value) * IN_MS[fields.unit]
        if not FASTEST_MS <= latency_ms <= SLOWEST_MS:
            raise _refused(place, f"{value} {fields.unit} is no latency of a network", "Give --unit ms or --unit us.")
        network = _network(place, row, fields)
        spread = _optional(place, row, fields.spread)
        runs = _optional(place, row, fields.runs)
        name = _name(row, network, line)
        family, given = _find(row, fields.family)
        yield LatencyRow(
            place,
            name,
            str(family) if given and family not in (None, "") else _family(name),
            json.dumps(network, sort_keys=True, separators=(",", ":")),
            latency_ms,
            None if spread is None else spread * IN_MS[fields.unit],
            None if runs is None else int(runs),
        )


def keys_of(paths: Sequence[Path], field: str) -> list[str]:
    """`FIELD.KEY` for every key of the JSON object `field` in any row, in the order in which they come."""
    found: dict[str, None] = {}
    for path in paths:
        for _, row in lines(path):
            value, _ = _find(row, field)
            found.update(dict.fromkeys(f"{field}.{key}" for key in value) if isinstance(value, dict) else {})
    return list(found)


def lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of a file; a row of JSON is whatever the line holds, of CSV a dictionary."""
    if not path.is_file():
        raise InvalidInput(f"There is no file '{path}'.", "Check the path.")
    opener = gzip.open if path.suffix == ".gz" else open
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    number = 0
    try:
        with opener(path, "rb") as file:
            text = io.TextIOWrapper(io.BufferedReader(_Bounded(file)), "utf-8-sig", newline="")
            if plain.suffix == ".csv":
                yield from _csv_rows(path, text)
                return
            for number, line in enumerate(text, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:  # also numbers of too many digits
                    raise _refused(f"{path}:{number}", f"it is no JSON: {error}", "Give one object a line.") from error
    except _DAMAGE as error:
        raise _refused(f"{path}:{number + 1}", f"it cannot be read: {error}", "Copy the file again.") from error


def _csv_rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _refused(f"{path}:{reader.line_num}", "it has not as many cells as the first line", "Mend it.")
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise _refused(f"{path}:{reader.line_num}", f"it is no CSV: {error}", "Mend it.") from error
    except _DAMAGE as error:
        raise _refused(
            f"{path}:{reader.line_num + 1}", f"it cannot be read: {error}", "Copy the file again."
        ) from error


class _Bounded(io.RawIOBase):
    """A stream that refuses a line of more than MAX_LINE_BYTES, so that rubbish cannot fill the memory."""

    def __init__(self, file: Any) -> None:
        self._file, self._since = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        end = data.rfind(b"\n")
        self._since = len(data) - end - 1 if end >= 0 else self._since + len(data)
        if self._since > MAX_LINE_BYTES:
            raise OSError(f"a line is longer than {MAX_LINE_BYTES >> 20} MiB")
        buffer[: len(data)] = data
        return len(data)


def _find(row: Any, field: str) -> tuple[Any, bool]:
    """(value, whether it is there): the column of that name, else the path with dots."""
    if isinstance(row, dict) and field in row:
        return row[field], True
    head, dot, rest = field.partition(".")
    while dot:
        if isinstance(row, dict) and head in row:
            return _find(row[head], rest)
        middle, dot, rest = rest.partition(".")
        head = f"{head}.{middle}"
    return None, False


def positive(place: str, field: str, value: Any) -> float:
    """The number of a cell; raises InvalidInput for anything that is no positive, finite number."""
    number = _number(value)
    if number is None:
        shown = "missing" if value in (None, "") else f"{str(value)[:50]!r}, which is no number"
        raise _refused(place, f"'{field}' is {shown}", "Every row needs a latency.")
    if number <= 0:
        raise _refused(place, f"'{field}' is {value}, which is not positive", "Leave failed measurements out.")
    return number


def _optional(place: str, row: Any, field: str | None) -> float | None:
    if field is None:
        return None
    value, known = _find(row, field)
    if not known or value in (None, ""):
        return None
    number = _number(value)
    if number is None or number < 0:
        raise _refused(place, f"'{field}' is {value!r}, which is no spread and no count", "Mend it.")
    return number


def _number(value: Any) -> float | None:
    """What a cell says, None if that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _network(place: str, row: Any, fields: Fields) -> Any:
    names = [fields.network] if fields.network else NETWORK_FIELDS
    for name in names:
        value, known = _find(row, name)
        if known and isinstance(value, list | str) and value:
            if isinstance(value, str) and fields.zoo and re.fullmatch(r"[\w@]+", value):
                size = f"@{fields.resolution}" if fields.resolution and "@" not in value else ""
                return f"{fields.zoo}:{value}{size}"
            return value
    raise _refused(place, f"there is no network in {' or '.join(map(repr, names))}", "Name its column with --network.")


def _name(row: Mapping[str, Any], network: Any, line: int) -> str:
    for field in ("id", "name", "model"):
        if isinstance(row.get(field), str) and row[field]:
            return str(row[field])[:200]
    return str(network)[:200] if isinstance(network, str) else f"row {line}"


def _family(name: str) -> str:
    """The name up to its first digit or underscore: `mobilenet` of `mobilenetv2_w1`; of a subnet, its space."""
    if is_cell(name):
        return "nasbench201"
    prefix, _, base = name.partition(":")
    if base and SPACE_PATTERN.fullmatch(prefix):
        return prefix
    base = base or name
    base = Path(base).stem if "/" in base or base.endswith((".onnx", ".tflite")) else base
    match = re.match(r"[a-z]+", base.lower())
    word = match[0] if match else base
    return re.sub(r"(?<=.{3})v$", "", word)


def _refused(place: str, reason: str, remedy: str) -> InvalidInput:
    return InvalidInput(f"{place}: {reason}.", f"{remedy} Nothing was stored.")
