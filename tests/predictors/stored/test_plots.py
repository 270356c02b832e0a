"""The picture of a predictor: everything in one file, nothing from the network."""

import dataclasses
import re
from datetime import UTC, datetime

from milliseek.predictors.models import report
from milliseek.predictors.stored.plots import MAX_ERROR, SHOWN_KINDS, plot_html
from milliseek.predictors.stored.versions import PredictorVersion


def version_of(predictor):
    return PredictorVersion(predictor, 1, 3, 16, 6, {}, datetime(2026, 5, 4, 3, 2, tzinfo=UTC), "0" * 64)


def figure_of(html):
    """The part of the page that is not plotly itself."""
    return html[html.rindex("Plotly.newPlot(") :]


def test_it_says_what_it_shows(made_up):
    html = plot_html(version_of(made_up))
    figure = figure_of(html)
    for words in (
        f"{made_up.target}@3",
        "16 kernels and 6 networks",
        "2026-05-04 03:02 UTC",
        "40 kernels never trained on",
        "6 networks, each left out",
        "Gemm (",
        "within 5 %",
        "net5",
    ):
        assert words.replace("/", "\\u002f") in figure, words


def test_it_loads_nothing(made_up):
    html = plot_html(version_of(made_up))
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", html)
    assert "https:" not in figure_of(html)


def test_names_from_elsewhere_are_text(made_up):
    kernels = (report.TestedKernel("a", "<script>alert(1)</script>", 1.0, 1.1),)
    html = plot_html(version_of(dataclasses.replace(made_up, report=report.Report(kernels=kernels))))
    assert "alert(1)" in html
    assert "<script>alert" not in html


def test_many_kinds_and_large_errors_keep_it_legible(made_up):
    kernels = tuple(
        report.TestedKernel(str(i), f"kind{i}", 1.0 + i, (1.0 + i) * (50 if i == 0 else 1.01))
        for i in range(SHOWN_KINDS + 5)
    )
    figure = figure_of(plot_html(version_of(dataclasses.replace(made_up, report=report.Report(kernels=kernels)))))
    assert "5 other kinds" in figure
    assert f'"name":"kind{SHOWN_KINDS + 4} (' in figure
    assert '"name":"kind0 (' not in figure
    assert f'"range":[{-105 * MAX_ERROR},{105 * MAX_ERROR}]' in figure, "an error of 4900 % is drawn at the edge"


def test_a_predictor_without_a_report(made_up):
    html = plot_html(version_of(dataclasses.replace(made_up, report=report.Report())))
    assert "No kernels never trained on" in figure_of(html)
