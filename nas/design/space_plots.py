"""A picture of a study of spaces, evolved against hand-made ones: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from optuna.study import Study
from plotly.subplots import make_subplots

from ...errors import NotReady
from ...spaces.space import Space
from ..studies import finished_trials
from .score import MonteCarloScorer, Scorer
from .space_search import handmade_spaces, ranked_spaces

HEIGHT = 1100
SAMPLES = 20_000
"""Random subnets of each space behind the latency distribution."""
DOTS = 1_000
"""Those of them in the cloud."""
TOP_SHARE = 0.02
SMALL = '<span style="font-size:13px">'
INK, GREY = "#333333", "#bbbbbb"
EVOLVED = "#b2182b"
COLOURS = ("#2166ac", "#67a9cf", "#1b7837", "#af8dc3", "#dfc27d", "#8c510a", "#5ab4ac", "#f4a582", "#878787", "#40004b")


def plot_html(study: Study, scorer: Scorer) -> str:
    """Score over evaluations, block choice per stage, latency distribution, and quality against latency.

    About 5 MB, most of it plotly's JavaScript; raises NotReady for a study without a scored space.
    """
    ranking = ranked_spaces(study)
    if not ranking:
        raise NotReady(f"The study '{study.study_name}' has scored no space yet.", "milliseek spaces evolve goes on.")
    best = ranking[0]
    top = [found.space for found in ranking[: max(10, round(TOP_SHARE * len(ranking)))]]
    handmade = {f"{plan} {space.encoding}": space for plan, space in handmade_spaces(scorer).items()}
    shown = {f"evolved {best.space.encoding}": best.space, **handmade}
    sampler = MonteCarloScorer(scorer.tables, scorer.constraints_ms, samples=SAMPLES)
    samples = {name: sampler.sample(space) for name, space in shown.items()}
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            "Score of each evaluated space",
            f"Block types of the {len(top)} best spaces",
            f"Latency of random subnets<br>{SMALL}dotted: the constraints</span>",
            f"Quality against latency of random subnets<br>{SMALL}lines: the best up to each latency</span>",
        ),
        horizontal_spacing=0.1,
        vertical_spacing=0.14,
    )
    _scores(figure, study)
    _blocks(figure, top)
    colours = dict(zip(shown, (EVOLVED, *COLOURS), strict=False))
    _latencies(figure, samples, colours, scorer.constraints_ms)
    _cloud(figure, samples, colours, scorer.constraints_ms)
    limits = ", ".join(f"{ms:g} ms" for ms in scorer.constraints_ms)
    figure.update_layout(
        template="plotly_white",
        height=HEIGHT,
        barmode="stack",
        font={"color": INK, "size": 13},
        margin={"l": 80, "r": 40, "t": 150, "b": 120},
        title={
            "text": f"<b>{escape(study.study_name)}</b><br><sup>{len(finished_trials(study))} evaluations, "
            f"{len(ranking)} spaces, constraints {limits}; best: {best.space.encoding}, score {best.score:.4f}</sup>",
            "x": 0.01,
            "font": {"size": 20},
        },
        legend={"orientation": "h", "y": -0.08, "x": 0.5, "xanchor": "center"},
        legend2={"x": 1.0, "y": 1.0, "xanchor": "left", "yanchor": "top"},
    )
    html: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False, "responsive": True})
    return html


def _scores(figure: go.Figure, study: Study) -> None:
    trials = finished_trials(study)
    scores = np.array([trial.values[0] for trial in trials])
    numbers = np.arange(1, len(scores) + 1)
    figure.add_scattergl(
        x=numbers,
        y=scores,
        mode="markers",
        marker={"color": COLOURS[0], "size": 4, "opacity": 0.4},
        text=[trial.user_attrs["space"] for trial in trials],
        hovertemplate="%{text}<br>%{y:.4f}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=numbers,
        y=np.maximum.accumulate(scores),
        mode="lines",
        line={"color": EVOLVED, "width": 2},
        hovertemplate="best so far %{y:.4f}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.update_xaxes(title="evaluation", row=1, col=1)
    # Spaces with nothing feasible score 0 and would squeeze all others.
    low, high = np.quantile(scores[scores > 0], 0.02) if (scores > 0).any() else 0.0, scores.max()
    margin = 0.05 * (high - low) or 0.01
    figure.update_yaxes(title="score", range=[low - margin, high + margin], row=1, col=1)


def _blocks(figure: go.Figure, top: Sequence[Space]) -> None:
    hyperspace = top[0].hyperspace
    stages = [f"stage {s}" for s in range(1, len(hyperspace.stages))]
    chosen = np.array([space.blocks for space in top])
    for digit, block in enumerate(hyperspace.blocks):
        figure.add_bar(
            x=stages,
            y=100 * (chosen == digit).mean(0),
            name=f"{digit} {block.name}",
            marker={"color": COLOURS[digit]},
            hovertemplate="%{x}: %{y:.0f} %<extra>" + block.name + "</extra>",
            legend="legend2",
            row=1,
            col=2,
        )
    figure.update_yaxes(title="share, %", range=[0, 100], row=1, col=2)


def _latencies(
    figure: go.Figure,
    samples: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
    constraints_ms: Sequence[float],
) -> None:
    end_ms = max(3 * max(constraints_ms), *(float(np.quantile(ms, 0.5)) for ms, _ in samples.values()))
    edges = np.linspace(0, end_ms, 121)
    for name, (latency_ms, _) in samples.items():
        share, _ = np.histogram(latency_ms, edges)
        figure.add_scatter(
            x=(edges[1:] + edges[:-1]) / 2,
            y=100 * share / len(latency_ms),
            mode="lines",
            name=escape(name),
            legendgroup=name,
            line={"color": colours[name], "width": 3 if colours[name] == EVOLVED else 1.5, "shape": "spline"},
            hovertemplate="%{x:.3g} ms: %{y:.2f} %<extra></extra>",
            row=2,
            col=1,
        )
    for ms in constraints_ms:
        figure.add_vline(x=ms, line={"color": INK, "dash": "dot", "width": 1.5}, row=2, col=1)
    figure.update_xaxes(title="ms", range=[0, end_ms], row=2, col=1)
    figure.update_yaxes(title="share of subnets, %", rangemode="tozero", row=2, col=1)


def _cloud(
    figure: go.Figure,
    samples: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
    constraints_ms: Sequence[float],
) -> None:
    end_ms = 2 * max(constraints_ms)
    for name, (latency_ms, nsr) in samples.items():
        order = np.argsort(latency_ms)
        front_ms, front = latency_ms[order], np.minimum.accumulate(nsr[order])
        kept = (front_ms <= end_ms) & (np.diff(front, prepend=np.inf) < 0)
        dots = order[:: max(1, len(order) // DOTS)]
        dots = dots[latency_ms[dots] <= end_ms]
        marker = {"color": colours[name], "size": 4, "opacity": 0.3}
        for x, y, style in (
            (latency_ms[dots], nsr[dots], {"mode": "markers", "marker": marker}),
            (front_ms[kept], front[kept], {"mode": "lines", "line": {"color": colours[name], "shape": "hv"}}),
        ):
            figure.add_scattergl(
                x=x,
                y=y,
                name=escape(name),
                legendgroup=name,
                hovertemplate="%{x:.3g} ms, NSR %{y:.3f}<extra>" + escape(name) + "</extra>",
                showlegend=False,
                row=2,
                col=2,
                **style,
            )
    for ms in constraints_ms:
        figure.add_vline(x=ms, line={"color": INK, "dash": "dot", "width": 1.5}, row=2, col=2)
    figure.update_xaxes(title="ms", range=[0, end_ms], row=2, col=2)
    figure.update_yaxes(title="NSR, less is better", row=2, col=2)
