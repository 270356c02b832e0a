"""A phone that measures: the real `adb`, a stand-in for its daemon, and a benchmark_model that runs models here."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flatbuffers
import psutil
import pytest
from ai_edge_litert import schema_py_generated as schema

from milliseek.devices.measuring_device import MeasuringDevice
from milliseek.devices.phone.device import PROBE_MODEL, AdbDevice
from milliseek.devices.phone.protocol import PhoneProtocol
from milliseek.devices.target import Target, parse
from milliseek.errors import InvalidInput, MeasurementError, NotReady

from .adbd import FIXED, POLICIES, Adbd, AdbServer, Phone, fixed_program

PROGRAM = Path(__file__).with_name("benchmark_model.py")
QUICK = PhoneProtocol(
    probe_threshold=1e3, repeats=1, tries=1, warm_up_s=0, run_s=0, min_runs=3, spread_limit=1e3, time_limit_s=30
)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """A benchmark_model whose probes take 0.1 ms, as a model does for which it is not told to do something else."""

    def make(for_models: str = "") -> Path:
        return fixed_program(tmp_path / "benchmark_model", for_models)

    return make


@pytest.fixture
def plugged(adb_server: AdbServer, phone: Phone) -> Any:
    """Opens a device on the phone; `phone` and `adbd` are options of it."""
    with ExitStack() as stack:

        def plug(
            program: Path = PROGRAM, target: str = "p/litert/fp32", protocol: PhoneProtocol = QUICK, **adbd: Any
        ) -> tuple[AdbDevice, Adbd]:
            daemon = stack.enter_context(Adbd(adbd.pop("phone", phone), **adbd))
            serial = stack.enter_context(adb_server.connected(daemon))
            device = AdbDevice(
                parse(target), serial=serial, benchmark_model=program, adb_server=adb_server.address, protocol=protocol
            )
            return device, daemon

        yield plug


def test_the_probe_is_one_logistic() -> None:
    shape, number = [1, 64, 64, 32], schema.BuiltinOperator.LOGISTIC
    graph = schema.SubGraphT(
        tensors=[schema.TensorT(shape=shape, name="x"), schema.TensorT(shape=shape, name="y")],
        inputs=[0],
        outputs=[1],
        operators=[schema.OperatorT(inputs=[0], outputs=[1])],
    )
    code = schema.OperatorCodeT(deprecatedBuiltinCode=number, builtinCode=number)
    model = schema.ModelT(version=3, operatorCodes=[code], buffers=[schema.BufferT()], subgraphs=[graph])
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert bytes(builder.Output()) == PROBE_MODEL


def test_a_model_is_pushed_measured_and_removed(plugged: Any, phone: Phone, tflite: SimpleNamespace) -> None:
    device, adbd = plugged()
    role: MeasuringDevice = device
    with role:
        model = role.optimise(tflite.convolution())
        assert role.tensor_shapes(model)["0"].shape == (1, 16, 16, 16)
        assert adbd.commands == []  # so far nothing was asked of the phone
        found = dict(role.measure_many([("good", model), ("junk", b"junk")]))
    good = found["good"]
    assert (good.error, good.disturbed) == (None, False)
    assert good.latency_ms is not None
    assert good.latency_ms > 0
    assert good.runs >= 3
    assert good.probe_before_ms >= good.probe_best_ms > 0
    assert "benchmark_model ended with exit code 1: ERROR: " in str(found["junk"].error)
    assert phone.left_behind() == []


def test_threads_cores_and_delegate_are_those_of_the_target(
    plugged: Any, phone: Phone, tflite: SimpleNamespace
) -> None:
    last = max(os.sched_getaffinity(0))
    with plugged(target=f"p/litert+gpu/fp32@{last}")[0] as device:
        assert device.measure(tflite.convolution(), optimise=True)[0].error is None
    for call in map(json.loads, (phone.root / "calls").read_text().splitlines()):
        assert {"--num_threads=1", "--use_gpu=true", "--gpu_precision_loss_allowed=false"} <= set(call["arguments"])
        assert call["cores"] == [last]


def test_without_cores_the_fast_ones_are_taken(plugged: Any, phone: Phone, program: Any) -> None:
    eight = Phone(phone.root / "8", cores=8)
    eight.install("taskset", 'shift; exec "$@"')
    device, adbd = plugged(program(), "p/litert/fp32/2t", phone=eight)
    with device:
        device.measure(b"model", optimise=True)
    runs = [command for command in adbd.commands if "--graph" in command]
    assert runs
    assert all("taskset c0 " in run and "--num_threads=2" in run for run in runs)


def test_a_delegate_that_does_not_run_is_an_error(plugged: Any, phone: Phone) -> None:
    with plugged(target="p/litert+nnapi/int8")[0] as device, pytest.raises(NotReady, match="'nnapi' does not run"):
        device.measure(b"", optimise=True)
    assert phone.left_behind() == []


def test_delegates_facts_and_conditions(plugged: Any, phone: Phone) -> None:
    device, adbd = plugged()
    with device:
        assert device.delegates() == ("xnnpack", "gpu")
        facts = device.facts()
        conditions = device.conditions()
    assert (facts.id, facts.manufacturer, facts.product) == (adbd.address, "Google", "Pixel 6")
    assert (facts.cpu_model, facts.architecture, facts.abi) == ("Google Tensor", "aarch64", "arm64-v8a")
    assert (facts.android, facts.memory_bytes) == ("14", 7714820 * 1024)
    assert facts.isa == ("dotprod", "fp16", "neon")
    assert len(facts.core_max_mhz) == facts.cores
    assert facts.core_max_mhz[-1] == 2802
    assert facts.runtimes[0][1].startswith("benchmark_model ")
    assert (conditions.temperature_c, conditions.cpu_mhz) == (39.0, 1200)


def test_operators_come_from_the_profile(plugged: Any, tflite: SimpleNamespace) -> None:
    with plugged()[0] as device:
        inside, whole = device.operators(tflite.convolution())
        with pytest.raises(MeasurementError, match="exit code 1"):
            device.operators(b"junk")
    assert (inside.node_type, whole.node_type, whole.name) == ("DelegateOpInvoke", "TfLiteXNNPACKDelegate", "[y1]:2")
    assert whole.share == 1.0
    assert whole.avg_ms > 0


def test_a_phone_that_is_not_rooted_says_that_its_clocks_run_free(plugged: Any, phone: Phone, program: Any) -> None:
    before = phone.clocks()
    with plugged(program())[0] as device:
        device.measure(b"model", optimise=True)
        assert not device.clocks_pinned
        assert phone.clocks() == before


def test_clocks_of_a_rooted_phone_are_pinned_and_restored(plugged: Any, tmp_path: Path, program: Any) -> None:
    rooted = Phone(tmp_path / "rooted", rooted=True)
    before = rooted.clocks()
    device, _ = plugged(program(), phone=rooted)

    def fail() -> None:
        with device:
            device.measure(b"model", optimise=True)
            assert device.clocks_pinned
            assert rooted.clocks() == {name: ("performance", highest) for name, (_, _, highest) in POLICIES.items()}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert rooted.clocks() == before
    assert rooted.left_behind() == []


def test_clocks_that_a_killed_run_left_pinned_are_restored_by_the_next(
    plugged: Any, adb_server: AdbServer, tmp_path: Path, program: Any
) -> None:
    rooted = Phone(tmp_path / "rooted", rooted=True)
    before = rooted.clocks()
    killed, adbd = plugged(program(), phone=rooted)
    killed.measure(b"model", optimise=True)
    adb_server.adb("disconnect", adbd.address)
    killed.close(at_once=True)  # cannot reach it
    assert rooted.clocks() != before
    with plugged(program(), phone=rooted)[0] as device:
        device.measure(b"model", optimise=True)
    assert rooted.clocks() == before


@pytest.mark.parametrize("features", [("shell_v2", "stat_v2"), ()])
def test_the_latency_is_what_the_tool_prints_minus_an_empty_model(
    plugged: Any, program: Any, features: tuple[str, ...]
) -> None:
    slow = FIXED.replace("=100 ", "=1000 ").replace("=102 ", "=1010 ")
    device, adbd = plugged(program(f"cat <<'END'\n{slow}END\nexit"), protocol=PhoneProtocol(), features=features)
    with device:
        visit, again = device.measure(b"model", optimise=True, visits=2)
        assert device.measure(b"model", optimise=True) == [again]
    assert len(adbd.pushed) == 4  # the program, two probes and the model, each once
    assert visit.latency_ms == pytest.approx(0.9)
    assert visit.spread_ms == pytest.approx(0.01)
    assert (visit.runs, visit.probe_best_ms, visit.disturbed) == (100, 0.1, False)


def test_a_phone_that_stays_slow_is_disturbed(plugged: Any, phone: Phone, program: Any) -> None:
    # After the first model every probe takes twice as long.
    path = program("touch $PHONE_ROOT/hot")
    hot = "[ -e $PHONE_ROOT/hot ] && low=200 || low=100\nsed s/p5=100/p5=$low/ <<"
    path.write_text(path.read_text().replace("cat <<", hot))
    with plugged(path, protocol=dataclasses.replace(PhoneProtocol(), tries=3, pause_s=0.0))[0] as device:
        (visit,) = device.measure(b"model", optimise=True)
    assert visit.disturbed
    assert (visit.runs, visit.probe_after_ms) == (150, 0.2)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("echo nonsense; exit 0", "printed no timings: nonsense"),
        ("echo 'ERROR: no op'; echo 'ERROR: Benchmarking failed.'; exit 1", "exit code 1: ERROR: no op"),
        ("kill -SEGV $$", "signal SIGSEGV"),
        ("exec sleep 1000", "took longer than 1 s and was stopped"),
        ("exit 0", "printed no timings: nothing at all"),
    ],
)
def test_what_goes_wrong_with_a_model_costs_only_itself(
    plugged: Any, phone: Phone, program: Any, does: str, says: str
) -> None:
    path = program(f'if grep -q bad "${{1#*=}}"; then {does}; fi')
    with plugged(path, protocol=dataclasses.replace(QUICK, time_limit_s=1.0))[0] as device:
        bad, good = device.measure(b"bad", optimise=True)[0], device.measure(b"good", optimise=True)[0]
    assert says in str(bad.error)
    assert good.error is None
    assert phone.left_behind() == []


def test_a_program_that_does_not_run_is_no_fault_of_the_model(plugged: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "for_another_machine"
    wrong.write_bytes(b"\x7fELF nothing")
    with (
        plugged(wrong)[0] as device,
        pytest.raises(NotReady, match=r"does not run benchmark_model: .* exit code 12[67]"),
    ):
        device.measure(b"model", optimise=True)


def test_a_full_phone_is_no_fault_of_the_model(plugged: Any, phone: Phone, program: Any) -> None:
    phone.room_bytes = 50_000
    with plugged(program())[0] as device:
        with pytest.raises(NotReady, match="No space left on device"):
            device.measure(bytes(100_000), optimise=True)
        assert device.measure(bytes(10_000), optimise=True)[0].error is None
    assert phone.left_behind() == []


def test_a_phone_that_is_unplugged_and_plugged_in_again(
    adb_server: AdbServer, phone: Phone, program: Any, plugged: Any
) -> None:
    device, adbd = plugged(program())
    with device:
        assert device.measure(b"model", optimise=True)[0].error is None
        adbd.cut_at = "--graph"
        with pytest.raises(NotReady, match=r"does not answer|is offline"):
            device.measure(b"model", optimise=True)
        with pytest.raises(NotReady, match=r"is offline|is not connected"):
            device.measure(b"model", optimise=True)
        adb_server.adb("disconnect", adbd.address)
        with Adbd(phone, port=int(adbd.address.rpartition(":")[2])) as back, adb_server.connected(back):
            assert device.measure(b"model", optimise=True)[0].error is None
            device.close()
    assert phone.left_behind() == []


def test_a_phone_that_is_gone_at_the_end_is_told(plugged: Any, phone: Phone, program: Any) -> None:
    device, adbd = plugged(program())
    device.measure(b"model", optimise=True)
    adbd.unplug()
    with pytest.raises(NotReady):
        device.close()
    device.close()


def running(phone: Phone) -> int:
    """Process number of the benchmark_model that hangs, once it does."""
    file, end = phone.root / "running", time.monotonic() + 30
    while not file.exists() or not file.read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(file.read_text())


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


HANGS = "echo $$ > $PHONE_ROOT/running; exec python -c 'import time; time.sleep(1000)' \"$@\""


def test_closing_at_once_ends_what_another_thread_measures(plugged: Any, phone: Phone, program: Any) -> None:
    device, _ = plugged(program(HANGS))
    with ThreadPoolExecutor() as pool:
        measuring = pool.submit(device.measure, b"model", optimise=True)
        pid = running(phone)
        device.close(at_once=True)
        with pytest.raises(NotReady, match="does not answer"):
            measuring.result(20)
    assert has_ended(pid)
    assert phone.left_behind() == []


PARENT = """
import sys
from milliseek.devices.phone.device import AdbDevice
from milliseek.devices.target import Target
serial, server, program = sys.argv[1:]
with AdbDevice(Target("p", "litert", "fp32"), serial=serial, adb_server=server, benchmark_model=program) as device:
    device.measure(b"model", optimise=True)
