"""Trials stored many at a time: an ordinary Optuna study, which survives kill -9 and several workers."""

import importlib.util
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState
from optuna.visualization import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_slice,
    plot_timeline,
)

from milliseek.nas.design import trial_batches
from milliseek.nas.design.evolution import AgingEvolution, identity
from milliseek.nas.design.space_search import SpaceDomain
from milliseek.nas.design.trial_batches import add_finished_trials, run_batches
from milliseek.nas.studies import Outcome, finished_trials, load_study, open_study
from milliseek.spaces.hyperspace import TINY32

WORKER = """
import os, sys
from milliseek.nas.design import trial_batches
from milliseek.nas.design.evolution import AgingEvolution
from milliseek.nas.design.space_search import SpaceDomain
from milliseek.nas.studies import Outcome, open_study
from milliseek.spaces.hyperspace import TINY32

url, hang_after, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
trial_batches.STORE_EVERY_S = 0.0
sampler = AgingEvolution(SpaceDomain(TINY32), population=5, tournament=3, litter=2, seed=1)
study = open_study(url, "study", ["maximize"], sampler)
calls = 0

def evaluate(params):
    global calls
    calls += 1
    if calls > hang_after:
        print("hanging", flush=True)
        sys.stdin.read()  # for ever: until it is killed
    return Outcome([float(sum(params.values()))], {"pid": os.getpid()})

trial_batches.run_batches(study, sampler, evaluate, total)
print("done", flush=True)
"""


