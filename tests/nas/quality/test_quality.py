"""Quality tables: what a student has of its teacher, cell by cell, and a whole table within a budget."""

import json
import pickle
import re
from operator import attrgetter

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from milliseek.cli.app import app
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotFound, NotReady, StorageError
from milliseek.nas.pictures.data import digits
from milliseek.nas.quality import quality_filling, quality_run
from milliseek.nas.quality.nsr import nsr, readout_nsr
from milliseek.nas.quality.quality import CellCost, CellTask, QualityRow, _Cell, distill_cell, rehearse_cell
from milliseek.nas.quality.quality_cells import Workers, each_cell
from milliseek.nas.quality.quality_filling import load_teacher
from milliseek.nas.quality.quality_rows import store_rows, stored_rows
from milliseek.nas.quality.quality_run import QualityBudget, affordable_steps, find_table, make_table
from milliseek.nas.quality.quality_table import table_rows
from milliseek.nas.quality.teacher import (
    Teacher,
    read_features,
    resolution_noise,
    teacher_top1,
    train_teacher,
    write_features,
)
from milliseek.nas.training.budget import Budget
from milliseek.spaces.blocks import ONNXW_BLOCKS, BlockChoice
from milliseek.spaces.definition import definition
from milliseek.spaces.hyperspace import SMALL32, Hyperspace, Stage

HERE = Workers(1)
MINI = Hyperspace(
    name="mini",
    resolutions=(16, 24),
    blocks=ONNXW_BLOCKS[:2],
    stem_widths=(8,),
    stem_stride=2,
    stages=(
        Stage((8, 16), (1,), 1, fixed=ONNXW_BLOCKS[0]),
        Stage((16, 24), (1, 2), 2, window=2),
        Stage((24, 32, 48), (1, 2), 1, window=2),
    ),
    head_width=32,
)


@pytest.fixture(scope="module")
def pictures():
    torch.set_num_threads(1)
    return digits()


@pytest.fixture(scope="module")
def teacher(pictures):
    trained = train_teacher(SMALL32, pictures, Budget(steps=3), batch=8)
    assert 0 <= teacher_top1(trained, pictures, "val") <= 1
    return trained


@pytest.fixture(scope="module")
def features(tmp_path_factory, pictures, teacher):
    folder = tmp_path_factory.mktemp("features")
    write_features(teacher, pictures, SMALL32.resolutions, folder, 24)
    return folder


@pytest.fixture
def database(tmp_path):
    with_file = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield with_file
    with_file.close()


