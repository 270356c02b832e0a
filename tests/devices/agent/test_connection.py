"""Jobs outlive connections: what an agent keeps, sends again, drops and gives back."""

from __future__ import annotations

from itertools import islice
from typing import Any

import psutil

from milliseek.devices.agent.agent import pauses
from milliseek.devices.protocol import ProtocolConfig
from milliseek.errors import NotReady
from milliseek.rpc.v1 import device_pb2


def worker() -> psutil.Process | None:
    """The measuring process of an agent of this process."""
    found = [child for child in psutil.Process().children() if "milliseek.devices.worker" in child.cmdline()]
    return found[0] if found else None


def test_an_outcome_is_sent_until_it_is_acknowledged(service: Any, start: Any, job: Any) -> None:
    start()
    service.acknowledges = False
    service.assign(job("a"), job("b", "endless"))
    first = service.outcome("a")
    service.__exit__()
    service.acknowledges = True
    with service:
        again = service.wait_for(lambda: service.outcomes("a")[1:])
        assert again == [first]  # not measured again
        beats = (said.heartbeat for stream, said in service.said if stream == 2 and said.HasField("heartbeat"))
        service.wait_for(lambda: service.held() == ["b"])  # its receipt came
        assert list(next(beats).leases) == ["b", "a"]
        service.tell(drop=device_pb2.DropJobs(leases=["b"]))
        service.__exit__()
        with service:
            service.wait_for(lambda: any(stream == 3 and said.HasField("heartbeat") for stream, said in service.said))
            assert len(service.outcomes("a")) == 2
            assert len(service.registered) == 3


def test_dropped_jobs_end_and_leave_no_outcome(service: Any, start: Any, job: Any) -> None:
    start()
    service.assign(job("a", "endless"), job("b"), job("c"))
    service.wait_for(lambda: service.held() == ["a", "b", "c"] and worker())
    process = worker()
    assert process
    service.tell(drop=device_pb2.DropJobs(leases=["a", "b", "unknown"]))
    assert not service.outcome("c").failure
    assert not process.is_running()
    assert not service.outcomes("a") + service.outcomes("b")


def test_a_job_that_comes_twice_is_done_once(service: Any, start: Any, job: Any) -> None:
    start()
    service.acknowledges = False
    service.assign(job("a"), job("a"), job("b"))
    service.outcome("b")
    service.assign(job("a"), job("c"))
    service.outcome("c")
    assert len(service.outcomes("a")) == 1
    for lease in ("a", "b", "c"):
        service.tell(taken=device_pb2.OutcomeTaken(lease=lease))


def test_a_goodbye_for_good_ends_the_agent(service: Any, start: Any, job: Any) -> None:
    agent = start()
    service.assign(job("a", "endless"))
    service.wait_for(lambda: service.held() == ["a"])
    service.tell(goodbye=device_pb2.Goodbye(reason="The device was removed."))
    agent.join()
    assert isinstance(agent.error, NotReady)
    assert "The device was removed." in agent.error.message
    assert worker() is None


def test_a_goodbye_for_now_waits_for_the_jobs(service: Any, start: Any, job: Any) -> None:
    start()
    service.assign(job("a"), job("b"))
    service.tell(goodbye=device_pb2.Goodbye(reason="The service ends.", reconnect=True))
    assert not service.outcome("b").failure
    service.wait_for(lambda: service.streams == 2 and service.open == {2})
    assert {stream for stream, said in service.said if said.HasField("outcome")} == {1}


def test_leaving_gives_up_what_takes_too_long(service: Any, start: Any, job: Any) -> None:
    agent = start(grace_s=0.0)
    service.assign(job("a", "endless"), job("b"))
    service.wait_for(lambda: service.held() == ["a", "b"])
    agent.stop()
    assert service.outcome("a").retry
    assert "stopped" in service.outcome("a").failure
    assert not service.outcomes("b")  # given back with the end of the stream
    assert not service.open
    assert agent.error is None


def test_leaving_delivers_the_job_under_way(service: Any, start: Any, job: Any) -> None:
    agent = start(ProtocolConfig())
    service.assign(job("a"))
    service.wait_for(lambda: service.held() == ["a"])
    agent.stop()
    assert service.outcome("a").result_json


def test_pauses_grow_to_a_minute_and_differ_between_agents() -> None:
    first, second = (list(islice(pauses(1.0), 12)) for _ in range(2))
    assert first != second
    for number, pause_s in enumerate(first):
        longest = min(2.0**number, 60.0)
        assert longest / 2 <= pause_s <= longest
