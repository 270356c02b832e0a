"""The cache of kernels: only a cache, whatever happens to its file."""

import gzip

import pytest

from milliseek.db.engine import Database
from milliseek.errors import StorageError
from milliseek.predictors.networks.kernel_cache import KernelCache
from milliseek.predictors.targets import device_target


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield opened
    opened.close()


@pytest.fixture
def target(database):
    return device_target(database, "local/onnxruntime/int8")


@pytest.fixture
def kernels(make):
    return {"conv": (make.qconv(8, 16, 4), make.reshape()), "gemm": (make.gemm(8, 8),), "nothing": ()}


def filled(database, target, kernels):
    cache = KernelCache(database, target, "groups")
    for key, value in kernels.items():
        cache[key] = value
    cache.save()
    (file,) = (database.artefacts.root.parent / "cache").iterdir()
    return file


def test_what_was_saved_is_there_next_time(database, target, kernels):
    filled(database, target, kernels)
    cache = KernelCache(database, target, "groups")
    assert {key: cache[key] for key in kernels} == kernels
    assert "conv" in cache
    assert "other" not in cache
    assert "conv" not in KernelCache(database, target, "networks")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :],
        lambda _: b"{}",
        lambda _: gzip.compress(b'{"kernels": [], "uses": {"conv": [0]}}'),
        lambda _: gzip.compress(b"[]"),
        lambda _: gzip.compress(b'{"kernels": ["[]"], "uses": {}}'),
        lambda _: gzip.compress(b"\xff\xfe"),
    ],
    ids=["empty", "cut", "flipped", "not compressed", "no such kernel", "no object", "no kernels", "no text"],
)
def test_a_damaged_file_is_ignored_and_written_anew(database, target, kernels, damage):
    file = filled(database, target, kernels)
    file.write_bytes(damage(file.read_bytes()))
    assert "conv" not in KernelCache(database, target, "groups")
    filled(database, target, kernels)
    assert KernelCache(database, target, "groups")["conv"] == kernels["conv"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(database, target, kernels):
    file = filled(database, target, kernels)
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        filled(database, target, kernels)
    assert list(file.parent.iterdir()) == [file]
