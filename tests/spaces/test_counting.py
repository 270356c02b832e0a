"""Sizes of subnets and blocks against the published ones (SpaceEvo, microsoft/Moonlit)."""

import csv
import io
import zipfile

import pytest

from milliseek.spaces.blocks import BlockChoice
from milliseek.spaces.counting import count, count_range
from milliseek.spaces.hyperspace import hyperspace_named
from milliseek.spaces.layers import NetworkBuilder
from milliseek.spaces.space import Space, Subnet

PUBLISHED = {
    "pixel4-A0": (111.0, 6.38),
    "pixel4-A1": (272.1, 9.71),
    "pixel4-A2": (397.0, 10.01),
    "pixel4-A3": (589.3, 13.88),
    "pixel4-A4": (736.2, 15.30),
    "vnni-A0": (161.6, 7.80),
    "vnni-A1": (356.3, 11.96),
    "vnni-A2": (636.4, 14.52),
    "vnni-A3": (979.6, 15.93),
    "vnni-A4": (1381.2, 23.37),
}
"""Millions of multiply-accumulates and of parameters."""


@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_subnets_have_their_size(name, data_folder):
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((data_folder / "spaceevo" / "search_result.yaml").read_text())
    space, genome = found["specific_subnet_encoding_dict"][f"SEQnet@{name}"]
    encoding = f"{found['specific_supernet_encoding_dict'][space]}:{genome}"
    subnet = Subnet.decode(encoding)
    assert subnet.encoding == encoding
    macs, params = count(subnet)
    assert (round(macs / 1e6, 1), round(params / 1e6, 2)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("encoding", "smallest", "largest"),
    [
        ("mobilew-122222-155400", 111.0, 2493.7),
        ("onnxw-151122-023231", 161.6, 5835.9),
        ("onnxw-121122-133333", 218.0, 3482.5),
    ],
)
def test_published_spaces_reach_from_their_smallest_to_their_largest_subnet(encoding, smallest, largest):
    sizes = count_range(Space.decode(encoding))
    assert [round(size.macs / 1e6, 1) for size in sizes] == [smallest, largest]


@pytest.mark.data
@pytest.mark.parametrize("name", ["onnxw", "mobilew"])
def test_every_block_type_has_the_multiply_accumulates_of_the_published_tables(name, data_folder):
    hyperspace = hyperspace_named(name)
    with zipfile.ZipFile(data_folder / "spaceevo" / "block_lut.zip") as archive:
        for stage, block in ((stage, block) for stage in range(1, 7) for block in range(len(hyperspace.blocks))):
            with io.TextIOWrapper(archive.open(f"{name}/stage{stage}_{block}_0.csv")) as lines:
                for _, (sub_stage, shape, _, mega, _, _) in zip(range(20), csv.reader(lines), strict=False):
                    assert macs_of(hyperspace, stage, block, sub_stage, shape) == pytest.approx(float(mega), abs=1e-3)


def macs_of(hyperspace, stage, block, sub_stage, shape):
    _, cin, hw, _ = map(int, shape.split("x"))
    builder, x = NetworkBuilder(hw, cin), "input"
    for i, layer in enumerate(sub_stage.split("_")):
        kernel, width, expand = layer.split("#")
        choice = BlockChoice(int(width), int(kernel), 1.0 if expand == "None" else float(expand))
        x = hyperspace.blocks[block].emit(builder, f"{i}", x, choice, 1 if i else hyperspace.stages[stage].stride)
    return builder.build().macs / 1e6
