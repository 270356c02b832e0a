"""The script that goes with exported files: numpy, Pillow and the runtime, and it answers as training does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milliseek.nas.exports import standalone
from milliseek.nas.exports.export import FileForm
from milliseek.nas.exports.export_files import picture_files, write_files
from milliseek.nas.exports.exported_subnet import ExportedSubnet, Provenance, metadata
from milliseek.nas.exports.file_predictions import file_predictions
from milliseek.spaces.space import Subnet

FORMS = [FileForm(format_, precision) for format_ in ("onnx", "tflite") for precision in ("int8", "fp32")]


@pytest.fixture(scope="session")
def folder(trained, tmp_path_factory):
    """A file of each form, the script and the test pictures, as `milliseek export` writes them."""
    path = tmp_path_factory.mktemp("exports")
    files = {path / "evaluate.py": Path(standalone.__file__).read_bytes(), **picture_files(trained.pictures, path)}
    for form in FORMS:
        network = trained.network(form.precision)
        provenance = Provenance("a study", 7, "a supernet", 7, trained.pictures.fingerprint)
        export = ExportedSubnet(trained.subnet, form, provenance, path / name_of(form), 0.5, 0.5, None)
        files[export.path] = network.file(form.format, metadata(export, trained.pictures))
    write_files(files)
    return path


def name_of(form):
    return f"{form.precision}.{form.format}"


def evaluate(folder, *arguments, python=sys.executable):
    return subprocess.run(
        [python, "-P", "evaluate.py", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def expected_answers(trained, folder, form):
    data = (folder / name_of(form)).read_bytes()
    answers = file_predictions(data, trained.pictures, "test", trained.subnet.resolution)
    return [trained.pictures.classes[answer] for answer in answers]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_reproduces_the_accuracy(trained, folder, form):
    result = evaluate(folder, name_of(form), "test-pictures.tsv", "--answers")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    wanted = expected_answers(trained, folder, form)
    same = [answer["answer"] == want for answer, want in zip(found["answers"], wanted, strict=True)]
    assert sum(same) >= len(same) - 1  # the resize may round otherwise
    labels = [trained.pictures.classes[label] for label in trained.pictures.test.labels]
    assert [answer["class"] for answer in found["answers"]] == labels
    assert found["pictures"] == len(labels)
    assert found["top1"] == np.mean([answer["answer"] == answer["class"] for answer in found["answers"]])
    assert found["stated_top1"] == 0.5


def test_it_reads_a_folder_of_classes_and_pictures_of_any_size_and_mode(trained, folder, tmp_path):
    for i in range(20):
        label = trained.pictures.classes[trained.pictures.test.labels[i]]
        (tmp_path / label).mkdir(exist_ok=True)
        picture = Image.fromarray(trained.pictures.test.pixels[i]).convert("L" if i % 2 else "RGBA")
        picture.resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / label / f"{i}.png")
    result = evaluate(folder, "fp32.onnx", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["pictures"] == 20
    assert json.loads(result.stdout)["top1"] > 0.5


def test_it_names_what_it_cannot_use(folder, tmp_path):
    (tmp_path / "list.tsv").write_text("a.png\televen\n")
    result = evaluate(folder, "fp32.onnx", str(tmp_path / "list.tsv"))
    assert result.returncode == 1
    assert "no class 'eleven'; its classes are 0, 1, 2" in result.stderr
    (tmp_path / "empty").mkdir()
    assert "no pictures" in evaluate(folder, "fp32.onnx", str(tmp_path / "empty")).stderr


def test_it_needs_nothing_of_this_package(folder):
    code = "import runpy, sys; runpy.run_path('evaluate.py'); print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"milliseek", "torch", "onnx", "onnxruntime", "ai_edge_litert"}


@pytest.mark.parametrize("form", FORMS[2:], ids=str)
def test_metadata_of_tflite_files_is_read_without_a_flatbuffer_library(trained, folder, form):
    found = standalone.tflite_metadata((folder / name_of(form)).read_bytes())
    assert Subnet.decode(found["milliseek.subnet"]) == trained.subnet
    assert json.loads(found["milliseek.classes"]) == list(trained.pictures.classes)
    assert json.loads(found["milliseek.input"])["layout"] == "NHWC"
    assert json.loads(found["milliseek.provenance"])["trial"] == 7


@pytest.fixture(scope="session")
def old_runtime(tmp_path_factory):
    """The Python of an environment with tflite-runtime 2.14, as old boards have it, and nothing of ours."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tflite-runtime 2.14 has wheels for Python 3.11 and older only")
    folder = tmp_path_factory.mktemp("old")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = ("tflite-runtime==2.14.0", "numpy==1.26.4", "pillow")
    pip = subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True, check=False)
    if pip.returncode:
        pytest.skip(f"pip cannot install {packages[0]} here: {pip.stderr[-200:]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS[2:], ids=str)
def test_files_run_in_tflite_runtime_too(trained, folder, old_runtime, form):
    result = evaluate(folder, name_of(form), "test-pictures.tsv", "--answers", python=old_runtime)
    assert result.returncode == 0, result.stderr
    answers = [answer["answer"] for answer in json.loads(result.stdout)["answers"]]
    same = [answer == want for answer, want in zip(answers, expected_answers(trained, folder, form), strict=True)]
    assert sum(same) >= len(same) - (5 if form.precision == "int8" else 1)
