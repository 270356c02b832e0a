"""A subnet as a drawing: its blocks from left to right, as an SVG element."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ...spaces.codes import BlockKey, block_layers
from ...spaces.space import Subnet

COLOURS = ("#bdbdbd", "#d9d9d9", "#9ecae1", "#6baed6", "#74c476", "#fd8d3c", "#9e9ac8", "#e7969c", "#c7b299", "#8dd3c7")
"""Of the stem and head, stage 0, and the searched stages in turn."""
GAP, MARGIN, LABELS = 4, 10, 34
CELL = 42.0
"""Pixels that a box has at least for itself and its labels."""
TALLEST, LOWEST, WIDEST, NARROWEST = 90.0, 16.0, 46.0, 12.0
"""Pixels of the largest and the smallest box: height is the feature map's, width the channels'."""


@dataclass(frozen=True)
class _Box:
    colour: str
    height: int
    channels: int
    label: str
    tip: str


def subnet_svg(subnet: Subnet, classes: int) -> str:
    """One box a block, as high as its output's feature map and as wide as it has channels; details as tooltips."""
    boxes = _boxes(subnet, classes)
    tallest, widest = max(box.height for box in boxes), max(box.channels for box in boxes)
    x, parts = float(MARGIN), []
    middle = MARGIN + TALLEST / 2
    for box in boxes:
        height = LOWEST + (TALLEST - LOWEST) * box.height / tallest
        width = NARROWEST + (WIDEST - NARROWEST) * box.channels / widest
        cell = max(width, CELL)
        centre = x + cell / 2
        parts.append(
            f'<g><title>{escape(box.tip)}</title><rect x="{centre - width / 2:.1f}" y="{middle - height / 2:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}" rx="2" fill="{box.colour}" stroke="#555" stroke-width="0.6"/>'
            f'<text x="{centre:.1f}" y="{2 * MARGIN + TALLEST + 4:.1f}">{box.channels}</text>'
            f'<text x="{centre:.1f}" y="{2 * MARGIN + TALLEST + 17:.1f}" fill="#777">{escape(box.label)}</text></g>'
        )
        x += cell + GAP
    size = f'width="{x + MARGIN:.0f}" height="{MARGIN + TALLEST + LABELS:.0f}"'
    view = f'viewBox="0 0 {x + MARGIN:.0f} {MARGIN + TALLEST + LABELS:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img" font-size="10" text-anchor="middle" '
        f'font-family="sans-serif"><title>{escape(subnet.genome)}</title>{"".join(parts)}</svg>'
    )


def _boxes(subnet: Subnet, classes: int) -> list[_Box]:
    space, hyperspace = subnet.space, subnet.space.hyperspace
    sizes = hyperspace.stage_hw(subnet.resolution)
    boxes = [
        _Box(COLOURS[0], subnet.resolution, 3, "input", f"picture, {subnet.resolution} x {subnet.resolution}, RGB"),
        _Box(COLOURS[0], sizes[0][0], subnet.stem_width, "stem", f"stem: 3 x 3 to {subnet.stem_width} channels"),
    ]
    cin = subnet.stem_width
    for s, blocks in enumerate(subnet.stages):
        block_type = space.stage_type(s)
        for b, choice in enumerate(blocks):
            key = BlockKey(
                subnet.resolution, s, space.stage_block(s), cin, choice.width, choice.kernel,
                round(100 * choice.expand), int(b == 0),
            )  # fmt: skip
            macs = sum(layer.macs for layer in block_layers(hyperspace, key))
            expand = f", expansion {choice.expand:g}" if len(block_type.expands) > 1 else ""
            tip = (
                f"stage {s}, block {b}: {block_type.name}, {choice.kernel} x {choice.kernel}{expand}, {cin} to "
                f"{choice.width} channels, {sizes[s][1]} x {sizes[s][1]}, {macs / 1e6:.2f} M multiply-accumulates"
            )
            label = f"k{choice.kernel}" + (f" e{choice.expand:g}" if len(block_type.expands) > 1 else "")
            boxes.append(_Box(COLOURS[1 + s % (len(COLOURS) - 1)], sizes[s][1], choice.width, label, tip))
            cin = choice.width
    head = f"head: 1 x 1 to {hyperspace.head_width} channels, pooling, classifier of {classes} classes"
    return [*boxes, _Box(COLOURS[0], 1, hyperspace.head_width, "head", head)]
