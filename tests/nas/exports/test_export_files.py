"""Files of an export: all of them, or none."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milliseek.errors import StorageError
from milliseek.nas.exports.export_files import check_folder, picture_files, write_files
from milliseek.nas.pictures.data import digits


@pytest.fixture
def filling_disk(monkeypatch):
    """A disk with room for two files and a half."""
    written = []
    write_bytes = Path.write_bytes

    def write(path, data):
        written.append(path)
        if len(written) < 3:
            return write_bytes(path, data)
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)


def test_all_files_are_written(tmp_path):
    files = {tmp_path / "new" / "a.onnx": b"abc", tmp_path / "new" / "sub" / "b.md": b"# b"}
    write_files(files)
    write_files({**files, tmp_path / "new" / "a.onnx": b"abcd"})
    found = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {**files, tmp_path / "new" / "a.onnx": b"abcd"}


def test_a_full_disk_leaves_what_was_there(tmp_path, filling_disk):
    (tmp_path / "b.onnx").write_text("the last export")
    with pytest.raises(StorageError, match=r"c\.onnx cannot be written: No space left") as caught:
        write_files({tmp_path / f"{name}.onnx": b"0123456789" for name in "abcd"})
    assert caught.value.remedy == "Free some space and try again."
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("b.onnx", "the last export")]


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(StorageError, match=r"file.* cannot be written") as caught:
            check_folder(folder)
        assert "--out" in caught.value.remedy
    check_folder(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_test_pictures_are_the_very_pixels(tmp_path):
    pictures = digits()
    files = picture_files(pictures, tmp_path)
    write_files(files)
    lines = (tmp_path / "test-pictures.tsv").read_text().splitlines()
    assert len(lines) == len(pictures.test) == len(files) - 1
    for i in (0, 100):
        name, label = lines[i].split("\t")
        with Image.open(tmp_path / name) as picture:
            assert np.array_equal(np.asarray(picture), pictures.test.pixels[i])
        assert label == pictures.classes[pictures.test.labels[i]]
