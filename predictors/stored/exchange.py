"""Predictors on their way between machines: one file with a manifest and the predictor's bytes, checked on arrival."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ... import __version__
from ...db.artefacts import save_artefact
from ...db.devices import find_device, get_target, upsert_device
from ...db.engine import Database
from ...db.models import Target as TargetRow
from ...db.predictors import add_predictor, list_predictors
from ...devices.facts import local_facts
from ...devices.target import LOCAL, Target, parse
from ...errors import InvalidInput, NotFound, StorageError
from ..models.predictor import from_bytes, to_bytes
from ..models.sum_model import SumModel
from ..targets import device_target, parse_target, register_target
from .versions import PredictorVersion, predictor_version

FILE_FORMAT = 1
MANIFEST, PREDICTOR = "manifest.json", "predictor.npz"
MAX_FILE_BYTES, MAX_MANIFEST_BYTES = 1 << 28, 1 << 20
MAX_COUNT = 2**31 - 1
MAX_TEXT = 200
ACCURACY = ("mape", "within_5", "within_10", "rmspe")
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, EOFError, RuntimeError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Imported:
    """The predictor version that a file became; `added` is False where the database had it already."""

    name: str
    added: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Manifest:
    target: str
    runtime_version: str
    facts: dict[str, Any]
    settings: dict[str, Any]
    sha256: str
    held_out: dict[str, Any]
    kernels: int
    networks: int
    created_at: datetime


def export_predictor(database: Database, name: str, path: Path) -> PredictorVersion:
    """Write the predictor `TARGET` or `TARGET@VERSION` to the new file `path`.

    Raises what `predictor_version` raises, InvalidInput if the file exists or the predictor was learned from a table,
    StorageError if it cannot be written.
    """
    version = predictor_version(database, name)
    if isinstance(version.predictor.kernel_model, SumModel):
        raise InvalidInput(
            f"{version.name} was learned from a table, without which nobody could tell where it comes from.",
            "Take the table there: milliseek devices import",
        )
    with database.session(read_only=True) as session:
        target = get_target(session, version.predictor.target)
        manifest = {
            "format": FILE_FORMAT,
            "milliseek": __version__,
            "target": target.name,
            "version": version.version,
            "runtime_version": version.predictor.runtime_version,
            "device": target.device.facts,
            "settings": target.settings,
            "sha256": version.sha256,
            "held_out": version.held_out,
            "kernels": version.kernels,
            "networks": version.networks,
            "created_at": version.created_at.isoformat(),
        }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        # Without times, so that the same predictor is the same file.
        file.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, indent=1, allow_nan=False))
        file.writestr(zipfile.ZipInfo(PREDICTOR), database.artefacts.read(version.sha256))
    _write_new(path, buffer.getvalue())
    return version


def import_predictor(database: Database, path: Path, as_target: str | None = None) -> Imported:
    """Add the predictor in an exported file as the newest version of its target, or of `as_target`, its twin.

    Device and target are registered where the database does not know them. Raises NotFound without a file,
    InvalidInput for a file that is not a whole exported predictor or for a twin of another runtime, precision or
    number of threads.
    """
    manifest, data = _read(path)
    predictor = from_bytes(data)
    if (predictor.target, predictor.runtime_version) != (manifest.target, manifest.runtime_version):
        raise _refused(path, "manifest and predictor name different targets")
    target = parse(manifest.target)
    if as_target is not None:
        target = _twin(target, as_target)
        predictor = replace(predictor, target=str(target))
        data = to_bytes(predictor)
    if target.device == local_facts().id:
        device_target(database, str(target))
    with database.session() as session:
        row = _registered(session, target, manifest)
        notes = _differences(manifest, row)
        sha256 = hashlib.sha256(data).hexdigest()
        for known in list_predictors(session, row.name):
            if known.artefact_sha256 == sha256:
                return Imported(f"{row.name}@{known.version}", False, notes)
        added = add_predictor(
            session,
            row.id,
            runtime_version=predictor.runtime_version,
            artefact_sha256=save_artefact(session, database.artefacts, data, "predictor"),
            held_out=manifest.held_out,
            kernels=manifest.kernels,
            networks=manifest.networks,
            created_at=manifest.created_at,
        )
        return Imported(f"{row.name}@{added.version}", True, notes)


def _twin(target: Target, text: str) -> Target:
    twin = parse_target(text)
    if replace(twin, device=target.device, cores=target.cores) != target:
        raise InvalidInput(
            f"A predictor of {target} cannot be used for '{text}'.",
            "A twin has the same runtime, precision and threads: " + str(replace(target, device=LOCAL, cores=None)),
        )
    return twin


def _registered(session: Session, target: Target, manifest: _Manifest) -> TargetRow:
    device = find_device(session, target.device) or upsert_device(session, target.device, "imported", manifest.facts)
    return register_target(session, target, device, manifest.settings)


def _differences(manifest: _Manifest, row: TargetRow) -> tuple[str, ...]:
    """What the machine of the file and the one that its predictor will be used for do not share."""
    ours, theirs = row.device.facts, manifest.facts
    notes = []
    if (ours.get("cpu_model"), ours.get("isa")) != (theirs["cpu_model"], theirs["isa"]):
        notes.append(f"It was made on another CPU: {theirs['cpu_model']}, not {ours.get('cpu_model')}.")
    installed = ours.get("runtimes", {}).get(row.runtime)
    if installed not in (None, manifest.runtime_version):
        notes.append(f"It was made with {row.runtime} {manifest.runtime_version}; {row.device.name} has {installed}.")
    if row.settings != manifest.settings:
        notes.append("It was made with other settings of the target.")
    return tuple(notes)


def _read(path: Path) -> tuple[_Manifest, bytes]:
    if not path.is_file():
        raise NotFound(f"There is no file '{path}'.", "Check the path.")
    try:
        if (size_bytes := path.stat().st_size) > MAX_FILE_BYTES:
            raise _refused(path, f"{size_bytes} bytes are too many")
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            if [member.filename for member in members] != [MANIFEST, PREDICTOR]:
                raise _refused(path, f"it holds something else than {MANIFEST} and {PREDICTOR}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise _refused(path, "it was packed again")  # and could unpack to any size
            if members[0].file_size > MAX_MANIFEST_BYTES:
                raise _refused(path, f"its manifest has {members[0].file_size} bytes")
            content, data = json.loads(file.read(MANIFEST)), file.read(PREDICTOR)
        if content["format"] != FILE_FORMAT:
            raise InvalidInput(
                f"{path} has format {content['format']}; this milliseek reads format {FILE_FORMAT}.",
                "Use the milliseek that wrote it, or profile the target here.",
            )
        manifest = _manifest(content)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    except _DAMAGE as error:
        raise _refused(path, str(error)) from error
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise _refused(path, "its SHA-256 is not the one of the manifest")
    return manifest, data


def _refused(path: Path, why: str) -> InvalidInput:
    return InvalidInput(f"{path} is not an exported predictor: {why}.", "Copy it again, or export it again.")


def _manifest(content: Mapping[str, Any]) -> _Manifest:
    """The manifest, each value checked: what comes in here is printed and computed with everywhere."""
    target = parse(content["target"])
    if str(target) != content["target"] or target.device == LOCAL:
        raise ValueError("its target is not a full name")
    device, created_at = content["device"], datetime.fromisoformat(content["created_at"])
    if created_at.tzinfo is None:
        raise ValueError("its date has no time zone")
    facts = {
        **{key: _text(device[key]) for key in ("cpu_model", "architecture", "os")},
        **{key: _count(device[key], 2**63 - 1) for key in ("cores", "memory_bytes")},
        "isa": [_text(flag) for flag in device["isa"]],
        "runtimes": {_text(name): _text(version) for name, version in device["runtimes"].items()},
    }
    held_out = _plain(dict(content["held_out"]))
    held_out.pop("measured_since", None)  # there, not here
    if (networks := held_out.get("networks")) and not all(isinstance(networks[f], int | float) for f in ACCURACY):
        raise ValueError("its accuracy is not told in numbers")
    return _Manifest(
        target=str(target),
        runtime_version=_text(content["runtime_version"]),
        facts=facts,
        settings=_plain(dict(content["settings"])),
        sha256=_text(content["sha256"]),
        held_out=held_out,
        kernels=_count(content["kernels"], MAX_COUNT),
        networks=_count(content["networks"], MAX_COUNT),
        created_at=created_at.astimezone(UTC),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError(f"{str(value)[:40]!r} is not a line of text")
    return value


def _count(value: object, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a count")
    return value


def _plain(value: Any) -> Any:
    """JSON whose texts are lines and whose numbers are finite."""
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    return _text(value) if isinstance(value, str) else value


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except BaseException:
                path.unlink()
                raise
    except FileExistsError as error:
        raise InvalidInput(f"{path} exists already; an export never overwrites.", "Choose another name.") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", "Choose another folder.") from error
