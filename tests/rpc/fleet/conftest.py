"""A database of each kind, servers over it with short times, and a stand-in agent made of the stubs."""

import hashlib
import json
import queue
import threading
import uuid
from contextlib import suppress

import grpc
import pytest

from milliseek.db.artefacts import save_artefact
from milliseek.db.engine import Database
from milliseek.db.jobs import NewJob, get_jobs, submit_jobs
from milliseek.rpc.fleet.dispatcher import FleetConfig
from milliseek.rpc.server import InProcessServer
from milliseek.rpc.v1 import device_pb2, device_pb2_grpc, measure_pb2_grpc

WAIT_S = 60
VISIT = {
    "latency_ms": 1.25,
    "spread_ms": 0.01,
    "runs": 40,
    "probe_before_ms": 0.1,
    "probe_after_ms": 0.11,
    "probe_best_ms": 0.1,
    "disturbed": False,
    "error": None,
}
MEASURED = {"visits": [VISIT], "probe_best_ms": 0.1}
FACTS = {
    "cpu_model": "Cortex-A72",
    "architecture": "aarch64",
    "isa": ["neon"],
    "cores": 4,
    "memory_bytes": 4 << 30,
    "os": "Linux 6.1",
    "runtimes": {"onnxruntime": "1.31.1", "litert": "tflite-runtime 2.14.0"},
}


class StandIn:
    """An agent that says and does what the test wants; `expect` returns what the server says."""

    def __init__(self, address, name, *, model="", capacity=4, register=True, metadata=()):
        self.name = name
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = device_pb2_grpc.DeviceServiceStub(self.channel)
        if register:
            request = device_pb2.RegisterDeviceRequest(name=name, model=model, facts=FACTS)
            self.stub.RegisterDevice(request, timeout=WAIT_S, metadata=metadata)
        self._said = queue.SimpleQueue()
        self._heard = queue.SimpleQueue()
        self.call = self.stub.Work(iter(self._said.get, None), metadata=metadata)
        self.say(hello={"device": name, "capacity": capacity, "agent_version": "0.2.0"})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            for response in self.call:
                self._heard.put(response)
            self._heard.put(None)
        except grpc.RpcError as error:
            self._heard.put(error)

    def say(self, **message):
        self._said.put(device_pb2.WorkRequest(**message))

    def beat(self, *leases):
        """Say which jobs it holds."""
        self.say(heartbeat={"leases": leases})

    def answer(self, lease, result=MEASURED, **fields):
        """Say what became of a job."""
        text = {} if result is None else {"result_json": json.dumps(result)}
        self.say(outcome={"lease": lease, **text, **fields})

    def finish(self):
        """Close its side of the stream."""
        self._said.put(None)

    def hear(self):
        """The next message; None at the end; raises the error that the stream ended with."""
        heard = self._heard.get(timeout=WAIT_S)
        if isinstance(heard, grpc.RpcError):
            raise heard
        return heard

    def expect(self, kind):
        """The content of the next message, which must be of this kind."""
        response = self.hear()
        assert response is not None, f"the stream ended before a {kind}"
        assert response.WhichOneof("message") == kind, response
        return getattr(response, kind)

    def next_job(self, *leases):
        """The next job, for an agent that must go on giving signs of life; it may be told to drop others before."""
        while True:
            self.beat(*leases)
            with suppress(queue.Empty):
                response = self._heard.get(timeout=0.05)
                if isinstance(response, grpc.RpcError):
                    raise response
                assert response is not None
                if response.HasField("job"):
                    return response.job
                assert response.HasField("drop")

    def ready(self, *leases):
        """Through the greetings: from now on it gets jobs."""
        self.expect("welcome")
        self.beat(*leases)
        return self

    def ended(self):
        """Wait until the stream has ended, whatever is said before."""
        while self.hear() is not None:
            pass

    def cut(self):
        """Vanish: no goodbye, no half-close."""
        self.call.cancel()
        self.channel.close()
        self._said.put(None)
        self._reader.join(WAIT_S)


