"""A picture of how right a predictor is: one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..models.report import Report, TestedKernel, TestedNetwork
from .versions import PredictorVersion

HEIGHT = 1100
SHOWN_KINDS = 12
"""Kernel kinds with most of the milliseconds; the rest is shown together."""
MAX_ERROR = 0.5
"""Errors beyond this are drawn at the edge, so that a single one does not squeeze the others."""
SMALL = '<span style="font-size:13px">'
BLUE, ORANGE, GREY, INK = "#2166ac", "#d6604d", "#bbbbbb", "#333333"


def plot_html(version: PredictorVersion) -> str:
    """Predicted against measured kernels and networks, error by kernel kind, and the learning curve.

    About 5 MB, most of it plotly's JavaScript.
    """
    report = version.predictor.report
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            _share_title("kernels never trained on", report.kernels),
            _share_title("networks, each left out of the correction", report.networks),
            f"Error by kernel kind<br>{SMALL}in brackets: share of the held-out milliseconds</span>",
            "Held-out kernels as profiling went on",
        ),
        horizontal_spacing=0.12,
        vertical_spacing=0.15,
    )
    _scatter(figure, 1, report.kernels, [kernel.kind for kernel in report.kernels], BLUE)
    _scatter(figure, 2, report.networks, [network.name for network in report.networks], ORANGE)
    _boxes(figure, report)
    _curve(figure, report)
    predictor = version.predictor
    figure.update_layout(
        template="plotly_white",
        height=HEIGHT,
        font={"color": INK, "size": 13},
        margin={"l": 80, "r": 40, "t": 150, "b": 70},
        title={
            "text": f"<b>{escape(version.name)}</b><br><sup>{version.kernels} kernels and {version.networks} networks, "
            f"runtime {escape(predictor.runtime_version)}, {version.created_at:%Y-%m-%d %H:%M} UTC</sup>",
            "x": 0.01,
            "font": {"size": 20},
        },
        legend={"x": 0.99, "y": 0.02, "xanchor": "right", "yanchor": "bottom", "bgcolor": "rgba(255,255,255,0.8)"},
    )
    html: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False, "responsive": True})
    return html


def _share_title(what: str, tested: Sequence[TestedKernel | TestedNetwork]) -> str:
    if not tested:
        return f"No {what}"
    within = [100 * float(np.mean([abs(each.error) <= limit for each in tested])) for limit in (0.05, 0.10)]
    return f"{len(tested)} {what}<br>{SMALL}{within[0]:.1f} % within 5 %, {within[1]:.1f} % within 10 %</span>"


def _scatter(
    figure: go.Figure, column: int, tested: Sequence[TestedKernel | TestedNetwork], labels: Sequence[str], colour: str
) -> None:
    """Predicted over measured, both axes logarithmic, with the diagonal and 10 % to either side."""
    measured = np.array([each.measured_ms for each in tested])
    predicted = np.array([each.predicted_ms for each in tested])
    low, high = (
        (0.01, 1.0) if not tested else (min(measured.min(), predicted.min()), max(measured.max(), predicted.max()))
    )
    ends = np.array([low / 1.25, high * 1.25])
    for factor, dash in ((1.0, "solid"), (0.9, "dot"), (1.1, "dot")):
        line = {"color": GREY, "width": 1.5, "dash": dash}
        figure.add_scatter(
            x=ends, y=ends * factor, mode="lines", line=line, hoverinfo="skip", showlegend=False, row=1, col=column
        )
    figure.add_scatter(
        x=measured,
        y=predicted,
        mode="markers",
        marker={"color": colour, "size": 7, "opacity": 0.65},
        text=[f"{escape(label)}<br>{each.error:+.1%}" for label, each in zip(labels, tested, strict=True)],
        hovertemplate="%{text}<br>measured %{x:.4g} ms<br>predicted %{y:.4g} ms<extra></extra>",
        showlegend=False,
        row=1,
        col=column,
    )
    first, last = np.log10(ends)
    mantissas = (1, 2, 3, 5, 7) if last - first < 1.5 else (1, 2, 5) if last - first < 2.5 else (1,)
    ticks = [mantissa * 10.0**n for n in range(math.floor(first), math.ceil(last)) for mantissa in mantissas]
    axis = {"type": "log", "range": [first, last], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    figure.update_xaxes(title="measured ms", row=1, col=column, **axis)
    figure.update_yaxes(title="predicted ms", row=1, col=column, **axis)


def _boxes(figure: go.Figure, report: Report) -> None:
    """A box and its points for each kind, the one with most milliseconds on top."""
    ranked = list(report.by_kind().items())
    rest = tuple(kernel for _, group in ranked[SHOWN_KINDS:] for kernel in group)
    shown = [*ranked[:SHOWN_KINDS], *([(f"{len(ranked) - SHOWN_KINDS} other kinds", rest)] if rest else [])]
    total_ms = sum(kernel.measured_ms for kernel in report.kernels)
    for kind, group in reversed(shown):  # plotly counts rows from the bottom
        figure.add_box(
            x=100 * np.clip([kernel.error for kernel in group], -MAX_ERROR, MAX_ERROR),
            name=f"{escape(kind)} ({sum(each.measured_ms for each in group) / total_ms:.0%})",
            orientation="h",
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            marker={"color": BLUE, "size": 4, "opacity": 0.5},
            line={"width": 1},
            hovertemplate="%{x:+.1f} %<extra>" + escape(kind) + "</extra>",
            showlegend=False,
            row=2,
            col=1,
        )
    figure.add_vrect(x0=-10, x1=10, fillcolor=GREY, opacity=0.2, line_width=0, layer="below", row=2, col=1)
    edge = 100 * min(MAX_ERROR, max([0.12, *(abs(kernel.error) for kernel in report.kernels)])) * 1.05
    figure.update_xaxes(title="(predicted - measured) / measured, %", range=[-edge, edge], row=2, col=1)
    figure.update_yaxes(automargin=True, row=2, col=1)


def _curve(figure: go.Figure, report: Report) -> None:
    minutes = [point.seconds / 60 for point in report.curve]
    for name, colour, shares in (
        ("within 10 %", ORANGE, [point.within_10 for point in report.curve]),
        ("within 5 %", BLUE, [point.within_5 for point in report.curve]),
    ):
        figure.add_scatter(
            x=minutes,
            y=[100 * share for share in shares],
            mode="lines+markers",
            name=name,
            line={"color": colour},
            text=[f"{point.kernels} kernels" for point in report.curve],
            hovertemplate="%{y:.1f} % after %{x:.1f} minutes, %{text}<extra></extra>",
            row=2,
            col=2,
        )
    figure.update_xaxes(title="minutes of profiling", rangemode="tozero", row=2, col=2)
    figure.update_yaxes(title="% of held-out kernels", range=[0, 102], row=2, col=2)
