"""LSQ+ fake quantisation: uint8 activations and 7- or 8-bit weights whose scales are learned.

Activations are quantised per tensor, (x - b) / s clamped to [0, 255], with the offset b snapped to -z s for an
integer z in [0, 255], because files cannot express another one; weights per output channel, symmetric (Esser et al.,
"Learned step size quantization"; Bhalgat et al., "LSQ+"). Gradients pass rounding straight through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...spaces.elastic import ACTIVATIONS, ElasticLayers, Numerics, module_key
from ...spaces.layers import INPUT, Layer, quantised_points
from ...spaces.parameters import Quantiser

LEVELS = 255
SMALLEST_SCALE = 1e-5
RELU6_SCALE = 6 / LEVELS
SIGMOID_SCALE = 1 / LEVELS
"""Scale of the quantised sigmoid inside swish, zero point 0: fixed, as the integer runtime has it."""


def _flat(x: Tensor) -> Tensor:
    """All elements in one order whatever the memory layout; free for channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1) if x.dim() == 4 else x.reshape(-1)


class _QuantiseActivation(torch.autograd.Function):
    """Fake quantisation of a tensor with learned scale and offset.

    With out = s q + b: d out / d s is (out - x) / s inside the range and (out - b) / s outside, d out / d b is 0
    inside and 1 outside. Summed over the tensor these are two dot products and two sums, so no gradient tensor of
    the activation's size is made for them. (torch's own kernels are several times slower on CPUs.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        s = float(scale)
        z = _zero_point(s, float(offset))
        out = torch.mul(x, 1 / s).round_().clamp_(-z, LEVELS - z).mul_(s)
        ctx.save_for_backward(x, out)
        ctx.s, ctx.z = s, z
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (g,) = grads
        x, out = ctx.saved_tensors
        s, z = ctx.s, ctx.z
        dx = torch.ops.aten.hardtanh_backward(g, x, (-z - 0.5) * s, (LEVELS - z + 0.5) * s)
        flat_g, flat_dx = _flat(g), _flat(dx)
        outside = flat_g.sum() - flat_dx.sum()
        factor = 1 / math.sqrt(x.numel() / x.shape[0] * LEVELS)
        d_scale = (torch.dot(flat_g, _flat(out)) - torch.dot(flat_dx, _flat(x)) + z * s * outside) / s
        return dx, d_scale * factor, outside * factor


class _QuantiseWeight(torch.autograd.Function):
    """Symmetric fake quantisation per output channel with learned scales (cout,)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, limit: int) -> Tensor:
        s = scale.view(-1, *(1,) * (weight.dim() - 1))
        v = weight / s
        codes = v.round().clamp_(-limit, limit)
        ctx.save_for_backward(v, codes)
        ctx.factor = 1 / math.sqrt(weight[0].numel() * limit)
        ctx.limit = limit
        return codes * s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (g,) = grads
        v, codes = ctx.saved_tensors
        dw = g * (v.abs() <= ctx.limit)
        d_scale = (g * codes - dw * v).flatten(1).sum(1)
        return dw, d_scale * ctx.factor, None


