"""The report of a study of subnets: one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ...db import studies as queries
from ...db.engine import Database
from ...db.models import Export
from ...errors import NotReady
from ..search.confirmation import Confirmation, confirmations
from ..search.objectives import TOP1, Metric
from ..search.subnet_search import EvaluatedSubnet
from ..search.subnet_studies import SearchResult, search_result
from ..studies import load_study
from .report_plots import TimedFile, accuracy_figure, front_figure, hypervolume_figure, timing_figure
from .subnet_picture import subnet_svg

ROWS = 500
"""Trials in the table, the most accurate first."""
DRAWN = 8
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#333;max-width:1150px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin-bottom:.2em} h2{font-size:1.2em;margin:2em 0 .3em} p{margin:.3em 0;color:#555}
table{border-collapse:collapse;font-size:13px} th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #eee}
th:first-child,td:first-child,td.text{text-align:left}
td{white-space:nowrap} thead th{position:sticky;top:0;background:#fff}
.scroll{max-height:420px;overflow:auto;border:1px solid #ddd} .drawing{overflow-x:auto;margin:.5em 0 1em}
code{font-size:12px;overflow-wrap:anywhere}
"""


def report_html(database: Database, study: str) -> str:
    """Pareto front, predicted against measured, accuracy of every form, architectures, and all that was tried.

    About 5 MB, most of it plotly's JavaScript; raises NotFound or InvalidInput, and NotReady before the first trial.
    """
    result = search_result(database, study)
    if not result.evaluated:
        raise NotReady(f"The study '{study}' has evaluated no subnet yet.", "milliseek search goes on with it.")
    confirmed = confirmations(load_study(database.url, study))
    with database.session(read_only=True) as session:
        row = queries.get_study(session, study)
        exports = list(queries.list_exports(session, study_id=row.id))
        predictors = list(row.predictors)
        return _page(result, exports, confirmed, predictors)


def _page(
    result: SearchResult, exports: Sequence[Export], confirmed: Sequence[Confirmation], predictors: Sequence[str]
) -> str:
    best = result.best()
    shown = _shown(result, best, exports, confirmed)
    sections = [_heading(result), *_fronts(result, {each.trial: str(each.trial) for each in shown})]
    files = [*_timed_exports(exports), *_timed_candidates(result, confirmed)]
    if files:
        sections.append(_section("Predicted against measured", _html(timing_figure(files)), _TIMING))
    if top1 := _accuracies(exports, confirmed):
        sections.append(_section("Accuracy of every form", _html(accuracy_figure(top1)), _ACCURACY))
    sections.append(_section("Architectures", *(_drawing(result, each) for each in shown)))
    sections.append(
        _section("What was tried", _settings(result, predictors), _html(hypervolume_figure(result)), _VOLUME)
    )
    sections.append(_section("All trials", _trials(result)))
    title = escape(result.study)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(sections)}</body></html>\n"
    )


_TIMING = "Lines: the diagonal and 10 % to either side; bars: 90 % intervals of the prediction."
_ACCURACY = (
    "On the test pictures: the network in floating point, the same fake-quantised as it was trained, and files in "
    "their runtimes."
)
_VOLUME = (
    "Hypervolume: the share of what lies between the reference values and a perfect subnet (top-1 1, no cost) that the "
    "trials so far dominate."
)


def _shown(
    result: SearchResult,
    best: Sequence[EvaluatedSubnet],
    exports: Sequence[Export],
    confirmed: Sequence[Confirmation],
) -> list[EvaluatedSubnet]:
    """The subnets that are drawn: exported ones, the best ones, confirmed ones; by top-1."""
    wanted = [
        *(each.trial_number for each in exports if each.trial_number is not None),
        *(each.trial for each in best),
        *(each.trial for each in confirmed),
    ]
    kept = list(dict.fromkeys(wanted))[:DRAWN]
    return sorted((each for each in result.evaluated if each.trial in kept), key=lambda each: each.top1)


def _heading(result: SearchResult) -> str:
    plan, space = result.plan, result.evaluated[0].subnet.space
    objectives = ", ".join(str(metric) for metric in plan.goal.objectives)
    return (
        f"<h1>{escape(result.study)}</h1><p>{len(result.evaluated)} subnets of {escape(space.encoding)} evaluated, "
        f"{len(result.found)} meet the constraints, {len(result.front)} are on the front of {escape(objectives)}; "
        f"hypervolume {result.hypervolumes[-1]:.4f}.</p>"
    )


def _fronts(result: SearchResult, marked: dict[int, str]) -> Iterable[str]:
    """Accuracy over each of the costs, those that are objectives first."""
    objectives = [metric for metric in result.plan.goal.objectives if metric != TOP1]
    others = [metric for metric in result.plan.goal.costs if metric not in objectives]
    for metric in [*objectives, *others]:
        figure = front_figure(result, metric, TOP1, marked)
        note = (
            "Ringed, with their trial: the best of each budget, exported and confirmed ones. Point at a dot for more."
        )
        yield _section(f"Accuracy against {metric.kind}", _html(figure), note)


