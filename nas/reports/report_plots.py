"""The figures of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from ..search.objectives import TOP1, Metric
from ..search.subnet_search import EvaluatedSubnet
from ..search.subnet_studies import SearchResult

BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#2166ac", "#d6604d", "#1b7837", "#762a83", "#bbbbbb", "#333333"
HEIGHT = 460
SCALES: Mapping[str, tuple[float, str]] = {
    "top1": (100.0, "top-1 on the search pictures, %"),
    "latency": (1.0, "predicted ms"),
    "macs": (1e-6, "M multiply-accumulates"),
    "params": (1e-6, "M parameters"),
    "size": (1e-3, "kB of the INT8 file"),
    "memory": (1e-3, "kB of activations at once"),
}


@dataclass(frozen=True)
class TimedFile:
    """Predicted and measured milliseconds of a file or a candidate; `what` names it."""

    what: str
    target: str
    predicted_ms: float
    interval_ms: tuple[float, float] | None
    measured_ms: float


def front_figure(result: SearchResult, x: Metric, y: Metric, marked: Mapping[int, str]) -> go.Figure:
    """Every trial at two of its metrics, and the front of these two; `marked` trials are ringed and named."""
    figure = _figure(f"{_axis(x)}", _axis(y))
    found = {each.trial for each in result.found}
    feasible = [each for each in result.evaluated if each.trial in found]
    missed = [each for each in result.evaluated if each.trial not in found]
    _dots(figure, missed, x, y, "misses a constraint", {"color": GREY, "size": 6, "symbol": "x-thin-open"})
    colours = {
        "color": [each.trial for each in feasible],
        "colorscale": [[0, "#c6dbef"], [1, "#08306b"]],
        "size": 8,
        "line": {"width": 0.5, "color": "white"},
        "colorbar": {"title": "trial", "thickness": 10, "len": 0.6, "y": 0.3},
    }
    _dots(figure, feasible, x, y, "evaluated", colours)
    front = _two_dimensional_front(feasible, x, y)
    figure.add_scatter(
        x=[_scaled(each, x) for each in front],
        y=[_scaled(each, y) for each in front],
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv" if y == TOP1 else "vh"},
        name="front",
        hoverinfo="skip",
    )
    _dots(
        figure,
        [each for each in feasible if each.trial in marked],
        x,
        y,
        "chosen",
        {"color": "rgba(0,0,0,0)", "size": 15, "line": {"color": ORANGE, "width": 2.5}},
        marked,
    )
    for budget_ms in result.plan.budgets_ms if x == result.plan.latency else ():
        figure.add_vline(x=budget_ms, line={"color": INK, "dash": "dot", "width": 1.2})
    return figure


def _two_dimensional_front(found: Sequence[EvaluatedSubnet], x: Metric, y: Metric) -> list[EvaluatedSubnet]:
    """Those that no other beats in both metrics, by ascending x."""
    sign = -1.0 if y.maximised else 1.0
    front: list[EvaluatedSubnet] = []
    for each in sorted(found, key=lambda e: (e.metrics[x], sign * e.metrics[y])):
        if not front or sign * each.metrics[y] < sign * front[-1].metrics[y]:
            front.append(each)
    return front


def _dots(
    figure: go.Figure,
    found: Sequence[EvaluatedSubnet],
    x: Metric,
    y: Metric,
    name: str,
    marker: dict[str, object],
    labels: Mapping[int, str] | None = None,
) -> None:
    if not found:
        return
    figure.add_scatter(
        x=[_scaled(each, x) for each in found],
        y=[_scaled(each, y) for each in found],
        mode="markers+text" if labels else "markers",
        marker=marker,
        name=name,
        text=[escape(labels[each.trial]) for each in found] if labels else None,
        textposition="bottom right",
        hovertext=[hover(each) for each in found],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def hover(found: EvaluatedSubnet) -> str:
    """All that is known of a subnet, a line for each metric and each list of its genome."""
    values = [f"{escape(str(metric))}: {metric.shown(value)}" for metric, value in found.metrics.items()]
    return "<br>".join((f"<b>trial {found.trial}</b>", *values, *escape(found.subnet.genome).split("_")))


def hypervolume_figure(result: SearchResult) -> go.Figure:
    """Hypervolume after every evaluation."""
    figure = _figure("evaluations", "hypervolume, share of the box")
    figure.add_scatter(
        x=np.arange(1, len(result.hypervolumes) + 1),
        y=result.hypervolumes,
        mode="lines",
        line={"color": BLUE, "width": 2, "shape": "hv"},
        hovertemplate="%{x} evaluations: %{y:.4f}<extra></extra>",
        showlegend=False,
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def timing_figure(files: Sequence[TimedFile]) -> go.Figure:
    """Predicted over measured milliseconds, with 90 % intervals, the diagonal, and 10 % to either side."""
    figure = _figure("measured ms", "predicted ms")
    both = [ms for each in files for ms in (each.predicted_ms, each.measured_ms)]
    ends = np.array([min(both) / 1.3, max(both) * 1.3])
    for factor, dash in ((1.0, "solid"), (0.9, "dot"), (1.1, "dot")):
        line = {"color": GREY, "width": 1.5, "dash": dash}
        figure.add_scatter(x=ends, y=ends * factor, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for target, colour in zip(sorted({each.target for each in files}), _cycle(len(files)), strict=False):
        own = [each for each in files if each.target == target]
        intervals = [each.interval_ms or (each.predicted_ms, each.predicted_ms) for each in own]
        figure.add_scatter(
            x=[each.measured_ms for each in own],
            y=[each.predicted_ms for each in own],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - each.predicted_ms for each, (_, high) in zip(own, intervals, strict=True)],
                "arrayminus": [each.predicted_ms - low for each, (low, _) in zip(own, intervals, strict=True)],
                "thickness": 1,
            },
            mode="markers",
            marker={"color": colour, "size": 9},
            name=escape(target),
            text=[f"{escape(each.what)}<br>{each.predicted_ms / each.measured_ms - 1:+.1%}" for each in own],
            hovertemplate="%{text}<br>measured %{x:.4g} ms<br>predicted %{y:.4g} ms<extra></extra>",
        )
    figure.update_xaxes(range=ends.tolist())
    figure.update_yaxes(range=ends.tolist())
    return figure


def accuracy_figure(top1: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Top-1 on the test pictures: a group of bars for each subnet, a bar for each form of it."""
    figure = _figure("", "top-1 on the test pictures, %")
    forms = list(dict.fromkeys(form for of_subnet in top1.values() for form in of_subnet))
    for form, colour in zip(forms, _cycle(len(forms)), strict=False):
        shown = {subnet: 100 * forms_[form] for subnet, forms_ in top1.items() if form in forms_}
        figure.add_bar(
            x=list(shown),
            y=list(shown.values()),
            name=escape(form),
            marker={"color": colour},
            text=[f"{value:.1f}" for value in shown.values()],
            hovertemplate="%{x}: %{y:.2f} %<extra>" + escape(form) + "</extra>",
        )
    figure.update_layout(barmode="group")
    figure.update_yaxes(rangemode="tozero")
    return figure


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        height=HEIGHT,
        font={"color": INK, "size": 13},
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def _axis(metric: Metric) -> str:
    text = SCALES[metric.kind][1]
    return f"{text} on {escape(metric.target)}" if metric.target else text


def _scaled(found: EvaluatedSubnet, metric: Metric) -> float:
    return found.metrics[metric] * SCALES[metric.kind][0]


def _cycle(count: int) -> list[str]:
    colours = (BLUE, ORANGE, GREEN, PURPLE, "#dfc27d", "#5ab4ac", "#878787")
    return [colours[i % len(colours)] for i in range(count)]
