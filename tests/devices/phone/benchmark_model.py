#!/usr/bin/env python3
"""A stand-in for LiteRT's `benchmark_model`: it runs the model with ai-edge-litert and prints what the tool prints.

Delegates but XNNPACK are only claimed. Each call is noted in the file `calls` of the phone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

NAMES = {"use_gpu": "GPU", "use_nnapi": "NNAPI", "use_xnnpack": "XNNPACK"}


def statistics(times_us: list[int]) -> str:
    ordered = sorted(times_us)
    spread = f"count={len(ordered)} curr={times_us[-1]}"
    if ordered[0] != ordered[-1]:
        spread = (
            f"count={len(ordered)} first={times_us[0]} curr={times_us[-1]} min={ordered[0]} max={ordered[-1]} "
            f"avg={np.mean(ordered):g} std={int(np.std(ordered))}"
        )
    low, median, high = (ordered[len(ordered) * share // 100] for share in (5, 50, 95))
    return f"INFO: {spread} p5={low} median={median} p95={high}\n"


def timed(interpreter: Interpreter, runs: int, seconds: float) -> list[int]:
    print(f"INFO: Running benchmark for at least {runs} iterations and at least {seconds:g} seconds but terminate if")
    times_us: list[int] = []
    end = time.monotonic() + seconds
    while len(times_us) < runs or time.monotonic() < end:
        start = time.perf_counter_ns()
        interpreter.invoke()
        times_us.append((time.perf_counter_ns() - start) // 1000)
    print(statistics(times_us))
    return times_us


def profile(title: str, rows: list[tuple[str, str, float, float]]) -> None:
    columns = ("[node type]", "[start]", "[first]", "[avg ms]", "[%]", "[cdf%]", "[mem KB]", "[times called]", "[Name]")
    print(f"INFO: {title}\n============================== Run Order ==============================")
    print("".join(f"\t{column:>10}" for column in columns))
    for kind, name, ms, share in rows:
        print(f"\t{kind:>24}\t{0:.3f}\t{ms:.3f}\t{ms:.3f}\t{share:.3f}%\t{100:.3f}%\t{0:.3f}\t{1}\t{name}")
    print("\nNumber of nodes executed: 1")


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("graph", "num_threads", "warmup_runs", "warmup_min_secs", "num_runs", "min_secs", "max_secs"):
        parser.add_argument(f"--{name}")
    for name in (*NAMES, "enable_op_profiling", "gpu_precision_loss_allowed", "xnnpack_force_fp16"):
        parser.add_argument(f"--{name}", default="false")
    options = parser.parse_args()
    with (Path(os.environ["PHONE_ROOT"]) / "calls").open("a") as calls:
        calls.write(json.dumps({"arguments": sys.argv[1:], "cores": sorted(os.sched_getaffinity(0))}) + "\n")
    print("INFO: STARTING!")
    start = time.perf_counter()
    try:
        interpreter = Interpreter(model_path=options.graph, num_threads=int(options.num_threads))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        print(f"ERROR: {str(error).splitlines()[0]}\nERROR: Failed to initialize the interpreter", file=sys.stderr)
        print("ERROR: Benchmarking failed.", file=sys.stderr)
        return 1
    delegate = next(NAMES[name] for name in NAMES if getattr(options, name) == "true")
    if delegate == "NNAPI":
        print(
            "INFO: Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate."
        )
    else:
        print(
            f"INFO: Explicitly applied {delegate} delegate, "
            "and the model graph will be completely executed by the delegate."
        )
    init_us = (time.perf_counter() - start) * 1e6
    warm = timed(interpreter, int(options.warmup_runs), float(options.warmup_min_secs))
    runs = timed(interpreter, int(options.num_runs), float(options.min_secs))
    print(
        f"INFO: Inference timings in us: Init: {init_us:g}, First inference: {warm[0]}, "
        f"Warmup (avg): {np.mean(warm):g}, Inference (avg): {np.mean(runs):g}\n"
        "INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25"
    )
    if options.enable_op_profiling == "true":
        profile("Profiling Info for Benchmark Initialization:", [("AllocateTensors", "AllocateTensors/0", 0.1, 100)])
        name = interpreter.get_output_details()[0]["name"]
        inside = ("DelegateOpInvoke", "Delegate/Convolution (NHWC, F32) IGEMM:0", np.mean(runs) / 1e3, 100.0)
        rows = [inside, (f"TfLite{delegate}Delegate", f"[{name}]:2", np.mean(runs) / 1e3, 100.0)]
        profile("Operator-wise Profiling Info for Regular Benchmark Runs:", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
