"""Pictures and their labels: sources, splits, batches, and the one function that resizes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InvalidInput
from .augmentation import AugmentationName, changed, cropped
from .idx_files import FASHION_CLASSES, FASHION_MNIST, read_split
from .picture_files import decoded, listing

SplitName = Literal["train", "val", "test"]
SIZE = 32
"""Height and width of stored pictures, in pixels."""


@dataclass(frozen=True)
class Split:
    """`pixels`: uint8 (n, size, size, 3); `labels`: int64 (n,), indices into `Pictures.classes`."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Pictures:
    """A data set: weights are trained on `train`, choices made on `val`, results reported on `test`.

    `mean` and `std` per channel are those of `train`, for pixels in 0..1; `fingerprint` is a SHA-256 of all of it;
    `notes` are sentences for the user on what was changed to make the pictures alike.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Height and width, in pixels."""
        return int(self.train.pixels.shape[1])

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def tensor(self, pixels: np.ndarray) -> Tensor:
        """uint8 (n, height, width, 3) as normalised float32 (n, 3, height, width), channels last in memory."""
        return self.normalised(torch.from_numpy(np.ascontiguousarray(pixels)).float().permute(0, 3, 1, 2))

    def normalised(self, x: Tensor) -> Tensor:
        """Float pixels (n, 3, height, width) in 0..255, brought to mean 0 and deviation 1 in place."""
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return x.sub_(mean).div_(std)


def resize(x: Tensor, resolution: int) -> Tensor:
    """Pictures (batch, 3, hw, hw) at a subnet's resolution: bilinear, without antialiasing, half-pixel centres.

    Every pass through a subnet uses this one function. Exported files contain no resizing: they take normalised
    pictures that already have the subnet's resolution.
    """
    if x.shape[-1] == resolution:
        return x
    return F.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=False)


def parse_data(option: str, size: int = SIZE) -> Pictures:
    """The data that `--data` names: `digits`, `fashion-mnist[:PATH]` or `imagefolder:PATH`; raises InvalidInput."""
    kind, _, path = option.partition(":")
    if option == "digits":
        return digits(size)
    if kind == "fashion-mnist":
        return fashion_mnist(Path(path).expanduser() if path else FASHION_MNIST, size)
    if kind == "imagefolder" and path:
        return image_folder(Path(path).expanduser(), size)
    raise InvalidInput(f"'{option}' names no data.", "Use digits, fashion-mnist or imagefolder:PATH.")


