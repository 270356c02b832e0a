"""Published architectures by name, from the packages timm and pytorchcv, with random weights: nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, MissingExtra, NotReady
from .convert import torch_to_onnx
from .skeleton import strip

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"(?P<package>\w+):(?P<name>[\w.\-]+)(?:@(?P<size>\d{1,4}))?")
_USUAL_SIZE = 224
_REMEDY = "Give pytorchcv:NAME or timm:NAME, with @SIZE for another resolution, for example timm:mobilenetv2_100@192."


def architecture_onnx(name: str) -> bytes:
    """`pytorchcv:NAME` or `timm:NAME`, batch 1, as the skeleton of an ONNX file (see `skeleton`): a few KB.

    The resolution is that of the package's entry, or `@SIZE` behind the name. Raises InvalidInput for a name that the
    package does not have, naming close ones, or that torch cannot export, and NotReady without the package.
    """
    import torch

    module, size = build_architecture(name)
    return strip(torch_to_onnx(module, (torch.zeros(1, 3, *size),)), "onnx")


def build_architecture(name: str) -> tuple[torch.nn.Module, tuple[int, int]]:
    """The module of `pytorchcv:NAME` or `timm:NAME`, ready for inference, and (height, width) of its input.

    Raises as `architecture_onnx` does.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["package"] not in _PACKAGES:
        raise InvalidInput(f"'{name}' is no architecture.", _REMEDY)
    _require(match["package"])
    with _without_torchvision(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, size = _PACKAGES[match["package"]](match["name"])
    if match["size"]:
        size = (int(match["size"]),) * 2
    if not min(size) > 0:
        raise InvalidInput(f"'{name}' asks for pictures without pixels.", _REMEDY)
    return module.eval(), size


def _pytorchcv(name: str) -> tuple[torch.nn.Module, tuple[int, int]]:
    from pytorchcv import model_provider

    _check(name, model_provider._models, "pytorchcv")
    module = model_provider.get_model(name)
    height, width = getattr(module, "in_size", None) or (_USUAL_SIZE, _USUAL_SIZE)
    return module, (int(height), int(width))


def _timm(name: str) -> tuple[torch.nn.Module, tuple[int, int]]:
    import timm
    from timm.utils.model import reparameterize_model

    _check(name.partition(".")[0], timm.list_models(), "timm")
    module: Any = timm.create_model(name)
    height, width = module.pretrained_cfg.get("input_size", (3, _USUAL_SIZE, _USUAL_SIZE))[1:]
    return reparameterize_model(module.eval()), (int(height), int(width))


_PACKAGES: dict[str, Callable[[str], tuple[Any, tuple[int, int]]]] = {"pytorchcv": _pytorchcv, "timm": _timm}


def _require(package: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "search")
    if importlib.util.find_spec(package) is None:
        raise NotReady(f"The Python package '{package}' is not installed.", f"Install it with: pip install {package}")


def _check(name: str, known: Any, package: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=5)
        remedy = f"Close to it are {', '.join(close)}." if close else f"Look its names up in the package {package}."
        raise InvalidInput(f"{package} has no architecture '{name}'.", remedy)


class _AnyName(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _AnyModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or _AnyName(name, (), {})


class _Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision: every import works, everything in it is an empty class."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        known = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _AnyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """While it lasts, imports of a missing torchvision work: timm takes names of it that no architecture needs."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    finder = _Torchvision()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _AnyModule)]:
            del sys.modules[name]
