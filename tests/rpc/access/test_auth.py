"""Who may call what, once the service asks for tokens; whoever may not is refused, and the log says so."""

import asyncio
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from milliseek.db import tokens as table
from milliseek.db.engine import Database
from milliseek.errors import PermissionDenied, StorageError, Unauthenticated
from milliseek.rpc.access import auth
from milliseek.rpc.access.access import Access
from milliseek.rpc.access.auth import METHOD_SCOPES, Caller
from milliseek.rpc.access.live_tokens import LiveTokens
from milliseek.rpc.server import InProcessServer
from milliseek.rpc.v1 import device_pb2, device_pb2_grpc, latency_pb2, latency_pb2_grpc, measure_pb2

TARGET = "local/onnxruntime/int8"
WAIT_S = 30
SCOPES = ("admin", "search", "device")


class Guarded:
    """A server that asks for tokens, and a channel to it."""

    def __init__(self, database, address, channel):
        self.database = database
        self.address = address
        self.channel = channel
        self.latency = latency_pb2_grpc.LatencyServiceStub(channel)
        self.devices = device_pb2_grpc.DeviceServiceStub(channel)

    def token(self, name, scope="search", **more):
        """A new token as metadata."""
        with self.database.session() as session:
            return bearer(table.create_token(session, name, scope, **more)[1])

    def revoke(self, name):
        with self.database.session() as session:
            table.revoke_token(session, name)

    def rotate(self, name, grace_s):
        with self.database.session() as session:
            return bearer(table.rotate_token(session, name, grace_s))

    def targets(self, metadata=()):
        return self.latency.ListTargets(latency_pb2.ListTargetsRequest(), metadata=metadata, timeout=WAIT_S)

    def code(self, metadata=()):
        """The status code of a call with this token."""
        try:
            self.targets(metadata)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def refused_soon(self, metadata):
        """Wait until the token does not hold any more, as a running service sees it."""
        deadline = time.monotonic() + WAIT_S
        while self.code(metadata) == "OK":
            assert time.monotonic() < deadline
        assert self.code(metadata) == "UNAUTHENTICATED"


def bearer(secret):
    return (("authorization", f"Bearer {secret}"),)


@pytest.fixture
def guarded(tmp_path, backend):
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    access = Access(tokens=LiveTokens(database))
    with (
        InProcessServer(backend, database=database, access=access, grace_s=5) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Guarded(database, server.address, channel)
    database.close()


def logged(caplog, count):
    """The log records of so many calls: they are written once the answer is on its way."""
    deadline = time.monotonic() + WAIT_S
    while len(found := [record for record in caplog.records if record.name == "milliseek.rpc.calls"]) < count:
        assert time.monotonic() < deadline, found
    assert len(found) == count
    return found


class TestNobody:
    @pytest.mark.parametrize(
        ("metadata", "reason"),
        [
            ((), "missing"),
            ((("authorization", "Basic bXM6bXM="),), "missing"),
            ((("authorization", "bearer ms_x"),), "missing"),
            ((("authorization", "Bearer "),), "unknown"),
            ((("authorization", "Bearer ms_" + "x" * 43),), "unknown"),
            ((("authorization", "Bearer " + "x" * 5000),), "unknown"),
        ],
    )
    def test_no_token_that_holds(self, guarded, caplog, metadata, reason):
        guarded.token("somebody")
        with pytest.raises(grpc.RpcError) as refused:
            guarded.targets(metadata)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        (record,) = logged(caplog, 1)
        assert record.getMessage() == f"refused: {reason} token"
        assert record.levelno == logging.WARNING
        assert record.method == "/milliseek.rpc.v1.LatencyService/ListTargets"
        assert record.peer.startswith("ipv4:127.0.0.1:")
        for _, value in metadata:
            assert value not in caplog.text + str(vars(record))

    def test_ways_not_to_hold_look_alike_from_outside(self, guarded, caplog):
        now = datetime.now(UTC)
        revoked, expired = guarded.token("gone"), guarded.token("late", expires_at=now - timedelta(seconds=1))
        guarded.revoke("gone")
        answers = set()
        for metadata in (revoked, expired, bearer("ms_guessed")):
            with pytest.raises(grpc.RpcError) as refused:
                guarded.targets(metadata)
            answers.add((refused.value.code().name, refused.value.details()))
        assert len(answers) == 1
        assert [(record.getMessage(), record.caller) for record in logged(caplog, 3)] == [
            ("refused: revoked token", "gone"),
            ("refused: expired token", "late"),
            ("refused: unknown token", ""),
        ]

    def test_what_is_sent_is_not_read(self, guarded):
        def endless():
            yield latency_pb2.UploadModelRequest(header={"name": "m.onnx", "size_bytes": 1})
            threading.Event().wait(WAIT_S)

        with pytest.raises(grpc.RpcError) as refused:
            guarded.latency.UploadModel(endless(), timeout=WAIT_S / 2)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_health_is_told_to_everybody_and_nothing_else_of_it(self, guarded):
        stub = health_pb2_grpc.HealthStub(guarded.channel)
        request = health_pb2.HealthCheckRequest()
        assert stub.Check(request, timeout=WAIT_S).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="wants a token"):
            next(stub.Watch(request, timeout=WAIT_S))

    def test_methods_that_there_are_not(self, guarded):
        call = guarded.channel.unary_unary("/milliseek.rpc.v1.LatencyService/Nothing")
        codes = []
        for metadata in ((), guarded.token("t")):
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", metadata=metadata, timeout=WAIT_S)
            codes.append(refused.value.code().name)
        assert codes == ["UNAUTHENTICATED", "UNIMPLEMENTED"]


