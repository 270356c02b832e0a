"""Hyperspaces as YAML: the built-in ones come back as they were, and what is no hyperspace is told its place."""

import copy
import json
import pickle

import pytest

from milliseek.errors import InvalidInput, NotFound
from milliseek.spaces.definition import definition, parse_hyperspace, read_hyperspace
from milliseek.spaces.handmade import PLANS, planned_blocks
from milliseek.spaces.hyperspace import HYPERSPACES, MOBILEW, ONNXW, SMALL32
from milliseek.spaces.space import Space, extreme_subnet

yaml = pytest.importorskip("yaml")

MINE = """
name: mine24
resolutions: [16, 24]
act: relu
stem: {widths: [8, 16], stride: 1}
blocks:
  - {type: mbv2, kernels: [3], expands: [4, 6]}
  - {type: fused_se, kernels: [3, 5], expands: [2]}
stages:
  0: {widths: [8, 16], depths: [1], stride: 1, block: {type: separable, kernels: [3]}}
  1: {widths: [16, 24, 32], depths: [1, 2], stride: 2, window: 2}
  2: {widths: [32, 48], depths: [1, 2], stride: 2, window: 2}
head: {width: 64, classes: 10}
"""


@pytest.fixture
def known(monkeypatch):
    """What a test makes known is forgotten behind it."""
    monkeypatch.setattr("milliseek.spaces.definition.HYPERSPACES", HYPERSPACES)
    before = dict(HYPERSPACES)
    yield
    HYPERSPACES.clear()
    HYPERSPACES.update(before)


@pytest.mark.parametrize("hyperspace", HYPERSPACES.values(), ids=lambda h: h.name)
def test_built_in_hyperspaces_survive_json_and_pickle(hyperspace):
    assert parse_hyperspace(json.loads(json.dumps(definition(hyperspace)))) == hyperspace
    assert pickle.loads(pickle.dumps(hyperspace)) == hyperspace


def test_a_file_makes_its_hyperspace_known(tmp_path, known):
    (tmp_path / "mine.yaml").write_text(MINE)
    mine = read_hyperspace(tmp_path / "mine.yaml")
    assert mine.size == 2**2 * 2
    space = Space.decode("mine24-01-10")
    assert space.hyperspace is mine
    assert extreme_subnet(space, largest=True).network(10).macs > 0
    assert read_hyperspace(tmp_path / "mine.yaml") == mine, "again is fine"
    (tmp_path / "mine.yaml").write_text(MINE.replace("width: 64", "width: 128"))
    with pytest.raises(InvalidInput, match=r"mine.yaml: There is another hyperspace named 'mine24'"):
        read_hyperspace(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  1: {", "  3: {", "Stage 1 is missing; there are: 0, 3, 2"),
        ("depths: [1, 2], stride: 2, window: 2}\n  2", "depths: [1, 3], stride: 2, window: 2}\n  2", "leave out 2"),
        (", depths: [1], stride: 1, b", ", stride: 1, b", "stage 0 has no 'depths'"),
        ("type: mbv2", "type: mbv9", r"'mbv9' is no type of block 0. Known ones: .*mbv2"),
        (
            "[32, 48], depths: [1, 2], stride: 2, window: 2",
            "[32, 48], depths: [1], stride: 2, window: 3",
            "3 widths long",
        ),
        ("widths: [16, 24, 32]", f"widths: {[16 + 8 * i for i in range(12)]}", "Stage 1 has 11 windows; at most 10"),
        ("widths: [16, 24, 32]", "widths: [24, 16, 32]", "'widths' of stage 1 must be ascending"),
        ("kernels: [3, 5]", "kernels: [3, 4]", "kernel size 4"),
        ("expands: [2]", "expands: [0]", "expands of block 1"),
        ("expands: [2]", "expands: [two]", "expands of block 1"),
        ("expands: [2]", "expand: [2]", "block 1 has an unknown key 'expand'"),
        ("act: relu", "act: gelu", "'gelu' is no act"),
        ("name: mine24", "name: Mine-24", "no name"),
        ("stride: 2", "stride: 3", "'stride' of stage 1"),
        ("head: {width: 64, classes: 10}", "", "no 'head'"),
        ("stem: {", "stem: [", "no YAML"),
        ("name: mine24", "name: small32", "another hyperspace named 'small32'"),
    ],
)
def test_what_is_no_hyperspace(tmp_path, known, old, new, message):
    assert old in MINE
    (tmp_path / "mine.yaml").write_text(MINE.replace(old, new))
    with pytest.raises(InvalidInput, match=message) as caught:
        read_hyperspace(tmp_path / "mine.yaml")
    assert "mine.yaml" in caught.value.message


def test_hyperspaces_that_nobody_could_compare_are_refused():
    values = copy.deepcopy(definition(SMALL32))
    values["stages"][0]["depths"] = list(range(1, 14))
    with pytest.raises(InvalidInput, match="Stage 0 has 4 kinds of blocks and up to 13 of them"):
        parse_hyperspace(values)
    values = copy.deepcopy(definition(SMALL32))
    values["resolutions"], values["stem"]["stride"] = [8, 32], 2
    with pytest.raises(InvalidInput, match="Behind stage 3 a picture of 8 pixels is 1 x 1"):
        parse_hyperspace(values)


def test_more_than_ten_blocks_are_refused():
    values = copy.deepcopy(definition(SMALL32))
    values["blocks"] = [{"type": "mbv2", "kernels": [3], "expands": [1 + i]} for i in range(11)]
    with pytest.raises(InvalidInput, match="1 to 10 block types"):
        parse_hyperspace(values)


@pytest.mark.parametrize("values", [None, [], "small32", {}, {"name": "a"}, {"name": 3}])
def test_what_is_not_even_a_mapping_of_the_right_names(values):
    with pytest.raises(InvalidInput):
        parse_hyperspace(values)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_hyperspace(tmp_path / "nothing.yaml")


def test_hand_made_plans_are_blocks_of_every_hyperspace():
    assert {plan: planned_blocks(SMALL32, plan) for plan in PLANS} == {
        "mobilenetv2": (1, 1, 1, 1),
        "mobilenetv3": (1, 1, 2, 2),
        "resnet": (3, 3, 3, 3),
        "fused": (5, 5, 1, 1),
    }
    assert planned_blocks(ONNXW, "fused") == (5, 5, 5, 1, 1, 1)
    assert planned_blocks(MOBILEW, "fused") == (4, 4, 4, 1, 1, 1), "the one with squeeze-and-excite"
    assert planned_blocks(MOBILEW, "mobilenetv3") == (1, 1, 1, 2, 2, 2)
    with pytest.raises(NotFound, match=r"'vgg'.*mobilenetv2"):
        planned_blocks(SMALL32, "vgg")
    with pytest.raises(InvalidInput, match=r"'mine24:resnet' needs a block of type resnet"):
        planned_blocks(parse_hyperspace(yaml.safe_load(MINE)), "resnet")
