"""Studies outlive their process: kill -9 loses no finished trial, and what was interrupted is done again."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import optuna
import psutil
import pytest
import sqlalchemy
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from milliseek.errors import NotFound, StorageError
from milliseek.nas.design.evolution import AgingEvolution, identity
from milliseek.nas.design.space_search import SpaceDomain
from milliseek.nas.studies import Outcome, finished_trials, load_study, open_study, run_trials
from milliseek.spaces.hyperspace import TINY32

DISTRIBUTIONS = {"x": IntDistribution(0, 10_000), "y": IntDistribution(0, 10_000)}
TOTAL = 12

WORKER = """
import sys
from milliseek.nas.design.evolution import AgingEvolution
from milliseek.nas.design.space_search import SpaceDomain
from milliseek.nas.studies import Outcome, open_study, run_trials
from milliseek.spaces.hyperspace import TINY32

url, hang_after, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
domain = SpaceDomain(TINY32)
study = open_study(url, "study", ["maximize"], AgingEvolution(domain, population=5, tournament=3, seed=1))
calls = 0

def evaluate(params):
    global calls
    calls += 1
    if calls > hang_after:
        print("hanging", flush=True)
        sys.stdin.read()  # for ever: until it is killed
    return Outcome([float(sum(params.values()))], {"params": params})

run_trials(study, domain.distributions, evaluate, total)
print("done", flush=True)
"""


@pytest.fixture
def url(tmp_path):
    return new_database(tmp_path / "studies.db")


def new_database(file):
    """In WAL mode, as the project's database is."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    return f"sqlite:///{file}"


