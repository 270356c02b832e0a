"""Compiling a space for a target: every unique block predicted once, so that a subnet is a gather and a sum."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...db.artefacts import save_artefact
from ...db.engine import Database
from ...db.predictors import add_latency_table, find_latency_table
from ...results import LatencyTable
from ...spaces.codes import block_keys, block_layers
from ...spaces.groups import layer_groups
from ...spaces.space import Space, named_space
from ..networks.layer_kernels import layer_kernels
from ..networks.splitting import joined_operations
from ..stored.versions import PredictorVersion
from ..targets import device_target


def latency_table(
    database: Database,
    version: PredictorVersion,
    space_name: str,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> LatencyTable:
    """The table of a space or hyperspace for this predictor; compiled the first time, stored from then on.

    A block's latency is the sum of its kernels, corrected as in a network: the correction is linear, so block
    latencies add up to the network's.
    """
    source = named_space(space_name)
    space = source if isinstance(source, Space) else None
    hyperspace = source.hyperspace if isinstance(source, Space) else source
    keys = block_keys(hyperspace, space)
    columns = np.array(keys, np.int32)
    # Everything but the functions of the block types, whose addresses differ from run to run.
    shape = repr((replace(hyperspace, blocks=()), [block.name for block in hyperspace.blocks]))
    fingerprint = hashlib.sha256(shape.encode() + columns.tobytes()).hexdigest()
    with database.session(read_only=True) as session:
        stored = find_latency_table(session, version.row_id, space_name, fingerprint)
    if stored is not None:
        with np.load(io.BytesIO(database.artefacts.read(stored.artefact_sha256)), allow_pickle=False) as archive:
            return _table(space_name, version, columns, archive["latency_ms"])
    predictor = version.predictor
    target = device_target(database, predictor.target)
    joined = joined_operations(target)
    blocks = [layer_groups(block_layers(hyperspace, key), joined) for key in keys]
    kernels = layer_kernels(database, target, {group for block in blocks for group in block}, on_progress)
    unique = list({kernel: None for found in kernels.values() for kernel in found})
    kernel_ms = dict(zip(unique, predictor.kernels_ms(unique), strict=True))
    group_ms = {group: sum(kernel_ms[kernel] for kernel in found) for group, found in kernels.items()}
    latency_ms = np.array([sum(group_ms[group] for group in block) for block in blocks])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, latency_ms=latency_ms)
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, buffer.getvalue(), "latency table")
        add_latency_table(session, version.row_id, space_name, fingerprint, artefact_sha256=sha256, constant_ms=0.0)
    return _table(space_name, version, columns, latency_ms)


def _table(space_name: str, version: PredictorVersion, keys: np.ndarray, latency_ms: np.ndarray) -> LatencyTable:
    return LatencyTable(
        space=space_name,
        target=version.predictor.target,
        predictor=version.name,
        keys=keys,
        latency_ms=latency_ms,
        constant_ms=0.0,
        interval=version.predictor.correction.interval,
    )
