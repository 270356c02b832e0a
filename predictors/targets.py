"""Targets of the devices that measure: parsed, registered, what a model must look like for them, and opened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from sqlalchemy.orm import Session

from ..db import devices as device_queries
from ..db.engine import Database
from ..db.models import Device
from ..db.models import Target as TargetRow
from ..devices.facts import DeviceFacts, local_facts, weight_bits
from ..devices.local import LocalDevice
from ..devices.measuring_device import MeasuringDevice
from ..devices.runtimes.runtime import get_runtime
from ..devices.target import Target, parse
from ..errors import InvalidInput, NotFound
from ..kernels.skeleton import Format
from ..spaces.onnx_network import Precision
from ..spaces.tflite_network import WEIGHT_BITS
from .remote import PATIENCE_S, RemoteDevice

Kind = Literal["local", "agent", "adb"]


@dataclass(frozen=True)
class DeviceTarget:
    """A target of a device that measures, known to the database as row `row_id`.

    `weight_bits`: bits of an int8 weight that compute exactly on its fast path: 7 for ONNX Runtime on x86 without VNNI.
    `kind`: this machine, an agent (or several of one model), or a phone behind adb.
    """

    target: Target
    row_id: int
    runtime_version: str
    weight_bits: int
    kind: Kind = "local"

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


def device_target(database: Database, text: str) -> DeviceTarget:
    """The target that `text` names, registered; its device is this machine, or a name or model of registered ones.

    Raises InvalidInput for a malformed name, a delegate or a precision that the device does not have, or devices of one
    model that differ, NotFound for a device that is unknown or does not measure, and for a runtime that it lacks.
    """
    target = parse_target(text)
    local = target.device == local_facts().id
    if target.precision not in ("fp32", "int8"):
        raise InvalidInput(f"'{text}' is not supported.", "Use fp32 or int8, as in local/onnxruntime/int8.")
    with database.session(read_only=True) as session:
        devices = [] if local else _measuring(session, target.device)
        row = device_queries.find_target(session, str(target))
    runtime = get_runtime(target.runtime)
    facts = local_facts() if local else _shared_facts(target, devices)
    kind = cast("Kind", "local" if local else devices[0].kind)
    if target.delegate is not None and kind != "adb":
        raise InvalidInput(f"'{text}' is not supported: delegates are for phones.", "Leave the delegate out.")
    version = runtime.version() if local else dict(facts.runtimes)[target.runtime]
    bits = weight_bits(facts) if target.runtime == "onnxruntime" else WEIGHT_BITS
    if local or row is None:
        with database.session() as session:
            device = register_local(session) if local else devices[0]
            row = register_target(session, target, device, {"weight_bits": bits})
    return DeviceTarget(target, row.id, version, bits, kind)


def open_device(database: Database, target: DeviceTarget, *, patience_s: float = PATIENCE_S) -> MeasuringDevice:
    """The device of a target, to be closed by the caller; one on the network may be away for `patience_s` seconds."""
    if target.kind == "agent":
        return RemoteDevice(database, target.target, target.runtime_version, patience_s=patience_s)
    if target.kind == "adb":
        from ..devices.phone.device import AdbDevice

        with database.session(read_only=True) as session:
            phone = _measuring(session, target.target.device)[0]
        return AdbDevice(target.target, **phone.facts["adb"])
    return LocalDevice(target.target)


def _measuring(session: Session, name: str) -> list[Device]:
    """The devices that measure for targets of `name`, their name or their model; NotFound if there is none."""
    found = [each for each in device_queries.devices_serving(session, name) if each.kind in ("agent", "adb")]
    if not found:
        known = ", ".join(each.name for each in device_queries.list_devices(session)) or "none"
        raise NotFound(
            f"'{name}' is not this machine, and no device that measures is called so; known devices: {known}.",
            "Connect it: milliseek agent --server HOST:PORT. This machine is 'local'.",
        )
    return found


def _shared_facts(target: Target, devices: list[Device]) -> DeviceFacts:
    """What devices of one model say about themselves: all must say the same of what decides kernels and latencies."""
    told = [_facts(device) for device in devices]
    for device, facts in zip(devices, told, strict=True):
        runtimes = dict(facts.runtimes)
        if target.runtime not in runtimes:
            has = ", ".join(f"{name} {version}" for name, version in runtimes.items()) or "none"
            raise NotFound(
                f"{device.name} has no runtime '{target.runtime}'; it has: {has}.",
                "Install it there and start its agent again.",
            )
        for what, ours, first in (
            ("CPU", facts.cpu_model, told[0].cpu_model),
            ("instruction sets", sorted(facts.isa), sorted(told[0].isa)),
            (target.runtime, runtimes[target.runtime], dict(told[0].runtimes)[target.runtime]),
        ):
            if ours != first:
                raise InvalidInput(
                    f"{devices[0].name} and {device.name} are not of one model: {what} {first} there, {ours} here.",
                    "Make them alike, name one of them in the target, or register one under another model.",
                )
    return told[0]


def _facts(device: Device) -> DeviceFacts:
    told = device.facts
    return DeviceFacts(
        id=device.name,
        cpu_model=told["cpu_model"],
        architecture=told["architecture"],
        isa=tuple(told["isa"]),
        cores=told["cores"],
        memory_bytes=told["memory_bytes"],
        os=told["os"],
        runtimes=tuple(told["runtimes"].items()),
    )
