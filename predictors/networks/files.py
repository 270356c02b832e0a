"""Network files on their way to a target: checked, sized, converted and quantised where the target wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...db.artefacts import StagedArtefact, save_artefact, save_staged
from ...db.engine import Database
from ...db.networks import find_model, get_or_create_model
from ...devices.runtimes.runtime import ZEROS
from ...errors import InvalidInput, NotFound
from ...kernels.convert import onnx_to_tflite, quantise_tflite_for_timing
from ...kernels.onnx.file import check_model, fix_shapes, precision
from ...kernels.onnx.hollow import hollow_model
from ...kernels.onnx.quantise import quantise_for_timing
from ...kernels.prior import PriorNetwork
from ...kernels.skeleton import Format
from ...kernels.tflite.file import check_tflite, fix_tflite_shapes, is_tflite, tflite_precision
from ...spaces.hyperspace import Hyperspace
from ...spaces.onnx_network import Precision, network_model, random_parameters
from ...spaces.space import Space, drawn_subnet
from ...spaces.tflite_network import tflite_model
from ..conversions import converted

QUANTISED_NOTE = "fp32 file quantised with random calibration, for timing only"
CONVERTED_NOTE = "converted from ONNX to TFLite"

Shapes = Mapping[str, tuple[int, ...]]


class Form(Protocol):
    """What decides how a target wants its files; targets have it."""

    @property
    def format(self) -> Format:
        """The format of the files that its runtime takes."""

    @property
    def precision(self) -> Precision:
        """fp32 or int8."""

    @property
    def weight_bits(self) -> int:
        """Bits of an int8 weight: 7 or 8."""


@dataclass(frozen=True)
class ModelForm:
    """The form alone, without a target."""

    format: Format
    precision: Precision
    weight_bits: int

    @staticmethod
    def of(form: Form) -> ModelForm:
        """The form of a target."""
        return ModelForm(form.format, form.precision, form.weight_bits)

    def to_dict(self) -> dict[str, Any]:
        """Fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class PreparedModel:
    """A model in the form that a target runs; `notes` tell what was changed.

    `kept` is what the database keeps of it: the same bytes, or the skeleton of a published network, whose random
    weights are not worth keeping.
    """

    data: bytes
    notes: tuple[str, ...] = ()
    skeleton: bytes | None = None

    @property
    def kept(self) -> bytes:
        """The bytes that stand for the model in the database."""
        return self.data if self.skeleton is None else self.skeleton


@dataclass(frozen=True)
class Outline:
    """What of an ONNX file decides its kernels: a hollow model (`kernels.onnx_hollow`) with fixed input shapes."""

    data: bytes
    precision: str

    def runs_on(self, target: Form) -> bool:
        """Whether the target runs the file as it is, neither converted nor quantised."""
        return target.format == "onnx" and (target.precision == "fp32" or self.precision == "int8")


def model_format(data: bytes) -> Format:
    """`tflite` for what bears the mark of TFLite, else `onnx`; nothing is checked."""
    return "tflite" if is_tflite(data) else "onnx"


def model_precision(data: bytes, name: str) -> str:
    """fp32 or int8: what a file is; raises InvalidInput."""
    if is_tflite(data):
        return tflite_precision(check_tflite(data, name=name))
    return precision(check_model(data, name=name))


def with_shapes(data: bytes, shapes: Shapes, name: str) -> bytes:
    """A checked copy with fixed input shapes; raises InvalidInput."""
    if is_tflite(data):
        return fix_tflite_shapes(check_tflite(data, name=name), shapes, name=name)
    return fix_shapes(check_model(data, name=name), shapes, name=name).SerializeToString()