def digits(size: int = SIZE) -> Pictures:
    """The 1797 handwritten digits of scikit-learn, enlarged, split 50/15/35 with equal shares of each class."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)
    enlarged = resize(grey, size).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    rgb = enlarged.expand(-1, -1, -1, 3).contiguous().numpy()
    labels = labels.astype(np.int64)
    test, val, train = _stratified(labels, (0.35, 0.23))
    parts = {name: Split(rgb[index], labels[index]) for name, index in (("train", train), ("val", val), ("test", test))}
    return _pictures(parts["train"], parts["val"], parts["test"], tuple(map(str, range(10))))


def fashion_mnist(folder: Path = FASHION_MNIST, size: int = SIZE) -> Pictures:
    """Fashion-MNIST's 60 000 and 10 000 grey pictures from its IDX files; a tenth of the former validates.

    A folder with other IDX files of these names (MNIST, KMNIST, ...) does as well. Raises InvalidInput.
    """
    grey, labels = read_split(folder, "train")
    test_grey, test_labels = read_split(folder, "t10k")
    number = int(labels.max(initial=0)) + 1
    classes = FASHION_CLASSES if folder == FASHION_MNIST else tuple(map(str, range(number)))
    if len(test_labels) == 0 or test_labels.max() >= number:
        raise InvalidInput(f"The test pictures in '{folder}' have classes that no training picture has.")
    _check_counts(folder, classes, np.bincount(labels, minlength=len(classes)), at_least=3)
    pixels, test_pixels = (_rgb(part, size) for part in (grey, test_grey))
    val_index, train_index = _stratified(labels, (0.1,))
    train, val = (Split(pixels[index], labels[index]) for index in (train_index, val_index))
    return _pictures(train, val, Split(test_pixels, test_labels), classes)


def _rgb(grey: np.ndarray, size: int) -> np.ndarray:
    """uint8 (n, height, width) as uint8 (n, size, size, 3), resized as picture files are."""
    from PIL import Image

    pixels = np.empty((len(grey), size, size, 3), dtype=np.uint8)
    for into, picture in zip(pixels, grey, strict=True):
        into[:] = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))[..., None]
    return pixels


def image_folder(path: Path, size: int = SIZE) -> Pictures:
    """Pictures in PATH/CLASS/*, or in PATH/train/CLASS/* and PATH/val/CLASS/* or PATH/test/CLASS/*.

    Any mode and size becomes RGB of `size` x `size`, which `notes` tell. A `test` folder, else a `val` folder, is the
    test set, else a fifth of the pictures; the validation set is taken out of the training pictures. Raises
    InvalidInput.
    """
    if not path.is_dir():
        raise InvalidInput(f"There is no folder '{path}'.", "Give the folder that holds one folder per class.")
    root = path / "train" if (path / "train").is_dir() else path
    classes = _folders(root)
    files, labels = listing(root, classes)
    if not files:
        raise InvalidInput(f"There are no pictures under '{root}'.", "It needs one folder of pictures per class.")
    if len(classes) < 2:
        raise InvalidInput(f"'{root}' holds one class only: {classes[0]}.", "Learning needs at least two classes.")
    _check_counts(root, classes, np.bincount(labels, minlength=len(classes)), at_least=3)
    held_out = next((path / name for name in ("test", "val") if root != path and (path / name).is_dir()), None)
    if held_out is None:
        whole = decoded(root, files, size)
        test_index, val_index, train_index = _stratified(labels, (0.2, 0.25))
        test = Split(whole.pixels[test_index], labels[test_index])
        notes = whole.notes
    else:
        if unknown := sorted(set(_folders(held_out)) - set(classes)):
            raise InvalidInput(f"Class '{unknown[0]}' is in '{held_out}', but not in '{root}'.", "Remove its folder.")
        test_files, test_labels = listing(held_out, classes)
        _check_counts(held_out, classes, np.bincount(test_labels, minlength=len(classes)), at_least=1)
        whole, tests = decoded(root, files, size), decoded(held_out, test_files, size)
        test = Split(tests.pixels, test_labels)
        val_index, train_index = _stratified(labels, (0.1,))
        notes = (*whole.notes, *tests.notes)
    train, val = (Split(whole.pixels[index], labels[index]) for index in (train_index, val_index))
    return replace(_pictures(train, val, test, classes), notes=notes)


def _folders(root: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _check_counts(root: Path, classes: Sequence[str], counts: np.ndarray, at_least: int) -> None:
    for name, count in zip(classes, counts, strict=True):
        if not count:
            raise InvalidInput(f"Class '{name}' has no pictures in '{root}'.", "Add some, or remove its folder.")
        if count < at_least:
            raise InvalidInput(
                f"Class '{name}' in '{root}' has {count} picture(s).", f"Every class needs at least {at_least}."
            )


def _stratified(labels: np.ndarray, shares: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """Shuffled index sets: for each share, that part of what is left of every class (at least one); then the rest."""
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    for label in range(int(labels.max()) + 1):
        index = rng.permutation(np.flatnonzero(labels == label))
        for part, share in zip(parts, shares, strict=False):
            count = max(1, round(len(index) * share))
            part.append(index[:count])
            index = index[count:]
        parts[-1].append(index)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def _pictures(train: Split, val: Split, test: Split, classes: tuple[str, ...]) -> Pictures:
    # Channel moments from histograms: exact, and without a floating point copy of the pictures.
    counts = np.stack([np.bincount(train.pixels[..., c].ravel(), minlength=256) for c in range(3)])
    share, levels = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ levels
    std = np.maximum(np.sqrt(np.maximum(share @ levels**2 - mean**2, 0)), 1 / 255)
    digest = hashlib.sha256(repr(classes).encode())
    for split in (train, val, test):
        digest.update(split.pixels.shape[0].to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(split.pixels).data)
        digest.update(split.labels.tobytes())
    return Pictures(train, val, test, classes, _triple(mean), _triple(std), digest.hexdigest())


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


@dataclass(frozen=True)
class Batches:
    """Training batches without epochs: batch `step` is a function of the seed and the step alone.

    So a training that is resumed at a step sees the very batches of one that was never interrupted. Pictures are
    drawn without replacement until all have been seen; every `augmentation` but `none` pads each by 4 pixels and crops
    it at a random place.
    """

    pictures: Pictures
    batch: int
    seed: int = 0
    augmentation: AugmentationName = "crop"

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """(normalised float32 (batch, 3, size, size), labels int64 (batch,))."""
        split = self.pictures.train
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        rounds = places // len(split)
        order = {r: np.random.default_rng((self.seed, 0, r)).permutation(len(split)) for r in np.unique(rounds)}
        index = np.array([order[r][p % len(split)] for r, p in zip(rounds, places, strict=True)])
        pixels, rng = split.pixels[index], np.random.default_rng((self.seed, 1, step))
        if self.augmentation != "none":
            pixels = cropped(pixels, rng)
        x = torch.from_numpy(pixels).float().permute(0, 3, 1, 2)
        x = changed(x, self.augmentation, int(rng.integers(2**62)))
        return self.pictures.normalised(x), torch.from_numpy(split.labels[index])


def plain_batches(pictures: Pictures, split: SplitName, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures of a split in order, without augmentation: (float32 (batch, 3, size, size), labels)."""
    chosen = pictures.split(split)
    for start in range(0, len(chosen), batch):
        pixels, labels = (part[start : start + batch] for part in (chosen.pixels, chosen.labels))
        yield pictures.tensor(pixels), torch.from_numpy(labels)
