"""Which targets measure which files of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...client import Client
from ...db import studies as queries
from ...db.engine import Database
from ...devices.target import Target
from ...errors import InvalidInput, NotReady
from ...kernels.skeleton import Format
from ...predictors.targets import DeviceTarget, device_target, parse_target
from .export import FileForm

RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "tflite": "litert"}


def export_targets(
    database: Database, client: Client, study: str, forms: Sequence[FileForm], asked: Sequence[str] = ()
) -> list[DeviceTarget]:
    """The targets asked for, and for every form that none of them takes the study's device with that runtime.

    Raises InvalidInput for a target that takes none of the forms, NotReady for one without a predictor, and what
    `device_target` raises.
    """
    targets = [device_target(database, name) for name in dict.fromkeys(asked)]
    predictable = predictable_targets(client)
    for target in targets:
        if FileForm.of(target) not in forms:
            raise InvalidInput(
                f"{target.name} takes files of the form {FileForm.of(target)}; those of this export are "
                f"{', '.join(map(str, forms))}.",
                "Leave the target out, or choose its form with --format and --precision.",
            )
        if target.name not in predictable:
            raise NotReady(f"{target.name} has no predictor.", f"Make one: milliseek profile {target.name}")
    taken = {FileForm.of(target) for target in targets}
    searched = _searched_target(database, study)
    return targets + [
        device_target(database, str(_sibling(searched, form))) for form in dict.fromkeys(forms) if form not in taken
    ]


def predictable_targets(client: Client) -> frozenset[str]:
    """Names of the targets that have a predictor."""
    return frozenset(info.name for info in client.targets())


def _searched_target(database: Database, study: str) -> Target:
    """The target that the study was made for."""
    with database.session(read_only=True) as session:
        return parse_target(queries.get_study(session, study).config["target"])


def _sibling(target: Target, form: FileForm) -> Target:
    """The same device and threads, with the runtime and precision of a form."""
    runtime = RUNTIMES[form.format]
    delegate = target.delegate if runtime == target.runtime else None
    return replace(target, runtime=runtime, precision=form.precision, delegate=delegate)
