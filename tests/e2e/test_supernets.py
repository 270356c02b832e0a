"""`milliseek supernet train` on a folder of pictures, resumed, and asked for what it cannot do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Milliseek, answer

SPACE = "tiny32-0000-0000"


def folder_of_pictures(path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (path / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(level, 20, (20, 30)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return path


@pytest.mark.slow
def test_a_supernet_of_your_own_pictures(milliseek: Milliseek, tmp_path: Path) -> None:
    data = f"imagefolder:{folder_of_pictures(tmp_path / 'data')}"
    train = ("supernet", "train", SPACE, "--data", data, "--name", "mine", "--batch", "8", "--device", "cpu", "--json")
    result = milliseek(*train, "--budget", "3steps", "--learning-rate", "0.02", "--sampler", "complexity-aware")
    trained = answer(result)
    assert (trained["supernet"], trained["space"]) == ("mine", SPACE)
    assert (trained["steps"], trained["steps_quantised"], trained["epochs"]) == (3, 1, 1)
    assert (trained["device"], trained["processes"], trained["sampler"]) == ("cpu", 1, "complexity-aware")
    told = " ".join(result.stderr.split())
    assert "24 of 24 pictures" in told
    assert "resized to 32 x 32" in told
    assert "became RGB (24 L)" in told
    error = answer(milliseek(*train, "--budget", "3steps"))["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert "'mine' was begun with learning rate 0.02, not 0.1" in error["message"]
