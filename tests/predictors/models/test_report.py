"""What a predictor's artefact says about its accuracy, and what it refuses to say."""

import copy
import dataclasses
import json

import pytest

from milliseek.errors import InvalidInput
from milliseek.predictors.models import predictor as predictor_module
from milliseek.predictors.models import report
from milliseek.predictors.models.correction import Correction
from milliseek.predictors.models.predictor import from_bytes, to_bytes


def test_it_travels_with_the_predictor(made_up):
    assert from_bytes(to_bytes(made_up)).report == made_up.report
    bare = dataclasses.replace(made_up, report=report.Report())
    assert from_bytes(to_bytes(bare)).report == report.Report()


def test_it_is_json_and_comes_back(made_up):
    content = json.loads(json.dumps(made_up.report.to_dict(), allow_nan=False))
    assert report.Report.from_dict(content) == made_up.report


def test_kinds_come_by_their_milliseconds(made_up):
    kinds = made_up.report.by_kind()
    assert list(kinds) == ["Gemm", "Softmax"]
    assert {len(kernels) for kernels in kinds.values()} == {30, 10}


def test_figures_by_hand():
    told = report.Report(
        kernels=(
            report.TestedKernel("a", "Conv", 3.0, 3.0),
            report.TestedKernel("b", "Gemm", 1.0, 1.08),
        ),
        networks=(
            report.TestedNetwork("one", 10.0, 11.0),
            report.TestedNetwork("two", 10.0, 12.0),
            report.TestedNetwork("unsure", 10.0, 12.0, spread=0.18),
            report.TestedNetwork("sure", 10.0, 11.0, spread=0.05),
        ),
    )
    found = told.figures(Correction(1.0, 0.0, 0.0, 0.0, width=1.0, usual_spread=0.08))
    assert found["held_out_kernels"] == {
        "kernels": 2,
        "mape": pytest.approx(0.04),
        "within_5": 0.5,
        "within_10": 1.0,
        "rmspe": pytest.approx(0.08 / 2**0.5),
    }
    # 11 - 9.5 % is below 10, 12 - 9.5 % is not, but 12 - 18 % is, and 11 - 7 % is not.
    assert found["held_out_networks"]["coverage"] == 0.5
    assert [(kind["kind"], kind["share"]) for kind in found["each_kind"]] == [("Conv", 0.75), ("Gemm", 0.25)]
    assert [network["error"] for network in found["each_network"]] == pytest.approx([0.1, 0.2, 0.2, 0.1])


def test_figures_of_nothing_are_absent():
    found = report.Report().figures(Correction(1.0, 0.0, 0.0, 0.0, 1.0, 0.08))
    assert found["held_out_kernels"] == {"kernels": 0}
    assert found["held_out_networks"] == {"networks": 0}


def change(content, *keys, value):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


CHANGES = {
    "no kernels": (("kernels",), None),
    "a latency of nothing": (("kernels", 0, "measured_ms"), 0),
    "an infinite latency": (("networks", 0, "predicted_ms"), float("inf")),
    "a share above one": (("curve", 0, "within_5"), 1.5),
    "a time before the start": (("curve", 0, "seconds"), -1),
    "a reference that is no kernel": (("references", 0, "kernel"), "{}"),
    "a reference in words": (("references", 0, "latency_ms"), "long"),
}


@pytest.mark.parametrize(("keys", "value"), CHANGES.values(), ids=CHANGES)
def test_reports_that_cannot_be_are_refused(made_up, keys, value):
    content = copy.deepcopy(made_up.report.to_dict())
    change(content, *keys, value=value)
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError, InvalidInput)):
        report.Report.from_dict(content)


@pytest.mark.parametrize("size", [10**12, -1, 1.5, "10"])
def test_references_of_any_size_are_refused(made_up, size):
    """Checking for drift makes these tensors: a file from elsewhere must not decide how large they are."""
    content = made_up.report.to_dict()
    kernel = json.loads(content["references"][0]["kernel"])
    kernel["inputs"][1][0][0] = size
    content["references"][0]["kernel"] = json.dumps(kernel)
    with pytest.raises((ValueError, InvalidInput)):
        report.Report.from_dict(content)


def test_a_predictor_that_unpacks_to_too_much_is_refused(made_up, monkeypatch):
    monkeypatch.setattr(predictor_module, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(InvalidInput, match="too large"):
        from_bytes(to_bytes(made_up))
