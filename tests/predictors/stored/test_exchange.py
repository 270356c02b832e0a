"""A predictor leaves one database as a file and arrives in another, whole or not at all."""

import dataclasses
import hashlib
import io
import json
import random
import zipfile

import pytest

from milliseek.db.devices import find_device, find_target, list_devices
from milliseek.db.engine import Database
from milliseek.db.predictors import list_predictors
from milliseek.errors import InvalidInput, NotFound, StorageError
from milliseek.predictors.models.predictor import to_bytes
from milliseek.predictors.stored import exchange
from milliseek.predictors.stored.exchange import MANIFEST, PREDICTOR, export_predictor, import_predictor
from milliseek.predictors.stored.versions import predictor_version

TARGET = "local/onnxruntime/fp32"
FOREIGN = "pixel6-0a1b2c3d/onnxruntime/fp32"


def opened(folder):
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    yield database
    database.close()


@pytest.fixture(scope="module")
def here(tmp_path_factory, made_up, keep):
    """The database of this machine, with a predictor."""
    for database in opened(tmp_path_factory.mktemp("here")):
        keep(database, made_up)
        yield database


@pytest.fixture
def there(tmp_path):
    """A database that knows nothing."""
    yield from opened(tmp_path / "there")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The same, for tests in which it stays so."""
    yield from opened(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def exported(here, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "predictor.zip"
    export_predictor(here, TARGET, path)
    return path.read_bytes()


@pytest.fixture
def file(exported, tmp_path):
    """The predictor of this machine as a file."""
    path = tmp_path / "predictor.zip"
    path.write_bytes(exported)
    return path


def rewritten(file, change=lambda manifest: None, data=None, compression=zipfile.ZIP_STORED):
    """The file with another manifest or predictor; the manifest's SHA-256 follows the predictor."""
    with zipfile.ZipFile(file) as source:
        manifest, data = json.loads(source.read(MANIFEST)), data or source.read(PREDICTOR)
    manifest["sha256"] = hashlib.sha256(data).hexdigest()
    change(manifest)
    path = file.with_name("rewritten.zip")
    with zipfile.ZipFile(path, "w", compression) as target:
        target.writestr(MANIFEST, json.dumps(manifest))
        target.writestr(PREDICTOR, data)
    return path


@pytest.fixture
def foreign(file, made_up):
    """The file as a phone of the same kind would have written it."""
    data = to_bytes(dataclasses.replace(made_up, target=FOREIGN))
    return rewritten(file, lambda manifest: manifest.update(target=FOREIGN), data)


def nothing_in(database):
    with database.session(read_only=True) as session:
        assert not list_devices(session)
        assert not list_predictors(session)
    return not any(path.is_file() for path in database.artefacts.root.rglob("*"))


def test_there_it_is_what_it_was_here(here, there, file):
    original = predictor_version(here, TARGET)
    imported = import_predictor(there, file)
    assert (imported.name, imported.added) == (original.name, True)
    found = predictor_version(there, TARGET)
    assert dataclasses.replace(found, row_id=original.row_id, predictor=original.predictor) == original
    assert to_bytes(found.predictor) == to_bytes(original.predictor)


def test_the_same_file_adds_nothing_twice(here, there, file, made_up, keep):
    first = import_predictor(there, file)
    assert import_predictor(there, file) == dataclasses.replace(first, added=False)
    assert not import_predictor(here, file).added
    keep(there, dataclasses.replace(made_up, runtime_version="1.1"))
    assert import_predictor(there, file).name == first.name
    with there.session(read_only=True) as session:
        assert [row.version for row in list_predictors(session)] == [1, 2]


