from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from milliseek.errors import InvalidInput
from milliseek.nas.data import Batches, digits, image_folder, parse_data, resize


def write(folder: Path, count: int, level: int, mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new(mode, size, level if mode == "L" else tuple([level] * len(mode))).save(folder / f"{i}.png")


def test_digits_are_split_in_equal_shares() -> None:
    pictures = digits()
    assert [len(pictures.split(name)) for name in ("train", "val", "test")] == [900, 268, 629]
    assert pictures.train.pixels.shape == (900, 32, 32, 3)
    assert pictures.train.pixels.dtype == np.uint8
    assert np.bincount(pictures.test.labels).min() >= 59
    x = pictures.tensor(pictures.train.pixels)
    assert abs(float(x.mean())) < 1e-4
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    assert pictures.fingerprint == digits().fingerprint


def test_folders_of_any_mode_and_size(tmp_path: Path) -> None:
    write(tmp_path / "dark", 10, 10, "L")
    write(tmp_path / "light", 10, 200, "RGBA", (7, 9))
    pictures = parse_data(f"imagefolder:{tmp_path}")
    assert pictures.classes == ("dark", "light")
    assert pictures.train.pixels.shape == (12, 32, 32, 3)
    assert len(pictures.val) == 4
    assert len(pictures.test) == 4
    for split in (pictures.train, pictures.val, pictures.test):
        assert np.array_equal(split.pixels[:, 0, 0, 0] > 100, split.labels == 1)


def test_a_given_val_folder_is_the_test_set(tmp_path: Path) -> None:
    for name, level in (("a", 0), ("b", 255)):
        write(tmp_path / "train" / name, 20, level)
        write(tmp_path / "val" / name, 5, level)
    pictures = image_folder(tmp_path)
    assert [len(pictures.split(name)) for name in ("train", "val", "test")] == [36, 4, 10]


def test_what_cannot_be_learnt_from_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        image_folder(tmp_path / "missing")
    with pytest.raises(InvalidInput, match="no pictures"):
        image_folder(tmp_path)
    write(tmp_path / "a", 5, 0)
    with pytest.raises(InvalidInput, match="one class only: a"):
        image_folder(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidInput, match="'b' has no pictures"):
        image_folder(tmp_path)
    write(tmp_path / "b", 5, 9)
    (tmp_path / "b" / "3.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"3\.png"):
        image_folder(tmp_path)
    with pytest.raises(InvalidInput, match="names no data"):
        parse_data("folder")


def test_truncated_pictures_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a", 4, 0)
    write(tmp_path / "b", 4, 0, size=(300, 300))
    whole = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"1\.png"):
        image_folder(tmp_path)


def test_batches_depend_on_the_step_alone_and_see_every_picture() -> None:
    pictures = digits()
    batches = Batches(pictures, 100, seed=3)
    first, again = batches.at(7), Batches(pictures, 100, seed=3).at(7)
    assert torch.equal(first[0], again[0])
    assert first[0].shape == (100, 3, 32, 32)
    assert not torch.equal(first[0], Batches(pictures, 100, seed=4).at(7)[0])
    labels = torch.cat([batches.at(step)[1] for step in range(9)])[:900]
    assert np.array_equal(np.bincount(labels), np.bincount(pictures.train.labels))


def test_resize_keeps_full_size_as_it_is() -> None:
    x = torch.randn(2, 3, 32, 32)
    assert resize(x, 32) is x
    assert resize(x, 24).shape == (2, 3, 24, 24)