def worker(url, hang_after, total):
    command = [sys.executable, "-c", WORKER, url, str(hang_after), str(total)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def new_database(file):
    """In WAL mode, as the project's database is."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    return f"sqlite:///{file}"


@pytest.fixture
def url(tmp_path):
    return new_database(tmp_path / "studies.db")


def breeder():
    return AgingEvolution(SpaceDomain(TINY32), population=5, tournament=3, litter=2, seed=1)


def summed(params):
    return Outcome([float(sum(params.values()))], {"note": [params["block1"]]})


def opened(url):
    return open_study(url, "study", ["maximize"], breeder())


@pytest.fixture(params=["Optuna's tables", "another Optuna"])
def tables(request, monkeypatch):
    """Those that are known, and an Optuna that has renamed a column."""
    trial_batches._models.cache_clear()
    if request.param == "another Optuna":
        monkeypatch.setitem(trial_batches._COLUMNS, "TrialModel", {"trial_id", "finished_at"})
    assert (trial_batches._models() is None) == (request.param == "another Optuna")
    yield
    trial_batches._models.cache_clear()


def test_optuna_reads_what_was_stored(url, tables):
    told = []
    run_batches(opened(url), breeder(), summed, 12, told.append)
    assert told == list(range(13))
    storage = optuna.storages.RDBStorage(url)
    study = optuna.load_study(study_name="study", storage=storage)
    assert [t.number for t in study.trials] == list(range(12))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
    for trial in study.trials:
        assert trial.values == [sum(trial.params.values())]
        assert trial.user_attrs == {"note": [trial.params["block1"]]}
        assert trial.distributions == SpaceDomain(TINY32).distributions
        assert trial.datetime_start <= trial.datetime_complete
    assert study.best_value == max(t.value for t in study.trials)
    optuna.importance.get_param_importances(study)
    later = study.ask(dict(SpaceDomain(TINY32).distributions))
    assert later.number == 12, "Optuna goes on with it"
    storage.engine.dispose()


def test_a_dashboard_reads_what_was_stored(url):
    """What optuna-dashboard asks of a storage that it is given the URL of."""
    run_batches(opened(url), breeder(), summed, 12)
    storage = optuna.storages.get_storage(url)
    (frozen,) = storage.get_all_studies()
    assert (frozen.study_name, frozen.directions) == ("study", [optuna.study.StudyDirection.MAXIMIZE])
    summary = optuna.get_all_study_summaries(url)[0]
    assert (summary.n_trials, summary.best_trial.state) == (12, TrialState.COMPLETE)
    assert summary.datetime_start is not None
    trials = storage.get_all_trials(frozen._study_id)
    assert storage.get_best_trial(frozen._study_id).value == max(trial.value for trial in trials)
    shown = [
        {
            "id": trial._trial_id,
            "values": trial.values,
            "params": {name: d.to_internal_repr(trial.params[name]) for name, d in trial.distributions.items()},
            "distributions": [distribution_to_json(d) for d in trial.distributions.values()],
            "attributes": [trial.user_attrs, trial.system_attrs, trial.intermediate_values],
            "span": [trial.datetime_start.isoformat(), trial.datetime_complete.isoformat()],
        }
        for trial in trials
    ]
    assert len(json.loads(json.dumps(shown))) == 12
    study = optuna.load_study(study_name="study", storage=storage)
    for draw in (plot_optimization_history, plot_parallel_coordinate, plot_slice, plot_timeline):
        assert draw(study).data
    assert len(optuna.search_space.intersection_search_space(trials)) == 8
    storage.remove_session()
    storage._backend.engine.dispose()


@pytest.mark.skipif(importlib.util.find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed")
def test_optuna_dashboard_shows_a_study(url):
    import optuna_dashboard

    run_batches(opened(url), breeder(), summed, 12)
    storage = optuna.storages.RDBStorage(url)
    app, replies = optuna_dashboard.wsgi(storage), []

    def get(path):
        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}
        setup_testing_defaults(environment)
        body = b"".join(app(environment, lambda status, *_: replies.append(status)))
        return json.loads(body)

    (listed,) = get("/api/studies")["study_summaries"]
    assert listed["study_name"] == "study"
    detail = get(f"/api/studies/{listed['study_id']}")
    assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 12
    assert all(len(trial["params"]) == 8 for trial in detail["trials"])
    assert set(replies) == {"200 OK"}
    storage.engine.dispose()


def test_a_resumed_study_is_what_an_uninterrupted_one_is(tmp_path):
    found = {}
    for name, sittings in (("at once", [30]), ("in parts", [3, 8, 9, 30])):
        url = new_database(tmp_path / f"{name}.db")
        for total in sittings:
            run_batches(opened(url), breeder(), summed, total)
        found[name] = [t.params for t in finished_trials(load_study(url, "study"))]
    assert found["in parts"] == found["at once"]
    assert len({identity(params) for params in found["at once"]}) == 30


def test_kill_9_loses_and_repeats_no_stored_trial(tmp_path):
    urls = [new_database(tmp_path / f"{name}.db") for name in ("killed", "whole")]
    first = worker(urls[0], 7, 12)
    try:
        assert first.stdout.readline().strip() == "hanging"
        os.kill(first.pid, signal.SIGKILL)
    finally:
        first.kill()
        first.communicate()
    assert len(load_study(urls[0], "study").trials) == 7
    for url in urls:
        run_batches(opened(url), breeder(), summed, 12)
    killed, whole = (load_study(url, "study").trials for url in urls)
    assert [t.params for t in killed] == [t.params for t in whole], "the lost ones come again"
    assert {t.state for t in killed} == {TrialState.COMPLETE}


def test_workers_share_a_study(url):
    total = 60
    workers = [worker(url, 1000, total) for _ in range(2)]
    try:
        assert [each.communicate(timeout=120)[0].strip() for each in workers] == ["done"] * 2
    finally:
        for each in workers:
            each.kill()
            each.communicate()
    trials = load_study(url, "study").trials
    assert [t.number for t in trials] == list(range(total)), "not one too many"
    assert len({identity(t.params) for t in trials}) == total, "nothing was scored for nothing"


def test_a_worker_that_finds_trials_of_others_drops_what_they_scored(url, tables):
    """Both propose the same until they meet in the database."""
    study, other = opened(url), opened(url)
    evaluated = []

    def evaluate(params):
        evaluated.append(params)
        if len(evaluated) == 4:
            run_batches(other, breeder(), summed, 6)
        return summed(params)

    run_batches(study, breeder(), evaluate, 10)
    trials = load_study(url, "study").trials
    assert [t.number for t in trials] == list(range(10))
    assert len({identity(t.params) for t in trials}) == 10
    assert len(evaluated) > 4


def test_trials_are_stored_all_or_none(url, tables):
    study = opened(url)
    trials = [optuna.trial.create_trial(value=1.0) for _ in range(3)]
    assert add_finished_trials(study, trials, 0)
    assert not add_finished_trials(study, trials, 0)
    assert len(study.trials) == 3


def test_what_was_scored_before_a_failure_is_kept(url):
    calls = []

    def evaluate(params):
        calls.append(params)
        if len(calls) == 4:
            raise ZeroDivisionError
        return summed(params)

    with pytest.raises(ZeroDivisionError):
        run_batches(opened(url), breeder(), evaluate, 10)
    assert [t.params for t in load_study(url, "study").trials] == calls[:3]
