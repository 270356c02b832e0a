"""The wheel holds the whole package and nothing else, and an install today is the install of tomorrow."""

import fnmatch
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import milliseek

ROOT = Path(milliseek.__file__).resolve().parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_INSTALLED = {"tests", "benchmarks", "docs", "build", "dist"}
# A CUDA build of torch brings these and pins them itself; the constraints are those of the CPU build.
GPU_PACKAGES = re.compile(r"(nvidia|cuda|triton)(-|$)")
FACE = {"__init__.py", "__main__.py", "config.py", "errors.py", "results.py"}


def rooms():
    folders = [path for path in ROOT.iterdir() if path.is_dir() and re.match("[a-z]", path.name)]
    return [path for path in folders if path.name not in NOT_INSTALLED and not path.name.endswith(".egg-info")]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def version_of(pin):
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def requirements_of(extras):
    """Direct requirements of the base and of `extras`; extras that name others are followed."""
    found, waiting, seen = [Requirement(text) for text in PROJECT["dependencies"]], list(extras), set(extras)
    while waiting:
        for requirement in map(Requirement, EXTRAS[waiting.pop()]):
            if requirement.name != PROJECT["name"]:
                found.append(requirement)
                continue
            waiting += requirement.extras - seen
            seen |= requirement.extras
    return found


def with_their_own(requirements):
    """`requirements` and all that the installed distributions behind them ask for on this platform."""
    waiting, seen = [(requirement, "") for requirement in requirements], set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if GPU_PACKAGES.match(canonicalize_name(requirement.name)):
            continue
        yield requirement
        for wanted in {"", *requirement.extras}:
            if (key := (canonicalize_name(requirement.name), wanted)) in seen:
                continue
            seen.add(key)
            texts = importlib.metadata.requires(requirement.name) or []
            waiting += [(Requirement(text), wanted) for text in texts]


def test_the_listed_packages_are_the_folders_of_the_tree():
    def packages(pattern):
        files = [path for room in rooms() for path in room.rglob(pattern) if "__pycache__" not in path.parts]
        return {".".join(["milliseek", *path.parent.relative_to(ROOT).parts]) for path in files}

    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(set(listed))
    assert packages("__init__.py") | {"milliseek"} == set(listed)
    assert packages("*.py") <= set(listed), "a folder with modules lacks its __init__.py"


def test_only_the_face_lies_in_the_root():
    assert {path.name for path in ROOT.glob("*.py")} <= FACE, "modules in the root land in the wheel"


def test_files_that_are_not_modules_are_package_data():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    for package in PYPROJECT["tool"]["setuptools"]["packages"]:
        if package == "milliseek":
            continue
        folder = ROOT.joinpath(*package.split(".")[1:])
        others = [path.name for path in folder.iterdir() if path.is_file() and path.suffix not in {".py", ".pyc"}]
        missing = [n for n in others if not any(fnmatch.fnmatch(n, glob) for glob in data.get(package, []))]
        assert not missing, f"{package}: {missing} would not be installed"


def test_the_version_comes_from_one_place():
    assert "version" not in PROJECT
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "milliseek.__version__"}
    assert importlib.metadata.version("milliseek") == milliseek.__version__
    assert f"## [{milliseek.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_all_holds_every_extra_a_user_may_want():
    every = {str(requirement) for requirement in requirements_of(set(EXTRAS) - {"dev", "all"})}
    assert {str(requirement) for requirement in requirements_of(["all"])} == every


def test_the_base_is_small():
    base = {canonicalize_name(requirement.name) for requirement in requirements_of([])}
    heavy = {"sqlalchemy", "alembic", "onnx", "onnxruntime", "scikit-learn", "scipy", "torch", "optuna", "pillow"}
    assert not base & heavy


def test_every_constraint_is_one_exact_public_version():
    assert pins()
    for pin in pins().values():
        assert not pin.url
        assert not pin.extras
        assert not pin.marker
        assert version_of(pin).local is None, f"{pin}: a local version exists in one place only"


def test_everything_that_is_installed_is_constrained():
    constraints = pins()
    wanted = list(with_their_own(requirements_of(["all", "dev"])))
    missing = {requirement.name for requirement in wanted if canonicalize_name(requirement.name) not in constraints}
    assert not missing, "refresh constraints.txt as CONTRIBUTING.md says"
    for requirement in wanted:
        pin = constraints[canonicalize_name(requirement.name)]
        assert version_of(pin) in requirement.specifier, f"{pin} does not satisfy {requirement}"


def test_the_build_uses_the_constrained_setuptools():
    assert PYPROJECT["build-system"]["requires"] == [str(pins()["setuptools"])]


@pytest.mark.parametrize("module", ["milliseek", "milliseek.errors", "milliseek.config", "milliseek.results"])
def test_the_face_is_light(module):
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    loaded = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert not loaded & {"torch", "onnx", "onnxruntime", "sqlalchemy", "sklearn", "scipy", "optuna", "grpc", "numpy"}
