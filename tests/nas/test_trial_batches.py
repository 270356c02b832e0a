"""Trials stored many at a time: an ordinary Optuna study, which survives kill -9 and several workers."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import optuna
import pytest
from optuna.trial import TrialState

from milliseek.nas.evolution import AgingEvolution, identity
from milliseek.nas.space_search import SpaceDomain
from milliseek.nas.studies import Outcome, finished_trials, load_study, open_study
from milliseek.nas.trial_batches import add_finished_trials, run_batches
from milliseek.spaces.hyperspace import TINY32

WORKER = """
import os, sys
from milliseek.nas import trial_batches
from milliseek.nas.evolution import AgingEvolution
from milliseek.nas.space_search import SpaceDomain
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


def test_optuna_reads_what_was_stored(url):
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


def test_a_worker_that_finds_trials_of_others_drops_what_they_scored(url):
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


def test_trials_are_stored_all_or_none(url):
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
