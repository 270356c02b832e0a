"""The numbers of a trained subnet as files carry them: batch norm folded in, integer codes times scales."""

from __future__ import annotations

import torch
from torch import Tensor

from ...spaces.elastic import NORM_EPSILON, Statistics
from ...spaces.layers import INPUT, Layer, quantised_points
from ...spaces.parameters import LayerParameters, NetworkParameters, Quantiser
from ...spaces.space import Subnet
from ..training.supernet import Supernet

LARGEST_BIAS_CODE = 2**30
"""Runtimes hold biases as int32 codes of scale input x weight; this leaves half of that for the sum of products."""


def logits_quantiser(logits: Tensor) -> Quantiser:
    """Quantiser of the logits, observed on pictures: (pictures, classes).

    Training leaves logits in floating point, as ONNX files do. TFLite's integer product has codes for a result, which
    are chosen here to hold the smallest and largest logit observed, and a tenth of their distance beyond each.
    """
    low, high = (float(bound) for bound in torch.aminmax(logits))
    margin = (high - low) / 10
    low, high = min(0.0, low - margin), max(0.0, high + margin, 1e-3)
    scale = (high - low) / 255
    return Quantiser(scale, round(-low / scale))


@torch.no_grad()
def network_parameters(supernet: Supernet, subnet: Subnet, statistics: Statistics) -> NetworkParameters:
    """Parameters of a subnet under its own `statistics` (`evaluation.recalibrate`).

    Quantising a weight w per output channel with scale s and normalising afterwards equals quantising the folded
    weight w g / sigma with scale s |g| / sigma: the codes stay, with flipped signs where the gain g is negative.
    A supernet without quantisers gives float weights, no weight scales and no quantisers.
    """
    network = subnet.network(supernet.classes)
    quantisers: dict[str, Quantiser] = {}
    if supernet.quantised:
        points = [INPUT, *(point for layer in network.layers for point in quantised_points(layer))]
        quantisers = {point: supernet.quantisation.quantiser(point) for point in points}
    layers = {
        layer.name: _layer_parameters(supernet, layer, statistics, quantisers)
        for layer in network.layers
        if layer.op in ("conv", "linear")
    }
    return NetworkParameters(layers, quantisers)


def _layer_parameters(
    supernet: Supernet, layer: Layer, statistics: Statistics, quantisers: dict[str, Quantiser]
) -> LayerParameters:
    part = supernet.elastic.part(layer.name)
    weight, bias = part.slice(layer), part.bias[: layer.cout]
    factor = torch.ones(layer.cout)
    if part.norm:
        mean, variance = statistics.values[layer.name]
        factor = part.gain[: layer.cout] * torch.rsqrt(variance + NORM_EPSILON)
        bias = bias - mean * factor
    if not supernet.quantised:
        return LayerParameters((weight * _per_channel(factor, weight)).numpy(), bias.clone().numpy())
    codes, scale = supernet.quantisation.weight_codes(layer, weight)
    codes = codes * _per_channel(torch.where(factor < 0, -1.0, 1.0), weight)
    scale = scale * factor.abs()
    codes, scale = _within_int32(codes, scale, bias, quantisers[layer.inputs[0]].scale)
    return LayerParameters((codes * _per_channel(scale, weight)).numpy(), bias.clone().numpy(), scale.numpy())


def _within_int32(codes: Tensor, scale: Tensor, bias: Tensor, input_scale: float) -> tuple[Tensor, Tensor]:
    """Coarser codes for channels whose gain is so close to 0 that their bias would not fit 32 bits.

    The weights of such a channel are below 1e-7 of its bias, so nothing measurable changes.
    """
    least = (bias.abs() / (LARGEST_BIAS_CODE * input_scale)).clamp_min(1e-12)
    coarser = (codes * _per_channel(scale / least, codes)).round()
    tiny = scale < least
    return torch.where(_per_channel(tiny, codes), coarser, codes), torch.where(tiny, least, scale)


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (weight.dim() - 1))
