"""A predictor: kernel models plus correction of one target, as data that any later version can read."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInput
from ..kernels.costs import weight_bytes
from ..kernels.kernel import Kernel
from ..results import KernelLatency, Prediction
from .correction import Correction
from .features import FEATURES, TERMS
from .forest import Forest
from .kernel_model import ANY_PATH, KernelModel, PathModel

FORMAT = 1
UNCOVERED_SPREAD = 0.5
"""A kernel without data may cost this share of its prediction more or less."""
_DAMAGE = (
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError),
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError),  # the last: encrypted, says zipfile
)
"""What reading bytes that are no predictor can raise."""


@dataclass(frozen=True)
class Predictor:
    """Predicts networks on `target`; `runtime_version` is the version of the runtime that was measured."""

    target: str
    runtime_version: str
    kernel_model: KernelModel
    correction: Correction

    def kernels_ms(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """(kernels,): each kernel's corrected share of a network's latency; they add up to it."""
        latency_ms, _ = self.kernel_model.predict(kernels)
        weights_mb = np.array([weight_bytes(kernel) / 1e6 for kernel in kernels])
        return self.correction.a * latency_ms + self.correction.b + self.correction.c * weights_mb

    def predict(self, kernels: Sequence[Kernel], name: str, notes: Sequence[str] = ()) -> Prediction:
        """Latency of a network from its kernels, repeated ones included, with interval and breakdown.

        `name` is what the prediction calls its predictor (`TARGET@VERSION`).
        """
        counts = Counter(kernels)
        unique = list(counts)
        times = np.array([counts[kernel] for kernel in unique])
        each_ms = self.kernels_ms(unique)
        _, covered = self.kernel_model.predict(unique)
        total_ms = float(each_ms @ times)
        uncovered = float((each_ms * times)[~covered].sum() / total_ms) if total_ms else 0.0
        below, above = self.correction.interval
        spread = uncovered * UNCOVERED_SPREAD
        order = np.argsort(-each_ms * times, kind="stable")
        breakdown = tuple(
            KernelLatency(unique[i].kind, unique[i].config, float(each_ms[i]), int(times[i]), bool(covered[i]))
            for i in order
        )
        interval = (total_ms * max(0.0, 1 - below - spread), total_ms * (1 + above + spread))
        return Prediction(self.target, name, total_ms, interval, uncovered, breakdown, tuple(notes))


def to_bytes(predictor: Predictor) -> bytes:
    """A NumPy archive: a JSON manifest and plain arrays, no code."""
    correction = predictor.correction
    manifest = {
        "format": FORMAT,
        "target": predictor.target,
        "runtime_version": predictor.runtime_version,
        "terms": TERMS,
        "features": FEATURES,
        "correction": [correction.a, correction.b, correction.c],
        "interval": correction.interval,
        "residuals": correction.residuals,
        "paths": [
            {"name": name, "samples": model.samples, "forest": model.forest is not None}
            for name, model in predictor.kernel_model.paths.items()
        ],
    }
    arrays = {"manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8)}
    for i, model in enumerate(predictor.kernel_model.paths.values()):
        arrays[f"{i}.coefficients"] = model.coefficients
        if model.forest is not None:
            arrays |= {f"{i}.forest.{key}": array for key, array in model.forest.arrays().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(data: bytes) -> Predictor:
    """Inverse of `to_bytes`; raises InvalidInput for anything that is not a predictor of this format."""
    try:
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
            paths[str(entry["name"])] = PathModel(coefficients, forest, int(entry["samples"]))
        if ANY_PATH not in paths:
            raise ValueError("the model for kernels without data is missing")
        a, b, c = map(float, manifest["correction"])
        below, above = map(float, manifest["interval"])
        correction = Correction(a, b, c, (below, above), tuple(map(float, manifest["residuals"])))
        return Predictor(str(manifest["target"]), str(manifest["runtime_version"]), KernelModel(paths), correction)
    except _DAMAGE as error:
        raise InvalidInput(f"The file is not a predictor: {error}.", "Profile the target again.") from error
