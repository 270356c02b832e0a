"""8-bit functions of one tensor are one table lookup, and nothing else is."""

from milliseek.kernels.kernel import Kernel, KernelUse, TensorSpec
from milliseek.kernels.tflite.lookups import fuse_lookups

SHAPE = (1, 8, 8, 16)


def node(op, inputs, output, dtypes="int8", shape=SHAPE):
    """`dtypes`: of the inputs, and behind an arrow of the output where it is another one."""
    source, _, target = dtypes.partition("->")
    specs = tuple(TensorSpec(shape, source) for _ in inputs)
    return KernelUse(
        Kernel("tflite", op, (), specs, (TensorSpec(SHAPE, target or source),), 1), op, tuple(inputs), (output,)
    )


def fused(*uses, outputs=("y",)):
    return [(use.kernel.op_type, use.inputs, use.outputs) for use in fuse_lookups(uses, outputs)]


def test_swish_is_a_lookup():
    found = fused(node("LOGISTIC", ["x"], "s"), node("MUL", ["x", "s"], "y"))
    assert found == [("LOGISTIC", ("x",), ("y",))]


def test_a_function_on_floats_between_codes_is_a_lookup():
    found = fused(
        node("CONV_2D", ["p"], "x"),
        node("DEQUANTIZE", ["x"], "f", "int8->float32"),
        node("HARD_SWISH", ["f"], "g", "float32"),
        node("QUANTIZE", ["g"], "y", "float32->int8"),
    )
    assert found == [("CONV_2D", ("p",), ("x",)), ("LOGISTIC", ("x",), ("y",))]


def test_a_gate_that_is_computed_elsewhere_is_a_product():
    uses = node("LOGISTIC", ["pooled"], "s"), node("MUL", ["x", "s"], "y")
    assert fused(*uses) == [("LOGISTIC", ("pooled",), ("s",)), ("MUL", ("x", "s"), ("y",))]


def test_what_someone_else_needs_stays():
    uses = node("LOGISTIC", ["x"], "s"), node("MUL", ["x", "s"], "y")
    assert len(fused(*uses, outputs=("y", "s"))) == 2
    assert len(fused(*uses, node("MEAN", ["s"], "m"))) == 3


def test_floats_and_operators_that_are_not_delegated_are_left_alone():
    assert len(fused(node("LOGISTIC", ["x"], "s", "float32"), node("MUL", ["x", "s"], "y", "float32"))) == 2
    assert len(fused(node("HARD_SWISH", ["x"], "s"), node("MUL", ["x", "s"], "y"))) == 2


def test_two_chains_in_a_row_are_one():
    found = fused(node("TANH", ["x"], "a"), node("TANH", ["a"], "b"), node("LOGISTIC", ["b"], "y"))
    assert found == [("LOGISTIC", ("x",), ("y",))]
