"""Published networks without their weights: which kernels real networks have, known without a download."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import PurePosixPath
from typing import Literal

from ..skeleton import Format, fill

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class PriorNetwork:
    """One published network: `name` as timm or pytorchcv (`cv_...`) has it with `@` and its resolution, if not 224."""

    name: str
    family: str
    format: Format
    precision: Precision

    @property
    def skeleton(self) -> bytes:
        """The file without weights (see `skeleton.strip`), read now."""
        with _archive(self.format, self.precision) as archive:
            return archive.read(f"{self.family}/{self.name}.{self.format}")

    def model(self, seed: int = 0) -> bytes:
        """The whole file with random weights."""
        return fill(self.skeleton, self.format, seed)


def prior_networks(format: Format, precision: Precision) -> list[PriorNetwork]:  # noqa: A002
    """All networks of one format and precision, sorted by family and name; none of them is read yet."""
    with _archive(format, precision) as archive:
        paths = sorted(map(PurePosixPath, archive.namelist()))
    return [PriorNetwork(path.stem, path.parent.name, format, precision) for path in paths]


def _archive(format: Format, precision: Precision) -> zipfile.ZipFile:  # noqa: A002
    return zipfile.ZipFile(BytesIO(resources.files(__package__).joinpath(f"{format}_{precision}.zip").read_bytes()))
