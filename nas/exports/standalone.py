"""Accuracy of an exported network on pictures: needs numpy, Pillow and the network's runtime, nothing else.

    python evaluate.py NETWORK.onnx PICTURES       # pip install numpy pillow onnxruntime
    python evaluate.py NETWORK.tflite PICTURES     # pip install numpy pillow ai-edge-litert

(Instead of ai-edge-litert: tflite-runtime and 'numpy<2'.) PICTURES is a folder with one folder of pictures for each
class, or a text file with one picture a line: its path (relative to the text file), a tab, its class. How a picture
becomes the network's input is read from the network's metadata. Prints one JSON object; `stated_top1` is what the file
itself says; `answers`, with --answers, the class given to every picture.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--answers", action="store_true", help="print the class given to each picture too")
    options = parser.parse_args()
    metadata, run = open_network(options.network)
    classes = json.loads(metadata["milliseek.classes"])
    stated = json.loads(metadata.get("milliseek.accuracy", "{}")).get("top1")
    form = json.loads(metadata["milliseek.input"])
    answers: list[dict[str, Any]] = []
    for file, label in listed(options.pictures):
        if label not in classes:
            sys.exit(f"{file}: the network knows no class '{label}'; its classes are {', '.join(classes)}.")
        answer = classes[int(run(network_input(file, form)).argmax())]
        answers.append({"picture": str(file), "class": label, "answer": answer})
    if not answers:
        sys.exit(f"There are no pictures in {options.pictures}.")
    right = sum(each["class"] == each["answer"] for each in answers)
    found = {"pictures": len(answers), "right": right, "top1": right / len(answers), "stated_top1": stated}
    print(json.dumps({**found, "answers": answers} if options.answers else found))


def listed(pictures: Path) -> Iterator[tuple[Path, str]]:
    """(file, class) of every picture."""
    if pictures.is_dir():
        for folder in sorted(path for path in pictures.iterdir() if path.is_dir()):
            for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
                yield file, folder.name
        return
    for line in pictures.read_text(encoding="utf-8").splitlines():
        name, _, label = line.partition("\t")
        yield pictures.parent / name, label


def network_input(file: Path, form: dict[str, Any]) -> Array:
    """A picture as the network takes it, float32 with a batch of one; `form` is the metadata `milliseek.input`."""
    size = tuple(form["picture_size"])
    with Image.open(file) as picture:
        picture.draft("RGB", size)
        rgb = picture.convert("RGB")
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BILINEAR)
    mean, std = (np.array(form[key], np.float32) * 255 for key in ("mean", "std"))
    x = (np.asarray(rgb, np.float32) - mean) / std
    x = resized(resized(x, form["size"][0], 0), form["size"][1], 1)
    return np.ascontiguousarray(x.transpose(2, 0, 1) if form["layout"] == "NCHW" else x)[None]


def resized(x: Array, size: int, axis: int) -> Array:
    """Linear interpolation along an axis: half-pixel centres, without antialiasing."""
    length = x.shape[axis]
    if length == size:
        return x
    place = np.maximum((np.arange(size, dtype=np.float32) + 0.5) * np.float32(length / size) - 0.5, 0)
    low = place.astype(int)
    high = np.minimum(low + 1, length - 1)
    share = (place - low).astype(np.float32).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    between: Array = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return between


def open_network(file: Path) -> tuple[dict[str, str], Callable[[Array], Array]]:
    """The file's metadata, and a function from input to logits."""
    if file.suffix == ".tflite":
        data = file.read_bytes()
        return tflite_metadata(data), _tflite(data)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return session.get_modelmeta().custom_metadata_map, lambda x: np.asarray(session.run(None, {name: x})[0])


def _tflite(data: bytes) -> Callable[[Array], Array]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x: Array) -> Array:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target))

    return run


def tflite_metadata(data: bytes) -> dict[str, str]:
    """The named texts in a TFLite file: a flatbuffer, whose tables are found by offsets, their fields by vtables."""

    def number(at: int, code: str = "<I") -> int:
        return int(struct.unpack_from(code, data, at)[0])

    def field(table: int, index: int) -> int:
        """Where a field of a table is, 0 if it is left out."""
        vtable = table - number(table, "<i")
        inside = number(vtable + 4 + 2 * index, "<H") if 4 + 2 * index < number(vtable, "<H") else 0
        return inside and table + inside

    def follow(table: int, index: int) -> int:
        at = field(table, index)
        return at and at + number(at)

    def tables(vector: int) -> list[int]:
        places = [vector + 4 + 4 * i for i in range(number(vector))] if vector else []
        return [place + number(place) for place in places]

    def content(vector: int) -> bytes:
        return data[vector + 4 : vector + 4 + number(vector)] if vector else b""

    model = number(0)
    buffers, entries = tables(follow(model, 4)), tables(follow(model, 6))
    found = {}
    for entry in entries:
        buffer = number(field(entry, 1)) if field(entry, 1) else 0
        found[content(follow(entry, 0)).decode()] = content(follow(buffers[buffer], 0)).decode("utf-8", "replace")
    return found


if __name__ == "__main__":
    main()
