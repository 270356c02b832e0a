"""Devices and jobs through the clients, against services that keep everything in memory."""

# ruff: noqa: N802 - methods are named as in the .proto

import threading
from concurrent import futures
from datetime import UTC, datetime

import grpc
import pytest

from milliseek.client import fleet, watch
from milliseek.errors import Busy, InvalidInput, ServiceError
from milliseek.results import Device, Visit
from milliseek.rpc.v1 import device_pb2, device_pb2_grpc, latency_pb2, latency_pb2_grpc, measure_pb2, measure_pb2_grpc

TARGET = "pi5/litert/int8"
SHA256 = "0" * 64
SEEN = datetime(2026, 11, 22, 15, 0, 0, 250_000, tzinfo=UTC)
DONE, QUEUED = measure_pb2.JOB_STATE_DONE, measure_pb2.JOB_STATE_QUEUED


class Devices(device_pb2_grpc.DeviceServiceServicer):
    def __init__(self):
        self.devices = {
            name: device_pb2.Device(
                name=name, kind="agent", state=device_pb2.DEVICE_STATE_ACTIVE, connected=True, last_seen_at=SEEN
            )
            for name in ("pi4", "pi5", "pixel6")
        }
        self.devices["pi5"].facts.update({"cores": 4, "isa": ["dotprod"]})
        self.tokens = []

    def ListDevices(self, request, context):
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        names = sorted(name for name in self.devices if name > request.page_token)
        page = [self.devices[name] for name in names[:2]]
        return device_pb2.ListDevicesResponse(devices=page, next_page_token=names[1] if len(names) > 2 else "")

    def GetDevice(self, request, context):
        if request.name not in self.devices:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return device_pb2.GetDeviceResponse(device=self.devices[request.name])

    def DrainDevice(self, request, context):
        device = self.devices[request.name]
        device.state = device_pb2.DEVICE_STATE_ACTIVE if request.resume else device_pb2.DEVICE_STATE_DRAINING
        return device_pb2.DrainDeviceResponse(device=device)

    def RemoveDevice(self, request, context):
        del self.devices[request.name]
        return device_pb2.RemoveDeviceResponse()


class Measurements(measure_pb2_grpc.MeasureServiceServicer):
    """Jobs end when a test says so."""

    def __init__(self):
        self.jobs = {}
        self.changed = threading.Condition()
        self.watchers = 0
        self.failures = []

    def SubmitJobs(self, request, context):
        for new in request.jobs:
            key = new.idempotency_key
            job = measure_pb2.Job(
                id=str(1 + len(self.jobs)), idempotency_key=key, target=new.target, sha256=new.sha256, state=QUEUED
            )
            job.created_at.FromDatetime(SEEN)
            self.jobs.setdefault(key, job)
        if self.failures:
            context.abort(self.failures.pop(), "the answer is lost")
        return measure_pb2.SubmitJobsResponse(jobs=[self.jobs[new.idempotency_key] for new in request.jobs])

    def GetJobs(self, request, context):
        return measure_pb2.GetJobsResponse(jobs=[self.by_id(id_) for id_ in request.ids])

    def ListJobs(self, request, context):
        found = [job for job in self.jobs.values() if request.state in (0, job.state)]
        start = int(request.page_token or 0)
        page = found[start : start + 2]
        return measure_pb2.ListJobsResponse(jobs=page, next_page_token=str(start + 2) if found[start + 2 :] else "")

    def CancelJobs(self, request, context):
        for id_ in request.ids:
            self.end(id_, measure_pb2.JOB_STATE_CANCELLED)
        return measure_pb2.CancelJobsResponse(jobs=[self.by_id(id_) for id_ in request.ids])

    def WatchJobs(self, request, context):
        told = {}
        context.add_callback(self.wake)
        while context.is_active():
            with self.changed:
                self.watchers += 1
                self.changed.notify_all()
                jobs = [self.by_id(id_) for id_ in request.ids]
                if news := [job for job in jobs if told.get(job.id) != job.state]:
                    told |= {job.id: job.state for job in news}
                elif all(job.HasField("ended_at") for job in jobs):
                    return
                else:
                    self.changed.wait(30)
            for job in news:
                yield measure_pb2.WatchJobsResponse(job=job)

    def by_id(self, id_):
        return next(job for job in self.jobs.values() if job.id == id_)

    def end(self, id_, state=DONE):
        with self.changed:
            job = self.by_id(id_)
            job.state = state
            job.ended_at.FromDatetime(SEEN)
            if state == DONE:
                job.visits.add(latency_ms=1.5, spread_ms=0.1, runs=50, probe_best_ms=0.9)
            self.changed.notify_all()

    def wake(self):
        with self.changed:
            self.changed.notify_all()


