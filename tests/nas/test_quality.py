import pickle

import numpy as np
import pytest
import torch

from milliseek.nas.budget import Budget
from milliseek.nas.data import digits
from milliseek.nas.quality import CellTask, QualityRow, distill_cell, nsr
from milliseek.nas.teacher import StageFeatures, Teacher, stage_features, teacher_top1, train_teacher
from milliseek.spaces.hyperspace import SMALL32


@pytest.fixture(scope="module")
def features() -> tuple[StageFeatures, ...]:
    torch.set_num_threads(1)
    pictures = digits()
    teacher = train_teacher(SMALL32, pictures, Budget(steps=3), batch=8)
    assert 0 <= teacher_top1(teacher, pictures, "test") <= 1
    return stage_features(teacher, pictures, (24, 28), 24)


def test_the_teacher_is_cut_where_the_hyperspace_is() -> None:
    boundaries = (
        Teacher(SMALL32, 10)(torch.randn(2, 3, 32, 32)),
        Teacher(SMALL32, 10).boundaries(torch.randn(2, 3, 32, 32)),
    )
    assert boundaries[0].shape == (2, 10)
    sizes = [SMALL32.stage_hw(32)[0][1], *(out for _, out in SMALL32.stage_hw(32)[1:])]
    assert [boundary.shape[2] for boundary in boundaries[1]] == sizes


def test_noise_to_signal_of_known_students() -> None:
    teacher = torch.randn(8, 4, 16, 16)
    assert float(nsr(teacher, teacher)) == 0
    mean = teacher.mean((2, 3), keepdim=True).expand_as(teacher)
    assert float(nsr(mean, teacher)) == pytest.approx(1, abs=1e-3)
    silent = teacher.clone()
    silent[:, 0] = 0  # a dead channel carries no signal and must not count
    assert float(nsr(silent + 1e-3, silent)) < 1e-4


def test_a_cell_gives_rows_for_every_window_and_resolution(features: tuple[StageFeatures, ...]) -> None:
    task = CellTask(SMALL32, 1, 1, features[1], Budget(steps=2), Budget(steps=1), samples=2, positions=512)
    rows = distill_cell(pickle.loads(pickle.dumps(task)))
    stage = SMALL32.searched[1]
    assert len(rows) == 2 * len(stage.windows) * 2
    assert {row.resolution for row in rows} == {24, 28}
    for row in rows:
        assert isinstance(row, QualityRow)
        assert (row.stage, row.block) == (1, 1)
        assert {choice.width for choice in row.choices} <= set(stage.windows[row.window])
        assert np.isfinite(row.nsr)
        assert row.nsr > 0
    assert distill_cell(task) == rows


def test_distillation_learns(features: tuple[StageFeatures, ...]) -> None:
    def quality(steps: int) -> float:
        task = CellTask(SMALL32, 3, 0, features[3], Budget(steps=steps), Budget(steps=1), samples=4, positions=512)
        return float(np.mean([row.nsr for row in distill_cell(task)]))

    assert quality(40) < 0.8 * quality(1)
