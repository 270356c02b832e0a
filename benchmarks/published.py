"""Export one published architecture, with random weights, as ONNX or TFLite: timm's names, or pytorchcv's as cv_NAME.

`@SIZE` behind the name is the resolution, 224 without. Needs timm, pytorchcv and `milliseek[search,tflite]`.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from milliseek.kernels.architectures import build_architecture


def build(name: str) -> tuple[Any, Any]:
    """The module, ready for inference, and one random input (1, 3, size, size)."""
    import torch

    architecture, _, size = name.partition("@")
    package = "pytorchcv" if architecture.startswith("cv_") else "timm"
    torch.manual_seed(0)
    module, (height, width) = build_architecture(f"{package}:{architecture.removeprefix('cv_')}@{size or 224}")
    image = torch.randn(1, 3, height, width)
    _settle(module, torch.randn(2, *image.shape[1:]))
    return module.eval(), image


def _settle(module: Any, images: Any) -> None:
    """Give the batch normalisations the statistics of these random weights, so that activations keep their size.

    Scales that training starts at 0, to begin with the identity, become 1: a converter may drop what they multiply.
    """
    import torch

    for layer in module.modules():
        scale = getattr(layer, "weight", None)
        if scale is not None and scale.ndim == 1 and not scale.any():
            torch.nn.init.ones_(scale)
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        module.train()(images)


def export(name: str, path: Path) -> None:
    """Write the network to `path`; its suffix, .onnx or .tflite, tells the format."""
    module, image = build(name)
    written = path.with_suffix(f".part{path.suffix}")
    if path.suffix == ".onnx":
        import torch

        torch.onnx.export(module, (image,), str(written), dynamo=False, opset_version=17)
    else:
        import litert_torch

        litert_torch.convert(module, (image,)).export(str(written))
    written.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="for example mobilenetv2_100, resnet18@160 or cv_shufflenetv2_w1")
    parser.add_argument("path", type=Path, help="FILE.onnx or FILE.tflite")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    export(options.name, options.path)


if __name__ == "__main__":
    main()