class Fleet:
    """Both services on one port, to be stopped and started again."""

    def __init__(self):
        self.devices, self.measurements = Devices(), Measurements()
        self.port = 0
        self.start()

    def start(self):
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        device_pb2_grpc.add_DeviceServiceServicer_to_server(self.devices, self.server)
        measure_pb2_grpc.add_MeasureServiceServicer_to_server(self.measurements, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()
        self.address = f"127.0.0.1:{self.port}"

    def stop(self):
        self.server.stop(None).wait()


@pytest.fixture
def service():
    running = Fleet()
    yield running
    running.stop()


@pytest.fixture
def client(service, new_client):
    return new_client(service.address, timeout_s=30, token="ms_secret")


@pytest.fixture
def elsewhere():
    with futures.ThreadPoolExecutor(1) as pool:
        yield pool


def test_devices_page_by_page(client, service):
    assert [device.name for device in client.devices()] == ["pi4", "pi5", "pixel6"]
    assert service.devices.tokens == ["Bearer ms_secret"] * 2
    facts = {"cores": 4.0, "isa": ["dotprod"]}
    assert client.device("pi5") == Device("pi5", "agent", facts=facts, connected=True, last_seen_at=SEEN)


def test_draining_and_removing_a_device(client, service):
    assert client.drain_device("pi5").state == "draining"
    assert client.resume_device("pi5").state == "active"
    client.remove_device("pi5")
    assert [device.name for device in client.devices()] == ["pi4", "pixel6"]


def test_a_state_that_this_version_does_not_know(client, service):
    service.devices.devices["pi4"].state = 99
    with pytest.raises(ServiceError, match="cannot be used: the device pi4 is in a state unknown here"):
        client.devices()


def test_submitting_waiting_and_results(client, service, elsewhere):
    jobs = client.submit([SHA256, SHA256], TARGET, visits=3)
    assert [(job.id, job.state, job.created_at, job.ended) for job in jobs] == [
        ("1", "queued", SEEN, False),
        ("2", "queued", SEEN, False),
    ]
    waiting = elsewhere.submit(service.measurements.end, "2"), elsewhere.submit(service.measurements.end, "1")
    done = client.wait([*reversed(jobs), jobs[0]], timeout_s=30)
    assert [job.id for job in done] == ["2", "1", "1"]
    assert done[0].visits == (Visit(1.5, 0.1, 50, 0.0, 0.0, 0.9),)
    assert done[0].ended_at == SEEN
    assert client.jobs(["1"]) == [done[1]]
    assert client.wait([]) == []
    futures.wait(waiting)


def test_submitting_again_with_the_same_keys(client, service):
    first = client.submit([SHA256, SHA256], TARGET, keys=["a", "b"])
    assert client.submit([SHA256, SHA256], TARGET, keys=["a", "b"]) == first
    with pytest.raises(InvalidInput, match="1 keys for 2 models"):
        client.submit([SHA256, SHA256], TARGET, keys=["a"])


def test_an_answer_that_is_lost_submits_nothing_twice(client, service):
    service.measurements.failures = [grpc.StatusCode.UNAVAILABLE] * 2
    assert [job.id for job in client.submit([SHA256], TARGET)] == ["1"]
    assert len(service.measurements.jobs) == 1


def test_more_jobs_than_one_call_takes(client, service, monkeypatch):
    monkeypatch.setattr(fleet, "JOBS_PER_CALL", 2)
    monkeypatch.setattr(watch, "JOBS_PER_CALL", 2)
    jobs = client.submit([SHA256] * 5, TARGET)
    assert [job.id for job in jobs] == list("12345")
    assert client.jobs(jobs) == jobs == list(client.list_jobs())
    assert [job.state for job in client.cancel(jobs[1:])] == ["cancelled"] * 4
    assert [job.id for job in client.list_jobs(state="queued")] == ["1"]
    service.measurements.end("1")
    assert [job.state for job in client.wait(jobs)] == ["done", *["cancelled"] * 4]


def test_waiting_only_so_long(client, service):
    (job,) = client.submit([SHA256], TARGET)
    with pytest.raises(Busy, match=r"1 jobs have not ended within 0\.2 s"):
        client.wait([job], timeout_s=0.2)


def test_a_round_that_ends_is_followed_by_the_next(client, service, elsewhere, monkeypatch):
    monkeypatch.setattr(watch, "ROUND_S", 0.2)
    (job,) = client.submit([SHA256], TARGET)

    def later():
        with service.measurements.changed:
            assert service.measurements.changed.wait_for(lambda: service.measurements.watchers > 4, 30)
        service.measurements.end(job.id)

    ended = elsewhere.submit(later)
    assert [seen.state for seen in client.watch([job])] == ["queued", "done"], "each change is told once"
    ended.result()


def test_watching_through_a_restart_of_the_service(client, service, elsewhere):
    (job,) = client.submit([SHA256], TARGET)

    def restart():
        with service.measurements.changed:
            assert service.measurements.changed.wait_for(lambda: service.measurements.watchers > 1, 30)
        service.stop()
        service.measurements.end(job.id)
        service.start()

    restarted = elsewhere.submit(restart)
    assert [seen.state for seen in client.watch([job])] == ["queued", "done"]
    restarted.result()


def test_watching_ends_when_the_service_stays_away(client, service, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE_S", 0.3)
    (job,) = client.submit([SHA256], TARGET)
    service.stop()
    with pytest.raises(ServiceError, match="No latency service answers"):
        client.wait([job])


def test_watching_what_is_refused(client, service):
    with pytest.raises(ServiceError, match="failed with UNKNOWN"):  # the double knows no such job
        client.wait(["77"])


class Shaky(latency_pb2_grpc.LatencyServiceServicer):
    """Fails as often as it is told, with UNAVAILABLE."""

    def __init__(self, failures):
        self.failures = failures
        self.calls = 0

    def ListTargets(self, request, context):
        return self._answer(latency_pb2.ListTargetsResponse(), context)

    def UploadModel(self, request_iterator, context):
        return self._answer(latency_pb2.UploadModelResponse(), context)

    def _answer(self, response, context):
        self.calls += 1
        if self.calls <= self.failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return response


@pytest.mark.parametrize(("failures", "calls"), [(3, 4), (4, 4)])
def test_what_only_asks_is_asked_again_a_few_times(new_client, failures, calls):
    shaky = Shaky(failures)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    latency_pb2_grpc.add_LatencyServiceServicer_to_server(shaky, server)
    client = new_client(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", timeout_s=30)
    server.start()
    if failures < calls:
        assert client.targets() == []
    else:
        with pytest.raises(ServiceError, match="not yet"):
            client.targets()
    assert shaky.calls == calls
    shaky.calls = 0
    with pytest.raises(ServiceError, match="not yet"):
        client.upload(b"network")
    assert shaky.calls == 1, "an upload is made once"
    server.stop(None).wait()
