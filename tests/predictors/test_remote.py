"""Targets on other devices: an agent, here a thread that does the jobs in the database on this machine."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import select

from milliseek.db.artefacts import save_artefact
from milliseek.db.devices import remove_device, set_device_state, touch_device, upsert_device
from milliseek.db.engine import Database
from milliseek.db.jobs import cancel_jobs, complete_job, fail_job, lease_jobs, list_jobs
from milliseek.db.measurements import kernel_measurements
from milliseek.db.models import Artefact, Job
from milliseek.devices.facts import local_facts
from milliseek.devices.local import LocalDevice
from milliseek.devices.protocol import ProtocolConfig
from milliseek.devices.target import parse
from milliseek.errors import Busy, Interrupted, InvalidInput, MeasurementError, MilliseekError, NotFound, NotReady
from milliseek.kernels.onnx.builder import one_kernel_model
from milliseek.kernels.onnx.hollow import hollow
from milliseek.predictors import remote
from milliseek.predictors.networks.splitting import split_network
from milliseek.predictors.profiles.drift import check
from milliseek.predictors.profiles.evaluation import measure_models
from milliseek.predictors.profiles.measuring import Measurer
from milliseek.predictors.profiles.profiling import profile
from milliseek.predictors.remote import WINDOW, RemoteDevice
from milliseek.predictors.service import LatencyService
from milliseek.predictors.stored.versions import newest_predictor
from milliseek.predictors.targets import device_target, open_device
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, random_subnet

TARGET = "pi4/onnxruntime/int8"
QUICK = ProtocolConfig(visit_ms=1, min_runs=2, patience_ms=100)


def register(database: Database, name: str = "pi4", model: str | None = None, **changed: object) -> None:
    """A device that says of itself what this machine does, but for what is `changed`."""
    facts = dataclasses.asdict(local_facts())
    facts["runtimes"] = dict(facts["runtimes"])
    with database.session() as session:
        upsert_device(session, name, "agent", {**facts, **changed}, model)


def answer(database: Database, name: str, device: LocalDevice, job) -> None:
    model = database.artefacts.read(job.payload_sha256)
    result, data = {}, None
    try:
        if job.kind == "measure":
            visits = device.measure(model, optimise=job.options["optimise"], visits=job.options["visits"])
            if visits[0].error is not None:
                raise MeasurementError(visits[0].error)
            result = {"visits": [dataclasses.asdict(visit) for visit in visits]}
        elif job.kind == "optimise":
            data = device.optimise(model, hollow=job.options["hollow"])
        else:
            result = {"shapes": device.tensor_shapes(model, run=job.options["run"])}
    except MilliseekError as error:
        with database.session() as session:
            fail_job(session, job.lease, name, str(error), retry=False)
        return
    with database.session() as session:
        sha256 = None if data is None else save_artefact(session, database.artefacts, data, "result", durable=False)
        complete_job(session, job.lease, name, result, sha256)


@contextmanager
def agent(database: Database, name: str = "pi4", config: ProtocolConfig | None = None) -> Iterator[list[Job]]:
    """An agent that is connected, and does one job after the other; the jobs that it did."""
    stop = threading.Event()
    done: list[Job] = []

    def work() -> None:
        devices: dict[str, LocalDevice] = {}
        while not stop.wait(0.005):
            with database.session() as session:
                touch_device(session, name, 30.0)
                jobs = lease_jobs(session, name, 2, 30.0)
            for job in jobs:
                if job.target not in devices:
                    devices[job.target] = LocalDevice(parse(job.target), config)
                done.append(job)
                answer(database, name, devices[job.target], job)
        for device in devices.values():
            device.close()
        with database.session() as session:
            touch_device(session, name, 0.0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def jobs_of(database: Database) -> list:
    with database.session(read_only=True) as session:
        return list_jobs(session, limit=1000)


def states(database: Database) -> list[str]:
    return [job.state for job in jobs_of(database)]


@pytest.fixture
def database(request, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLISEEK_HOME", str(tmp_path))
    postgres = getattr(request, "param", "sqlite") == "postgres"
    opened = Database.open(
        request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path / 'milliseek.db'}"
    )
    register(opened)
    yield opened
    opened.close()


def remote_device(database: Database, text: str = TARGET, patience_s: float = 30.0) -> RemoteDevice:
    device = open_device(database, device_target(database, text), patience_s=patience_s)
    assert isinstance(device, RemoteDevice)
    return device


@pytest.fixture
def kernels(make):
    return [make.gemm(8, cout) for cout in range(1, 3 * WINDOW)]


def network(space: str = "mini32-01-01", seed: int = 5) -> bytes:
    import numpy as np

    chosen = random_subnet(Space.decode(space), np.random.default_rng(seed)).network(10)
    return network_model(chosen, random_parameters(chosen.layers, 7), "int8")


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, mini):
    """A profile of a device elsewhere, from first to last over jobs."""
    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('remote') / 'milliseek.db'}")
    register(database, "pi4-kitchen", "pi4")
    with agent(database, "pi4-kitchen") as jobs:
        made = profile(database, device_target(database, TARGET), [mini], budget_s=8)
    assert len(jobs) > made.kernels + made.networks
    yield database, made
    database.close()


@pytest.mark.slow
def test_a_profile_of_a_device_elsewhere(profiled):
    database, made = profiled
    assert (made.target, made.predictor) == (TARGET, f"{TARGET}@1")
    assert made.kernels >= 30
    assert made.networks >= 4
    assert newest_predictor(database, TARGET).predictor.runtime_version == dict(local_facts().runtimes)["onnxruntime"]
    assert "measure" not in {job.kind for job in jobs_of(database)}, "what was measured is forgotten as a job"
    with database.session(read_only=True) as session:
        payloads = set(session.scalars(select(Artefact.sha256).where(Artefact.kind == "payload")))
    assert payloads == {job.payload_sha256 for job in jobs_of(database)}


@pytest.mark.slow
def test_predicting_again_does_not_need_the_device(profiled, monkeypatch):
    database, made = profiled
    model = network()
    with LatencyService(database) as service:
        sha256 = service.store_model(model, "net.onnx")
        with agent(database, "pi4-kitchen"):
            first = service.predict_model(sha256, TARGET)
    assert first.predictor == made.predictor
    with LatencyService(database) as another:
        assert another.predict_model(sha256, TARGET).latency_ms == first.latency_ms
    monkeypatch.setattr("milliseek.predictors.service.PATIENCE_S", 0.05)
    with LatencyService(database) as service, pytest.raises(NotReady, match="pi4 is connected; it was last seen"):
        service.predict_model(service.store_model(network(seed=6), "other.onnx"), TARGET)


@pytest.mark.slow
def test_measuring_files_and_checking_a_predictor_elsewhere(profiled):
    database, _ = profiled
    with agent(database, "pi4-kitchen"):
        (measured,) = measure_models(database, device_target(database, TARGET), [("n.onnx", network())], visits=1)
        drift = check(database, newest_predictor(database, TARGET), visits=1)
    assert measured.latency_ms > 0
    assert drift.target == TARGET
    assert drift.factor > 0


def test_the_kernels_of_a_network_are_those_of_the_device(database, mini):
    model = network()
    with agent(database), remote_device(database) as device:
        there = split_network(device, model)
    with LocalDevice(parse("here/onnxruntime/int8")) as here:
        assert there == split_network(here, model)
    with remote_device(database, patience_s=0.0) as device:
        assert split_network(device, model) == there, "remembered"


def test_kernels_are_measured_and_stored(database, kernels):
    target = device_target(database, TARGET)
    with agent(database, config=QUICK) as jobs, open_device(database, target) as device:
        measurer = Measurer(database, target, device)
        assert measurer.measure_kernels(kernels) == len(kernels)
        assert measurer.visited == {kernel.hash for kernel in kernels}
        assert measurer.measure_kernels(kernels[:3]) == 3, "another visit is another job"
    assert len(jobs) == len(kernels) + 3
    with database.session(read_only=True) as session:
        assert len(kernel_measurements(session, target.row_id, include_disturbed=True)) == len(jobs)


def test_a_window_of_jobs_is_under_way(database, kernels):
    """Whoever says stop gets what is under way, and no more."""
    target = device_target(database, TARGET)
    visits: list[int] = []
    with agent(database, config=QUICK) as jobs, open_device(database, target) as device:
        measurer = Measurer(database, target, device)
        done = measurer.measure_kernels(kernels, goes_on=lambda: len(visits) < 5, on_visit=visits.append)
    assert 5 <= done <= 5 + WINDOW
    assert len(jobs) == done


def test_several_devices_of_a_model_serve_one_target(database, kernels):
    for name in ("pi-a", "pi-b"):
        register(database, name, "pi")
    with agent(database, "pi-a", QUICK) as some, agent(database, "pi-b", QUICK) as others:
        files = [(kernel.hash, one_kernel_model(kernel)) for kernel in kernels]
        found = dict(remote_device(database, "pi/onnxruntime/fp32").measure_many(files))
    assert found.keys() == {kernel.hash for kernel in kernels}
    assert some
    assert others
    assert len(some) + len(others) == len(files)


def test_what_the_runtime_there_refuses(database, make):
    bad = dataclasses.replace(make.add(8, 5), op_type="NoSuchOperator")
    target = device_target(database, TARGET)
    with agent(database, config=QUICK), open_device(database, target) as device:
        measurer = Measurer(database, target, device)
        assert measurer.measure_kernels([bad, make.gemm(8, 8)]) == 1
        assert set(measurer.failures) == {bad.hash}
        assert "NoSuchOperator" in measurer.failures[bad.hash]
        (visit,) = device.measure(b"rubbish", optimise=True)
        assert (visit.latency_ms, visit.error is None) == (None, False)
        with pytest.raises(MeasurementError, match="failed while optimising the model"):
            device.optimise(b"rubbish")
        with pytest.raises(MeasurementError, match="failed while running the model"):
            device.tensor_shapes(b"rubbish")


def test_an_agent_that_was_never_there(database, kernels):
    told = "No agent of pi4 is connected; it was never connected"
    with remote_device(database, patience_s=0.05) as device, pytest.raises(NotReady, match=told) as caught:
        device.measure(one_kernel_model(kernels[0]), optimise=False)
    assert "milliseek agent" in caught.value.remedy
    assert states(database) == ["cancelled"]


def test_an_agent_that_vanishes(database, kernels):
    """It took a job and was never heard of again."""
    with database.session() as session:
        touch_device(session, "pi4", 0.0)
    files = [(kernel.hash, one_kernel_model(kernel)) for kernel in kernels]
    with remote_device(database, patience_s=0.2) as device:
        looks = iter(range(1000))

        def lease_one(_: float) -> None:
            if next(looks) == 0:
                with database.session() as session:
                    assert len(lease_jobs(session, "pi4", 1, 30.0)) == 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remote.time, "sleep", lease_one)
            patch.setattr(remote, "LOOK_S", 0.0)
            with pytest.raises(NotReady, match=r"last seen at \d{4}-"):
                list(device.measure_many(files))
    assert set(states(database)) == {"cancelled"}


def test_a_device_that_is_drained(database, kernels):
    with database.session() as session:
        touch_device(session, "pi4", 30.0)
        set_device_state(session, "pi4", "draining")
    with remote_device(database, patience_s=0.05) as device, pytest.raises(Busy, match="pi4 takes no jobs"):
        device.measure(one_kernel_model(kernels[0]), optimise=False)


def test_ctrl_c_cancels_what_is_under_way(database, kernels, monkeypatch):
    def press(_: float) -> None:
        raise KeyboardInterrupt

    files = [(kernel.hash, one_kernel_model(kernel)) for kernel in kernels]
    with remote_device(database) as device:
        monkeypatch.setattr(remote.time, "sleep", press)
        with pytest.raises(KeyboardInterrupt):
            list(device.measure_many(files))
    assert states(database) == ["cancelled"] * WINDOW
    monkeypatch.undo()
    with agent(database, config=QUICK):
        assert len(list(remote_device(database).measure_many(files))) == len(files), "the same command goes on"


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
def test_two_programs_that_ask_the_same(database, kernels):
    """Each gets an answer, be it the same one or one of its own."""
    files = [(kernel.hash, one_kernel_model(kernel)) for kernel in kernels]
    devices = [remote_device(database), remote_device(database)]
    with ThreadPoolExecutor(2) as programs, agent(database, config=QUICK) as jobs:
        one, other = programs.map(lambda device: dict(device.measure_many(files)), devices)
        models = {device.optimise(files[0][1]) for device in devices}
    assert one.keys() == other.keys() == {kernel.hash for kernel in kernels}
    assert len(models) == 1
    assert len(jobs) >= len(files)
    assert [job.kind for job in jobs_of(database)] == ["optimise"]


def test_closing_cancels_what_is_under_way(database, kernels):
    """As when the program ends while a loop over the visits is still open."""
    with agent(database, config=QUICK):
        device = remote_device(database)
        visits = device.measure_many((kernel.hash, one_kernel_model(kernel)) for kernel in kernels)
        next(visits)
        device.close(at_once=True)
    assert not {"queued", "leased"} & set(states(database))
    visits.close()


def test_jobs_that_somebody_cancels(database, kernels):
    device = remote_device(database)
    visits = device.measure_many([(1, one_kernel_model(kernels[0]))])
    with pytest.MonkeyPatch.context() as patch:

        def cancel(_: float) -> None:
            with database.session() as session:
                cancel_jobs(session, [job.id for job in list_jobs(session)])

        patch.setattr(remote.time, "sleep", cancel)
        with pytest.raises(Interrupted, match="was cancelled"):
            next(visits)


KILLED = """
import sys
from milliseek.db.engine import Database
from milliseek.kernels.kernel import Kernel
from milliseek.kernels.onnx.builder import one_kernel_model
from milliseek.predictors.targets import device_target, open_device
database = Database.open(sys.argv[1])
device = open_device(database, device_target(database, sys.argv[2]))
list(device.measure_many([(text, one_kernel_model(Kernel.from_json(text))) for text in sys.argv[3:]]))
"""


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
def test_a_run_that_was_killed_finds_what_it_had_asked_for(database, kernels):
    some = kernels[:5]
    texts = [kernel.to_json() for kernel in some]
    child = subprocess.Popen([sys.executable, "-P", "-c", KILLED, database.url, TARGET, *texts])
    try:
        waited = threading.Event()
        while len(jobs_of(database)) < len(some):
            assert child.poll() is None
            waited.wait(0.01)
    finally:
        child.kill()
        child.wait()
    with agent(database, config=QUICK):
        while set(states(database)) != {"done"}:
            waited.wait(0.01)
    # Nobody is connected any more: what was measured is there all the same.
    files = [(kernel.hash, one_kernel_model(kernel)) for kernel in some]
    found = dict(remote_device(database, patience_s=0.0).measure_many(files))
    assert all(visit.latency_ms is not None for visit in found.values())
    assert states(database) == []


def test_what_was_measured_long_ago_is_measured_again(database, kernels, monkeypatch):
    file = one_kernel_model(kernels[0])
    with agent(database, config=QUICK):
        visits = remote_device(database).measure_many([(0, file)])
        next(visits)  # and killed before it came back
        (before,) = jobs_of(database)
        monkeypatch.setattr(remote, "FRESH", timedelta(0))
        remote_device(database).measure(file, optimise=False)
    assert [job.id for job in jobs_of(database)] == [before.id]
    assert jobs_of(database)[0].key == f"{before.key}/{before.id}", "its key was free for another one"
    visits.close()


def test_devices_that_do_not_measure(database):
    with database.session() as session:
        upsert_device(session, "phone", "imported", {"tables": []})
    for text in ("phone/onnxruntime/int8", "pixel6/onnxruntime/int8"):
        with pytest.raises(NotFound, match=f"'{text.partition('/')[0]}' is not this machine"):
            device_target(database, text)
    with pytest.raises(NotFound, match="runtime 'ncnn'"):
        device_target(database, "pi4/ncnn/int8")
    with pytest.raises(InvalidInput, match="delegates"):
        device_target(database, "pi4/onnxruntime+gpu/int8")
    register(database, runtimes={"litert": "2.1.0"})
    with pytest.raises(NotFound, match="pi4 has no runtime 'onnxruntime'; it has: litert"):
        device_target(database, TARGET)
    with database.session() as session:
        remove_device(session, "pi4")
    with pytest.raises(NotFound, match="'pi4'"):
        device_target(database, TARGET)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("CPU", {"cpu_model": "Arm 0x41-0xd08"}),
        ("instruction sets", {"isa": ["neon"]}),
        ("onnxruntime", {"runtimes": {"onnxruntime": "1.0"}}),
    ],
)
def test_devices_of_one_model_must_agree(database, what, other):
    register(database, "pi-a", "pi")
    assert device_target(database, "pi/onnxruntime/int8").kind == "agent"
    register(database, "pi-b", "pi", **other)
    with pytest.raises(InvalidInput, match=f"pi-a and pi-b are not of one model: {what}"):
        device_target(database, "pi/onnxruntime/int8")
    assert device_target(database, "pi-b/onnxruntime/int8").row_id, "by name they can be measured"


def test_weights_are_as_the_cpu_there_wants_them(database):
    register(database, architecture="aarch64", isa=["neon", "dotprod"])
    assert device_target(database, TARGET).weight_bits == 8
    register(database, architecture="x86_64", isa=["avx2"])
    assert device_target(database, TARGET).weight_bits == 7


def test_a_hollow_model_goes_there_small(database, mini):
    model = network()
    with agent(database) as jobs, remote_device(database) as device:
        split_network(device, model)
    assert [job.kind for job in jobs] == ["optimise", "shapes"]
    assert max(job.payload_bytes for job in jobs) < len(model)
    assert len(hollow(model, "zeros")) < len(model)
