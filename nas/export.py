"""Exports: a subnet as an INT8 ONNX file that carries the trained scales, checked against the trained network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import MeasurementError, StorageError
from ..spaces.onnx_network import Precision, network_model
from ..spaces.space import Subnet
from .data import Pictures, SplitName, plain_batches, resize
from .deploy import network_parameters
from .evaluation import predictions, recalibrate
from .supernet import Supernet

TOLERANCE = 0.005
"""Difference between the file's and the network's top-1 that is always accepted."""
CHANCE = 3.0
"""So many standard deviations of what rounding explains are accepted too.

Runtime and training round halves of a code differently, which turns pictures near a class boundary either way: d
pictures with another answer change the share of right ones by sqrt(d) / n, if nothing else is wrong.
"""


@dataclass(frozen=True)
class CheckedModel:
    """An ONNX file and its accuracy on the test pictures: in the runtime, and of the trained network itself."""

    data: bytes
    top1: float
    top1_fake_quant: float


def build(
    supernet: Supernet,
    subnet: Subnet,
    pictures: Pictures,
    calibration: list[tuple[torch.Tensor, torch.Tensor]],
    precision: Precision = "int8",
    metadata: Mapping[str, str] | None = None,
) -> CheckedModel:
    """The file of a subnet, run picture by picture in ONNX Runtime and compared with the trained network.

    Raises MeasurementError where validation and test pictures together differ by more than `TOLERANCE` and by more than
    rounding explains (`CHANCE`).
    """
    statistics = recalibrate(supernet, subnet, calibration)
    parameters = network_parameters(supernet, subnet, statistics)
    network = subnet.network(supernet.classes)
    properties = {**_preprocessing(subnet, pictures), **(metadata or {})}
    data = network_model(network, parameters, precision, properties)
    changed = 0
    right: dict[SplitName, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("val", "test"):
        labels = pictures.split(split).labels
        trained = predictions(supernet, subnet, statistics, pictures, split).argmax(1).numpy()
        answers = file_predictions(data, pictures, split, subnet.resolution)
        right[split] = (answers == labels, trained == labels)
        changed += int((answers != trained).sum())
    both = [np.concatenate(found) for found in zip(*right.values(), strict=True)]
    if abs(both[0].mean() - both[1].mean()) > max(TOLERANCE, CHANCE * changed**0.5 / len(both[0])):
        raise MeasurementError(
            f"The file of {subnet.encoding} reaches {both[0].mean():.2%} top-1 in ONNX Runtime, the trained network "
            f"{both[1].mean():.2%}: further apart than rounding explains.",
            "The runtime computes something else than was trained; please report it with your CPU model.",
        )
    file_right, trained_right = right["test"]
    return CheckedModel(data, float(file_right.mean()), float(trained_right.mean()))


def file_predictions(data: bytes, pictures: Pictures, split: SplitName, resolution: int) -> np.ndarray:
    """Classes (pictures,) that an exported file gives in ONNX Runtime for a split, one picture at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = (resize(x, resolution).contiguous().numpy() for x, _ in plain_batches(pictures, split, 256))
    logits = (session.run(None, {name: picture[None]})[0] for batch in batches for picture in batch)
    return np.array([int(found.argmax()) for found in logits])


def write_file(path: Path, data: bytes) -> Path:
    """Write `path` completely or not at all; raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as partial:
            try:
                partial.write(data)
                partial.flush()
            except OSError:
                Path(partial.name).unlink()
                raise
        Path(partial.name).chmod(0o644)
        Path(partial.name).replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}.", "Free some space, or choose another folder with --out."
        ) from error
    return path


def _preprocessing(subnet: Subnet, pictures: Pictures) -> dict[str, str]:
    """How a picture becomes the file's input, for whoever runs it: ONNX metadata holds strings."""
    return {
        "milliseek.subnet": subnet.encoding,
        "milliseek.classes": json.dumps(pictures.classes),
        "milliseek.input": json.dumps(
            {
                "layout": "NCHW",
                "channels": "RGB",
                "size": [subnet.resolution, subnet.resolution],
                "resize": "bilinear without antialiasing",
                "scale": "pixel / 255",
                "mean": pictures.mean,
                "std": pictures.std,
            }
        ),
    }
