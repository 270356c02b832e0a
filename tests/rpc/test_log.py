"""What the service writes about its calls, and the id that ties a call, its log lines and its caller together."""

import json
import logging
import re
import sys
import threading
import time

import grpc
import pytest

from milliseek.rpc.log import REQUEST_ID, JsonLines, TextLines, log_to_stderr, request_id
from milliseek.rpc.v1 import latency_pb2, latency_pb2_grpc

TARGET = "local/onnxruntime/int8"
WAIT_S = 30
MADE = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield latency_pb2_grpc.LatencyServiceStub(channel)


@pytest.fixture
def records(caplog):
    """Waits for so many log lines about calls: they are written once the answer is on its way."""
    caplog.set_level(logging.INFO, "milliseek.rpc")

    def wait(count):
        deadline = time.monotonic() + WAIT_S
        while len(found := [record for record in caplog.records if record.name == "milliseek.rpc.calls"]) < count:
            assert time.monotonic() < deadline, found
        return found

    return wait


def told(call):
    """The request id in the trailing metadata of a call."""
    return dict(call.trailing_metadata())["x-request-id"]


class TestRequestIds:
    @pytest.mark.parametrize("sane", ["a", "7f3a-11:x_y.z", "r" * 64])
    def test_the_callers_own_is_kept(self, stub, records, sane):
        request = latency_pb2.ListTargetsRequest()
        _, call = stub.ListTargets.with_call(request, metadata=(("x-request-id", sane),), timeout=WAIT_S)
        assert told(call) == sane
        assert records(1)[0].code == "OK"

    @pytest.mark.parametrize("odd", ["", "r" * 65, "two words", "a\tb", "ü".encode().decode("latin-1"), '"', "a=b"])
    def test_one_that_does_not_fit_a_log_is_replaced(self, odd):
        assert MADE.fullmatch(request_id([("user-agent", "x"), ("x-request-id", odd)]))
        assert MADE.fullmatch(request_id([("x-request-id", b"bytes")]))

    def test_failures_and_streams_carry_it_too(self, stub):
        with pytest.raises(grpc.RpcError) as failed:
            stub.PredictModel(latency_pb2.PredictModelRequest(sha256="0" * 64, target=TARGET), timeout=WAIT_S)
        assert MADE.fullmatch(told(failed.value))
        call = stub.GetLatencyTable(latency_pb2.GetLatencyTableRequest(space="small32", target=TARGET), timeout=WAIT_S)
        assert len(list(call)) == 1
        assert MADE.fullmatch(told(call))

    def test_what_the_backend_logs_names_the_call(self, stub, backend, monkeypatch):
        seen = []
        monkeypatch.setattr(backend, "targets", lambda: seen.append(REQUEST_ID.get()) or [])
        _, call = stub.ListTargets.with_call(latency_pb2.ListTargetsRequest(), timeout=WAIT_S)
        assert seen == [told(call)]


class TestCalls:
    def test_an_answer(self, stub, records):
        stub.ListTargets(latency_pb2.ListTargetsRequest(), timeout=WAIT_S)
        (record,) = records(1)
        assert (record.method, record.code, record.levelname, record.caller) == (
            "/milliseek.rpc.v1.LatencyService/ListTargets",
            "OK",
            "INFO",
            "",
        )
        assert 0 <= record.ms < 1000 * WAIT_S

    def test_a_failure_says_why_and_who(self, stub, records):
        with pytest.raises(grpc.RpcError):
            stub.PredictModel(latency_pb2.PredictModelRequest(sha256="0" * 64, target="NotReady"), timeout=WAIT_S)
        (record,) = records(1)
        assert (record.code, record.getMessage()) == ("FAILED_PRECONDITION", "Ünlucky NotReady.")
        assert record.peer.startswith("ipv4:127.0.0.1:")

    def test_a_bug_has_its_incident_and_its_call(self, stub, records, caplog):
        with pytest.raises(grpc.RpcError) as failed:
            stub.PredictModel(latency_pb2.PredictModelRequest(sha256="0" * 64, target="bug"), timeout=WAIT_S)
        (record,) = records(1)
        (bug,) = [record for record in caplog.records if record.exc_info]
        assert (record.code, record.levelname) == ("INTERNAL", "ERROR")
        assert bug.args[1] in failed.value.details()

    @pytest.mark.parametrize(("timeout_s", "code"), [(None, "CANCELLED"), (0.2, "DEADLINE_EXCEEDED")])
    def test_a_caller_who_leaves(self, stub, backend, records, timeout_s, code):
        request = latency_pb2.GetLatencyTableRequest(space="small32", target="slow")
        call = stub.GetLatencyTable(request, timeout=timeout_s)
        assert backend.entered.wait(WAIT_S)
        if timeout_s is None:
            call.cancel()
        (record,) = records(1)
        assert record.code == code


def record(message="answered", **fields):
    made = logging.LogRecord("milliseek.rpc.calls", logging.INFO, __file__, 1, message, None, None)
    made.created, made.msecs = 1_800_000_000.25, 250.0
    made.__dict__.update(fields)
    return made


class TestLines:
    def test_json(self):
        line = JsonLines().format(record(request_id="r1", method="/a/B", caller="ü", code="OK", ms=1.5, peer=""))
        assert json.loads(line) == {
            "time": "2027-01-15T08:00:00.250Z",
            "level": "info",
            "logger": "milliseek.rpc.calls",
            "message": "answered",
            "request_id": "r1",
            "method": "/a/B",
            "caller": "ü",
            "code": "OK",
            "ms": 1.5,
        }

    def test_text(self):
        line = TextLines().format(record(request_id="r1", method="/a/B", code="OK", ms=0.0))
        assert line == "2027-01-15T08:00:00.250Z info    answered request_id=r1 method=/a/B code=OK ms=0.0"

    @pytest.mark.parametrize("form", [JsonLines, TextLines])
    def test_a_forged_line_stays_within_its_own(self, form):
        line = form().format(record("no\n2027-01-15 info forged\x1b[2J", caller="a\rb"))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line

    @pytest.mark.parametrize("form", [JsonLines, TextLines])
    def test_a_traceback(self, form):
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            made = record("failed")
            made.exc_info = sys.exc_info()
        assert "RuntimeError: broken" in form().format(made)

    def test_to_stderr(self, capsys):
        logger = logging.getLogger("milliseek")
        before = logger.handlers, logger.level, logger.propagate
        try:
            log_to_stderr("json")
            threads = [threading.Thread(target=logger.info, args=("line %d", i)) for i in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            logger.warning("at once")  # and what was waiting goes first
            lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
        finally:
            logger.handlers, logger.level, logger.propagate = before
        assert sorted(lines[:-1]) == sorted(f"line {i}" for i in range(20))
        assert lines[-1] == "at once"
