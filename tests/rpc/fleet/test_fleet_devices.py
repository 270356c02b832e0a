"""DeviceService without its streams: registering, listing, removing, files of jobs, and who may do it."""

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from milliseek.db.devices import upsert_device
from milliseek.db.tokens import create_token
from milliseek.devices.facts import local_facts
from milliseek.predictors.targets import register_local
from milliseek.rpc.access.access import Access
from milliseek.rpc.access.live_tokens import LiveTokens
from milliseek.rpc.server import InProcessServer
from milliseek.rpc.v1 import device_pb2, device_pb2_grpc

Lease = device_pb2.DownloadPayloadRequest

on_each = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


def refused(call, code, words=None):
    with pytest.raises(grpc.RpcError, match=words) as failed:
        call()
    assert failed.value.code().name == code, failed.value


@pytest.fixture
def register(devices, facts):
    def register_(name="pi4-kitchen", model="", **changed):
        request = device_pb2.RegisterDeviceRequest(name=name, model=model, facts={**facts, **changed})
        return devices.RegisterDevice(request, timeout=60).device

    return register_


def test_registering_tells_what_is_known(register, devices, facts):
    device = register(model="pi4")
    assert (device.name, device.kind, device.model, device.connected) == ("pi4-kitchen", "agent", "pi4", False)
    assert device.state == device_pb2.DEVICE_STATE_ACTIVE
    assert not device.HasField("last_seen_at")
    assert json_format.MessageToDict(device.facts) == facts
    request = device_pb2.GetDeviceRequest(name="pi4-kitchen")
    assert devices.GetDevice(request, timeout=60).device == device


def test_the_id_of_the_machine_is_its_name_unless_it_has_another(register):
    assert register("", id="cortex-a72-0a1b2c3d").name == "cortex-a72-0a1b2c3d"


@on_each
def test_registering_again_refreshes(register):
    register(model="pi4")
    device = register(os="Linux 6.6")
    assert (device.facts["os"], device.model) == ("Linux 6.6", "")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": ""}, "not the name of a device"),
        ({"name": "local"}, "not the name of a device"),
        ({"name": "a/b"}, "not the name of a device"),
        ({"name": "a" * 101}, "not the name of a device"),
        ({"model": "local"}, "not the name of a model"),
        ({"model": "\n"}, "not the name of a model"),
        ({"cpu_model": "x" * 201}, "more about itself"),
        ({"os": "Linux\0"}, "more about itself"),
        ({"isa": ["neon"] * 200}, "more about itself"),
        ({"runtimes": {"onnxruntime": "1\n2"}}, "more about itself"),
        ({"cores": 5000}, "No device has"),
        ({"memory_bytes": 1 << 60}, "No device has"),
    ],
)
def test_registrations_are_checked(register, changed, words):
    refused(lambda: register(**changed), "INVALID_ARGUMENT", words)


def test_no_device_takes_the_name_of_another_thing(register, database):
    register("pi4-0", model="pi4")
    refused(lambda: register("pi4"), "INVALID_ARGUMENT", "cannot be both")  # it would get the jobs of all
    refused(lambda: register("pi5", model="pi4-0"), "INVALID_ARGUMENT", "cannot be both")
    register("pi4-1", model="pi4")
    with database.session() as session:
        upsert_device(session, "pixel6", "imported", {})
    refused(lambda: register("pixel6"), "INVALID_ARGUMENT", "imported already")


def test_this_machine_stays_this_machine(register, database):
    with database.session() as session:
        register_local(session)
    assert register(local_facts().id).kind == "local"


@on_each
def test_devices_are_listed_page_by_page(register, devices):
    names = [f"pi-{i:02}" for i in range(7)]
    for name in reversed(names):
        register(name)
    found, token = [], ""
    while True:
        page = devices.ListDevices(device_pb2.ListDevicesRequest(page_size=3, page_token=token), timeout=60)
        assert len(page.devices) <= 3
        found += [device.name for device in page.devices]
        token = page.next_page_token
        if not token:
            break
    assert found == names
    assert len(devices.ListDevices(device_pb2.ListDevicesRequest(), timeout=60).devices) == 7


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"page_size": 1001}, "too large"),
        ({"page_token": "pi-03"}, "none of this list"),
        ({"page_token": "am9iczox"}, "none of this list"),  # of a list of jobs
        ({"page_token": "x" * 10_000}, "none of this list"),
    ],
)
def test_pages_are_checked(devices, fields, words):
    refused(lambda: devices.ListDevices(device_pb2.ListDevicesRequest(**fields), timeout=60), "INVALID_ARGUMENT", words)


def test_what_is_unknown_is_not_found(devices):
    refused(lambda: devices.GetDevice(device_pb2.GetDeviceRequest(name="pi9"), timeout=60), "NOT_FOUND")
    refused(lambda: devices.DrainDevice(device_pb2.DrainDeviceRequest(name="pi9"), timeout=60), "NOT_FOUND")
    refused(lambda: devices.RemoveDevice(device_pb2.RemoveDeviceRequest(name="pi9"), timeout=60), "NOT_FOUND")
    refused(lambda: list(devices.DownloadPayload(Lease(lease="0" * 32), timeout=60)), "NOT_FOUND")


