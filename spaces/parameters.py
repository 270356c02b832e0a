"""Numbers of a trained network, layer by layer, in the form that files carry: batch norm folded, scales explicit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quantiser:
    """uint8 affine quantisation of one tensor: real = scale * (code - zero_point), code in 0..255."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class LayerParameters:
    """Weights of one `conv` or `linear` layer with batch norm folded in.

    `weight`: float32 (cout, cin / groups, kernel, kernel) or (classes, cin); `bias`: float32 (cout,);
    `weight_scale`: float32 (cout,), positive, or None where the network was not trained for INT8. The integer
    codes are round(weight / weight_scale), exact by construction for a network trained with fake quantisation.
    """

    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray | None = None

    def integers(self, name: str, input_scale: float) -> IntegerParameters:
        """The integers of layer `name` behind a tensor of this scale."""
        if self.weight_scale is None:
            raise AssertionError(f"{name}: no weight scale; the network was not trained for INT8")
        scale = self.weight_scale.astype(np.float32)
        column = scale.reshape(-1, *(1,) * (self.weight.ndim - 1))
        bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
        bias = np.rint(np.clip(self.bias / bias_scale, -(2**31) + 128, 2**31 - 129)).astype(np.int32)
        return IntegerParameters(np.rint(self.weight / column).astype(np.int8), scale, bias, bias_scale)


@dataclass(frozen=True)
class IntegerParameters:
    """Weights int8 in the shape of the float ones, bias int32 (cout,), and the float32 scales (cout,) of both."""

    weight: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray
    bias_scale: np.ndarray


@dataclass(frozen=True)
class NetworkParameters:
    """All numbers of a network: `layers` by layer name, `quantisers` by `quantised_points` name plus `input`.

    The classifier's name may have a quantiser too, the range of the logits: integers are all that TFLite's can give.
    """

    layers: Mapping[str, LayerParameters]
    quantisers: Mapping[str, Quantiser]
