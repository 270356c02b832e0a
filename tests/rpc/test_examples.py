"""The examples of the documentation run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TARGET = "local/onnxruntime/int8"


def run(name, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MILLISEEK_")}
    command = [sys.executable, "-P", "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_predicting(server, tmp_path):
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        file.write_bytes(b"network" * 100)
    ended = run("predict.py", server.address, TARGET, *files)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == f"{files[0]}: 0.700 ms (90 %: 0.630 to 0.770), {TARGET}@3"
    assert len(ended.stdout.splitlines()) >= 3


@pytest.mark.parametrize("name", ["predict.py", "measure_async.py"])
def test_errors_are_one_line(server, tmp_path, name):
    ended = run(name, server.address, TARGET, tmp_path / "gone.onnx")
    assert ended.returncode == 1
    assert ended.stderr == f"There is no file '{tmp_path / 'gone.onnx'}'. Name an existing model file.\n"