def prepare(cache: Path, data: bytes, target: Form, name: str) -> PreparedModel:
    """The model as the target runs it.

    An ONNX file is converted for a TFLite runtime, an fp32 file quantised for an int8 target; both are remembered
    in the folder `cache` (`conversions.cache_folder`). Raises InvalidInput.
    """
    notes: list[str] = []
    if is_tflite(data):
        if target.format != "tflite":
            raise InvalidInput(
                f"{name} is a TFLite file, which a runtime of ONNX files does not run.",
                "Give an ONNX file, or a target such as local/litert/fp32.",
            )
        fixed = fix_tflite_shapes(check_tflite(data, name=name), {}, name=name)
    else:
        model = fix_shapes(check_model(data, name=name), name=name)
        fixed = model.SerializeToString()
        if target.format == "onnx":
            if target.precision == "int8" and precision(model) == "fp32":
                bits = target.weight_bits
                quantised = converted(cache, fixed, f"{bits}bit.onnx", lambda data: quantise_for_timing(data, bits))
                return PreparedModel(quantised, (QUANTISED_NOTE,))
            return PreparedModel(fixed)
        if precision(model) == "int8":
            raise InvalidInput(
                f"{name} is a quantised ONNX file, which cannot be converted to TFLite.", "Give the fp32 file."
            )
        fixed = converted(cache, fixed, "fp32.tflite", onnx_to_tflite)
        notes.append(CONVERTED_NOTE)
    if target.precision == "int8" and tflite_precision(fixed) == "fp32":
        fixed = converted(cache, fixed, "int8.tflite", quantise_tflite_for_timing)
        notes.append(QUANTISED_NOTE)
    return PreparedModel(fixed, tuple(notes))


def prepare_prior(network: PriorNetwork) -> PreparedModel:
    """A published network of the sampling prior, with random weights."""
    return PreparedModel(network.model(), skeleton=network.skeleton)


def outline(data: bytes, name: str) -> Outline | None:
    """Check a model file from end to end; what of it decides its kernels, None for a TFLite file.

    Raises InvalidInput for a file that cannot be predicted or measured: damaged, hostile, or without input shapes.
    """
    if is_tflite(data):
        fix_tflite_shapes(check_tflite(data, name=name), {}, name=name)
        return None
    model = fix_shapes(hollow_model(check_model(data, name=name), ZEROS), name=name)
    return Outline(model.SerializeToString(), precision(model))


def store_network(database: Database, data: bytes, name: str) -> str:
    """Check and keep a model file; returns its SHA-256."""
    outline(data, name)
    return keep_network(database, data, name, model_format(data))


def keep_network(database: Database, data: bytes, name: str, form: str) -> str:
    """Keep a file that was checked, or a skeleton; returns its SHA-256."""
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, data, "model", durable=False)
        get_or_create_model(session, sha256, format=form, name=name)
    return sha256


def stage_network(database: Database, data: bytes) -> StagedArtefact:
    """Write a file that is still being checked."""
    return database.artefacts.stage(data, "model", durable=False)


def keep_staged(database: Database, staged: StagedArtefact, name: str, form: str) -> str:
    """Keep a file that was checked meanwhile; returns its SHA-256."""
    with database.session() as session:
        sha256 = save_staged(session, staged)
        get_or_create_model(session, sha256, format=form, name=name)
    return sha256


def store_prepared(database: Database, model: PreparedModel, name: str) -> str:
    """Keep a model that is being measured; returns the SHA-256 under which its measurements are stored."""
    if model.skeleton is not None:
        return keep_network(database, model.skeleton, name, f"{model_format(model.data)}-skeleton")
    return store_network(database, model.data, name)


def load_network(database: Database, sha256: str) -> tuple[bytes, str]:
    """(bytes, name) of a stored model; raises NotFound."""
    with database.session(read_only=True) as session:
        model = find_model(session, sha256)
    if model is None:
        raise NotFound(f"No model with SHA-256 {sha256} was uploaded.", "Upload the file first.")
    return database.artefacts.read(sha256), model.name


def sample_networks(
    sources: Sequence[Hyperspace | Space], count: int, target: Form, rng: np.random.Generator
) -> list[tuple[str, PreparedModel]]:
    """(name, file with random weights) of random subnets, in turn from each space or hyperspace."""
    found = []
    write = tflite_model if target.format == "tflite" else network_model
    for i in range(count):
        subnet = drawn_subnet(sources[i % len(sources)], rng)
        network = subnet.network(subnet.space.hyperspace.nominal_classes)
        parameters = random_parameters(network.layers, target.weight_bits, seed=i)
        found.append((subnet.encoding, PreparedModel(write(network, parameters, target.precision))))
    return found