class _QuantisedSwish(torch.autograd.Function):
    """x times the sigmoid of x, the sigmoid rounded to a multiple of 1 / 255."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid(x).mul_(LEVELS).round_().mul_(SIGMOID_SCALE).mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (g,) = grads
        (x,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.silu_backward(g, x)  # differs from rounding's by < 1 / 510
        return gradient


def _zero_point(scale: float, offset: float) -> int:
    return min(LEVELS, max(0, round(-offset / scale)))


class FakeQuantisation(nn.Module, Numerics):
    """One quantiser per tensor name and one weight scale per output channel, shared by all subnets of a space.

    `layers`: the largest layers by name, as an `ElasticLayers` holds them; `weight_bits` 7 or 8 gives weight codes
    in [-63, 63] or [-127, 127]: symmetric, because folding a batch norm with negative gain flips signs. Tensors that
    follow relu, relu6 or a hard sigmoid have zero point 0, so that the quantiser's lower clamp is the relu itself;
    after relu6 the scale stays within 6 / 255, so that its upper clamp is the relu6's.
    """

    def __init__(self, layers: Mapping[str, Layer], weight_bits: int) -> None:
        super().__init__()
        self.weight_bits = weight_bits
        self.limit = 2 ** (weight_bits - 1) - 1
        self.scales = nn.ParameterDict()
        self.offsets = nn.ParameterDict()
        self.weight_scales = nn.ParameterDict()
        self._capped: list[str] = []
        self._add_point(INPUT, signed=True)
        for layer in layers.values():
            for point in quantised_points(layer):
                signed = point != layer.name or layer.act not in ("relu", "relu6", "hsigmoid")
                self._add_point(point, signed=signed)
                if point == layer.name and layer.act == "relu6":
                    self._capped.append(module_key(point))
            if layer.op in ("conv", "linear"):
                self.weight_scales[module_key(layer.name)] = nn.Parameter(torch.ones(layer.cout))

    def _add_point(self, point: str, *, signed: bool) -> None:
        self.scales[module_key(point)] = nn.Parameter(torch.tensor(1.0))
        offset = nn.Parameter(torch.tensor(0.0), requires_grad=signed)
        self.offsets[module_key(point)] = offset

    def picture(self, x: Tensor) -> Tensor:
        """The picture, quantised."""
        return self._point(INPUT, x)

    def weight(self, layer: Layer, weight: Tensor) -> Tensor:
        """The weight, quantised per output channel."""
        scale = self.weight_scales[module_key(layer.name)][: layer.cout]
        quantised: Tensor = _QuantiseWeight.apply(weight, scale, self.limit)  # type: ignore[no-untyped-call]
        return quantised

    def activate(self, layer: Layer, y: Tensor) -> Tensor:
        """The activation, quantised where the integer runtime quantises (`quantised_points`)."""
        if layer.op == "linear":
            return y
        if layer.act in ("none", "relu", "relu6"):  # the quantiser's clamp does what relu and relu6 do
            return self._point(layer.name, y)
        y = self._point(f"{layer.name}:pre", y)
        swish = layer.act == "swish"
        y = _QuantisedSwish.apply(y) if swish else ACTIVATIONS[layer.act](y)  # type: ignore[no-untyped-call]
        return self._point(layer.name, y)

    def _point(self, point: str, x: Tensor) -> Tensor:
        key = module_key(point)
        if not torch.is_grad_enabled() and point != INPUT:  # in place: x was just made and nobody else holds it
            s = float(self.scales[key])
            z = _zero_point(s, float(self.offsets[key]))
            return x.mul_(1 / s).round_().clamp_(-z, LEVELS - z).mul_(s)
        quantised: Tensor = _QuantiseActivation.apply(  # type: ignore[no-untyped-call]
            x, self.scales[key], self.offsets[key]
        )
        return quantised

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring learned values back into their bounds; to be called after every optimiser step."""
        for parameters in (self.scales, self.weight_scales):
            torch._foreach_clamp_min_(list(parameters.values()), SMALLEST_SCALE)
        for key in self._capped:
            self.scales[key].clamp_(max=RELU6_SCALE)
        for key, offset in self.offsets.items():
            if offset.requires_grad:
                offset.clamp_(min=-LEVELS * float(self.scales[key]), max=0.0)

    def quantiser(self, point: str) -> Quantiser:
        """Scale and zero point of a tensor."""
        scale, offset = (float(table[module_key(point)].detach()) for table in (self.scales, self.offsets))
        return Quantiser(scale, _zero_point(scale, offset))

    @torch.no_grad()
    def weight_codes(self, layer: Layer, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integer codes of a sliced weight, in its shape, and the scales (cout,), both float32."""
        scale = self.weight_scales[module_key(layer.name)][: layer.cout]
        codes = (weight / scale.view(-1, *(1,) * (weight.dim() - 1))).round_().clamp_(-self.limit, self.limit)
        return codes, scale.clone()

    @torch.no_grad()
    def start(self, source: ElasticLayers, samples: Mapping[str, Tensor]) -> None:
        """Start all scales: weights from the shared ones, activations from `ActivationSampler.samples`."""
        for name, layer in source.layers.items():
            if layer.op in ("conv", "linear"):
                largest = source.part(name).weight.abs().flatten(1).amax(1)
                self.weight_scales[module_key(name)].copy_(2 * largest / (2**self.weight_bits - 1))
        self._start_activations(samples)
        self.constrain()

    def _start_activations(self, samples: Mapping[str, Tensor]) -> None:
        """Start the activation quantisers from values observed in floating point, by point name.

        Of ranges that shrink from the observed minimum and maximum, both including 0, the one with the least squared
        error is taken. Points without samples keep a range that fits activations after batch norm.
        """
        for key, offset in self.offsets.items():
            self.scales[key].fill_(RELU6_SCALE)
            if offset.requires_grad:
                offset.fill_(-3.0)
        for point, values in samples.items():
            key = module_key(point)
            low, high = _best_range(values, signed=self.offsets[key].requires_grad)
            scale = max((high - low) / LEVELS, SMALLEST_SCALE)
            self.scales[key].fill_(scale)
            self.offsets[key].fill_(low)


def _best_range(values: Tensor, *, signed: bool) -> tuple[float, float]:
    low = min(0.0, float(values.min())) if signed else 0.0
    high = max(0.0, float(values.max()))
    if not signed:
        values = values.clamp(min=0)
    best, best_error = (low, high), math.inf
    for share in torch.linspace(1.0, 0.4, 13).tolist():
        scale = max((high - low) * share / LEVELS, SMALLEST_SCALE)
        z = _zero_point(scale, low * share)
        quantised = (values / scale).round().clamp(-z, LEVELS - z) * scale
        error = float(F.mse_loss(quantised, values))
        if error < best_error:
            best, best_error = (low * share, high * share), error
    return best


class ActivationSampler(Numerics):
    """Floating point numerics that keep samples of every tensor that will be quantised."""

    def __init__(self, per_pass: int = 4096) -> None:
        self._per_pass = per_pass
        self._samples: dict[str, list[Tensor]] = {}

    def _keep(self, point: str, x: Tensor) -> None:
        flat = _flat(x.detach())
        step = max(1, flat.numel() // self._per_pass) | 1  # odd: not in step with the channels
        extremes = torch.stack(torch.aminmax(flat))
        self._samples.setdefault(point, []).append(torch.cat((flat[::step], extremes)))

    def picture(self, x: Tensor) -> Tensor:
        """The picture, sampled."""
        self._keep(INPUT, x)
        return x

    def activate(self, layer: Layer, y: Tensor) -> Tensor:
        """The activation, sampled at its `quantised_points`."""
        points = quantised_points(layer)
        if len(points) == 2:
            self._keep(points[0], y)
        y = ACTIVATIONS[layer.act](y)
        if points:
            self._keep(points[-1], y)
        return y

    def samples(self) -> dict[str, Tensor]:
        """Observed values by point name, 1-d."""
        return {point: torch.cat(parts) for point, parts in self._samples.items()}
