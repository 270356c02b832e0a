"""ONNX operators that move, select, resize or make elements, as functions on torch tensors: the rest of `OPERATORS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .torch_ops import OPERATORS, Node, Operator, axes_of, integers, number, pad_pairs, register
from .types import dtype_name

__all__ = ["OPERATORS"]

OPERATORS |= {
    "Concat": Operator(lambda node, *inputs: torch.cat(inputs, node.get("axis", 1))),
    "ConstantOfShape": Operator(lambda node, sizes: node.get("value", torch.zeros(1)).expand(integers(node, sizes)),
                                static=(0,)),
    "GatherElements": Operator(lambda node, x, index: x.gather(node.get("axis", 0), index)),
    "Range": Operator(lambda _, first, limit, step: torch.arange(first.item(), limit.item(), step.item(),
                                                                 dtype=first.dtype)),
    "Shape": Operator(lambda node, x: torch.tensor(x.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)),
    "Size": Operator(lambda _, x: torch.tensor(x.numel())),
    "Tile": Operator(lambda node, x, repeats: x.tile(integers(node, repeats)), static=(1,)),
    "Transpose": Operator(lambda node, x: x.permute(node.get("perm") or tuple(range(x.ndim))[::-1])),
}  # fmt: skip


@register("Cast")
def _cast(node: Node, x: Tensor) -> Tensor:
    name = dtype_name(node.get("to"))
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise node.refuse(f"makes {name}")
    return x.to(dtype)


@register("Reshape", static=(1,))
def _reshape(node: Node, x: Tensor, shape: Any) -> Tensor:
    sizes = integers(node, shape)
    if not node.get("allowzero", 0):
        sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@register("Flatten")
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@register("Squeeze", static=(1,))
def _squeeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze(axes_of(node, axes, x.ndim) or [axis for axis, size in enumerate(x.shape) if size == 1])


@register("Unsqueeze", static=(1,))
def _unsqueeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    count = len(integers(node, node.get("axes") if axes is None else axes))
    for axis in sorted(axes_of(node, axes, x.ndim + count)):
        x = x.unsqueeze(axis)
    return x


@register("Expand", static=(1,))
def _expand(node: Node, x: Tensor, shape: Any) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, integers(node, shape)))


@register("Split", static=(1,))
def _split(node: Node, x: Tensor, sizes: Any = None) -> Sequence[Tensor]:
    axis = node.get("axis", 0)
    sizes = node.get("split") if sizes is None else sizes
    equal = math.ceil(x.shape[axis] / node.outputs)
    return torch.split(x, equal if sizes is None else integers(node, sizes), axis)


@register("Slice", static=(1, 2, 3, 4))
def _slice(node: Node, x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Tensor:
    first = integers(node, node.get("starts") if starts is None else starts)
    last = integers(node, node.get("ends") if ends is None else ends)
    along = axes_of(node, axes, x.ndim) or list(range(len(first)))
    for axis, start, end, step in zip(along, first, last, integers(node, steps or [1] * len(first)), strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        if not chosen:
            x = x.narrow(axis, 0, 0)
        elif chosen != range(x.shape[axis]):
            low, high = sorted((chosen[0], chosen[-1]))
            x = x[(slice(None),) * axis + (slice(low, high + 1, abs(step)),)]
            x = x if step > 0 else x.flip(axis)
    return x


@register("Gather", static=(1,))
def _gather(node: Node, x: Tensor, indices: Any) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    if isinstance(indices, int):
        return x.select(axis, indices)
    if not isinstance(indices, Tensor):
        indices = torch.tensor(indices, dtype=torch.int64, device=x.device) % x.shape[axis]
    elif axis == 0 and x.ndim == 2:
        return F.embedding(indices, x)
    return x.index_select(axis, indices.flatten()).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@register("Pad", static=(1, 2, 3))
def _pad(node: Node, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    given = integers(node, node.get("pads") if pads is None else pads)
    along = axes_of(node, axes, x.ndim) or list(range(x.ndim))
    whole = [0] * 2 * x.ndim
    for position, axis in enumerate(along):
        whole[axis], whole[axis + x.ndim] = given[position], given[position + len(along)]
    mode = {"edge": "replicate", "wrap": "circular"}.get(node.get("mode", "constant"), node.get("mode", "constant"))
    if mode == "constant":
        return F.pad(x, pad_pairs(whole), value=number(node, value, node.get("value", 0.0)))
    pairs = pad_pairs(whole)
    while len(pairs) > 2 and not any(pairs[-2:]):  # torch wants these modes' pads for the last axes alone
        pairs = pairs[:-2]
    return F.pad(x, pairs, mode=mode)


@register("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // block**2, h * block, w * block)


@register("SpaceToDepth")
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


@register("Upsample", static=(1,))
def _upsample(node: Node, x: Tensor, scales: Any = None) -> Tensor:
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **node.attributes}
    return _resize(Node("Upsample", attributes), x, None, scales or list(node.get("scales")))


@register("Resize", static=(1, 2, 3))
def _resize(node: Node, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    """Nearest, linear and cubic over the axes after the second, as far as torch computes the same coordinates."""
    if node.opset < 11 and sizes is None and scales is None:
        scales = roi  # Resize-10 has no region of interest
    axes = axes_of(node, node.get("axes"), x.ndim) or list(range(x.ndim))
    if sizes:
        wanted = dict(zip(axes, integers(node, sizes), strict=True))
        factors = {axis: size / x.shape[axis] for axis, size in wanted.items()}
    else:
        factors = dict(zip(axes, scales, strict=True))
        wanted = {axis: math.floor(x.shape[axis] * factor) for axis, factor in factors.items()}
    size = [wanted.get(axis, have) for axis, have in enumerate(x.shape)]
    if size[:2] != list(x.shape[:2]) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("resizes batch or channels, or keeps the aspect ratio")
    if node.get("antialias", 0):
        raise node.refuse("is antialiased")
    mode = node.get("mode", "nearest")
    coordinates = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if mode == "nearest":
        rule = node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
        spans = [(x.shape[axis], size[axis], factors.get(axis, 1.0)) for axis in range(2, x.ndim)]
        return F.interpolate(x, size[2:], mode=_nearest_mode(node, spans, coordinates, rule))
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners") or node.get("exclude_outside", 0):
        raise node.refuse(f"interpolates at '{coordinates}' coordinates")
    kind = {"linear": ("linear", "bilinear", "trilinear"), "cubic": ("", "bicubic", "")}[mode][x.ndim - 3]
    corners = coordinates == "align_corners"
    if all(size[axis] == x.shape[axis] * factors.get(axis, 1.0) for axis in range(2, x.ndim)) or corners:
        return F.interpolate(x, size[2:], mode=kind, align_corners=corners)
    # A size that was rounded down: coordinates go by the factor, not by the ratio of the sizes.
    return F.interpolate(x, scale_factor=[factors.get(axis, 1.0) for axis in range(2, x.ndim)], mode=kind)


def _nearest_mode(node: Node, spans: list[tuple[int, int, float]], coordinates: str, rule: str) -> str:
    """Which of torch's two nearest modes picks the same elements; InvalidInput when neither does."""
    rounds: dict[str, Callable[[float], int]] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda at: math.ceil(at - 0.5),
        "round_prefer_ceil": lambda at: math.floor(at + 0.5),
    }
    origins: dict[str, Callable[[int, float, int, int], float]] = {
        "asymmetric": lambda at, factor, _, __: at / factor,
        "half_pixel": lambda at, factor, _, __: (at + 0.5) / factor - 0.5,
        "pytorch_half_pixel": lambda at, factor, _, want: (at + 0.5) / factor - 0.5 if want > 1 else 0.0,
        "align_corners": lambda at, _, have, want: at * (have - 1) / max(want - 1, 1),
    }
    if coordinates not in origins:
        raise node.refuse(f"takes the nearest of '{coordinates}' coordinates")
    origin, rounded = origins[coordinates], rounds[rule]

    def picks(have: int, want: int, factor: float) -> list[int]:
        return [min(max(rounded(origin(at, factor, have, want)), 0), have - 1) for at in range(want)]

    if all(picks(*span) == [at * span[0] // span[1] for at in range(span[1])] for span in spans):
        return "nearest"
    if all(picks(*span) == [(2 * at + 1) * span[0] // (2 * span[1]) for at in range(span[1])] for span in spans):
        return "nearest-exact"
    raise node.refuse(f"takes the nearest by '{rule}' of '{coordinates}' coordinates")
