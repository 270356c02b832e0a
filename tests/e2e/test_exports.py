"""`export` as a user runs it, from a search that is done to a file that says how good it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch

from milliseek.db import studies as queries
from milliseek.db.engine import Database
from milliseek.devices.facts import local_facts
from milliseek.nas.pictures.data import digits
from milliseek.nas.search.subnet_domain import SubnetDomain
from milliseek.nas.search.subnet_studies import SearchPlan
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernets import train_supernet
from milliseek.spaces.space import Space, extreme_subnet

from .conftest import Milliseek, answer

pytest.importorskip("ai_edge_litert.interpreter")

RECIPE = Recipe(Budget(steps=50), Budget(steps=10), weight_bits=7, dropout=0.0, ema=0.0)


@pytest.fixture
def searched(home: Path) -> Path:
    """A home whose database holds a supernet, trained a little, and the study `found` with one trial."""
    torch.set_num_threads(1)
    database = Database.open(f"sqlite:///{home / 'milliseek.db'}")
    pictures, space = digits(), Space.decode("tiny32-1111-0000")
    subnet = extreme_subnet(space, largest=False)
    train_supernet(database, "net", space, pictures, RECIPE, only=subnet)
    target = f"{local_facts().id}/onnxruntime/fp32"
    with database.session() as session:
        supernet = queries.get_supernet(session, "net")
        queries.get_or_create_study(
            session,
            "found",
            kind="subnet",
            config={**SearchPlan.within(target, (1.0,)).config, "data": pictures.fingerprint},
            predictors=[f"{target}@1"],
            space_id=supernet.space_id,
            supernet_id=supernet.id,
        )
    domain = SubnetDomain(space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=database.url, study_name="found", directions=["maximize", "minimize"])
    study.add_trial(
        optuna.create_trial(
            values=[0.5, 0.1],
            params=domain.params(subnet),
            distributions=dict(domain.distributions),
            user_attrs={"subnet": subnet.encoding, "metrics": {"top1": 0.5, f"latency:{target}": 0.1}},
        )
    )
    database.close()
    return home


@pytest.mark.slow
def test_files_are_measured_and_say_what_they_are(milliseek: Milliseek, searched: Path, tmp_path: Path) -> None:
    options = ("--format", "onnx,tflite", "--precision", "fp32", "-o", "out", "--test-pictures", "--json")
    result = milliseek("export", "found", *options, home=searched)
    assert result.returncode == 0, result.stderr
    found = answer(result)
    assert [file["path"] for file in found["files"]] == ["out/found-0-fp32.onnx", "out/found-0-fp32.tflite"]
    for file, runtime in zip(found["files"], ("onnxruntime", "litert"), strict=True):
        ((target, latency),) = file["latency"].items()
        assert target.endswith(f"/{runtime}/fp32")
        assert latency["measured_ms"] > 0
        assert (latency["predicted_ms"] is None) == (runtime == "litert"), "which has no predictor here"
        assert file["precision"] == "fp32"
        assert file["top1"] == pytest.approx(file["top1_network"], abs=0.003)
        assert file["top1_fake_quant"] > 0.3
        assert file["size_bytes"] == (tmp_path / file["path"]).stat().st_size
        assert target in (tmp_path / file["card"]).read_text()
        script = [tmp_path / name for name in (found["script"], file["path"], "out/test-pictures.tsv")]
        again = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=True)
        evaluated = json.loads(again.stdout)
        assert evaluated["stated_top1"] == file["top1"]
        assert evaluated["top1"] == pytest.approx(file["top1"], abs=0.002)
    shown = answer(milliseek("show", "--json", home=searched))["exports"]
    assert [export["sha256"] for export in shown] == [file["sha256"] for file in found["files"]]
    assert milliseek("show", home=searched).returncode == 0

    def refused(*arguments: str) -> str:
        failed = milliseek("export", *arguments, home=searched)
        assert failed.returncode == 1, failed.stderr
        assert "Traceback" not in failed.stderr
        return " ".join(failed.stderr.split())

    assert "no finished trial 5" in refused("found:5")
    assert "'none'" in refused("none")
    assert "has no predictor" in refused("found", "--precision", "fp32", "-t", "local/onnxruntime/fp32/7t")


@pytest.mark.parametrize(
    "option", [("--format", "onnx,coreml"), ("--precision", "fp16"), ("--fine-tune", "soon")], ids=lambda o: o[1]
)
def test_options_that_name_nothing_are_usage_errors(milliseek: Milliseek, home: Path, option: tuple[str, str]) -> None:
    result = milliseek("export", "study", *option, home=home)
    assert result.returncode == 2
    assert result.stdout == ""
