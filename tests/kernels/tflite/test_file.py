"""TFLite files as users have them: whole, broken, foreign, hostile, open-ended."""

from __future__ import annotations

import builtins
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from milliseek.errors import InvalidInput, MissingExtra
from milliseek.kernels.kernel import Kernel, TensorSpec
from milliseek.kernels.model_file import MAX_FILE_BYTES
from milliseek.kernels.tflite import verifier
from milliseek.kernels.tflite.builder import one_kernel_tflite
from milliseek.kernels.tflite.file import check_tflite, fix_tflite_shapes, is_tflite, read_tflite, tflite_precision
from milliseek.kernels.tflite.graph import constant_bytes, tensor_shape
from milliseek.kernels.tflite.reader import split_tflite
from milliseek.kernels.tflite.schema import schema
from milliseek.kernels.tflite.writer import Quantisation, TFLiteWriter, pack


def dense(dtype: str = "float32", weights: str = "float32") -> bytes:
    """x -> FULLY_CONNECTED -> RELU -> y, with 4 x 8 weights."""
    writer = TFLiteWriter()
    scale = Quantisation((0.1,)) if dtype != "float32" else None
    x, hidden, y = (writer.tensor((1, size), dtype, None, scale) for size in (8, 4, 4))
    filters = Quantisation((0.1,) * 4) if weights != "float32" else None
    w = writer.tensor((4, 8), weights, np.arange(32).reshape(4, 8), filters)
    writer.operator("FULLY_CONNECTED", [x, w, None], [hidden])
    writer.operator("RELU", [hidden], [y])
    return writer.finish([x], [y])


def conv(dtype: str = "float32") -> bytes:
    specs = [TensorSpec((1, 8, 8, 3), dtype), TensorSpec((4, 3, 3, 3), dtype, constant=True)]
    attributes = (("activation", "Relu"), ("padding", "VALID"), ("pads", (1, 1, 1, 1)), ("strides", (2, 2)))
    return one_kernel_tflite(
        Kernel("tflite", "CONV_2D", attributes, tuple(specs), (TensorSpec((1, 4, 4, 4), dtype),), 3)
    )


def changed(data: bytes, change: Any) -> bytes:
    """The file after `change(model)` on its `ModelT`."""
    model = schema().ModelT.InitFromPackedBuf(data)
    change(model)
    return pack(model)


def test_a_good_file_is_read_from_bytes_and_path(tmp_path: Path) -> None:
    path = tmp_path / "dense.tflite"
    path.write_bytes(dense())
    assert check_tflite(path) == check_tflite(dense()) == dense()
    assert is_tflite(dense())
    assert not is_tflite(b"PK\x03\x04")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(conv()[: int(len(conv()) * share)])
    with pytest.raises(InvalidInput, match=r"cut\.tflite") as caught:
        check_tflite(path)
    assert caught.value.remedy


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"\x89PNG\r\n\x1a\n" + bytes(99), b"\xff" * 999])
def test_foreign_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"picture\.png"):
        check_tflite(data, name="picture.png")


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        check_tflite(tmp_path / "none.tflite")
    huge = tmp_path / "huge.tflite"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidInput, match="larger than 1024 MiB"):
        check_tflite(huge)


