"""Two agents in environments of their own: what registers, and how right the predictors made through them are.

`board-ort` has onnxruntime and numpy 2, `board-tfl` has tflite-runtime 2.14 (wheels for Python 3.11) and numpy 1.26;
neither has what the service needs. Both run on this machine: let nothing else run on it.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import report
from fleet import Fleet, fleet, installed, models, versions, wheel

from milliseek.spaces.onnx_network import Precision

ENVIRONMENTS = {
    "board-ort": ("onnxruntime",),
    "board-tfl": ("tflite-runtime==2.14.0", "numpy==1.26.4"),
}
TARGETS: tuple[tuple[str, str, Precision], ...] = (
    ("board-ort", "onnxruntime", "fp32"),
    ("board-tfl", "litert", "fp32"),
    ("board-tfl", "litert", "int8"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the environments here, and use them if they are there")
    parser.add_argument("--budget", default="60s", help="of each profile")
    parser.add_argument("--networks", type=int, default=6, help="to evaluate on each target")
    options = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        parser.error("tflite-runtime 2.14.0 has wheels for Python 3.11 only.")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        built = wheel(scratch)
        kept = (options.folder or scratch).resolve()
        pythons = {name: installed(kept / name, built, *packages) for name, packages in ENVIRONMENTS.items()}
        service = stack.enter_context(fleet(scratch))
        known = {name: stack.enter_context(service.agent(name, python)) for name, python in pythons.items()}
        agents = {
            name: {
                "runtimes": known[name]["facts"]["runtimes"],
                "versions": versions(python, ["numpy", *(each.partition("==")[0] for each in ENVIRONMENTS[name])]),
            }
            for name, python in pythons.items()
        }
        targets = [
            _through(service, "/".join(target), models(scratch, *target[1:], options.networks), options.budget)
            for target in TARGETS
        ]
    report("two_agents", {"python": platform.python_version(), "agents": agents, "targets": targets})


def _through(service: Fleet, target: str, files: list[Path], budget: str) -> dict[str, Any]:
    """Profile a target; predict a file through the service; compare all with what they then take."""
    began = time.monotonic()
    profiled = service.milliseek("profile", target, "--budget", budget, "--space", "tiny32")
    predicted = service.milliseek("predict", files[0], "--target", target, "--server", service.address)
    evaluated = service.milliseek("evaluate", *files, "--target", target, tries=5)
    held_out = profiled["held_out"]
    return {
        "target": target,
        "predictor": profiled["predictor"],
        "kernels": profiled["kernels"],
        "networks": profiled["networks"],
        "profile_seconds": profiled["seconds"],
        "held_out": held_out,
        "predicted": {key: predicted[key] for key in ("latency_ms", "interval_ms", "uncovered", "notes")},
        "evaluated": evaluated,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
