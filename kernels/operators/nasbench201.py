"""Cells of NAS-Bench-201 as networks: the skeleton and the operators of Dong and Yang, ICLR 2020, section 2."""

from __future__ import annotations

import re
from typing import Any

from ...errors import InvalidInput
from ..kernel import KernelUse
from .graph_json import read_graph

CHANNELS = (16, 32, 64)
CELLS = 5
"""Cells in each of the three stages."""
SIZE, CLASSES = 32, 10
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_EDGE = re.compile(r"([a-z0-9_]+)~([0-2])")


def is_cell(text: str) -> bool:
    """Whether a text is written like a cell: `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`."""
    return text.startswith("|") and "~" in text


def cell_kernels(cell: str) -> list[KernelUse]:
    """The operators of the whole CIFAR-10 network with this cell; raises InvalidInput for anything else."""
    edges = _edges(cell)
    entries: list[dict[str, Any]] = []

    def add(op: str, inputs: list[int], size: int, channels: int, **more: int) -> int:
        shape = [1, size, size, channels] if size else [1, channels]
        entries.append({"op": op, "inp": inputs, "out": shape, **more})
        return len(entries) - 1

    def convolution(x: int, size: int, channels: int, window: int, stride: int = 1) -> int:
        y = add("relu", [x], size * stride, _channels(entries[x]))
        y = add("conv", [y], size, channels, ks=window, stride=stride)
        return add("bn", [y], size, channels)

    x = add("conv", [add("input", [], SIZE, 3)], SIZE, CHANNELS[0], ks=3, stride=1)
    x = add("bn", [x], SIZE, CHANNELS[0])
    for stage, channels in enumerate(CHANNELS):
        size = SIZE >> stage
        if stage:
            y = convolution(convolution(x, size, channels, 3, 2), size, channels, 3)
            pooled = add("avgpool", [x], size, channels // 2, ks=2, stride=2)
            x = add("add", [y, add("conv", [pooled], size, channels, ks=1, stride=1)], size, channels)
        for _ in range(CELLS):
            nodes: list[int | None] = [x]
            for node in edges:
                parts: list[int] = []
                for operation, source in node:
                    made = nodes[source]
                    if made is None or operation == "none":
                        continue
                    y = made
                    if operation == "avg_pool_3x3":
                        y = add("avgpool", [y], size, channels, ks=3, stride=1)
                    elif operation != "skip_connect":
                        y = convolution(y, size, channels, 3 if operation.endswith("3x3") else 1)
                    parts.append(y)
                total = parts[0] if parts else None
                for part in parts[1:]:
                    total = add("add", [total if total is not None else part, part], size, channels)
                nodes.append(total)
            # A cell that passes nothing on gives zeros, which cost nothing.
            x = nodes[-1] if nodes[-1] is not None else add("input", [], size, channels)
    x = add("relu", [add("bn", [x], size, channels)], size, channels)
    x = add("gap", [x], 0, channels)
    add("fc", [x], 0, CLASSES)
    return read_graph(entries)


def _channels(entry: dict[str, Any]) -> int:
    return int(entry["out"][-1])


def _edges(cell: str) -> list[list[tuple[str, int]]]:
    """For each of the nodes 1 to 3 its operations and their sources."""
    nodes = [_EDGE.findall(part) for part in cell.split("+")]
    found = [[(operation, int(source)) for operation, source in node] for node in nodes]
    written = "+".join("|" + "|".join(f"{operation}~{source}" for operation, source in node) + "|" for node in found)
    if written != cell or [[source for _, source in node] for node in found] != [[0], [0, 1], [0, 1, 2]]:
        raise InvalidInput(
            f"'{cell[:100]}' is not a cell of NAS-Bench-201.",
            "Write |nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|.",
        )
    if unknown := sorted({operation for node in found for operation, _ in node} - set(OPERATIONS)):
        raise InvalidInput(
            f"The cell has unknown operations: {', '.join(unknown)}.", f"Known: {', '.join(OPERATIONS)}."
        )
    return found
