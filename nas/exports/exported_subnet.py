"""An exported file: what is known of it, as its metadata and its model card tell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ... import __version__
from ...results import Prediction
from ...spaces.space import Subnet
from ..pictures.data import Pictures
from .export import FileForm
from .fine_tuning import FineTuning


@dataclass(frozen=True)
class FileLatency:
    """Predicted and measured time of a file on a target; `prediction` is None where the target has no predictor.

    `disturbed`: no visit of the measurement found the device quiet.
    """

    target: str
    prediction: Prediction | None
    measured_ms: float
    disturbed: bool


@dataclass(frozen=True)
class Provenance:
    """Where a file comes from: trial of a study, supernet, bits of its int8 weights, SHA-256 of the pictures."""

    study: str
    trial: int
    supernet: str
    weight_bits: int
    data: str
    fine_tuning: FineTuning | None = None


@dataclass(frozen=True)
class ExportedSubnet:
    """A file made from a subnet.

    Top-1 are shares of the test pictures: `top1` of the file in its runtime, `top1_network` of what was trained, in the
    file's precision and training's arithmetic, `top1_fake_quant` of that in int8 (None where it has no quantisers).
    What is found out last comes last: while the file is being made, it has no latencies, and no bytes yet.
    """

    subnet: Subnet
    form: FileForm
    provenance: Provenance
    path: Path
    top1: float
    top1_network: float
    top1_fake_quant: float | None
    latencies: tuple[FileLatency, ...] = ()
    sha256: str = ""
    size_bytes: int = 0

    @property
    def trial(self) -> int:
        """The trial of the study."""
        return self.provenance.trial

    @property
    def card(self) -> Path:
        """The model card beside the file."""
        return self.path.with_name(f"{self.path.name}.md")


def metadata(export: ExportedSubnet, pictures: Pictures) -> dict[str, str]:
    """What a file says of itself: texts by name, JSON but for the subnet's and the study's names."""
    provenance, size = export.provenance, export.subnet.resolution
    network_input = {
        "layout": "NCHW" if export.form.format == "onnx" else "NHWC",
        "channels": "RGB",
        "picture_size": [pictures.size, pictures.size],
        "picture_resize": "bilinear, of Pillow",
        "scale": "pixel / 255",
        "mean": pictures.mean,
        "std": pictures.std,
        "resize": "bilinear without antialiasing, half-pixel centres",
        "size": [size, size],
    }
    accuracy = {key: getattr(export, key) for key in ("top1", "top1_network", "top1_fake_quant")}
    latency = {
        each.target: {
            "predicted_ms": each.prediction.latency_ms if each.prediction else None,
            "measured_ms": each.measured_ms,
        }
        for each in export.latencies
    }
    return {
        "milliseek.subnet": export.subnet.encoding,
        "milliseek.study": f"{provenance.study}:{provenance.trial}",
        "milliseek.classes": json.dumps(pictures.classes),
        "milliseek.input": json.dumps(network_input),
        "milliseek.provenance": json.dumps({"milliseek": __version__, "form": str(export.form), **asdict(provenance)}),
        "milliseek.accuracy": json.dumps({"pictures": len(pictures.test), **accuracy}),
        "milliseek.latency": json.dumps(latency),
    }
