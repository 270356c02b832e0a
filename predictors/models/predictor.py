"""A predictor: kernel models plus correction of one target, as data that any later version can read."""

from __future__ import annotations

import io
import json
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InvalidInput
from ...kernels.kernel import Kernel
from ...kernels.kernel_json import SPEC_REMEDY
from ...results import KernelLatencies, KernelLatency, Prediction
from .correction import Correction, NetworkSum, kernel_terms
from .features import FEATURES
from .forest import Forest
from .kernel_model import ANY_PATH, KernelModel, PathModel
from .physics import TERMS
from .report import Report
from .sum_model import SumModel

FORMAT = 3
MAX_SPEC_BYTES = 16 * 1024
"""Of one kernel in an answer; a spec is ASCII. Longer ones hold a subgraph or a tensor as an attribute."""
MAX_UNPACKED_BYTES = 1 << 30
"""Bytes of all arrays together; what says more is a bomb."""
_DAMAGE = (
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError),
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError),  # the last: encrypted, says zipfile
    *(SyntaxError, tokenize.TokenError),  # NumPy reads the header of an array as Python's literals
)
"""What reading bytes that are no predictor can raise."""


@dataclass(frozen=True)
class Predictor:
    """Predicts networks on `target`; `runtime_version` is the version of the runtime that was measured.

    `report` is what profiling found out about it; a prediction does not need it.
    """

    target: str
    runtime_version: str
    kernel_model: KernelModel | SumModel
    correction: Correction
    report: Report = field(default_factory=Report)

    def kernels_ms(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """(kernels,): each kernel's corrected share of a network's latency; they add up to it."""
        return self._corrected(kernels, self.kernel_model.predict(kernels).latency_ms)

    def _corrected(self, kernels: Sequence[Kernel], latency_ms: np.ndarray) -> np.ndarray:
        return np.asarray(kernel_terms(latency_ms, kernels) @ self.correction.coefficients)

    def predict(self, kernels: Sequence[Kernel], name: str, notes: Sequence[str] = ()) -> Prediction:
        """Latency of a network from its kernels, repeated ones included, with interval and breakdown.

        `name` is what the prediction calls its predictor (`TARGET@VERSION`).
        """
        counts = Counter(kernels)
        unique = list(counts)
        times = np.array([counts[kernel] for kernel in unique])
        found = self.kernel_model.predict(unique)
        each_ms, covered = self._corrected(unique, found.latency_ms), found.covered
        total_ms = float(each_ms @ times)
        uncovered = float((each_ms * times)[~covered].sum() / total_ms) if total_ms else 0.0
        network = NetworkSum.of(found, unique, [counts[kernel] for kernel in unique])
        below, above = self.correction.interval_at(network.spread)
        order = np.argsort(-each_ms * times, kind="stable")
        breakdown = tuple(
            _kernel_latency(unique[i], float(each_ms[i]), int(times[i]), covered=bool(covered[i])) for i in order
        )
        interval = (total_ms * (1 - below), total_ms * (1 + above))
        return Prediction(self.target, name, total_ms, interval, uncovered, breakdown, tuple(notes))

    def predict_each(self, kernels: Sequence[Kernel], name: str) -> KernelLatencies:
        """Latencies of single kernels, each its share of a network's; `name` as in `predict`.

        Raises InvalidInput for sizes that no device could have.
        """
        try:
            found = self.kernel_model.predict(kernels)
            each_ms = self._corrected(kernels, found.latency_ms)
        except ArithmeticError as error:
            raise InvalidInput(
                "The sizes of a kernel are beyond any device, or contradict each other.", SPEC_REMEDY
            ) from error
        if not np.isfinite(each_ms).all():
            raise InvalidInput("The sizes of a kernel are beyond any device.", SPEC_REMEDY)
        return KernelLatencies(
            tuple(
                _kernel_latency(kernel, float(ms), 1, covered=bool(covered))
                for kernel, ms, covered in zip(kernels, each_ms, found.covered, strict=True)
            ),
            name,
        )


def _kernel_latency(kernel: Kernel, latency_ms: float, count: int, *, covered: bool) -> KernelLatency:
    spec = kernel.to_json()
    return KernelLatency(
        kernel.kind, kernel.config, latency_ms, count, covered, spec if len(spec) <= MAX_SPEC_BYTES else ""
    )


def to_bytes(predictor: Predictor) -> bytes:
    """A NumPy archive: a JSON manifest and plain arrays, no code."""
    correction = predictor.correction
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "target": predictor.target,
        "runtime_version": predictor.runtime_version,
        "terms": TERMS,
        "features": FEATURES,
        "correction": correction.coefficients.tolist(),
        "interval": [correction.width, correction.usual_spread],
        "residuals": correction.residuals,
        "report": predictor.report.to_dict(),
    }
    arrays: dict[str, np.ndarray] = {}
    model = predictor.kernel_model
    if isinstance(model, SumModel):
        manifest["sums"] = model.to_dict()
        arrays["sums"] = model.coefficients
    if (kernel_model := model.profiled if isinstance(model, SumModel) else model) is not None:
        manifest["paths"] = [
            {
                "name": name,
                "samples": path.samples,
                "forest": path.forest is not None,
                "scale": path.scale,
                "offset_ms": path.offset_ms,
                "spread": path.spread,
            }
            for name, path in kernel_model.paths.items()
        ]
        for i, path in enumerate(kernel_model.paths.values()):
            arrays[f"{i}.coefficients"] = path.coefficients
            if path.forest is not None:
                arrays |= {f"{i}.forest.{key}": array for key, array in path.forest.arrays().items()}
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(data: bytes) -> Predictor:
    """Inverse of `to_bytes`; raises InvalidInput for anything that is not a predictor of this format."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            if sum(member.file_size for member in members.infolist()) > MAX_UNPACKED_BYTES:
                raise ValueError("its arrays are too large")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        manifest = json.loads(arrays["manifest"].tobytes())
        if manifest["format"] != FORMAT:
            raise InvalidInput(
                f"The predictor has format {manifest['format']}; this milliseek reads format {FORMAT}.",
                "Profile the target again, or use the milliseek that wrote it.",
            )
        if (tuple(manifest["terms"]), tuple(manifest["features"])) != (TERMS, FEATURES):
            raise InvalidInput("The predictor was fitted on other features.", "Profile the target again.")
        paths = _paths(manifest, arrays) if "paths" in manifest else None
        model = SumModel.from_dict(manifest["sums"], arrays["sums"], paths) if "sums" in manifest else paths
        if model is None:
            raise ValueError("there is no model in it")
        a, b, c, d = map(float, manifest["correction"])
        width, usual_spread = map(float, manifest["interval"])
        correction = Correction(a, b, c, d, width, usual_spread, tuple(map(float, manifest["residuals"])))
        report = Report.from_dict(manifest["report"])
        target, version = str(manifest["target"]), str(manifest["runtime_version"])
        return Predictor(target, version, model, correction, report)
    except _DAMAGE as error:
        raise InvalidInput(f"The file is not a predictor: {error}.", "Profile the target again.") from error


def _paths(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> KernelModel:
    paths = {}
    for i, entry in enumerate(manifest["paths"]):
        forest = None
        if entry["forest"]:
            prefix = f"{i}.forest."
            fields = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
            forest = Forest.from_arrays(fields, len(FEATURES))
        coefficients = arrays[f"{i}.coefficients"]
        if coefficients.shape != (len(TERMS),) or not np.isfinite(coefficients).all():
            raise ValueError("a path has no coefficient for each term")
        scale, offset_ms, spread = float(entry["scale"]), float(entry["offset_ms"]), float(entry["spread"])
        if not (math.isfinite(scale) and scale > 0 and math.isfinite(offset_ms) and 0 <= spread < math.inf):
            raise ValueError("a path is adapted by something that is no factor")
        samples = int(entry["samples"])
        paths[str(entry["name"])] = PathModel(coefficients, forest, samples, scale, offset_ms, spread)
    if ANY_PATH not in paths:
        raise ValueError("the model for kernels without data is missing")
    return KernelModel(paths)
