"""Predicts model files on a target: python predict.py HOST:PORT TARGET FILE...

The token, if the service asks for one, comes from MILLISEEK_TOKEN.
"""

import sys
from pathlib import Path

from milliseek import Client
from milliseek.errors import MilliseekError


def main(address: str, target: str, *files: str) -> None:
    """Upload each file, predict all of them, and show where the time of the first one goes."""
    with Client(address) as client:
        predictions = client.predict_many(map(Path, files), target)
        for file, prediction in zip(files, predictions, strict=True):
            low, high = prediction.interval_ms
            print(f"{file}: {prediction.latency_ms:.3f} ms (90 %: {low:.3f} to {high:.3f}), {prediction.predictor}")
        first = predictions[0]
        slowest = max(first.kernels, key=lambda kernel: kernel.count * kernel.latency_ms)
        share = slowest.count * slowest.latency_ms / first.latency_ms
        print(f"{share:.0%} of {files[0]} are {slowest.count} x {slowest.kind} {slowest.config}")
        # A kernel can be asked for by itself, here or on another target of the same runtime.
        if slowest.spec:
            (alone,) = client.predict_kernels([slowest.spec], target).kernels
            print(f"one of them: {alone.latency_ms:.3f} ms")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except MilliseekError as error:
        sys.exit(str(error))