class TestScopes:
    def test_every_method_of_the_service_has_its_scopes(self):
        files = (latency_pb2, device_pb2, measure_pb2, health_pb2, reflection_pb2)
        services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
        methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
        assert set(METHOD_SCOPES) == methods

    @pytest.mark.parametrize("scope", SCOPES)
    def test_what_the_scope_does_not_cover_is_refused(self, guarded, caplog, scope):
        metadata = guarded.token("mine", scope, device="pi" if scope == "device" else None)
        refused = {method for method, scopes in METHOD_SCOPES.items() if scope not in scopes}
        assert (scope == "admin") == (not refused)
        refused -= auth.OPEN_METHODS
        for method in sorted(refused):
            with pytest.raises(grpc.RpcError, match="does not cover") as raised:
                list(guarded.channel.stream_stream(method)(iter(()), metadata=metadata, timeout=WAIT_S))
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
        calls = logged(caplog, len(refused))
        assert [(r.method, r.caller, r.levelname) for r in calls] == [(m, "mine", "WARNING") for m in sorted(refused)]

    def test_scopes_in_short(self):
        may = {scope: {m.rpartition("/")[2] for m, s in METHOD_SCOPES.items() if scope in s} for scope in SCOPES}
        assert may["search"] >= {"PredictModel", "UploadModel", "SubmitJobs", "CancelJobs", "ListDevices"}
        assert not may["search"] & {"Work", "RegisterDevice", "DrainDevice", "RemoveDevice", "DownloadPayload"}
        assert may["device"] >= {"Work", "RegisterDevice", "DownloadPayload", "UploadPayload"}
        assert not may["device"] & {"PredictModel", "UploadModel", "SubmitJobs", "DrainDevice", "ListDevices"}
        assert may["admin"] >= may["search"] | may["device"]

    def test_a_method_without_scopes_is_refused_even_here(self, client, monkeypatch):
        monkeypatch.delitem(METHOD_SCOPES, "/milliseek.rpc.v1.LatencyService/ListTargets")
        with pytest.raises(PermissionDenied, match="Nobody may call"):
            client.targets()


class TestDevices:
    def test_a_token_of_another_device(self, guarded, caplog):
        metadata = guarded.token("pi-token", "device", device="pi")
        request = device_pb2.RegisterDeviceRequest(name="pi", facts={"cpu_model": "A72", "cores": 4})
        assert guarded.devices.RegisterDevice(request, metadata=metadata, timeout=WAIT_S).device.name == "pi"
        request.name = "phone"
        with pytest.raises(grpc.RpcError, match="may not act as the device 'phone'"):
            guarded.devices.RegisterDevice(request, metadata=metadata, timeout=WAIT_S)
        with pytest.raises(grpc.RpcError, match="may not act as the device 'phone'"):
            guarded.devices.GetDevice(device_pb2.GetDeviceRequest(name="phone"), metadata=metadata, timeout=WAIT_S)
        hello = device_pb2.WorkRequest(hello={"device": "phone", "capacity": 1})
        with pytest.raises(grpc.RpcError) as refused:
            next(guarded.devices.Work(iter([hello]), metadata=metadata, timeout=WAIT_S))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        warned = [record.method for record in logged(caplog, 3)]
        assert [method.rpartition("/")[2] for method in warned] == ["RegisterDevice", "GetDevice", "Work"]

    @pytest.mark.parametrize(
        ("caller", "may"),
        [
            (Caller("root", "admin"), True),
            (Caller("", "admin"), True),
            (Caller("t", "device", "pi"), True),
            (Caller("t", "device", "pi2"), False),
            (Caller("t", "search"), False),
            (Caller("t", "device", None), False),
            (auth.STRANGER, False),
        ],
    )
    def test_who_may_act_as_a_device(self, caller, may):
        auth.set_caller(caller)
        if may:
            auth.require_device("pi")
        else:
            with pytest.raises(PermissionDenied):
                auth.require_device("pi")


