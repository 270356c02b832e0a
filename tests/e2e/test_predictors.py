"""The commands around predictors, on a database with a made-up one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Milliseek, answer

TARGET = "local/onnxruntime/fp32"


def test_what_there_is(milliseek: Milliseek, home: Path) -> None:
    (found,) = answer(milliseek("predictors", "list", "--json"))["predictors"]
    assert found["name"].endswith("/onnxruntime/fp32@1")
    assert (found["kernels"], found["networks"], found["runtime_version"]) == (16, 6, "1.0.0")
    table = milliseek("predictors", "list").stdout
    assert "/onnxruntime/fp32@1" in "".join(table.split())
    assert max(map(len, table.splitlines())) <= 80


def test_an_empty_database_says_how_to_begin(milliseek: Milliseek) -> None:
    assert "milliseek profile" in milliseek("predictors", "list").stdout


def test_showing_one(milliseek: Milliseek, home: Path) -> None:
    shown = answer(milliseek("predictors", "show", f"{TARGET}@1", "--json"))
    assert shown["held_out_kernels"]["kernels"] == 40
    assert 0 <= shown["held_out_networks"]["coverage"] <= 1
    assert [network["name"] for network in shown["each_network"]] == [f"net{i}" for i in range(6)]
    assert sum(kind["share"] for kind in shown["each_kind"]) == pytest.approx(1)
    result = milliseek("predictors", "show", TARGET)
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    for words in ("40 kernels never trained on", "net5", "within 5 %", "90 % interval", "Softmax"):
        assert words in " ".join(result.stdout.split()), words


def test_a_check_measures_and_says_what_to_do(milliseek: Milliseek, home: Path) -> None:
    found = answer(milliseek("predictors", "check", TARGET, "--json"))
    assert found["verdict"] in ("holds", "slower", "faster", "changed")
    assert bool(found["remedy"]) == (found["verdict"] != "holds")
    assert found["fitted_version"] == "1.0.0" != found["runtime_version"]
    assert len(found["kernels"]) == 4
    assert found["factor"] > 0


def test_from_one_machine_to_another(milliseek: Milliseek, home: Path, tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "predictor.zip", tmp_path / "elsewhere"
    written = answer(milliseek("predictors", "export", TARGET, "-o", file, "--json"))
    assert written["size_bytes"] == file.stat().st_size
    imported = answer(milliseek("predictors", "import", file, "--json", home=elsewhere))
    assert imported == {"predictor": written["predictor"], "added": True, "notes": imported["notes"]}
    again = milliseek("predictors", "import", file, home=elsewhere)
    assert "already" in again.stdout
    twin = answer(milliseek("predictors", "import", file, "--as", f"{TARGET}@0", "--json", home=elsewhere))
    assert twin["predictor"].endswith("/onnxruntime/fp32@0@1")
    names = [found["name"] for found in answer(milliseek("predictors", "list", "--json", home=elsewhere))["predictors"]]
    assert names == [written["predictor"], twin["predictor"]]


def test_mistakes_are_one_sentence(milliseek: Milliseek, home: Path, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.zip"
    rubbish.write_bytes(b"no predictor")
    for words, told in (
        (("show", f"{TARGET}@7"), "no version 7"),
        (("show", "pixel6/litert/int8"), "milliseek profile"),
        (("check", "phone"), "not a target"),
        (("import", rubbish), "rubbish.zip"),
        (("plot", TARGET, "-o", tmp_path), "cannot be written"),
    ):
        result = milliseek("predictors", *words)
        assert result.returncode == 1, result.stderr
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert told in " ".join(result.stderr.split())


def test_a_picture(milliseek: Milliseek, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictor.html"
    drawn = answer(milliseek("predictors", "plot", TARGET, "-o", path, "--json"))
    assert drawn["path"] == str(path)
    assert "kernels never trained on" in path.read_text(encoding="utf-8")