def _timed_exports(exports: Sequence[Export]) -> list[TimedFile]:
    return [
        TimedFile(
            f"{row.trial_number}: {row.format} {row.precision}",
            row.target.name,
            row.predicted_ms,
            (row.interval_low_ms, row.interval_high_ms)
            if row.interval_low_ms is not None and row.interval_high_ms is not None
            else None,
            row.measured_ms,
        )
        for row in exports
        if row.predicted_ms and row.measured_ms
    ]


def _timed_candidates(result: SearchResult, confirmed: Sequence[Confirmation]) -> list[TimedFile]:
    by_trial = {each.trial: each for each in result.evaluated}
    found = []
    for each in confirmed:
        predicted_ms = by_trial[each.trial].metrics.get(Metric("latency", each.target))
        if predicted_ms is not None:
            found.append(TimedFile(f"{each.trial}: candidate", each.target, predicted_ms, None, each.measured_ms))
    return found


def _accuracies(exports: Sequence[Export], confirmed: Sequence[Confirmation]) -> dict[str, dict[str, float]]:
    """Top-1 on the test pictures by subnet and form, the forms in the order in which a network goes through them."""
    found: dict[int, dict[str, float]] = {}
    for candidate in confirmed:
        forms = {"fp32 network": candidate.top1_float, "fake-quantised network": candidate.top1}
        found.setdefault(candidate.trial, {}).update(forms)
    for row in sorted(exports, key=lambda each: each.precision):
        if row.trial_number is None:
            continue
        forms = found.setdefault(row.trial_number, {})
        network = row.info.get("top1_network")
        if row.precision == "fp32" and network is not None:
            forms["fp32 network"] = network
        if row.top1_fake_quant is not None:
            forms["fake-quantised network"] = row.top1_fake_quant
        if row.top1 is not None:
            forms[f"{row.format} {row.precision} file"] = row.top1
    order = ("fp32 network", "fake-quantised network")
    return {
        f"trial {trial}": dict(sorted(forms.items(), key=lambda each: order.index(each[0]) if each[0] in order else 2))
        for trial, forms in sorted(found.items())
        if forms
    }


def _drawing(result: SearchResult, found: EvaluatedSubnet) -> str:
    values = ", ".join(f"{escape(str(metric))} {metric.shown(value)}" for metric, value in found.metrics.items())
    classes = found.subnet.space.hyperspace.nominal_classes
    return (
        f"<p><b>{escape(result.study)}:{found.trial}</b> {values}</p>"
        f'<div class="drawing">{subnet_svg(found.subnet, classes)}</div>'
        f"<p><code>{escape(found.subnet.genome)}</code></p>"
    )


def _settings(result: SearchResult, predictors: Sequence[str]) -> str:
    plan, config = result.plan, result.config
    rows: dict[str, Any] = {
        "algorithm": plan.algorithm,
        "objectives": ", ".join(map(str, plan.goal.objectives)),
        "constraints": ", ".join(map(str, plan.goal.constraints)) or "none",
        "budgets": ", ".join(f"{ms:g} ms" for ms in plan.budgets_ms) or "none",
        "target": plan.target,
        "predictors": ", ".join(predictors) or "none",
        "seed": config.get("seed", "not recorded"),
        "reference values": ", ".join(f"{name} {value:g}" for name, value in config.get("reference", {}).items())
        or "the worst seen",
        "pictures (SHA-256)": config.get("data", "not recorded"),
    }
    cells = (f'<tr><td>{name}</td><td class="text">{escape(str(value))}</td></tr>' for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _trials(result: SearchResult) -> str:
    found = {each.trial for each in result.found}
    metrics = [TOP1, *result.plan.goal.costs]
    ranked = sorted(result.evaluated, key=lambda each: (-each.top1, each.trial))[:ROWS]
    head = "".join(f"<th>{escape(str(metric))}</th>" for metric in metrics)
    rows = "".join(
        f"<tr><td>{each.trial}</td>"
        + "".join(f"<td>{metric.shown(each.metrics[metric])}</td>" for metric in metrics)
        + f"<td>{'yes' if each.trial in found else 'no'}</td>"
        + f'<td class="text"><code>{escape(each.subnet.genome)}</code></td></tr>'
        for each in ranked
    )
    left_out = len(result.evaluated) - len(ranked)
    note = f"<p>The {ROWS} most accurate; {left_out} more are in the study.</p>" if left_out else ""
    return (
        f'<div class="scroll"><table><thead><tr><th>trial</th>{head}<th>meets all</th><th>subnet</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _section(title: str, *parts: str) -> str:
    body = "".join(part if part.startswith("<") else f"<p>{part}</p>" for part in parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _html(figure: go.Figure) -> str:
    html: str = figure.to_html(
        include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True}
    )
    return html