def upload(devices, lease, size, *chunks, **options):
    messages = [device_pb2.UploadPayloadRequest(header={"lease": lease, "size_bytes": size})]
    messages += [device_pb2.UploadPayloadRequest(chunk=chunk) for chunk in chunks]
    return devices.UploadPayload(iter(messages), timeout=60, **options)


def test_uploads_of_results_are_checked(server, agent, jobs, devices):
    board = agent(server).ready()
    jobs.put(kind="optimise", options={})
    lease = board.expect("job").lease
    refused(lambda: upload(devices, "x", 3, b"abc"), "INVALID_ARGUMENT", "not a lease")
    refused(lambda: upload(devices, "0" * 32, 3, b"abc"), "NOT_FOUND", "No job has this lease")
    refused(lambda: upload(devices, lease, 0), "RESOURCE_EXHAUSTED", "not taken")
    refused(lambda: upload(devices, lease, 1 << 40), "RESOURCE_EXHAUSTED", "not taken")
    refused(lambda: upload(devices, lease, 3, b"ab"), "INVALID_ARGUMENT", "2 bytes, not the 3")
    refused(lambda: upload(devices, lease, 3, b"abcd"), "INVALID_ARGUMENT", "more than 3")
    refused(lambda: upload(devices, lease, 3, b""), "INVALID_ARGUMENT", "carries no bytes")
    refused(lambda: devices.UploadPayload(iter([]), timeout=60), "INVALID_ARGUMENT", "header")
    (id_,) = jobs.put(kind="measure")
    refused(lambda: upload(devices, board.expect("job").lease, 3, b"abc"), "FAILED_PRECONDITION", "takes no bytes")
    assert jobs.job(id_).state == "leased"


def test_the_services_are_healthy_and_described(server):
    with grpc.insecure_channel(server.address) as channel:
        described = ProtoReflectionDescriptorDatabase(channel).get_services()
        for name in ("milliseek.rpc.v1.DeviceService", "milliseek.rpc.v1.MeasureService"):
            assert name in described
            request = health_pb2.HealthCheckRequest(service=name)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_without_a_database_there_is_no_fleet(backend):
    with InProcessServer(backend) as server, grpc.insecure_channel(server.address) as channel:
        stub = device_pb2_grpc.DeviceServiceStub(channel)
        refused(lambda: stub.ListDevices(device_pb2.ListDevicesRequest(), timeout=60), "UNIMPLEMENTED")


@on_each
class TestTokens:
    @pytest.fixture
    def secrets(self, database):
        made = {}
        with database.session() as session:
            for name, scope, device in (
                ("root", "admin", None),
                ("alice", "search", None),
                ("kitchen", "device", "pi4-kitchen"),
                ("cellar", "device", "pi4-cellar"),
            ):
                made[name] = (("authorization", f"Bearer {create_token(session, name, scope, device)[1]}"),)
        return made

    @pytest.fixture
    def guarded(self, start, database, config):
        return start(database, config, access=Access(tokens=LiveTokens(database)))

    @pytest.fixture
    def stub(self, guarded):
        with grpc.insecure_channel(guarded.address) as channel:
            yield device_pb2_grpc.DeviceServiceStub(channel)

    def test_a_device_acts_only_as_itself(self, guarded, stub, secrets, agent, jobs, facts):
        board = agent(guarded, metadata=secrets["kitchen"]).ready()
        jobs.put(kind="optimise", options={})
        lease = board.expect("job").lease
        registering = device_pb2.RegisterDeviceRequest(name="pi4-kitchen", facts=facts)
        hello = device_pb2.WorkRequest(hello={"device": "pi4-kitchen", "capacity": 1})

        def try_all(other):
            options = {"metadata": other, "timeout": 60}
            refused(lambda: stub.RegisterDevice(registering, **options), "PERMISSION_DENIED")
            refused(lambda: list(stub.Work(iter([hello]), **options)), "PERMISSION_DENIED")
            refused(lambda: list(stub.DownloadPayload(Lease(lease=lease), **options)), "PERMISSION_DENIED")
            refused(lambda: upload(stub, lease, 3, b"abc", metadata=other), "PERMISSION_DENIED")

        try_all(secrets["cellar"])
        try_all(secrets["alice"])
        own = stub.DownloadPayload(Lease(lease=lease), metadata=secrets["kitchen"], timeout=60)
        assert b"".join(response.chunk for response in own) == b"model"

    def test_only_administrators_drain_and_remove(self, guarded, stub, secrets, agent):
        agent(guarded, metadata=secrets["kitchen"]).ready()
        draining = device_pb2.DrainDeviceRequest(name="pi4-kitchen")
        removing = device_pb2.RemoveDeviceRequest(name="pi4-kitchen")
        for name in ("kitchen", "alice"):
            for call, request in ((stub.DrainDevice, draining), (stub.RemoveDevice, removing)):
                with pytest.raises(grpc.RpcError, match="scope") as failed:
                    call(request, metadata=secrets[name], timeout=60)
                assert failed.value.code().name == "PERMISSION_DENIED"
        stub.RemoveDevice(removing, metadata=secrets["root"], timeout=60)
        with pytest.raises(grpc.RpcError) as failed:  # its token went with it
            agent(guarded, register=False, metadata=secrets["kitchen"]).hear()
        assert failed.value.code().name in ("UNAUTHENTICATED", "NOT_FOUND")
