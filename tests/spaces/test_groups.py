"""Groups of layers: what a runtime runs as one, named by what it does and not by where it stands."""

from milliseek.spaces.blocks import ONNXW_BLOCKS, BlockChoice
from milliseek.spaces.groups import layer_groups
from milliseek.spaces.layers import NetworkBuilder

JOINED = ("add", "linear")


def block(name, *, cin=16, width=16, stride=1):
    builder = NetworkBuilder(8, cin)
    block_type = next(block for block in ONNXW_BLOCKS if block.name == name)
    block_type.emit(builder, "b", "input", BlockChoice(width, 3, 1.0), stride)
    return builder.layers


def shape_of(groups):
    return [[(layer.op, layer.inputs) for layer in group] for group in groups]


def test_nothing_joined_is_one_group_a_layer():
    layers = block("mbv3")
    groups = layer_groups(layers, ())
    assert [len(group) for group in groups] == [1] * len(layers)
    assert [group[0].workload for group in groups] == [layer.workload for layer in layers]


def test_a_sum_takes_in_the_convolution_before_it_and_keeps_the_input_outside():
    *_, last = layer_groups(block("mbv2"), JOINED)
    assert shape_of([last]) == [[("conv", ("x0",)), ("add", ("0", "x1"))]]


def test_a_sum_takes_in_the_shortcut_too():
    *_, last = layer_groups(block("mbv2", width=24), JOINED)
    assert shape_of([last]) == [[("conv", ("x0",)), ("conv", ("x1",)), ("add", ("0", "1"))]]


def test_a_sum_takes_in_a_gated_product():
    builder = NetworkBuilder(8, 16)
    x = builder.conv("conv", "input", 16)
    builder.add("sum", builder.squeeze_excite("se", x, 8), "input")
    *_, last = layer_groups(builder.layers, JOINED)
    assert shape_of([last]) == [[("scale", ("x0", "x1")), ("add", ("0", "x2"))]]


def test_a_classifier_takes_in_the_convolution_before_it():
    builder = NetworkBuilder(8, 16)
    x = builder.conv("mix", builder.pool("pool", "input"), 32, act="hswish", norm=False)
    builder.linear("classifier", x, 10)
    pool, head = layer_groups(builder.layers, JOINED)
    assert [layer.op for layer in pool] == ["pool"]
    assert [layer.op for layer in head] == ["conv", "linear"]


def test_equal_work_is_an_equal_group_wherever_it_stands():
    twice = NetworkBuilder(8, 16)
    block_type = ONNXW_BLOCKS[1]
    x = block_type.emit(twice, "first", "input", BlockChoice(16, 3, 4.0), 1)
    block_type.emit(twice, "second", x, BlockChoice(16, 3, 4.0), 1)
    groups = layer_groups(twice.layers, JOINED)
    assert groups[: len(groups) // 2] == groups[len(groups) // 2 :]
