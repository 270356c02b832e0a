"""The text of LiteRT's benchmark_model, as builds of several years print it."""

from __future__ import annotations

import pytest

from milliseek.devices.phone.benchmark_model import Runs, flags, parse_report
from milliseek.devices.target import Target, parse
from milliseek.errors import InvalidInput, MeasurementError

COLUMNS = "node type", "start", "first", "avg ms", "%", "cdf%", "mem KB", "times called", "Name"
OLD = """\
STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [/data/local/tmp/net.tflite]
Enable op profiling: [1]
Use gpu: [1]
Loaded model /data/local/tmp/net.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite delegate for GPU.
Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 2 delegate kernels.
The input model file size (MB): 7.07479
Initialized session in 870.557ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=4 first=130565 curr=120829 min=117370 max=130565 avg=122373 std=4930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=119212 curr=118055 min=113737 max=124776 avg=119375 std=1948

Inference timings in us: Init: 870557, First inference: 130565, Warmup (avg): 122373, Inference (avg): 119375
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory
Peak memory footprint (MB): init=0 overall=12.8672
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
{columns}
\t  AllocateTensors\t    0.000\t    0.115\t    0.115\t100.000%\t100.000%\t    12.000\t        1\tAllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
{columns}
{delegate}
\t RESIZE_NEAREST_NEIGHBOR\t           80.000\t   40.100\t   39.863\t 33.393%\t100.000%\t     0.000\t        1\t[c]:38

============================== Top by Computation Time ==============================
{columns}
{delegate}

Number of nodes executed: 2
Timings (microseconds): count=50 first=119210 curr=118050 min=113735 max=124770 avg=119373 std=1948
Memory (bytes): count=0
2 nodes observed
""".format(
    columns="".join(f"\t{f'[{column}]':>9}" for column in COLUMNS),
    delegate="\t  TfLiteGpuDelegateV2\t  0.000\t 80.100\t 79.512\t66.607%\t66.607%\t  0.000\t  1\t[a, b]:64",
)

NEW = """\
INFO: STARTING!
INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.
INFO: Running benchmark for at least 1 iterations and at least 0.2 seconds but terminate if exceeding 30 seconds.
INFO: count=9 first=3001 curr=900 min=880 max=3001 avg=1100.5 std=600 p5=880 median=905 p95=3001

INFO: Running benchmark for at least 10 iterations and at least 0.1 seconds but terminate if exceeding 30 seconds.
INFO: {runs}

INFO: Inference timings in us: Init: 1200, First inference: 3001, Warmup (avg): 1100.5, Inference (avg): 901.25
INFO: Memory footprint delta from the start of the tool (MB): init=1.17188 overall=2.20312
"""


def test_an_old_build_tells_least_and_mean_and_its_operators() -> None:
    report = parse_report(OLD)
    assert report.runs == Runs(50, 113737, 119375)
    assert (report.init_us, report.first_us, report.memory_mb) == (870557, 130565, 12.8672)
    assert report.delegated == "part"
    rows = [(row.node_type, row.name, row.avg_ms, row.share, row.times_called) for row in report.operators]
    assert rows == [
        ("TfLiteGpuDelegateV2", "[a, b]:64", 79.512, pytest.approx(0.66607), 1),
        ("RESIZE_NEAREST_NEIGHBOR", "[c]:38", 39.863, pytest.approx(0.33393), 1),
    ]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ("count=99 first=950 curr=901 min=850 max=2000 avg=930.5 std=90 p5=870 median=902 p95=1500", (99, 870, 902)),
        ("count=99 first=3 curr=2 min=2 max=90 avg=2.625 std=3 p5=2 median=2 p95=4", (99, 2.625, 2.625)),
        ("count=10 curr=450(all same) p5=450 median=450 p95=450", (10, 450, 450)),
        ("count=1 curr=4000000", (1, 4000000, 4000000)),
        ("count=9 first=1 curr=1 min=1.9e+06 max=3e+06 avg=2.5e+06 std=9", (9, 1.9e6, 2.5e6)),
    ],
)
def test_a_new_build_tells_quantiles(runs: str, expected: tuple[int, float, float]) -> None:
    report = parse_report(NEW.format(runs=runs))
    assert report.runs == Runs(*expected)
    assert (report.delegated, report.memory_mb, report.operators) == ("all", 2.20312, ())


def test_line_ends_of_a_terminal_do_not_matter() -> None:
    assert parse_report(OLD.replace("\n", "\r\n")) == parse_report(OLD)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing at all"),
        ("STARTING!\nhello\n", "hello"),
        (OLD.replace("first=119212 curr=118055 min=113737", "first=1..2 curr=.. min=1-1"), "no timings"),
        (OLD[: OLD.index("Inference timings")], "no timings"),
        ("INFO: STARTING!\nERROR: Didn't find op for builtin opcode 'X'\nERROR: Benchmarking failed.\n", "opcode 'X'"),
    ],
)
def test_what_holds_no_timings_is_refused_with_what_it_says(text: str, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        parse_report(text)


@pytest.mark.parametrize("cut", range(0, len(OLD), 97))
def test_a_text_that_breaks_off_is_either_read_or_refused(cut: int) -> None:
    try:
        report = parse_report(OLD[:cut])
    except MeasurementError:
        assert cut < OLD.index("Note:")
    else:
        assert report.runs.count == 50


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("p/litert/fp32", {"--use_xnnpack=true", "--num_threads=1"}),
        ("p/litert+xnnpack/int8/4t@4-7", {"--use_xnnpack=true", "--num_threads=4"}),
        ("p/litert/fp16", {"--use_xnnpack=true", "--xnnpack_force_fp16=true", "--num_threads=1"}),
        ("p/litert+gpu/fp32", {"--use_gpu=true", "--gpu_precision_loss_allowed=false", "--num_threads=1"}),
        ("p/litert+gpu/int8", {"--use_gpu=true", "--gpu_precision_loss_allowed=true", "--num_threads=1"}),
        ("p/litert+nnapi/fp16", {"--use_nnapi=true", "--nnapi_allow_fp16=true", "--num_threads=1"}),
    ],
)
def test_flags_say_what_the_target_says(target: str, expected: set[str]) -> None:
    words = flags(parse(target), "/g", warm_up_s=0.2, min_runs=10, run_s=0.1, max_s=30)
    common = {"--graph=/g", "--warmup_runs=1", "--warmup_min_secs=0.2", "--num_runs=10", "--min_secs=0.1"}
    assert set(words) == common | {"--max_secs=30"} | expected


def test_unknown_delegates_are_refused() -> None:
    with pytest.raises(InvalidInput, match="hexagon"):
        flags(Target("p", "litert", "int8", delegate="hexagon"), "", warm_up_s=0, min_runs=1, run_s=0, max_s=1)
