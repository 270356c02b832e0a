"""Accuracy of what a supernet hands out: exported files, and one subnet against the same one trained alone.

    supernet_accuracy.py --data imagefolder:PATH --space small32-5125-0312 [--against small32-1122-0000]
        [--budget 2h] [--home FOLDER] [--target local/onnxruntime/int8 --target local/litert/int8]

For each of the two spaces: one supernet of the budget, a search for three latency budgets on the first target (the same
for both spaces), exports in both formats. Then the middle subnet of the first space is trained alone for as many
steps as the supernet took. All of it goes through the commands a user has, in a database in FOLDER, and the same
command goes on after an interruption: a training of two hours may take any number of sittings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import report
from fronts import compared_with

from milliseek.db.engine import Database
from milliseek.nas.pictures.data import Pictures, parse_data
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.evaluation import calibration_batches, recalibrate, top1
from milliseek.nas.training.processes import Processes, choose_device
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernets import train_supernet
from milliseek.spaces.space import Subnet


class Milliseek:
    """The command, with a home of its own."""

    def __init__(self, home: Path, data: str) -> None:
        self._environment = {**os.environ, "MILLISEEK_HOME": str(home)}
        self._data = data

    def ask(self, *words: str | Path, data: bool = True) -> dict[str, Any]:
        """The object that a command prints; an error ends the program with its message."""
        command = [sys.executable, "-m", "milliseek", *map(str, words), "--json"]
        if data:
            command += ["--data", self._data]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"error": {"message": done.stderr}}
        if "error" in answer:
            sys.exit(f"{' '.join(map(str, words))}: {answer['error']['message']}")
        return answer

    def knows(self, target: str) -> bool:
        """Whether a predictor of the target is there."""
        listed = self.ask("predictors", "list", data=False)["predictors"]
        return any(each["name"].partition("@")[0].endswith(target.removeprefix("local")) for each in listed)


def supernet(milliseek: Milliseek, name: str, space: str, options: argparse.Namespace) -> dict[str, Any]:
    recipe = ("--batch", str(options.batch), "--sampler", options.sampler, "--augment", options.augment)
    where = ("--device", options.device, "--target", options.target[0], "--seed", str(options.seed))
    return milliseek.ask("supernet", "train", space, "--name", name, "--budget", options.budget, *recipe, *where)


def subnets(milliseek: Milliseek, name: str, budgets: str | None, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One for each latency budget, with the accuracy and the measured time of its files."""
    wanted = ("--budgets", budgets) if budgets else ()
    found = milliseek.ask(
        "search", name, "--target", options.target[0], "--evaluations", str(options.evaluations), *wanted
    )
    targets = [word for target in options.target for word in ("--target", target)]
    files = milliseek.ask(
        "export", found["study"], "--format", "onnx,tflite", "--precision", "int8", *targets, "-o", options.home / name
    )["files"]
    rows = []
    for each in found["subnets"]:
        exported = {file["format"]: file for file in files if file["subnet"] == each["subnet"]}
        rows.append(
            {
                "subnet": each["subnet"],
                "budget_ms": each["budget_ms"],
                "predicted_ms": each["predicted_ms"],
                "top1_fake_quant": exported["onnx"]["top1_fake_quant"],
                **{
                    form: {
                        "top1": file["top1"],
                        "points_from_fake_quant": 100 * (file["top1"] - file["top1_fake_quant"]),
                        "measured_ms": {target: known["measured_ms"] for target, known in file["latency"].items()},
                    }
                    for form, file in exported.items()
                },
            }
        )
    return rows


def alone(pictures: Pictures, subnet: Subnet, trained: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The same architecture, trained alone for as many steps as the supernet, with the supernet's recipe."""
    recipe = Recipe(
        Budget(steps=trained["steps"] - trained["steps_quantised"]),
        Budget(steps=trained["steps_quantised"]),
        weight_bits=trained["weight_bits"],
        batch=options.batch,
        augmentation=options.augment,
        dropout=0.0,  # in the supernet only the largest network has it
        seed=options.seed,
        precision=trained["precision"],
    )
    database = Database.open(f"sqlite:///{options.home.absolute() / 'milliseek.db'}")
    processes = Processes(choose_device(options.device))
    network = train_supernet(database, "alone", subnet.space, pictures, recipe, processes=processes, only=subnet)
    database.close()
    statistics = recalibrate(network, subnet, calibration_batches(pictures))
    return {
        "subnet": subnet.encoding,
        "steps": trained["steps"],
        "top1": top1(network, subnet, statistics, pictures, "test"),
    }


def at_equals(figures: dict[str, Any], target: str) -> list[dict[str, float | None]]:
    """Each subnet of the space that is compared with against those of the first one, measured on a target."""
    form = "tflite" if "/litert" in target else "onnx"

    def measured_ms(row: dict[str, Any]) -> float:
        of = target.removeprefix("local")  # which the command spells out
        return next(float(ms) for name, ms in row[form]["measured_ms"].items() if name.endswith(of))

    own, other = (
        [(measured_ms(row), row[form]["top1"]) for row in figures[role]["subnets"]] for role in ("space", "against")
    )
    return [compared_with(own, ms, reached) for ms, reached in other]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--space", required=True)
    parser.add_argument("--against", help="encoding of a hand-made space: milliseek spaces score small32:mobilenetv3")
    parser.add_argument("--budget", default="2h", help="of each supernet: 2h, or 3000steps")
    parser.add_argument("--profile", default="10m", help="for each target that has no predictor yet")
    parser.add_argument("--budgets", help="three latencies in ms; without it those that the search proposes")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--target", action="append", help="the first one is searched for, all are measured")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sampler", default="uniform")
    parser.add_argument("--augment", default="flip")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, default=Path("supernet-accuracy"))
    options = parser.parse_args()
    options.target = options.target or ["local/onnxruntime/int8", "local/litert/int8"]
    options.home = options.home.absolute()
    options.home.mkdir(parents=True, exist_ok=True)
    os.environ["MILLISEEK_HOME"] = str(options.home)
    milliseek = Milliseek(options.home, options.data)
    spaces = {"space": options.space, **({"against": options.against} if options.against else {})}
    for target in options.target:
        if not milliseek.knows(target):
            measured = [word for space in spaces.values() for word in ("--space", space)]
            milliseek.ask("profile", target, "--budget", options.profile, *measured, data=False)
    figures: dict[str, Any] = {}
    budgets = options.budgets
    for role, space in spaces.items():
        trained = supernet(milliseek, role, space, options)
        rows = subnets(milliseek, role, budgets, options)
        budgets = budgets or ",".join(str(row["budget_ms"]) for row in rows)
        figures[role] = {"space": space, "supernet": trained, "subnets": rows}
    pictures = parse_data(options.data)
    middle = figures["space"]["subnets"][len(figures["space"]["subnets"]) // 2]
    figures["alone"] = alone(pictures, Subnet.decode(middle["subnet"]), figures["space"]["supernet"], options)
    figures["points_from_alone"] = 100 * (middle["top1_fake_quant"] - figures["alone"]["top1"])
    if options.against:
        figures["against_at_equals"] = at_equals(figures, options.target[0])
    report("supernet_accuracy", {"data": options.data, "budget": options.budget, **figures})


if __name__ == "__main__":
    main()