class TestLifeOfAToken:
    def test_it_holds_at_once_and_until_it_is_revoked(self, guarded):
        first = guarded.token("first")
        assert guarded.code(first) == "OK"
        second = guarded.token("second")
        assert guarded.code(second) == "OK"
        guarded.revoke("first")
        guarded.refused_soon(first)
        assert guarded.code(second) == "OK"

    def test_rotated_with_grace_both_hold(self, guarded):
        old = guarded.token("turning")
        assert guarded.code(old) == "OK"
        new = guarded.rotate("turning", 3600)
        assert (guarded.code(old), guarded.code(new)) == ("OK", "OK")
        newest = guarded.rotate("turning", 0)
        guarded.refused_soon(new)
        assert guarded.code(old) == "UNAUTHENTICATED"
        assert guarded.code(newest) == "OK"

    def test_a_stream_ends_with_its_token(self, guarded):
        metadata = guarded.token("streaming")
        go_on = threading.Event()
        batch = latency_pb2.PredictSubnetsRequest(space="small32", target=TARGET, genes_per_subnet=1, genes=[1])

        def batches():
            yield latency_pb2.StreamPredictSubnetsRequest(batch=batch)
            assert go_on.wait(WAIT_S)
            yield latency_pb2.StreamPredictSubnetsRequest(batch=batch)

        answers = guarded.latency.StreamPredictSubnets(batches(), metadata=metadata, timeout=WAIT_S)
        assert len(next(answers).batch.latency_ms) == 1
        guarded.revoke("streaming")
        guarded.refused_soon(metadata)
        go_on.set()
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


class Clocked:
    """Tokens of a database whose table is read through `read`, at a time of our choice."""

    def __init__(self, database):
        self.now = datetime.now(UTC)
        self.tokens = LiveTokens(database, lambda: self.now)

    async def code(self, metadata):
        try:
            return (await self.tokens.caller(metadata))[0].name
        except (Unauthenticated, StorageError) as error:
            return getattr(error, "reason", "storage")


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'tokens.db'}")
    yield opened
    opened.close()


class TestLiveTokens:
    def test_time_passes(self, database):
        clocked = Clocked(database)
        with database.session() as session:
            _, old = table.create_token(session, "t", "search", expires_at=clocked.now + timedelta(hours=2))
            new = table.rotate_token(session, "t", 3600, now=clocked.now)

        async def at(hours):
            clocked.now += timedelta(hours=hours)
            return [await clocked.code(bearer(secret)) for secret in (old, new)]

        async def run():
            return [await at(hours) for hours in (0, 1.1, 1)]

        assert asyncio.run(run()) == [["t", "t"], ["expired", "t"], ["expired", "expired"]]

    def test_guesses_cost_no_query_each(self, database, monkeypatch):
        reads = []
        monkeypatch.setattr(
            "milliseek.rpc.access.live_tokens.list_tokens",
            lambda session: reads.append(1) or table.list_tokens(session),
        )
        clocked = Clocked(database)

        async def run():
            return await asyncio.gather(*(clocked.code(bearer(f"ms_{i}")) for i in range(500)))

        assert set(asyncio.run(run())) == {"unknown"}
        assert len(reads) <= 3

    def test_without_the_database_nobody_gets_in(self, database, monkeypatch):
        with database.session() as session:
            _, secret = table.create_token(session, "t", "search")

        def broken(_session):
            raise StorageError("The database is gone.", "Bring it back.")

        monkeypatch.setattr("milliseek.rpc.access.live_tokens.list_tokens", broken)
        clocked = Clocked(database)
        assert asyncio.run(clocked.code(bearer(secret))) == "storage"
        monkeypatch.undo()
        assert asyncio.run(clocked.code(bearer(secret))) == "t"

    def test_an_old_table_answers_nobody(self, database, monkeypatch):
        with database.session() as session:
            _, secret = table.create_token(session, "t", "search")
        clocked, clock = Clocked(database), [1000.0]
        monkeypatch.setattr("milliseek.rpc.access.live_tokens.monotonic", lambda: clock[0])

        async def run():
            assert await clocked.code(bearer(secret)) == "t"
            with database.session() as session:
                table.revoke_token(session, "t")
            assert await clocked.code(bearer(secret)) == "t"
            clock[0] += 2
            return await clocked.code(bearer(secret))

        assert asyncio.run(run()) == "revoked"
