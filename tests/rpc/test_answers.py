"""Answers that are known: given at once, and never for longer than a predictor is the newest."""

import asyncio
import threading
import time

import pytest

from milliseek.errors import NotReady
from milliseek.rpc.answers import Answer, KnownAnswers
from milliseek.rpc.v1 import latency_pb2

TARGET = "local/onnxruntime/int8"
WAIT_S = 30


def answer(version=3, note=""):
    prediction = latency_pb2.Prediction(target=TARGET, predictor=f"{TARGET}@{version}", latency_ms=1, notes=[note])
    message = latency_pb2.PredictModelResponse(prediction=prediction)
    return Answer(message, message.SerializeToString())


class Versions:
    """What KnownAnswers asks of a backend."""

    def __init__(self, version=3):
        self.version = version
        self.asked = 0

    def predictor(self, target):
        self.asked += 1
        if self.version is None:
            raise NotReady("There is no predictor.", "Make one.")
        return f"{target}@{self.version}"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    passed = [1000.0]
    monkeypatch.setattr("milliseek.rpc.answers.monotonic", lambda: passed[0])
    return passed


async def settled(known):
    """Wait until nothing is asked in the background."""
    while known._asking:
        await asyncio.sleep(0)


def test_a_second_caller_costs_nothing(clock):
    async def run():
        versions = Versions()
        known = KnownAnswers(versions)
        assert known.get("a", TARGET) is None
        put = known.put("a", TARGET, answer(), clock[0])
        assert known.get("a", TARGET) is put
        assert known.get("b", TARGET) is None
        assert known.get("a", "other") is None
        assert versions.asked == 0

    asyncio.run(run())


def test_the_version_is_asked_for_in_the_background_and_once(clock):
    async def run():
        versions = Versions()
        known = KnownAnswers(versions)
        put = known.put("a", TARGET, answer(), clock[0])
        clock[0] += 1
        assert [known.get("a", TARGET) for _ in range(100)] == [put] * 100
        await settled(known)
        assert versions.asked == 1
        clock[0] += 1
        assert known.get("a", TARGET) is put

    asyncio.run(run())


def test_a_new_predictor_ends_the_old_answers(clock):
    async def run():
        versions = Versions()
        known = KnownAnswers(versions)
        old = known.put("a", TARGET, answer(), clock[0])
        versions.version = 4
        clock[0] += 1
        assert known.get("a", TARGET) is old
        await settled(known)
        assert known.get("a", TARGET) is None
        new = known.put("a", TARGET, answer(4), clock[0])
        assert known.get("a", TARGET) is new
        known.put("b", TARGET, answer(3), clock[0] - 1)  # a slow answer that was asked for before
        assert known.get("a", TARGET) is new

    asyncio.run(run())


@pytest.mark.parametrize("silent", [True, False])
def test_without_word_from_the_backend_nothing_is_known_for_long(clock, silent):
    async def run():
        versions = Versions(None)
        known = KnownAnswers(versions)
        known.put("a", TARGET, answer(), clock[0])
        if not silent:
            clock[0] += 1
            assert known.get("a", TARGET) is not None
            await settled(known)
        clock[0] += 2
        assert known.get("a", TARGET) is None
        await settled(known)

    asyncio.run(run())


def test_memory_is_bounded():
    async def run():
        one = answer(note="x" * 1000)
        known = KnownAnswers(Versions(), limit_bytes=10 * one.size_bytes)
        for i in range(100):
            known.put(str(i), TARGET, one, float(i))
        kept = [i for i in range(100) if (str(i), one.message.prediction.predictor) in known._answers]
        assert kept == list(range(90, 100))
        known.put("huge", TARGET, answer(note="x" * 100_000), 100.0)
        assert known._bytes == 0

    asyncio.run(run())


def test_through_the_service(client, backend, monkeypatch):
    sha256 = backend.store_model(b"model" * 100, "net.onnx")
    first = client.predict(sha256, TARGET)
    asked = threading.Event()
    predict = backend.predict_model
    monkeypatch.setattr(backend, "predict_model", lambda *what: asked.set() or predict(*what))
    assert client.predict(sha256, TARGET) == first
    assert not asked.is_set()
    monkeypatch.setattr(backend, "predictor", lambda target: f"{target}@4")
    deadline = time.monotonic() + WAIT_S
    while not asked.is_set():
        assert client.predict(sha256, TARGET).latency_ms == first.latency_ms
        assert time.monotonic() < deadline