def test_the_same_predictor_is_the_same_file(here, file, tmp_path):
    export_predictor(here, f"{TARGET}@1", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_another_machine_comes_with_its_predictor(here, there, foreign):
    assert import_predictor(there, foreign).name == f"{FOREIGN}@1"
    with here.session(read_only=True) as session:
        (device,) = list_devices(session)
        facts = device.facts
    with there.session(read_only=True) as session:
        device, target = find_device(session, "pixel6-0a1b2c3d"), find_target(session, FOREIGN)
        assert (device.kind, device.facts) == ("imported", facts)
        assert (target.runtime, target.precision, target.threads, target.cores) == ("onnxruntime", "fp32", 1, None)


def test_a_twin_uses_it_under_its_own_name(there, foreign, made_up):
    imported = import_predictor(there, foreign, TARGET)
    assert imported.name == f"{made_up.target}@1"
    assert any("onnxruntime 1.0.0" in text for text in imported.notes), "the runtime here is newer"
    assert predictor_version(there, TARGET).predictor.target == made_up.target
    assert not import_predictor(there, foreign, TARGET).added
    assert import_predictor(there, foreign, f"{TARGET}@0").name == f"{made_up.target}@0@1"


def test_another_cpu_is_said_to_be_one(there, file):
    other = rewritten(file, lambda manifest: manifest["device"].update(cpu_model="Abacus"))
    assert any("another CPU: Abacus" in text for text in import_predictor(there, other, TARGET).notes)


@pytest.mark.parametrize("twin", ["local/onnxruntime/int8", "local/onnxruntime/fp32/4t", "local/litert/fp32"])
def test_what_is_no_twin(empty, file, twin):
    with pytest.raises(InvalidInput, match="cannot be used for") as caught:
        import_predictor(empty, file, twin)
    assert TARGET in caught.value.remedy
    assert nothing_in(empty)


CHANGES = {
    "no target": lambda m: m.pop("target"),
    "another target": lambda m: m.update(target="other/onnxruntime/fp32"),
    "this machine, whichever it is": lambda m: m.update(target=TARGET),
    "another spelling": lambda m: m.update(target=m["target"] + "/1t"),
    "another runtime": lambda m: m.update(runtime_version="9"),
    "no device": lambda m: m.update(device={}),
    "a CPU of many lines": lambda m: m["device"].update(cpu_model="a\nb"),
    "a colourful CPU": lambda m: m["device"].update(cpu_model="\x1b[31mred"),
    "cores in words": lambda m: m["device"].update(cores="two"),
    "endless text": lambda m: m["device"].update(os="x" * 10000),
    "fewer than no kernels": lambda m: m.update(kernels=-1),
    "too many kernels": lambda m: m.update(kernels=2**40),
    "infinite accuracy": lambda m: m["held_out"].update(mape=float("inf")),
    "accuracy in words": lambda m: m["held_out"]["networks"].update(mape="good"),
    "no accuracy": lambda m: m["held_out"]["networks"].pop("mape"),
    "no date": lambda m: m.update(created_at="yesterday"),
    "a date of nowhere": lambda m: m.update(created_at="2026-01-01T00:00:00"),
    "a date out of the calendar": lambda m: m.update(created_at="0001-01-01T00:00:00+23:00"),
    "another predictor": lambda m: m.update(sha256="0" * 64),
    "another format": lambda m: m.update(format=2),
    "a long manifest": lambda m: m.update(padding="x" * (1 << 20)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_manifests_that_cannot_be_are_refused(empty, file, change):
    path = rewritten(file, change)
    with pytest.raises(InvalidInput, match=r"rewritten\.zip") as caught:
        import_predictor(empty, path)
    assert caught.value.remedy
    assert nothing_in(empty)


def test_nothing_unpacks_to_more_than_it_is(empty, file, monkeypatch):
    with pytest.raises(InvalidInput, match="packed again"):
        import_predictor(empty, rewritten(file, compression=zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(exchange, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InvalidInput, match="too many"):
        import_predictor(empty, file)
    assert nothing_in(empty)


def test_other_members_are_refused(empty, file):
    with zipfile.ZipFile(file, "a") as target:
        target.writestr("../outside", b"")
    with pytest.raises(InvalidInput, match="something else"):
        import_predictor(empty, file)


def test_what_is_no_predictor_inside(empty, file):
    with pytest.raises(InvalidInput, match="not a predictor"):
        import_predictor(empty, rewritten(file, data=b"pickle me"))
    assert nothing_in(empty)


def test_damaged_files_are_refused_or_whole(there, file):
    whole, random_ = file.read_bytes(), random.Random(0)
    import_predictor(there, file)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random_.randrange(len(whole))] ^= 1 << random_.randrange(8)
        for data in (damaged, whole[: random_.randrange(len(whole))]):
            file.write_bytes(data)
            try:
                assert not import_predictor(there, file).added
            except InvalidInput:
                continue


def test_files_that_are_not_there_or_in_the_way(here, there, file, tmp_path):
    with pytest.raises(NotFound, match="absent"):
        import_predictor(there, tmp_path / "absent.zip")
    with pytest.raises(NotFound):
        import_predictor(there, tmp_path)
    before = file.read_bytes()
    with pytest.raises(InvalidInput, match="exists already"):
        export_predictor(here, TARGET, file)
    assert file.read_bytes() == before
    with pytest.raises(StorageError, match="nowhere"):
        export_predictor(here, TARGET, tmp_path / "nowhere" / "predictor.zip")
    with pytest.raises(NotFound, match="not known"):
        export_predictor(here, "pixel6/litert/int8", tmp_path / "other.zip")
    assert not (tmp_path / "other.zip").exists()


def test_an_empty_archive(empty, tmp_path):
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "empty.zip").write_bytes(buffer.getvalue())
    with pytest.raises(InvalidInput, match=r"empty\.zip"):
        import_predictor(empty, tmp_path / "empty.zip")
