"""A phone behind adb as a device that measures TFLite files, with LiteRT's own `benchmark_model`."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ...errors import InvalidInput, MeasurementError, NotReady
from ..local import LocalDevice
from ..protocol import Visit
from ..runtimes.litert import LiteRTRuntime
from ..runtimes.runtime import TensorInfo
from ..target import Target
from .adb import Adb
from .benchmark_model import DELEGATES, BenchmarkReport, OperatorTime, complaint, delegate_of, flags, parse_report
from .clocks import Clocks
from .facts import PhoneConditions, PhoneFacts, core_count, phone_conditions, phone_facts
from .folder import DEFAULT_FOLDER, PhoneFolder
from .protocol import PhoneProtocol, Slice, visit_of

# One LOGISTIC on a float32 tensor (1, 64, 64, 32): some 0.1 to 0.5 ms of arithmetic, so that the clock's resolution of
# 1 us does not show, in a size that CPU, GPU and NPU take. Made by packing a ModelT of the schema's object API; the
# tests do so again.
PROBE_MODEL = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAA6AAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAMAAAA"
    "EAAAADwAAABAAAAARAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgAAAAMAAAAAQAAAAEAAAABAAAAAAAAAAEAAAABAAAAAQAAAAAAAAACAAAA"
    "PAAAAAQAAADY////CAAAAAwAAAABAAAAeQAAAAQAAAABAAAAQAAAAEAAAAAgAAAADAAMAAgAAAAAAAQADAAAAAgAAAAMAAAAAQAAAHgAAAAEAAAA"
    "AQAAAEAAAABAAAAAIAAAAAEAAAAQAAAADAAMAAsAAAAAAAQADAAAAA4AAAAAAAAO"
)

_GRACE_S = 20.0
"""Seconds beyond the phone's own time limit before the connection counts as lost."""

_FRESH_S = 1.0
"""How long the probe after one visit serves as the one before the next."""

K = TypeVar("K")