"""


def test_ctrl_c_ends_what_runs_on_the_phone(adb_server: AdbServer, tmp_path: Path, program: Any) -> None:
    rooted = Phone(tmp_path / "rooted", rooted=True)
    before = rooted.clocks()
    path = program(HANGS)
    with Adbd(rooted) as adbd, adb_server.connected(adbd) as serial:
        command = [sys.executable, "-c", PARENT, serial, adb_server.address, str(path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
            pid = running(rooted)
            parent.send_signal(signal.SIGINT)
            parent.wait(30)
        assert has_ended(pid)
    assert rooted.clocks() == before
    assert rooted.left_behind() == []


@pytest.mark.parametrize(
    ("target", "words"),
    [("p/litert/fp32/64t", "more cores than the phone has"), ("p/litert/fp32@4000", "more cores than the phone has")],
)
def test_cores_that_the_phone_lacks(plugged: Any, program: Any, target: str, words: str) -> None:
    with plugged(program(), target)[0] as device, pytest.raises(InvalidInput, match=words):
        device.measure(b"", optimise=True)


def test_impossible_targets_and_programs(tmp_path: Path, program: Any) -> None:
    def device(target: Target, **options: Any) -> AdbDevice:
        return AdbDevice(target, serial="x", **{"benchmark_model": program(), **options})

    with pytest.raises(InvalidInput, match="Use litert"):
        device(Target("p", "onnxruntime", "fp32"))
    with pytest.raises(InvalidInput, match="'hexagon'"):
        device(Target("p", "litert", "fp32", delegate="hexagon"))
    with pytest.raises(NotReady, match="cannot be read"):
        device(Target("p", "litert", "fp32"), benchmark_model=tmp_path / "none")
    with pytest.raises(NotReady, match="not the one that the phone was registered with"):
        device(Target("p", "litert", "fp32"), benchmark_sha256="0" * 64)