def set_shape(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = np.array([1, -8], np.int32)


def set_huge(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = np.array([1 << 15, 1 << 14], np.int32)


def set_buffer(model: Any) -> None:
    model.subgraphs[0].tensors[0].buffer = 99


def set_operand(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = np.array([0, 77, -1], np.int32)


def set_negative(model: Any) -> None:
    model.subgraphs[0].operators[0].outputs = np.array([-2], np.int32)


def set_code(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 5


def set_weights(model: Any) -> None:
    model.buffers[1].data = model.buffers[1].data[:-4]


def set_cycle(model: Any) -> None:
    model.subgraphs[0].operators.reverse()


def set_twice(model: Any) -> None:
    model.subgraphs[0].operators.append(model.subgraphs[0].operators[0])


def set_orphan(model: Any) -> None:
    model.subgraphs[0].inputs = np.array([], np.int32)


def set_scales(model: Any) -> None:
    scales = schema().QuantizationParametersT(scale=np.ones(3, np.float32))
    model.subgraphs[0].tensors[3].quantization = scales


def set_external(model: Any) -> None:
    model.subgraphs[0].tensors[3].externalBuffer = 1


def set_empty(model: Any) -> None:
    model.subgraphs[0].operators = []


def set_recursive(model: Any) -> None:
    operator = model.subgraphs[0].operators[1]
    operator.builtinOptionsType = schema().BuiltinOptions.IfOptions
    operator.builtinOptions = schema().IfOptionsT(0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_shape, "shape of the tensor 't0'"),
        (set_huge, "'t0' claims 2048 MiB"),
        (set_buffer, "a buffer is referred to"),
        (set_operand, "a tensor is referred to"),
        (set_negative, "a tensor is referred to"),
        (set_code, "an operator's code"),
        (set_weights, "'t3' needs 128 bytes, its buffer has 124"),
        (set_cycle, "'t1' is used before it is made: a cycle"),
        (set_twice, "two things make the tensor 't1'"),
        (set_orphan, "nothing makes 't0'"),
        (set_scales, "the scales of the tensor 't3'"),
        (set_external, "'t3' in another file"),
        (set_empty, "no operators"),
        (set_recursive, "a subgraph runs itself"),
    ],
)
def test_files_whose_parts_do_not_fit_are_refused(change: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"'dense.tflite' is not a TFLite file that can be used: .*{message}"):
        check_tflite(changed(dense(), change), name="dense.tflite")


def appended(data: bytes, offset_error: int = 0) -> bytes:
    """The same file with the weights behind the flatbuffer, as converters write large models."""
    weights = schema().ModelT.InitFromPackedBuf(data).buffers[1].data.tobytes()

    def packed(offset: int) -> bytes:
        model = schema().ModelT.InitFromPackedBuf(data)
        model.buffers[1] = schema().BufferT(None, offset, len(weights))
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    return packed(len(packed(99)) + offset_error) + weights


def test_weights_behind_the_flatbuffer_are_found_there_and_nowhere_else() -> None:
    data = appended(dense())
    model = read_tflite(data)
    found = constant_bytes(model, data, model.subgraphs[0].tensors[3])
    assert found is not None
    assert found.view(np.float32).tolist() == list(range(32))
    assert [use.kernel for use in split_tflite(data)] == [use.kernel for use in split_tflite(dense())]
    with pytest.raises(InvalidInput, match="beyond the end, or in another file"):
        check_tflite(appended(dense(), offset_error=4))


def test_mutated_files_are_refused_or_usable() -> None:
    """Whatever the bytes, the answer is InvalidInput or a file that can be split."""
    rng = random.Random(0)
    sources = [dense(), dense("int8", "int8"), conv(), conv("int8"), appended(dense())]
    words = [struct.pack("<i", number) for number in (-1, 0, 1, 16, 2**31 - 1, -(2**31))]
    passed = 0
    for _ in range(2500):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.choice((1, 1, 2, 8))):
            position = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[position] = rng.randrange(256)
                case 1:
                    data[position // 4 * 4 : position // 4 * 4 + 4] = rng.choice(words)
                case 2:
                    other = rng.randrange(len(data)) // 4 * 4
                    data[position // 4 * 4 : position // 4 * 4 + 4] = data[other : other + 4]
                case _:
                    data = data[: max(position, 1)]
        try:
            kept = check_tflite(bytes(data))
        except InvalidInput:
            continue
        passed += 1
        assert split_tflite(kept)
        assert tflite_precision(kept) in ("fp32", "int8")
    assert 100 < passed < 2400


def test_small_files_that_unfold_into_large_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_TABLES", 10)
    with pytest.raises(InvalidInput, match="more than 10 tables"):
        check_tflite(dense())
    monkeypatch.undo()
    monkeypatch.setattr(verifier, "MAX_ELEMENTS", 10)
    with pytest.raises(InvalidInput, match="more than 10 elements"):
        check_tflite(dense())


def test_precision() -> None:
    assert tflite_precision(dense()) == "fp32"
    assert tflite_precision(dense("int8", "int8")) == "int8"
    assert tflite_precision(dense(weights="int8")) == "int8"


def opened(*signature: int) -> bytes:
    """`dense` and a reshape, whose input the file leaves open where `signature` has -1."""
    writer = TFLiteWriter()
    shape = tuple(abs(size) for size in signature)
    x, y, z = (writer.tensor(shape, name=name) for name in ("picture", "y", "z"))
    writer.operator("RELU", [x], [y])
    writer.operator("TANH", [y], [z])

    def open_input(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = np.array(signature, np.int32)
        entry = schema().TensorMapT(name="args_0", tensorIndex=0)
        model.signatureDefs = [schema().SignatureDefT(inputs=[entry], outputs=[], signatureKey="serve")]

    return changed(writer.finish([x], [z]), open_input)


def shapes(data: bytes) -> list[tuple[int, ...]]:
    return [tensor_shape(tensor) for tensor in read_tflite(data).subgraphs[0].tensors]


def test_open_batch_is_one_and_given_shapes_reach_every_tensor() -> None:
    assert fix_tflite_shapes(dense()) == dense()
    fixed = fix_tflite_shapes(opened(-1, 3))
    assert shapes(fixed) == [(1, 3)] * 3
    assert fix_tflite_shapes(fixed) == fixed
    assert shapes(fix_tflite_shapes(opened(-1, -1, 3), {"picture": (2, 5, 3)})) == [(2, 5, 3)] * 3
    assert shapes(fix_tflite_shapes(opened(-1, 3), {"args_0": (4, 3)})) == [(4, 3)] * 3


def test_weights_behind_the_flatbuffer_move_into_it_when_shapes_are_fixed() -> None:
    def open_input(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = np.array([-1, 8], np.int32)

    fixed = fix_tflite_shapes(appended(changed(dense(), open_input)))
    assert [use.kernel for use in split_tflite(fixed)] == [use.kernel for use in split_tflite(dense())]


@pytest.mark.parametrize(
    ("signature", "given", "message"),
    [
        ((-1, -1, 3), None, r"'picture' \(\?x\?x3\) of net\.tflite has an open dimension.*--shape picture="),
        ((-1, 3), {"picture": (1, 4)}, "does not fit"),
        ((-1, 3), {"picture": (0, 3)}, "does not fit"),
        ((-1, 3), {"picture": (3,)}, "does not fit"),
        ((-1, 3), {"sound": (1, 3)}, "no input 'sound'.*'picture'"),
    ],
)
def test_shapes_that_cannot_be(
    signature: tuple[int, ...], given: dict[str, tuple[int, ...]] | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        fix_tflite_shapes(opened(*signature), given, name="net.tflite")


def test_shapes_that_the_operators_refuse() -> None:
    writer = TFLiteWriter()
    x, y = writer.tensor((1, 4), name="x"), writer.tensor((2, 2))
    writer.operator("RESHAPE", [x, writer.tensor((2,), "int32", np.array([2, 2]))], [y])

    def open_input(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = np.array([1, -1], np.int32)

    data = changed(writer.finish([x], [y]), open_input)
    with pytest.raises(InvalidInput, match="cannot have inputs of this size"):
        fix_tflite_shapes(data, {"x": (1, 5)})


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "ai_edge_litert":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"ai-edge-litert.*milliseek\[tflite\]"):
        schema()