@pytest.fixture
def url(request, tmp_path, monkeypatch):
    """Where the database may be made: SQLite, unless the test is parametrised with the other kind."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'milliseek.db'}"
    monkeypatch.setenv("MILLISEEK_HOME", str(tmp_path))  # the artefacts go there
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def open_database():
    opened = []

    def open_(url):
        opened.append(Database.open(url))
        return opened[-1]

    yield open_
    for database in opened:
        database.close()


@pytest.fixture
def database(url, open_database):
    return open_database(url)


@pytest.fixture
def config():
    """Leases that outlive a test; nothing is waited for longer than needed."""
    return FleetConfig(heartbeat_s=20, lease_s=60, poll_s=0.02, tend_s=0.05, retry_s=0.05)


@pytest.fixture
def hasty():
    """Agents must be quick to be heard."""
    return FleetConfig(heartbeat_s=0.4, lease_s=0.8, poll_s=0.02, tend_s=0.05, retry_s=0.05)


@pytest.fixture
def start(new_backend, open_database):
    """Starts servers, which are stopped at the end."""
    running = []

    def start_(database, config, **options):
        server = InProcessServer(new_backend(), database=database, fleet=config, **{"grace_s": 0.5, **options})
        server.start()
        running.append(server)
        return server

    yield start_
    for server in running:
        server.stop()


@pytest.fixture
def server(start, database, config):
    return start(database, config)


@pytest.fixture
def agent():
    """Makes stand-ins, which vanish at the end."""
    made = []

    def make(server, name="pi4-kitchen", **options):
        made.append(StandIn(getattr(server, "address", server), name, **options))
        return made[-1]

    yield make
    for one in made:
        one.cut()


class Queue:
    """Jobs as another process puts them into the database, and what became of them."""

    def __init__(self, database):
        self.database = database

    def put(self, device="pi4-kitchen", *, count=1, data=b"model", kind="measure", options=None, **fields):
        """Ids of new jobs."""
        options = {"optimise": True, "visits": 1} if options is None else options
        with self.database.session() as session:
            sha256 = save_artefact(session, self.database.artefacts, data, "payload", durable=False)
            jobs = [
                NewJob(
                    key=uuid.uuid4().hex,
                    target=f"{device}/onnxruntime/fp32",
                    device=device,
                    kind=kind,
                    options=options,
                    payload_sha256=sha256,
                    payload_bytes=len(data),
                    **fields,
                )
                for _ in range(count)
            ]
            return [job.id for job in submit_jobs(session, jobs)]

    def job(self, id_):
        with self.database.session(read_only=True) as session:
            return get_jobs(session, [id_])[0]

    def wait(self, id_, *states):
        """The job, as soon as it is in one of these states."""
        tick = threading.Event()
        for _ in range(WAIT_S * 50):
            if (job := self.job(id_)).state in states:
                return job
            tick.wait(0.02)
        raise AssertionError(f"job {id_} is {self.job(id_).state}, not {states}")


@pytest.fixture
def jobs(database):
    return Queue(database)


@pytest.fixture
def queue_of():
    return Queue


@pytest.fixture
def devices(server):
    with grpc.insecure_channel(server.address) as channel:
        yield device_pb2_grpc.DeviceServiceStub(channel)


@pytest.fixture
def measure(server):
    with grpc.insecure_channel(server.address) as channel:
        yield measure_pb2_grpc.MeasureServiceStub(channel)


@pytest.fixture
def until():
    """Waits until a condition holds."""

    def until_(condition):
        tick = threading.Event()
        for _ in range(WAIT_S * 50):
            if condition():
                return
            tick.wait(0.02)
        raise AssertionError("the condition does not come to hold")

    return until_


@pytest.fixture
def sha256_of():
    return lambda data: hashlib.sha256(data).hexdigest()


@pytest.fixture
def measured():
    return MEASURED


@pytest.fixture
def facts():
    return FACTS
