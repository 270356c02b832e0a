"""Searches of a trained supernet: kept in the database, confirmed on the device, reported as a page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from milliseek.db import studies as queries
from milliseek.db.artefacts import save_artefact
from milliseek.db.engine import Database
from milliseek.db.spaces import get_or_create_subnet
from milliseek.errors import InvalidInput, NotReady
from milliseek.nas.reports.study_report import report_html
from milliseek.nas.reports.subnet_picture import subnet_svg
from milliseek.nas.search import subnet_studies
from milliseek.nas.search.confirmation import confirm, confirmations, timing_model
from milliseek.nas.search.objectives import TOP1, Metric, parse_goal
from milliseek.nas.search.subnet_studies import (
    SearchPlan,
    begun_budgets,
    chosen_subnets,
    find_subnets,
    search_result,
)
from milliseek.nas.studies import load_study, open_study
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.supernets import load_supernet
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.predictors.targets import device_target
from milliseek.spaces.hyperspace import MOBILEW, ONNXW, TINY32
from milliseek.spaces.space import random_space, random_subnet

from .. import small_training
from ..small_training import small_pictures

EVALUATIONS = 4
RECIPE = replace(small_training.RECIPE, float_budget=Budget(steps=1), quantised_budget=Budget(steps=1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, space):
    """The folder of a database with a supernet that has learned little."""
    folder = tmp_path_factory.mktemp("trained")
    small_training.train(folder, recipe=RECIPE, space=space)
    return folder


@pytest.fixture(scope="module")
def database(trained):
    database = Database.open(f"sqlite:///{trained / 'milliseek.db'}")
    yield database
    database.close()


@pytest.fixture(scope="module")
def target(database):
    return device_target(database, "local/onnxruntime/int8")


@pytest.fixture(scope="module")
def searched(database, target, lookup):
    """A function that runs, or resumes, a study."""

    class Service:
        newest = 1

        def latency_table(self, space, asked):
            assert space == lookup.table.space
            target, _, version = asked.partition("@")
            return replace(lookup.table, target=target, predictor=f"{target}@{version or self.newest}")

    service, pictures = Service(), small_pictures()
    supernet = load_supernet(database, "small", pictures)

    def run(name, plan, evaluations=EVALUATIONS, seed=0):
        return find_subnets(
            database, service, plan, supernet, "small", pictures, name, evaluations=evaluations, seed=seed
        )

    run.service = service
    return run


@pytest.fixture(scope="module")
def usual(target, budgets_ms):
    return SearchPlan.within(target.name, budgets_ms)


@pytest.fixture(scope="module")
def result(searched, usual):
    return searched("usual", usual)


def test_a_study_keeps_its_plan_and_what_it_found(database, result, usual, searched):
    assert len(result.evaluated) == len(result.found) == EVALUATIONS
    assert result.plan == usual
    assert result.evaluated == search_result(database, "usual").evaluated
    assert [each.budget_ms for each in result.best()] == sorted(usual.budgets_ms)
    assert (np.diff(result.hypervolumes) >= 0).all()
    again = searched("usual", usual)
    assert again.evaluated == result.evaluated, "nothing is left to do"
    with database.session(read_only=True) as session:
        row = queries.get_study(session, "usual")
        assert row.predictors == [f"{usual.target}@1"]
        assert row.config["reference"].keys() == {"top1", f"latency:{usual.target}"}


def test_a_resumed_study_keeps_its_predictor(searched, usual, monkeypatch):
    asked = []
    monkeypatch.setattr(
        subnet_studies, "LatencyLookup", lambda table: asked.append(table.predictor) or LatencyLookup(table)
    )
    searched("versions", usual, evaluations=1)
    monkeypatch.setattr(searched.service, "newest", 2, raising=False)
    searched("versions", usual, evaluations=2)
    searched("newer", usual, evaluations=1)
    assert asked == [f"{usual.target}@{version}" for version in (1, 1, 2)]


def test_a_plan_that_nothing_meets_keeps_no_name(searched, usual, database):
    with pytest.raises(InvalidInput, match="No subnet"):
        searched("impossible", replace(usual, budgets_ms=(1e-6,)))
    assert begun_budgets(database, "impossible") == ()
    searched("impossible", usual, evaluations=1)
    assert begun_budgets(database, "impossible") == usual.budgets_ms


def test_another_plan_needs_another_name(result, searched, usual):
    for changed, about in (
        (replace(usual, algorithm="guided"), "algorithm"),
        (replace(usual, budgets_ms=(1.0,)), "budgets_ms"),
        (replace(usual, wanted=parse_goal(["top1", "latency"], ["macs<=9M"], usual.target)), "constraints"),
    ):
        with pytest.raises(InvalidInput, match=f"other {about}"):
            searched("usual", changed)


@pytest.mark.parametrize("algorithm", ["nsga2", "guided", "random"])
def test_without_budgets_the_front_is_shown(searched, database, algorithm):
    target = "board/litert/int8"
    goal = parse_goal(["top1", "macs"], [f"latency:{target}<=3ms", "size<=2MB"], target)
    result = searched(f"front-{algorithm}", SearchPlan(goal, target, (), algorithm))
    assert {each.trial for each in result.best()} <= {each.trial for each in result.front}
    assert all(each.budget_ms is None and each.latency_ms <= 3 for each in result.best())
    assert chosen_subnets(database, f"front-{algorithm}") == result.best()
    assert SearchPlan.from_config(result.config) == result.plan


def test_one_trial_may_be_chosen(database, result):
    assert [each.trial for each in chosen_subnets(database, "usual", 2)] == [2]
    with pytest.raises(InvalidInput, match="no finished trial 77"):
        chosen_subnets(database, "usual", 77)


def test_a_study_of_an_earlier_build_is_read(database, result):
    """It knew one kind of goal, and wrote down neither it nor the metrics of its trials."""
    with database.session() as session:
        row = queries.get_study(session, "usual")
        config = {key: row.config[key] for key in ("budgets_ms", "target", "data")}
        queries.get_or_create_study(
            session, "earlier", kind="subnet", config=config, space_id=row.space_id, supernet_id=row.supernet_id
        )
    study = open_study(database.url, "earlier", ["maximize", "minimize"], None)
    for trial in load_study(database.url, "usual").get_trials():
        trial.user_attrs = {"subnet": trial.user_attrs["subnet"]}
        study.add_trial(trial)
    earlier = search_result(database, "earlier")
    assert [(e.top1, e.latency_ms, e.budget_ms) for e in earlier.evaluated] == [
        (e.top1, e.latency_ms, e.budget_ms) for e in result.evaluated
    ]
    assert earlier.hypervolumes[-1] > 0
    assert "earlier" in report_html(database, "earlier")


@pytest.fixture(scope="module")
def confirmed(database, target, result):
    pictures = small_pictures()
    supernet = load_supernet(database, "small", pictures)
    return confirm(database, target, supernet, pictures, "usual", result.best()[:2])


def test_candidates_are_confirmed_once(database, target, result, confirmed, monkeypatch):
    assert [each.trial for each in confirmed] == [each.trial for each in result.best()[:2]]
    assert all(each.measured_ms > 0 and 0 <= each.top1 <= 1 and 0 <= each.top1_float <= 1 for each in confirmed)
    assert confirmations(load_study(database.url, "usual")) == sorted(confirmed, key=lambda each: each.trial)
    monkeypatch.setattr("milliseek.nas.search.confirmation.measure_models", None)  # nothing is measured again
    pictures = small_pictures()
    supernet = load_supernet(database, "small", pictures)
    assert confirm(database, target, supernet, pictures, "usual", result.best()[:2]) == confirmed
    assert supernet.quantised


def test_what_is_timed_is_the_subnet_in_the_format_of_the_target(database, target, result):
    onnx = pytest.importorskip("onnx")
    subnet = result.evaluated[0].subnet
    model = onnx.load_from_string(timing_model(subnet, 10, target))
    (entry,) = model.graph.input
    assert [each.dim_value for each in entry.type.tensor_type.shape.dim] == [1, 3, *[subnet.resolution] * 2]
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)


class Page(HTMLParser):
    """Collects what a browser would fetch, and visible texts outside of scripts."""

    def __init__(self, html):
        super().__init__()
        self.fetched, self.headings, self.drawings, self._in = [], [], 0, ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._in = tag
        self.fetched += [value for name, value in attributes if name in ("src", "href")]
        self.drawings += tag == "svg"

    def handle_data(self, data):
        if self._in == "h2":
            self.headings.append(data)
            self._in = ""


def export_file(database, target, trial, precision, top1, **info):
    with database.session() as session:
        row = queries.get_study(session, "usual")
        subnet = get_or_create_subnet(session, row.space_id, f"genome {trial}", macs=1, params=1)
        queries.add_export(
            session,
            study_id=row.id,
            trial_number=trial,
            subnet_id=subnet.id,
            target_id=target.row_id,
            format="onnx",
            precision=precision,
            artefact_sha256=save_artefact(session, database.artefacts, precision.encode(), "export"),
            path="somewhere.onnx",
            size_bytes=5,
            top1=top1,
            predicted_ms=1.5,
            interval_ms=(1.4, 1.6),
            measured_ms=1.45,
            info=info,
        )


def test_a_report_is_one_page_that_needs_nobody(database, target, result, confirmed):
    export_file(database, target, 0, "int8", 0.4321)
    export_file(database, target, 0, "fp32", 0.8765, top1_network=0.8764)
    html = report_html(database, "usual")
    page = Page(html)
    assert page.fetched == []
    assert page.headings == [
        "Accuracy against latency",
        "Predicted against measured",
        "Accuracy of every form",
        "Architectures",
        "What was tried",
        "All trials",
    ]
    drawn = {0, *(each.trial for each in result.best())}
    assert page.drawings == len(drawn)
    for each in result.evaluated:
        assert each.subnet.genome in html
    for text in ("fp32 network", "fake-quantised network", "onnx int8 file", "onnx fp32 file", "87.6", "43.2"):
        assert text in html
    assert f"{result.hypervolumes[-1]:.4f}" in html


def test_a_report_of_several_costs_has_a_front_for_each(database, searched):
    target = "board/litert/int8"
    goal = parse_goal(["top1", "macs", "memory"], ["top1>=99%", "params<=2M"], target)
    searched("several", SearchPlan(goal, target, (), "random"))
    html = report_html(database, "several")
    assert [h for h in Page(html).headings if "against" in h] == [
        f"Accuracy against {kind}" for kind in ("macs", "memory", "params")
    ]
    assert "0 meet the constraints" in html


def test_texts_of_users_are_no_markup(database, searched, usual):
    searched("<script>alert(1)</script>", usual, evaluations=1)
    html = report_html(database, "<script>alert(1)</script>")
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_study_without_a_trial_has_no_report(database, searched, usual):
    searched("begun", usual, evaluations=0)
    with pytest.raises(NotReady, match="no subnet yet"):
        report_html(database, "begun")


@pytest.mark.parametrize("hyperspace", [TINY32, ONNXW, MOBILEW])
def test_a_drawing_has_a_box_for_every_block(hyperspace):
    rng = np.random.default_rng(0)
    subnet = random_subnet(random_space(hyperspace, rng), rng)
    svg = subnet_svg(subnet, 10)
    blocks = sum(map(len, subnet.stages))
    assert svg.count("<rect") == blocks + 3  # picture, stem and head
    total = sum(float(macs) for macs in re.findall(r"([\d.]+) M multiply", svg))
    stem_and_head = ("stem", "head")
    inside = [layer for layer in subnet.network(10).layers if not layer.name.startswith(stem_and_head)]
    assert total == pytest.approx(sum(layer.macs for layer in inside) / 1e6, abs=0.005 * blocks)


def test_metrics_have_one_name_everywhere(usual, result):
    assert result.evaluated[0].metrics.keys() == {TOP1, Metric("latency", usual.target)}
