"""Seconds and peak memory of `milliseek quickstart` from an empty database."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import psutil
from common import report


def peak_memory(process: psutil.Popen, peak: list[int]) -> None:
    """Sum over the process and its children of what they do not share, sampled five times a second."""
    while process.poll() is None:
        total = 0
        try:
            for each in [process, *process.children(recursive=True)]:
                total += each.memory_full_info().uss
        except psutil.Error:
            continue
        peak[0] = max(peak[0], total)
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", nargs="*", help="passed to quickstart, after --")
    options = parser.parse_args()
    peak = [0]
    with tempfile.TemporaryDirectory() as home:
        started = time.monotonic()
        process = psutil.Popen(
            [sys.executable, "-m", "milliseek", "quickstart", "--json", "-o", f"{home}/out", *options.arguments],
            env={**os.environ, "MILLISEEK_HOME": home},
            stdout=subprocess.PIPE,
            text=True,
        )
        watcher = threading.Thread(target=peak_memory, args=(process, peak))
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
        seconds = time.monotonic() - started
    result = json.loads(output)
    for subnet in result.get("subnets", []):
        del subnet["path"]
    report("quickstart", {"wall_seconds": seconds, "peak_memory_bytes": peak[0], "result": result})


if __name__ == "__main__":
    main()
