"""`milliseek predict --subnets`: many subnets of a space in one answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from milliseek.spaces.space import Space, random_subnet

from .conftest import Milliseek, answer, command, environment

SPACE = "tiny32-1010-0000"
TARGET = "local/onnxruntime/fp32"
OPTIONS = ("--space", SPACE, "--target", TARGET, "--json")


@pytest.fixture
def subnets() -> list[str]:
    rng = np.random.default_rng(0)
    return [random_subnet(Space.decode(SPACE), rng).genome for _ in range(3)]


def test_a_line_each_short_or_whole_and_blank_ones_do_not_count(
    milliseek: Milliseek, home: Path, subnets: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "subnets.txt"
    lines = [subnets[0], "", f"  {SPACE}:{subnets[1]}  ", subnets[2]]
    file.write_text("\n".join(lines))
    found = answer(milliseek("predict", "--subnets", file, *OPTIONS))
    assert found["target"].endswith("/onnxruntime/fp32")
    assert found["predictor"] == f"{found['target']}@1"
    assert found["space"] == SPACE
    assert len(found["interval"]) == 2
    assert [row["subnet"] for row in found["subnets"]] == [line.strip() for line in lines if line]
    assert all(row["latency_ms"] > 0 for row in found["subnets"])

    again = subprocess.run(
        command("predict", "--subnets", "-", *OPTIONS),
        input="\n".join(subnets),
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    ms = [row["latency_ms"] for row in json.loads(again.stdout)["subnets"]]
    assert ms == [row["latency_ms"] for row in found["subnets"]]

    table = milliseek("predict", "--subnets", file, *OPTIONS[:-1])
    assert table.returncode == 0
    assert table.stdout.startswith("subnet")

    file.write_text("\n\n")
    assert answer(milliseek("predict", "--subnets", file, *OPTIONS))["subnets"] == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("nonsense", "is not a subnet"),
        ("tiny32-1010-1000:{}", "is not the space"),
        ("tiny32-1010:{}", "is not the space"),
        ("{}" * 2, "is not a subnet"),
        ("\x00" * 100_000, "2000 characters or more"),
    ],
    ids=["nonsense", "another space", "no space", "two in one", "endless"],
)
def test_a_bad_line_is_named_by_its_number(
    milliseek: Milliseek, home: Path, subnets: list[str], tmp_path: Path, line: str, word: str
) -> None:
    file = tmp_path / "subnets.txt"
    file.write_text("\n".join([subnets[0], "", line.replace("{}", subnets[1]), subnets[2]]))
    result = milliseek("predict", "--subnets", file, *OPTIONS)
    assert result.returncode == 1
    error = answer(result)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert "Line 3 " in error["message"]
    assert word in error["message"]
    assert len(error["message"]) < 1000


def test_a_hyperspace_or_an_absent_file(milliseek: Milliseek, home: Path, tmp_path: Path) -> None:
    result = milliseek("predict", "--subnets", tmp_path / "absent.txt", *OPTIONS)
    assert "absent.txt" in answer(result)["error"]["message"]
    file = tmp_path / "subnets.txt"
    file.touch()
    result = milliseek("predict", "--subnets", file, "--space", "tiny32", *OPTIONS[2:])
    assert "hyperspace" in answer(result)["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("x.onnx", "--subnets", "y", "--space", SPACE), ("--subnets", "y"), ("x.onnx", "--space", SPACE)],
    ids=["nothing", "both", "no space", "a space alone"],
)
def test_one_of_the_two_forms(milliseek: Milliseek, arguments: tuple[str, ...]) -> None:
    result = milliseek("predict", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
