"""Targets of this machine: parsed, registered, and what a model must look like for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from ..db import devices as device_queries
from ..db.engine import Database
from ..db.models import Device
from ..db.models import Target as TargetRow
from ..devices.facts import local_facts, weight_bits
from ..devices.runtime import get_runtime
from ..devices.target import Target, parse
from ..errors import InvalidInput, NotFound
from ..kernels.skeleton import Format
from ..spaces.onnx_network import Precision


@dataclass(frozen=True)
class LocalTarget:
    """A target on this machine, known to the database as row `row_id`.

    `weight_bits`: bits of an int8 weight that compute exactly on its fast path (7 on x86 without VNNI).
    """

    target: Target
    row_id: int
    runtime_version: str
    weight_bits: int

    @property
    def name(self) -> str:
        """Canonical name."""
        return str(self.target)

    @property
    def precision(self) -> Precision:
        """fp32 or int8."""
        return "int8" if self.target.precision == "int8" else "fp32"

    @property
    def format(self) -> Format:
        """The format of the files that its runtime takes."""
        return "tflite" if self.target.runtime == "litert" else "onnx"


def register_local(session: Session) -> Device:
    """Register this machine, or refresh what the database knows of it."""
    facts = local_facts()
    known = {key: value for key, value in asdict(facts).items() if key not in ("id", "runtimes")}
    known["runtimes"] = dict(facts.runtimes)
    return device_queries.upsert_device(session, facts.id, "local", known)


def register_target(session: Session, target: Target, device: Device, settings: dict[str, Any]) -> TargetRow:
    """The row of a target of this device, inserted if new; an existing one keeps its settings."""
    return device_queries.get_or_create_target(
        session,
        str(target),
        device_id=device.id,
        runtime=target.runtime,
        precision=target.precision,
        threads=target.threads,
        cores=",".join(map(str, target.cores)) if target.cores else None,
        settings=settings,
    )


def parse_target(text: str) -> Target:
    """A target's name with `local` resolved to this machine; raises InvalidInput for a malformed one."""
    return parse(text, local_facts().id)


def local_target(database: Database, text: str) -> LocalTarget:
    """The target of this machine that `text` names, registered with its device.

    Raises InvalidInput for a malformed name, a delegate or a precision that this machine does not have, NotFound for
    another machine or an unknown runtime.
    """
    target = parse_target(text)
    facts = local_facts()
    if target.device != facts.id:
        raise NotFound(f"The device of '{text}' is not this machine.", f"This machine is 'local', or '{facts.id}'.")
    version = get_runtime(target.runtime).version()
    if target.delegate is not None or target.precision not in ("fp32", "int8"):
        raise InvalidInput(
            f"'{text}' is not supported on this machine.", "Use fp32 or int8, as in local/onnxruntime/int8."
        )
    bits = weight_bits(facts)
    with database.session() as session:
        device = register_local(session)
        row = register_target(session, target, device, {"weight_bits": bits})
    return LocalTarget(target, row.id, version, bits)
