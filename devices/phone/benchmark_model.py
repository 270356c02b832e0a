"""LiteRT's own tool `benchmark_model`: its command line, and what it prints.

It times every run in whole microseconds and prints how many there were, the first, least, largest and mean time and the
standard deviation; newer builds add the quantiles 0.05, 0.5 and 0.95. With op profiling it adds tables of the
operators; `Run Order` names each once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ...errors import InvalidInput, MeasurementError
from ..target import Target

Delegated = Literal["all", "part", "none"]

DELEGATES = ("xnnpack", "gpu", "nnapi")
"""Delegates that a target may name; the first one is what CPU targets mean."""

_COARSE_US = 20.0
"""Below this, one microsecond of resolution is worse than what slow runs add to the mean."""

_NUMBER = r"[-+.\deE]+"
_STATISTICS = re.compile(
    rf"^(?:INFO: )?count=(\d+)(?: first={_NUMBER})? curr=({_NUMBER})(?:\(all same\))?"
    rf"(?: min=({_NUMBER}) max={_NUMBER} avg=({_NUMBER}) std={_NUMBER})?"
    rf"(?: p5=({_NUMBER}) median=({_NUMBER}) p95={_NUMBER})?\s*$",
    re.MULTILINE,
)
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}), Warmup \(avg\): {_NUMBER}, "
    rf"Inference \(avg\): {_NUMBER}"
)
_MEMORY = re.compile(
    rf"[Mm]emory footprint (?:delta from the start of the tool )?\(MB\): init={_NUMBER} overall=({_NUMBER})"
)
_APPLIED = re.compile(r"Explicitly applied (\w+) delegate, and the model graph will be (completely|partially)")
_REFUSED = re.compile(r"Though (\w+) delegate is explicitly applied, the model graph will not be executed")
_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_RUN_ORDER = "= Run Order ="
_COLUMNS = {"node type", "avg ms", "%", "times called", "Name"}
_COMPLAINT = re.compile(r"^(ERROR|FATAL|F|E)\b|[Ff]ailed|[Ee]rror|not found|not executable|denied|format")


@dataclass(frozen=True)
class Runs:
    """How long one inference took in one invocation, in microseconds.

    low_us: the quantile 0.05, the least time where the build prints no quantiles, the mean where runs are so short that
    the clock's resolution shows. typical_us: the median, else the mean.
    """

    count: int
    low_us: float
    typical_us: float


@dataclass(frozen=True)
class OperatorTime:
    """A row of the table `Run Order`: `share` is a fraction of the time of one run.

    Rows of the type DelegateOpInvoke are parts of a delegate's row, and not to be added to it.
    """

    node_type: str
    name: str
    avg_ms: float
    share: float
    times_called: int


@dataclass(frozen=True)
class BenchmarkReport:
    """What one invocation printed; None for what this build or this machine does not tell.

    delegated: how much of the model the delegate runs that was asked for. memory_mb: what the tool took, about.
    """

    runs: Runs
    init_us: float
    first_us: float
    delegated: Delegated | None
    memory_mb: float | None
    operators: tuple[OperatorTime, ...]


def delegate_of(target: Target) -> str:
    """The delegate that a target means; raises InvalidInput for one that is not in DELEGATES."""
    delegate = target.delegate or DELEGATES[0]
    if delegate not in DELEGATES:
        raise InvalidInput(
            f"'{target}' asks for the delegate '{delegate}', which phones are not asked for.",
            f"Use one of {', '.join(DELEGATES)}.",
        )
    return delegate


def flags(
    target: Target, graph: str, *, warm_up_s: float, min_runs: int, run_s: float, max_s: float, profile: bool = False
) -> list[str]:
    """Its arguments for the model at the path `graph`; raises InvalidInput as `delegate_of` does.

    It runs at least `min_runs` times and `run_s` seconds, but ends after `max_s`. On a GPU, fp32 targets compute in
    single precision, which is not the tool's default.
    """
    delegate = delegate_of(target)
    precision = []
    if delegate == "gpu":
        precision = [f"--gpu_precision_loss_allowed={str(target.precision != 'fp32').lower()}"]
    elif target.precision == "fp16":
        precision = ["--xnnpack_force_fp16=true" if delegate == "xnnpack" else "--nnapi_allow_fp16=true"]
    return [
        f"--graph={graph}",
        f"--num_threads={target.threads}",
        f"--use_{delegate}=true",
        *precision,
        "--warmup_runs=1",
        f"--warmup_min_secs={warm_up_s:g}",
        f"--num_runs={min_runs}",
        f"--min_secs={run_s:g}",
        f"--max_secs={max_s:g}",
        *(["--enable_op_profiling=true"] if profile else []),
    ]


def parse_report(text: str) -> BenchmarkReport:
    """What the tool printed, on both streams; raises MeasurementError if it holds no timings."""
    text = text.replace("\r\n", "\n")
    statistics = _STATISTICS.findall(text)
    timings = _TIMINGS.search(text)
    try:
        if timings is None or not statistics:
            raise ValueError(text)
        memory = _MEMORY.search(text)
        return BenchmarkReport(
            runs=_runs(*statistics[-1]),
            init_us=float(timings[1]),
            first_us=float(timings[2]),
            delegated=_delegated(text),
            memory_mb=float(memory[1]) if memory else None,
            operators=_operators(text),
        )
    except ValueError as error:
        raise MeasurementError(f"benchmark_model printed no timings: {complaint(text)}") from error


def complaint(text: str) -> str:
    """The line that says best what went wrong, at most 300 characters: the first that complains, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(filter(_COMPLAINT.search, lines), lines[-1] if lines else "nothing at all")[:300]


def _runs(count: str, last: str, least: str, mean: str, low: str, median: str) -> Runs:
    """`least` and `mean` are missing where all runs took the same time, the quantiles in old builds."""
    mean_us = float(mean or last)
    low_us = float(low or least or last)
    if low_us < _COARSE_US:
        low_us = mean_us
    return Runs(int(count), low_us, max(float(median or mean_us), low_us))


def _delegated(text: str) -> Delegated | None:
    applied = _APPLIED.search(text)
    if applied:
        return "all" if applied[2] == "completely" else "part"
    return "none" if _REFUSED.search(text) else None


def _operators(text: str) -> tuple[OperatorTime, ...]:
    """The main graph's table: the last thing before it is the profile of the initialisation."""
    _, found, regular = text.partition(_REGULAR)
    tables = (regular if found else text).split(_RUN_ORDER)[1:]
    if not tables:
        return ()
    lines = [line.split("\t") for line in (tables[0] if found else tables[-1]).splitlines()[1:]]
    columns = [column.strip().strip("[]") for column in lines[0]] if lines else []
    if not _COLUMNS.issubset(columns):
        return ()
    rows = []
    for fields in lines[1:]:
        if len(fields) != len(columns):
            break
        row = dict(zip(columns, map(str.strip, fields), strict=True))
        rows.append(
            OperatorTime(
                row["node type"],
                row["Name"],
                float(row["avg ms"]),
                float(row["%"].rstrip("%")) / 100,
                int(row["times called"]),
            )
        )
    return tuple(rows)
