"""What an agent does with jobs: it really measures them, in processes that may crash, hang and want too much."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import chain, repeat
from typing import Any

import onnx
import psutil
import pytest

from milliseek.devices.agent.jobs import JobRunner
from milliseek.devices.facts import local_facts
from milliseek.devices.local import LocalDevice
from milliseek.devices.protocol import ProtocolConfig, Visit

MIB = 1 << 20


def worker() -> psutil.Process | None:
    """The measuring process of an agent of this process."""
    found = [child for child in psutil.Process().children() if "milliseek.devices.worker" in child.cmdline()]
    return found[0] if found else None


def test_registers_says_hello_and_measures(service: Any, start: Any, job: Any) -> None:
    start(model="board-4", capacity=5)
    assert service.registered[0].facts.id == local_facts().id
    assert dict(service.registered[0].facts.runtimes) == dict(local_facts().runtimes)
    assert service.registered[0].model == "board-4"
    hello = service.said[0][1].hello
    assert (hello.device, hello.capacity) == ("board", 5)
    service.assign(job("a"), job("b", target="board-4/onnxruntime/fp32"))
    for lease in ("a", "b"):
        outcome = service.outcome(lease)
        assert not outcome.failure
        result = json.loads(outcome.result_json)
        assert len(result["visits"]) == 2
        assert all(visit["latency_ms"] > 0 and visit["error"] is None for visit in result["visits"])
        assert result["probe_best_ms"] > 0
    service.wait_for(lambda: service.held() == [])


def test_optimised_graph_and_shapes(service: Any, start: Any, job: Any) -> None:
    start()
    service.assign(job("optimise", kind="optimise"), job("shapes", kind="shapes"))
    optimised = service.outcome("optimise")
    assert optimised.result_json == "{}"
    assert len(onnx.ModelProto.FromString(optimised.payload).graph.node) < 5
    assert json.loads(service.outcome("shapes").result_json)["shapes"]["y"] == [[1, 16, 16, 16], "float32", None]


def test_large_files_go_beside_the_stream(service: Any, start: Any, job: Any) -> None:
    model = job("", "wide").payload
    assert len(model) > 2 * MIB
    service.files["a"] = model
    start()
    service.assign(job("a", model, kind="optimise", payload=b""), job("b", b"other", payload=b"damaged"))
    outcome = service.outcome("a")
    assert not outcome.failure
    assert not outcome.payload
    assert len(service.uploads[outcome.payload_sha256]) > 2 * MIB
    assert "damaged" in service.outcome("b").failure
    assert service.outcome("b").retry


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": b"junk"}, "cannot load"),
        ({"model": b"junk", "kind": "optimise"}, "cannot load"),
        ({"target": "board/onnxruntime+gpu/fp32"}, "without a delegate"),
        ({"target": "board/onnxruntime/fp32@4000"}, "core 4000"),
        ({"target": "board/tensorrt/fp32"}, "no runtime"),
        ({"kind": "paint"}, "'paint' job"),
        ({"options_json": "["}, "no JSON object"),
        ({"options_json": '{"visits": "many"}'}, "'many' visits"),
    ],
)
def test_what_can_never_be_done_is_refused(
    service: Any, start: Any, job: Any, fields: dict[str, Any], reason: str
) -> None:
    start()
    service.assign(job("a", **fields))
    outcome = service.outcome("a")
    assert reason in outcome.failure
    assert not outcome.retry
    assert not outcome.result_json


def test_a_killed_process_costs_one_try(service: Any, start: Any, job: Any) -> None:
    start()
    service.assign(job("a", "endless"), job("b"))
    service.wait_for(lambda: service.held() == ["a", "b"] and worker())
    process = worker()
    assert process
    process.kill()
    assert "SIGKILL" in service.outcome("a").failure
    assert service.outcome("a").retry
    assert not service.outcome("b").failure


def test_a_job_over_its_time_is_stopped(service: Any, start: Any, job: Any) -> None:
    start()
    service.assign(job("a", "endless", time_limit_s=1.0), job("b"))
    assert "took longer than" in service.outcome("a").failure
    assert service.outcome("a").retry
    assert not service.outcome("b").failure


def test_a_job_over_its_memory_is_refused(service: Any, start: Any, job: Any) -> None:
    start()
    small, large = 512 * MIB, 2048 * MIB
    service.assign(*(job(f"{n}", "hungry", kind="shapes", memory_limit_bytes=n) for n in (small, large, small)))
    assert "memory" in service.outcome(f"{small}").failure
    assert not service.outcome(f"{small}").retry
    assert not service.outcome(f"{large}").failure


def test_a_disturbed_machine_reports_nothing(service: Any, start: Any, job: Any) -> None:
    start(ProtocolConfig(probe_threshold=0.0, visit_ms=1.0, patience_ms=5.0, gate_patience_s=0.1))  # it never opens
    service.assign(job("a"))
    outcome = service.outcome("a")
    assert "disturbed" in outcome.failure
    assert outcome.retry
    assert not outcome.result_json


def test_one_good_visit_is_enough_and_the_others_stay_flagged(
    quick: ProtocolConfig, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing, mixed = [Visit(1.0, disturbed=True)] * 2, [Visit(1.0, disturbed=True), Visit(0.9)]
    answers = iter([nothing, mixed])
    monkeypatch.setattr(LocalDevice, "measure", lambda *_, **__: next(answers))
    outcome, _ = JobRunner(quick).run(job("a"), b"")
    assert not outcome.failure
    assert [visit["disturbed"] for visit in json.loads(outcome.result_json)["visits"]] == [True, False]


def test_it_waits_for_a_quiet_moment(quick: ProtocolConfig, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = Visit(1.0, probe_before_ms=2.0, probe_after_ms=2.0, probe_best_ms=1.0, disturbed=True)
    answers = chain(repeat([shut], 20), [[Visit(0.9)]])
    monkeypatch.setattr(LocalDevice, "measure", lambda *_, **__: next(answers))
    outcome, _ = JobRunner(quick).run(job("a"), b"")
    assert json.loads(outcome.result_json)["visits"][0]["latency_ms"] == 0.9


def test_a_model_that_is_noisy_on_a_quiet_machine_is_reported_with_its_flag(
    quick: ProtocolConfig, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = Visit(1.0, spread_ms=0.5, probe_before_ms=1.0, probe_after_ms=1.05, probe_best_ms=1.0, disturbed=True)
    monkeypatch.setattr(LocalDevice, "measure", lambda *_, **__: [noisy])
    outcome, _ = JobRunner(quick).run(job("a"), b"")
    assert not outcome.failure
    assert [visit["disturbed"] for visit in json.loads(outcome.result_json)["visits"]] == [True]


def test_targets_that_take_turns_keep_their_processes(quick: ProtocolConfig, job: Any) -> None:
    def pids() -> set[int]:
        return {child.pid for child in psutil.Process().children() if "milliseek.devices.worker" in child.cmdline()}

    first, *others = (
        f"board/{name}" for name in ("onnxruntime/fp32", "onnxruntime/int8", "litert/fp32", "litert/int8")
    )
    with closing(JobRunner(quick)) as runner:
        for target in (first, *others[:2]):
            runner.run(job("a", target=target), b"junk")
        began = pids()
        assert len(began) == 3
        runner.run(job("a", target=first), b"junk")
        assert pids() == began
        runner.run(job("a", target=others[2]), b"junk")  # in place of the one that was not asked for longest
        assert len(pids()) == 3
        assert len(pids() & began) == 2
    assert not pids()
