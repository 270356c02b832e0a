"""Network files on their way to a target: checked, sized, quantised where the target wants it, stored by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..db.artefacts import save_artefact
from ..db.engine import Database
from ..db.networks import find_model, get_or_create_model
from ..errors import NotFound
from ..kernels.onnx_file import check_model, fix_shapes, precision
from ..kernels.quantise import quantise_for_timing
from ..spaces.hyperspace import Hyperspace
from ..spaces.onnx_network import network_model, random_parameters
from ..spaces.space import Space, drawn_subnet
from .targets import LocalTarget

QUANTISED_NOTE = "fp32 file quantised with random calibration, for timing only"


@dataclass(frozen=True)
class PreparedModel:
    """A model in the form that a target runs; `sha256` names its bytes, `notes` tell what was changed."""

    data: bytes
    sha256: str
    notes: tuple[str, ...] = ()


def prepare(data: bytes, target: LocalTarget, name: str) -> PreparedModel:
    """The model as the target runs it; an fp32 file is quantised for an int8 target. Raises InvalidInput."""
    model = fix_shapes(check_model(data, name=name), name=name)
    fixed = model.SerializeToString()
    notes: tuple[str, ...] = ()
    if target.precision == "int8" and precision(model) == "fp32":
        fixed, notes = quantise_for_timing(fixed, target.weight_bits), (QUANTISED_NOTE,)
    return PreparedModel(fixed, hashlib.sha256(fixed).hexdigest(), notes)


def store_network(database: Database, data: bytes, name: str) -> str:
    """Check and keep a model file; returns its SHA-256."""
    check_model(data, name=name)
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, data, "model")
        get_or_create_model(session, sha256, format="onnx", name=name)
    return sha256


def load_network(database: Database, sha256: str) -> tuple[bytes, str]:
    """(bytes, name) of a stored model; raises NotFound."""
    with database.session(read_only=True) as session:
        model = find_model(session, sha256)
    if model is None:
        raise NotFound(f"No model with SHA-256 {sha256} was uploaded.", "Upload the file first.")
    return database.artefacts.read(sha256), model.name


def sample_networks(
    sources: Sequence[Hyperspace | Space], count: int, target: LocalTarget, rng: np.random.Generator
) -> list[tuple[str, bytes]]:
    """(name, ONNX file with random weights) of random subnets, in turn from each space or hyperspace."""
    found = []
    for i in range(count):
        subnet = drawn_subnet(sources[i % len(sources)], rng)
        network = subnet.network(subnet.space.hyperspace.nominal_classes)
        parameters = random_parameters(network.layers, target.weight_bits, seed=i)
        found.append((subnet.encoding, network_model(network, parameters, target.precision)))
    return found
