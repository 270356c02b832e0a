"""Kernels come back from their JSON, and any other text is refused without harm."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.kernels.kernel import Kernel, TensorSpec

ACTIVATION = TensorSpec((1, 8, 8, 16), "uint8")
KERNEL = Kernel(
    "com.microsoft",
    "QLinearConv",
    (("group", 1), ("kernel_shape", (3, 3)), ("mode", "x"), ("ratio", (0.5, float("inf")))),
    (ACTIVATION, None, TensorSpec((24, 16, 3, 3), "int8", constant=True, value=(1, 2))),
    (TensorSpec((1, 8, 8, 24), "uint8"), None),
    opset=1,
)
CONTENT = json.loads(KERNEL.to_json())


def changed(*path, to):
    content = json.loads(KERNEL.to_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(content)


def test_there_and_back():
    assert Kernel.from_json(KERNEL.to_json()) == KERNEL
    assert Kernel.from_json(KERNEL.to_json()).hash == KERNEL.hash


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{}", "{", "NaN", '"kernel"', "[" * 16_000, '{"a":' * 3000, "1" * 16_000),
        json.dumps({**CONTENT, "name": "conv1"}),
        changed("attributes", to=[]),
        changed("attributes", "group", to=0),
        changed("attributes", "group", to=-1),
        changed("attributes", "group", to="1"),
        changed("attributes", "kernel_shape", to=[3, 0]),
        changed("attributes", "kernel_shape", to=[3, [3]]),
        changed("attributes", "mode", to=None),
        changed("attributes", "mode", to=["x", 1]),
        changed("attributes", "mode", to={"float": "fast"}),
        changed("attributes", "mode", to={"pickle": "gASVAAAA"}),
        changed("attributes", "mode", to={"tensor": ["int8", [1]]}),
        changed("attributes", "mode", to={"graph": [1, 2]}),
        changed("attributes", "mode", to=float("nan")),
        changed("attributes", "mode", to=2**63),
        changed("op_type", to=7),
        changed("op_type", to="x" * 201),
        changed("opset", to=True),
        changed("inputs", to="abc"),
        changed("inputs", 0, to=[]),
        changed("inputs", 0, 0, to=[-1]),
        changed("inputs", 0, 0, to=[1.0]),
        changed("inputs", 0, 0, to=[2**25, 2**25]),
        changed("inputs", 0, 0, to=[1] * 65),
        changed("inputs", 0, 2, to=1),
        changed("inputs", 2, 3, to=["a"]),
        changed("inputs", 2, 3, to="12"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_kernel(text):
    with pytest.raises(InvalidInput, match="should be a kernel is none"):
        Kernel.from_json(text)


@given(st.randoms(use_true_random=False), st.integers(1, 8))
def test_damaged_texts_are_kernels_or_refused(rng: random.Random, count: int):
    letters = list(KERNEL.to_json())
    for _ in range(count):
        letters[rng.randrange(len(letters))] = rng.choice('[]{},:"0123456789-+.eEaN \\')
    try:
        kernel = Kernel.from_json("".join(letters))
    except InvalidInput:
        return
    assert Kernel.from_json(kernel.to_json()).hash == kernel.hash