class AdbDevice:
    """One sitting on a phone: what it puts there and the clocks that it pins are undone when it is closed.

    What the phone or the connection is to blame for raises NotReady; what the model is to blame for is a visit with an
    error. A phone that was unplugged is set up anew by the next call. Safe to call from several threads, one call at a
    time. How invocations become a visit is told in `adb_protocol`.

    `benchmark_sha256` refuses another program than the one that the device was registered with. `optimise` and
    `tensor_shapes` need no phone: LiteRT fuses nothing at run time, so they run on this machine.
    """

    def __init__(
        self,
        target: Target,
        *,
        serial: str,
        benchmark_model: str | Path,
        folder: str = DEFAULT_FOLDER,
        adb_server: str | None = None,
        benchmark_sha256: str | None = None,
        protocol: PhoneProtocol | None = None,
    ) -> None:
        if target.runtime != "litert":
            raise InvalidInput(f"'{target}' is not for a phone behind adb.", "Use litert, as in pixel6/litert/int8.")
        delegate_of(target)
        self.target = target
        self.protocol = protocol or PhoneProtocol()
        self.clocks_pinned = False
        self._program = _read_program(Path(benchmark_model), benchmark_sha256)
        self._adb = Adb(serial, adb_server)
        self._folder = PhoneFolder(self._adb, folder)
        self._clocks = Clocks(self._adb, f"{self._folder.parent}/clocks")
        self._host = LocalDevice(dataclasses.replace(target, threads=1, delegate=None, cores=None))
        self._probes: list[tuple[float, float]] = []
        self._empty_ms = 0.0
        self._cores: tuple[int, ...] = ()
        self._touched = self._ready = False
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:
        """Restore the clocks and remove what was put on the phone; a later call sets it up again.

        Raises NotReady if the phone is gone, not with `at_once`: then its next sitting cleans up after this one.
        """
        if at_once:
            self._adb.interrupt()
        self._host.close(at_once=at_once)
        with self._lock:
            if not self._touched:
                return
            self._touched = self._ready = False
            try:
                # A number that another process has got since is left alone.
                path = shlex.quote(self._folder.path)
                self._adb.shell(f"p=$(cat {path}/pid) && grep -q {path} /proc/$p/cmdline && kill -KILL $p")
                self._clocks.restore()
                self._folder.remove()
            except NotReady:
                if not at_once:
                    raise

    def optimise(self, model: bytes, *, hollow: bool = False) -> bytes:
        """The file as it is, once LiteRT on this machine knows its operators."""
        return self._host.optimise(model, hollow=hollow)

    def tensor_shapes(self, instrumented: bytes, *, run: bool = True) -> dict[str, TensorInfo]:
        """Run a model once on this machine: shape, dtype and small integer values of its tensors."""
        return self._host.tensor_shapes(instrumented, run=run)

    def measure(self, model: bytes, *, optimise: bool, visits: int = 1) -> list[Visit]:  # noqa: ARG002 - no difference
        """Copy a model to the phone once and time it `visits` times in a row; what fails is a visit with an `error`."""
        with self._set_up():
            path = self._folder.put(model)
            try:
                return [self._visit(path) for _ in range(visits)]
            except MeasurementError as error:
                return [Visit.failed(str(error))] * visits

    def measure_many(
        self, candidates: Iterable[tuple[K, bytes]], *, optimise: bool = False
    ) -> Iterator[tuple[K, Visit]]:
        """One visit for each (key, model), in order, as they are done; call again for further visits."""
        for key, model in candidates:
            yield key, self.measure(model, optimise=optimise)[0]

    def operators(self, model: bytes) -> tuple[OperatorTime, ...]:
        """The phone's own profile of a model; profiling slows it down. Raises MeasurementError if it does not run."""
        with self._set_up():
            return self._run(self._folder.put(model), profile=True).operators

    def delegates(self) -> tuple[str, ...]:
        """Which of the known delegates run the probe on this phone."""
        found = []
        with self._set_up():
            path = self._folder.put(PROBE_MODEL, keep=True)
            for delegate in DELEGATES:
                target = dataclasses.replace(self.target, delegate=delegate)
                try:
                    if self._run(path, target).delegated in ("all", "part"):
                        found.append(delegate)
                except MeasurementError:  # such as a driver that crashes
                    continue
        return tuple(found)

    def facts(self) -> PhoneFacts:
        """What the phone says about itself; its runtime's version is that of the program, by hash."""
        version = f"benchmark_model {hashlib.sha256(self._program).hexdigest()[:12]}"
        with self._lock:
            return phone_facts(self._adb, (("litert", version),))

    def conditions(self) -> PhoneConditions:
        """How warm and how fast the phone is now."""
        with self._lock:
            return phone_conditions(self._adb)

    @contextmanager
    def _set_up(self) -> Iterator[None]:
        """A phone that holds the program and whose probe is known."""
        with self._lock:
            try:
                if not self._ready:
                    self._prepare()
                yield
            except NotReady:
                self._ready = False
                raise

    def _prepare(self) -> None:
        self._check_cores()
        self._touched = True
        self._folder.create()
        self._folder.put(self._program, keep=True)
        self.clocks_pinned = self._clocks.pin()
        self._probes.clear()
        self._empty_ms = self._probe_run(LiteRTRuntime.probe_model).runs.low_us / 1e3
        report = self._probe_run(PROBE_MODEL)
        if self.target.delegate and report.delegated not in ("all", "part"):
            raise NotReady(
                f"The delegate '{self.target.delegate}' does not run on the phone '{self._adb.serial}'.",
                f"Use a target without it, such as {dataclasses.replace(self.target, delegate=None)}.",
            )
        for _ in range(2):
            self._probe()
        self._ready = True

    def _check_cores(self) -> None:
        cores = core_count(self._adb.shell("cat /sys/devices/system/cpu/present").output)
        asked = self.target.cores
        if (asked and asked[-1] >= cores) or self.target.threads > len(asked or range(cores)):
            raise InvalidInput(
                f"'{self.target}' asks for more cores than the phone has.",
                f"It has the cores 0-{cores - 1}; a thread needs one of its own.",
            )
        # As on the local machine: the highest numbers are the fast cores, and serve the fewest interrupts.
        self._cores = asked or tuple(range(cores - self.target.threads, cores))

    def _probe(self) -> float:
        probe_ms = self._probe_run(PROBE_MODEL).runs.low_us / 1e3
        now = time.monotonic()
        self._probes = [(at, ms) for at, ms in self._probes if at > now - self.protocol.probe_horizon_s]
        self._probes.append((now, probe_ms))
        return probe_ms

    def _probe_run(self, model: bytes) -> BenchmarkReport:
        try:
            return self._run(self._folder.put(model, keep=True))
        except MeasurementError as error:
            raise NotReady(
                f"The phone '{self._adb.serial}' does not run benchmark_model: {error.message}",
                "Get the build for its ABI, which `adb shell getprop ro.product.cpu.abi` tells.",
            ) from error

    def _visit(self, path: str) -> Visit:
        protocol, slices, good = self.protocol, list[Slice](), 0
        at, before = self._probes[-1]
        if time.monotonic() > at + _FRESH_S:
            before = self._probe()
        while good < protocol.repeats and len(slices) < protocol.tries:
            report = self._run(path)
            after = self._probe()
            slices.append(Slice(report.runs, before, after))
            threshold_ms = protocol.probe_threshold * self._probe_best_ms
            good = sum(item.is_quiet(threshold_ms) for item in slices)
            if after > threshold_ms:
                time.sleep(protocol.pause_s)
                after = self._probe()
            before = after
        return visit_of(slices, self._empty_ms, self._probe_best_ms, protocol)

    @property
    def _probe_best_ms(self) -> float:
        """Lowest probe within the horizon."""
        return min(probe_ms for _, probe_ms in self._probes)

    def _run(self, path: str, target: Target | None = None, *, profile: bool = False) -> BenchmarkReport:
        """One invocation on the target's cores; MeasurementError if the model does not run there."""
        limit_s = self.protocol.time_limit_s
        arguments = flags(
            target or self.target,
            path,
            warm_up_s=self.protocol.warm_up_s,
            min_runs=self.protocol.min_runs,
            run_s=self.protocol.run_s,
            max_s=limit_s / 2,
            profile=profile,
        )
        mask = f"{sum(1 << core for core in self._cores):x}"
        run = shlex.join(["exec", "taskset", mask, self._folder.put(self._program, keep=True), *arguments])
        # The phone itself ends what hangs, also when nobody is left to ask for it.
        script = f"cd {shlex.quote(self._folder.path)} && echo $$ > pid && {run}"
        start = time.monotonic()
        result = self._adb.shell(f"timeout -s KILL {limit_s:g} sh -c {shlex.quote(script)}", limit_s + _GRACE_S)
        if result.code == 0:
            return parse_report(result.output)
        if time.monotonic() - start >= limit_s:
            raise MeasurementError(f"It took longer than {limit_s:g} s and was stopped.")
        by = f"exit code {result.code}"
        if 128 < result.code < 128 + signal.NSIG:
            by = f"signal {signal.Signals(result.code - 128).name}"
        raise MeasurementError(f"benchmark_model ended with {by}: {complaint(result.output)}")


def _read_program(path: Path, sha256: str | None) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotReady(
            f"The program '{path}' cannot be read: {error.strerror}.",
            "Give the path of LiteRT's benchmark_model for Android with --benchmark-model.",
        ) from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise NotReady(
            f"The program '{path}' is not the one that the phone was registered with.",
            "Latencies of two versions must not be mixed: add the phone again under another name.",
        )
    return data