def test_the_teacher_is_cut_where_the_hyperspace_is():
    teacher = Teacher(SMALL32, 10)
    assert teacher(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    sizes = [SMALL32.stage_hw(32)[0][1], *(out for _, out in SMALL32.stage_hw(32)[1:])]
    assert [boundary.shape[2] for boundary in teacher.boundaries(torch.randn(2, 3, 32, 32))] == sizes


def test_features_of_a_stage_are_what_enters_and_leaves_it(features):
    stages = [read_features(features, stage) for stage in range(4)]
    for resolution in SMALL32.resolutions:
        assert all(stage.inputs[resolution].shape[0] == 24 for stage in stages)
        assert np.array_equal(stages[0].outputs[resolution], stages[1].inputs[resolution])
        assert stages[0].inputs[resolution].shape[2:] == (resolution, resolution)
        assert stages[3].outputs[resolution].shape[1] == 192


def test_features_that_would_fill_the_disk_are_of_fewer_pictures(tmp_path, pictures, teacher, monkeypatch):
    monkeypatch.setattr("milliseek.nas.quality.teacher.FEATURE_BYTES", 1)
    monkeypatch.setattr("milliseek.nas.quality.teacher.LEAST_PICTURES", 3)
    write_features(teacher, pictures, (24,), tmp_path, 20)
    assert read_features(tmp_path, 0).inputs[24].shape[0] == 3


def test_smaller_pictures_are_noisier(teacher, pictures):
    noise = resolution_noise(teacher, pictures, (8, 24, 32), count=64)
    assert noise[32] == 0
    assert 0 < noise[24] < noise[8]


def test_noise_to_signal_of_known_students():
    teacher = torch.randn(8, 4, 16, 16)
    assert float(nsr(teacher, teacher)) == 0
    mean = teacher.mean((2, 3), keepdim=True).expand_as(teacher)
    assert float(nsr(mean, teacher)) == pytest.approx(1, abs=1e-3)
    silent = teacher.clone()
    silent[:, 0] = 0  # a dead channel carries no signal and must not count
    assert float(nsr(silent + 1e-3, silent)) < 1e-4


def test_a_readout_finds_what_features_tell_of_the_teacher():
    teacher = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = torch.einsum("fc,nchw->nfhw", torch.tensor([[1.0, 2, 0, 0], [0, 1, 3, 0], [0, 0, 1, -1]]), teacher) + 5
    whole = torch.cat([mixed, 7 * teacher[:, 3:]], 1)
    assert float(readout_nsr(whole, teacher)) < 1e-2
    assert 0.2 < float(readout_nsr(mixed, teacher)) < 0.3  # three directions of four


def test_a_readout_does_not_learn_its_pictures_by_heart():
    generator = torch.Generator().manual_seed(0)
    teacher, noise = torch.randn(8, 4, 4, 4, generator=generator), torch.randn(8, 120, 4, 4, generator=generator)
    assert float(readout_nsr(noise, teacher)) > 0.9


def test_rows_do_not_depend_on_the_projection_that_all_sub_stages_share(features):
    cell = _Cell(CellTask(SMALL32, 3, 0, features, Budget(steps=1), Budget(steps=1)))
    smallest = cell.extremes[1]
    before = cell.nsr(32, smallest)
    with torch.no_grad():
        cell.layers.parts["out"].weight.zero_()
    assert cell.nsr(32, smallest) == before


def test_a_cell_gives_different_rows_for_every_window_and_resolution(features):
    task = CellTask(SMALL32, 1, 1, features, Budget(steps=2), Budget(steps=1), samples=2, positions=512)
    rows = distill_cell(pickle.loads(pickle.dumps(task)))
    stage = SMALL32.searched[1]
    assert len(rows) == 2 * len(stage.windows) * 3 == len({(r.window, r.resolution, r.choices) for r in rows})
    assert {row.resolution for row in rows} == {24, 28, 32}
    for row in rows:
        assert isinstance(row, QualityRow)
        assert (row.stage, row.block) == (1, 1)
        assert {choice.width for choice in row.choices} <= set(stage.windows[row.window])
        assert np.isfinite(row.nsr)
        assert row.nsr > 0
    assert distill_cell(task) == rows


def test_distillation_learns(features):
    def quality(steps):
        task = CellTask(SMALL32, 3, 0, features, Budget(steps=steps), Budget(steps=1), samples=4, positions=512)
        return float(np.mean([row.nsr for row in distill_cell(task)]))

    assert quality(40) < 0.8 * quality(1)


def test_a_rehearsal_tells_what_steps_and_rows_take(features):
    cost = rehearse_cell(CellTask(SMALL32, 3, 0, features, Budget(steps=9), Budget(steps=9), positions=64))
    assert min(cost.float_s, cost.quantised_s, cost.row_s) > 0


def test_a_budget_becomes_the_same_steps_for_all_cells():
    costs = [CellCost(0.1, 0.4, 0.01), CellCost(0.3, 0.4, 0.02)]
    steps, least_s = affordable_steps(costs, [100, 100], 103.0)
    assert steps == int((0.95 * 103 - 3) / 0.6)
    assert affordable_steps(costs, [100, 100], least_s)[0] in (7, 8)
    assert affordable_steps(costs, [100, 100], 1.0)[0] < 0


@pytest.mark.parametrize("workers", [HERE, Workers(2, ("cpu", "meta"))], ids=["here", "processes"])
def test_cells_are_worked_on_side_by_side(workers, tmp_path):
    tasks = [CellTask(SMALL32, i, 0, tmp_path, Budget(steps=1), Budget(steps=1)) for i in range(4)]
    found = dict(each_cell(attrgetter("stage", "device"), tasks, workers))
    assert found == {i: (i, workers.devices[i % len(workers.devices)]) for i in range(4)}


BUDGET = QualityBudget(seconds=600.0, rows=7, weight_bits=7)


@pytest.fixture
def few_steps(monkeypatch):
    """Whatever a rehearsal says, two steps are affordable; a teacher of five hundredths of a second is trained."""
    monkeypatch.setattr(quality_run, "affordable_steps", lambda *_: (8, 1.0))
    monkeypatch.setattr(quality_run, "TEACHER_SHARE", 1e-4)
    monkeypatch.setattr(quality_run, "PICTURES", 24)


def test_a_table_goes_on_with_the_cells_that_are_missing(database, pictures, few_steps, monkeypatch):
    distilled, told = [], []

    def interrupted(task):
        if len(distilled) == 3:
            raise KeyboardInterrupt
        distilled.append((task.stage, task.block))
        return distill_cell(task)

    monkeypatch.setattr(quality_filling, "distill_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_table(database, MINI, pictures, "mine", BUDGET, workers=HERE)
    with pytest.raises(NotReady, match="'mine'"):
        find_table(database, "mine")

    monkeypatch.setattr(quality_filling, "distill_cell", distill_cell)
    monkeypatch.setattr(quality_run, "train_teacher", None)  # it has one
    made = make_table(database, MINI, pictures, "mine", BUDGET, workers=HERE, on_progress=lambda *p: told.append(p))
    assert [progress for progress in told if progress[0] == "distilling stages"] == [
        ("distilling stages", 3, 4),
        ("distilling stages", 4, 4),
    ]
    assert not [progress for progress in told if progress[0] == "timing the stages"]
    assert made.table == find_table(database, "mine")
    assert made.rows == table_rows(database, MINI, made.table)
    assert made.table.plan.float_budget == Budget(steps=8)
    assert made.table.plan.weight_bits == 7
    assert made.table.noise[24] == 0 < made.table.noise[16]
    assert len(made.rows_by_cell) == 2 * 1 + 2 * 2
    assert min(made.rows_by_cell.values()) >= 7

    for other in (QualityBudget(600.0, rows=8, weight_bits=7), QualityBudget(600.0, rows=7, weight_bits=8)):
        with pytest.raises(InvalidInput, match=r"was begun with another (rows|weight bits)"):
            make_table(database, MINI, pictures, "mine", other, workers=HERE)
    with pytest.raises(NotFound, match="'other'"):
        find_table(database, "other")


def test_a_cell_has_the_rows_of_the_worker_that_was_first(database):
    hyperspace_id = quality_filling.hyperspace_row_id(database, MINI)
    choices = (BlockChoice(16, 3, 1.0), BlockChoice(24, 3, 1.0))
    first, second = (QualityRow(0, 0, 0, 16, (choice,), nsr) for choice, nsr in zip(choices, (0.5, 0.4), strict=True))
    one, other = (quality_filling.store_teacher(database, Teacher(MINI, classes)) for classes in (2, 3))
    store_rows(database, hyperspace_id, one, [first])
    store_rows(database, hyperspace_id, one, [second])
    store_rows(database, hyperspace_id, other, [second])
    assert stored_rows(database, hyperspace_id, one) == [first]
    assert stored_rows(database, hyperspace_id, other) == [second]


def test_a_budget_that_is_too_small_says_what_is_needed(database, pictures, monkeypatch):
    monkeypatch.setattr(quality_run, "PICTURES", 24)
    with pytest.raises(
        InvalidInput, match=r"too short for 3000 rows a cell of 'mini': they need about \d+ s"
    ) as caught:
        make_table(database, MINI, pictures, "mine", QualityBudget(0.05, rows=3000), workers=HERE)
    assert int(re.search(r"about (\d+) s", caught.value.message)[1]) > 1
    with pytest.raises(NotFound):  # nothing is kept of it: the next one may ask for other rows
        find_table(database, "mine")
    with pytest.raises(InvalidInput, match="too short for 3 rows"):
        make_table(database, MINI, pictures, "mine", QualityBudget(0.05, rows=3), workers=HERE)


def test_a_teacher_comes_from_a_checkpoint(tmp_path, database, pictures, few_steps, monkeypatch):
    monkeypatch.setattr(quality_run, "train_teacher", None)
    monkeypatch.setattr(quality_run, "fill_table", lambda *_, **__: [])
    file = tmp_path / "teacher.pt"
    given = Teacher(MINI, 10)
    torch.save(given.cpu_state(), file)
    made = make_table(database, MINI, pictures, "mine", BUDGET, checkpoint=file, workers=HERE)
    kept = load_teacher(database.artefacts.read(made.table.teacher), MINI, 10)
    assert all(torch.equal(kept.state_dict()[name], value) for name, value in given.state_dict().items())

    torch.save(Teacher(MINI, 10).cpu_state(), file)
    with pytest.raises(InvalidInput, match="'mine' was begun with another teacher"):
        make_table(database, MINI, pictures, "mine", BUDGET, checkpoint=file, workers=HERE)
    for name, content in (("others", None), ("garbage", b"garbage"), ("missing", b"")):
        if content is None:
            torch.save(Teacher(SMALL32, 10).cpu_state(), file)
        else:
            file.write_bytes(content)
        with pytest.raises(InvalidInput, match="holds no teacher of 'mini' for 10 classes"):
            make_table(database, MINI, pictures, name, BUDGET, checkpoint=file, workers=HERE)
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        make_table(database, MINI, pictures, "none", BUDGET, checkpoint=tmp_path / "no.pt", workers=HERE)


def test_the_command_makes_a_table_and_hands_out_its_teacher(tmp_path, few_steps, monkeypatch):
    monkeypatch.setattr(quality_run, "all_workers", lambda: HERE)
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(definition(MINI)))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        options = ["--hyperspace", "mini.yaml", "--rows", "2", "--db", "quality.db", "--json", *arguments]
        result = CliRunner().invoke(app, ["spaces", "quality", *options], catch_exceptions=False)
        return json.loads(result.stdout)

    made = run("--teacher-out", "teacher.pt")
    assert (made["hyperspace"], made["cells"], made["least_rows"]) == ("mini", 6, 2)
    assert made["rows"] == 2 * 6
    assert made["steps"] == {"float": 8, "quantised": 2}
    assert made["weight_bits"] in (7, 8)
    assert set(made["noise"]) == {"16", "24"}
    assert 0 <= made["teacher_top1"] <= 1
    again = run("--teacher", "teacher.pt", "--name", "again", "--weight-bits", "8")
    assert (again["table"], again["teacher"], again["weight_bits"]) == ("again", made["teacher"], 8)
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        run("--teacher-out", "nowhere/teacher.pt")


def test_the_longest_cells_come_first():
    cells = quality_filling.table_cells(SMALL32)
    assert len(cells) == 4 * 6
    assert {cells[0], cells[1]} == {(3, 5), (2, 5)}, "fused blocks of the last stages have most weights"
    assert cells[-1] == (0, 0)
