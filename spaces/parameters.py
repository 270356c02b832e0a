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


@dataclass(frozen=True)
class NetworkParameters:
    """All numbers of a network: `layers` by layer name, `quantisers` by `quantised_points` name plus `input`."""

    layers: Mapping[str, LayerParameters]
    quantisers: Mapping[str, Quantiser]