def start_worker(url, *, hang_after):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, str(hang_after), str(TOTAL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def random_study(url):
    return open_study(url, "study", ["maximize"], optuna.samplers.RandomSampler(seed=0))


def summed(params):
    return Outcome([float(params["x"] + params["y"])], {"note": [params["x"]]})


@pytest.fixture
def hanging_worker(url):
    """A worker that finished 7 trials and is in the middle of the 8th."""
    worker = start_worker(url, hang_after=7)
    try:
        assert worker.stdout.readline().strip() == "hanging"
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def run_to_the_end(url):
    worker = start_worker(url, hang_after=TOTAL + 1)
    out, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0
    assert out.strip() == "done"


def test_kill_9_loses_and_repeats_no_finished_trial(url, hanging_worker):
    before = load_study(url, "study").get_trials()
    finished = [t for t in before if t.state is TrialState.COMPLETE]
    (interrupted,) = [t for t in before if t.state is TrialState.RUNNING]
    assert len(finished) == 7

    os.kill(hanging_worker.pid, signal.SIGKILL)
    hanging_worker.wait()
    run_to_the_end(url)

    study = load_study(url, "study")
    trials = study.get_trials()
    after = finished_trials(study)
    assert len(after) == TOTAL
    assert [(t.number, t.params, t.values, t.user_attrs) for t in after[:7]] == [
        (t.number, t.params, t.values, t.user_attrs) for t in finished
    ]
    assert len({identity(t.params) for t in after}) == TOTAL, "none was evaluated twice"
    assert trials[interrupted.number].state is TrialState.FAIL
    assert after[7].params == interrupted.params, "the interrupted one comes first"
    assert after[7].number > interrupted.number
    assert not [t for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert all(t.user_attrs["params"] == t.params for t in after)


def test_the_trial_of_a_living_worker_is_left_alone_and_that_of_a_dead_one_is_not(url, hanging_worker):
    assert [t.state for t in random_study(url).get_trials()[7:]] == [TrialState.RUNNING]

    os.kill(hanging_worker.pid, signal.SIGKILL)
    process, patience = psutil.Process(hanging_worker.pid), time.monotonic() + 60
    while process.status() != psutil.STATUS_ZOMBIE:  # dead, but its parent has not looked yet
        assert time.monotonic() < patience
    assert [t.state for t in random_study(url).get_trials()[7:]] == [TrialState.FAIL, TrialState.WAITING]


def test_a_resumed_study_proposes_what_an_uninterrupted_one_does(tmp_path):
    """Stopped between trials; the population is 5, so the last ones are children."""
    domain, proposed = SpaceDomain(TINY32), {}
    for name, sittings in (("at once", [TOTAL]), ("in parts", [3, 8, TOTAL])):
        url = new_database(tmp_path / f"{name}.db")
        for total in sittings:
            sampler = AgingEvolution(domain, population=5, tournament=3, seed=1)
            study = open_study(url, "study", ["maximize"], sampler)
            run_trials(study, domain.distributions, lambda p: Outcome([float(sum(p.values()))]), total)
        proposed[name] = [t.params for t in finished_trials(study)]
    assert proposed["in parts"] == proposed["at once"]


def abandoned_trial(study, worker):
    """A trial that a process left running."""
    trial = study.ask(dict(DISTRIBUTIONS))
    if worker is not None:
        trial.set_user_attr("worker", worker)
    return trial


def this_process(**changes):
    me = psutil.Process()
    return {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), **changes}


@pytest.mark.parametrize(
    ("changes", "left_alone"),
    [({}, True), ({"started": 1.0}, False), ({"pid": 2**22 + 1}, False), ({"host": "far-away", "pid": 1}, True)],
    ids=["this process", "number used again", "no such process", "another machine"],
)
def test_who_counts_as_alive(url, changes, left_alone):
    trial = abandoned_trial(random_study(url), this_process(**changes))
    state = random_study(url).get_trials()[trial.number].state
    assert state is (TrialState.RUNNING if left_alone else TrialState.FAIL)


def test_a_trial_that_has_just_been_asked_for_belongs_to_somebody(url):
    first, second = (random_study(url) for _ in range(2))
    asked = first.ask()
    first.enqueue_trial({"x": 1, "y": 2})
    taken = second.ask()
    states = [t.state for t in random_study(url).get_trials()]
    assert states == [TrialState.RUNNING] * 2
    assert taken.user_attrs["worker"] == asked.user_attrs["worker"] == pytest.approx(this_process())


def test_an_interrupted_trial_is_queued_again_as_often_as_it_takes(url):
    dead = this_process(pid=2**22 + 1)
    params = abandoned_trial(random_study(url), dead).params
    for _ in range(3):
        trial = abandoned_trial(random_study(url), dead)
        assert trial.params == params
    # Interrupted between being taken from the queue and having its parameters written.
    study = random_study(url)
    taken = study.ask()
    assert not taken.params
    taken.set_user_attr("worker", dead)
    study = random_study(url)
    run_trials(study, DISTRIBUTIONS, summed, 1)
    assert [t.params for t in finished_trials(study)] == [params]


def test_earlier_trials_count_and_progress_is_told(url):
    told = []
    run_trials(random_study(url), DISTRIBUTIONS, summed, 2)
    study = random_study(url)
    run_trials(study, DISTRIBUTIONS, summed, 4, on_trial=told.append)
    assert told == [2, 3, 4]
    assert len(study.get_trials()) == 4
    run_trials(study, DISTRIBUTIONS, summed, 3)
    assert len(study.get_trials()) == 4
    first = study.get_trials()[0]
    assert first.values == [first.params["x"] + first.params["y"]]
    assert first.user_attrs["note"] == [first.params["x"]]


def test_it_stops_between_trials_when_told(url):
    study = random_study(url)
    run_trials(study, DISTRIBUTIONS, summed, 10, stop=lambda done: done == 2)
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE] * 2


def test_a_failing_evaluation_is_not_swallowed(url):
    study = random_study(url)
    with pytest.raises(ZeroDivisionError):
        run_trials(study, DISTRIBUTIONS, lambda _: 1 / 0, 1)
    assert finished_trials(study) == []


def test_an_unknown_study(url):
    random_study(url)
    with pytest.raises(NotFound, match="'nothing'"):
        load_study(url, "nothing")


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "garbage.db").write_bytes(b"garbage" * 500)
    for file in (tmp_path / "garbage.db", tmp_path / "missing" / "studies.db"):
        for open_ in (random_study, lambda url: load_study(url, "study")):
            with pytest.raises(StorageError, match=file.name) as caught:
                open_(f"sqlite:///{file}")
            assert "sqlalche.me" not in caught.value.message


def test_a_disk_that_fills_up_during_a_trial_is_named(url):
    study = random_study(url)

    def no_page_more(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")  # SQLite raises it to what there is

    def fills_up(params):
        engine = study._storage._backend.engine
        engine.dispose()
        sqlalchemy.event.listen(engine, "connect", no_page_more)
        return Outcome([1.0], {f"note {i}": "x" * 2000 for i in range(20)})

    with pytest.raises(StorageError, match="full"):
        run_trials(study, DISTRIBUTIONS, fills_up, 1)


def test_passwords_stay_out_of_messages():
    with pytest.raises(StorageError) as caught:
        random_study("mysql+nothing://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
