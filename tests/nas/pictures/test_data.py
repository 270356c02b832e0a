import errno
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from milliseek.errors import InvalidInput
from milliseek.nas.pictures import picture_files
from milliseek.nas.pictures.augmentation import AUGMENTATIONS
from milliseek.nas.pictures.data import Batches, digits, fashion_mnist, image_folder, parse_data, resize
from milliseek.nas.pictures.idx_files import FASHION_MNIST


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
    assert pictures.notes == (
        f"20 of 20 pictures in {tmp_path} were resized to 32 x 32 pixels.",
        f"20 of 20 pictures in {tmp_path} became RGB (10 L, 10 RGBA).",
    )
    for split in (pictures.train, pictures.val, pictures.test):
        assert np.array_equal(split.pixels[:, 0, 0, 0] > 100, split.labels == 1)


def test_sixteen_bit_pictures_keep_their_greys(tmp_path: Path) -> None:
    for name, level in (("a", 10_000), ("b", 40_000)):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(np.full((32, 32), level, dtype=np.uint16)).save(tmp_path / name / f"{i}.png")
    pictures = image_folder(tmp_path)
    assert set(np.unique(pictures.train.pixels)) == {38, 155}
    Image.fromarray(np.full((32, 32), 0.5, dtype=np.float32)).save(tmp_path / "a" / "float.tiff")
    with pytest.raises(InvalidInput, match=r"float\.tiff.*floating point"):
        image_folder(tmp_path)


def test_large_folders_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, level in (("a", 0), ("b", 255)):
        write(tmp_path / "data" / name, 8, level)
    monkeypatch.setattr(picture_files, "WORTH_KEEPING", 16)
    monkeypatch.setenv("MILLISEEK_HOME", str(tmp_path / "home"))
    decoded: list[Path] = []
    real = picture_files._read
    monkeypatch.setattr(picture_files, "_read", lambda file, into: (decoded.append(file), real(file, into))[1])

    def load() -> int:
        decoded.clear()
        assert image_folder(tmp_path / "data").fingerprint
        return len(decoded)

    first = image_folder(tmp_path / "data")
    assert load() == 0
    assert image_folder(tmp_path / "data").notes == first.notes
    assert np.array_equal(image_folder(tmp_path / "data").train.pixels, first.train.pixels)
    assert image_folder(tmp_path / "data", 16).size == 16  # another size is another file
    assert load() == 0
    write(tmp_path / "data" / "a", 1, 77, size=(9, 9))
    assert load() == 16  # one picture changed
    (kept, _) = (tmp_path / "home" / "cache" / "pictures").glob("*.npz")
    whole = kept.read_bytes()
    for path in (tmp_path / "home" / "cache" / "pictures").glob("*.npz"):
        path.write_bytes(path.read_bytes()[: len(whole) // 2])
    assert load() == 16  # damaged
    assert load() == 0


def test_a_full_disk_costs_the_kept_pictures_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("a", "b"):
        write(tmp_path / "data" / name, 5, 9, size=(32, 32))
    monkeypatch.setattr(picture_files, "WORTH_KEEPING", 1)
    monkeypatch.setenv("MILLISEEK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(picture_files.np, "savez", full)
    pictures = image_folder(tmp_path / "data")
    assert len(pictures.train) == 6
    assert "No space left" in pictures.notes[0]
    assert not list((tmp_path / "home").rglob(".partial*"))


def test_classes_of_the_test_folder_are_those_of_the_training_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "train" / name, 4, 0)
        write(tmp_path / "test" / name, 4, 0)
    write(tmp_path / "test" / "c", 4, 0)
    with pytest.raises(InvalidInput, match=r"Class 'c' is in .*test"):
        image_folder(tmp_path)


def write_idx(folder: Path, prefix: str, pixels: np.ndarray, labels: np.ndarray, *, compress: bool) -> None:
    for name, array in ((f"{prefix}-images-idx3-ubyte", pixels), (f"{prefix}-labels-idx1-ubyte", labels)):
        data = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype("u1").tobytes()
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(data) if compress else data)


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_resized_and_become_rgb(tmp_path: Path, *, compress: bool) -> None:
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count) % 3
        pixels = np.repeat(labels * 100, 28 * 28).reshape(count, 28, 28) + rng.integers(0, 20, (count, 28, 28))
        write_idx(tmp_path, prefix, pixels, labels, compress=compress)
    pictures = parse_data(f"fashion-mnist:{tmp_path}")
    assert [len(pictures.split(name)) for name in ("train", "val", "test")] == [54, 6, 20]
    assert pictures.classes == ("0", "1", "2")
    assert pictures.train.pixels.shape == (54, 32, 32, 3)
    grey = pictures.test.pixels[..., 0]
    assert np.array_equal(grey, pictures.test.pixels[..., 2])
    assert np.array_equal(grey.mean((1, 2)) // 100, pictures.test.labels)


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no file 'train-images.*dataset-fashion-mnist"):
        fashion_mnist(tmp_path)
    write_idx(tmp_path, "train", np.zeros((6, 28, 28)), np.arange(5) % 2, compress=False)
    with pytest.raises(InvalidInput, match="6 pictures but 5 labels"):
        fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match="no IDX file"):
        fashion_mnist(tmp_path)
    path.unlink()
    path.with_suffix(".gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match="cannot be read"):
        fashion_mnist(tmp_path)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
@pytest.mark.slow
def test_fashion_mnist_of_debian() -> None:
    pictures = parse_data("fashion-mnist")
    assert [len(pictures.split(name)) for name in ("train", "val", "test")] == [54_000, 6_000, 10_000]
    assert pictures.classes[0] == "t-shirt"
    assert np.bincount(pictures.test.labels).tolist() == [1000] * 10
    assert pictures.mean[0] == pytest.approx(0.286, abs=0.01)


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


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_a_function_of_seed_and_step(name: str) -> None:
    pictures = digits()
    state = torch.random.get_rng_state()
    first, again = (Batches(pictures, 64, 3, name).at(2)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.shape == (64, 3, 32, 32)
    black = -pictures.mean[0] / pictures.std[0]
    assert float(first.min()) >= black - 1e-4
    assert float(first.max()) <= (1 - pictures.mean[0]) / pictures.std[0] + 1e-4
    kinds = [Batches(pictures, 64, 3, other).at(2)[0] for other in AUGMENTATIONS if other != name]
    assert not any(torch.equal(first, other) for other in kinds)


def test_flips_mirror_half_of_the_pictures() -> None:
    cropped, flipped = (Batches(digits(), 200, 0, name).at(0)[0] for name in ("crop", "flip"))
    mirrored = torch.isclose(flipped, cropped.flip(3), atol=1e-3).flatten(1).all(1)
    same = torch.isclose(flipped, cropped, atol=1e-3).flatten(1).all(1)
    assert bool((mirrored | same).all())
    assert 70 < int(mirrored.sum()) < 130


def test_resize_keeps_full_size_as_it_is() -> None:
    x = torch.randn(2, 3, 32, 32)
    assert resize(x, 32) is x
    assert resize(x, 24).shape == (2, 3, 24, 24)
