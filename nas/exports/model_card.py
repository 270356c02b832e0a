"""The model card: one page of Markdown beside an exported file."""

from __future__ import annotations

from ...kernels.skeleton import Format
from ..pictures.data import Pictures
from .exported_subnet import ExportedSubnet, FileLatency

SCRIPT = "evaluate.py"
SHOWN_CLASSES = 20
FORMATS: dict[Format, str] = {"onnx": "ONNX", "tflite": "TFLite"}


def model_card(export: ExportedSubnet, pictures: Pictures) -> str:
    """What the file is, how to feed it, how accurate and how fast it is, where it comes from."""
    subnet, provenance, form = export.subnet, export.provenance, export.form
    network = subnet.network(len(pictures.classes))
    size = subnet.resolution
    shape = f"(1, 3, {size}, {size})" if form.format == "onnx" else f"(1, {size}, {size}, 3)"
    classes = ", ".join(pictures.classes[:SHOWN_CLASSES]) + (", ..." if len(pictures.classes) > SHOWN_CLASSES else "")
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (pictures.mean, pictures.std))
    accuracy = [("this file", export.top1), (f"the trained network, {form.precision}", export.top1_network)]
    if export.top1_fake_quant is not None and form.precision != "int8":
        accuracy.append(("the trained network, int8", export.top1_fake_quant))
    tuning = provenance.fine_tuning
    return f"""# {export.path.name}

Picture classifier with {len(pictures.classes)} classes: {classes}. {FORMATS[form.format]}, {form.precision}, \
{export.size_bytes} bytes, {network.macs} multiply-accumulates, {network.params} parameters.
SHA-256 `{export.sha256}`.

## Input and output
`input`: float32 {shape}, RGB, batch 1. `logits`: float32 (1, {len(pictures.classes)}), in the order of the classes.

1. Decode to RGB and resize to {pictures.size} x {pictures.size} (Pillow, bilinear).
2. Divide by 255, subtract the mean ({mean}), divide by the standard deviation ({std}).
3. Resize to {size} x {size}: bilinear, without antialiasing, half-pixel centres.

The same is in the file's metadata (`milliseek.input`, `milliseek.classes`), and as code in `{SCRIPT}`.

## Accuracy
{_table(("", "top-1"), [(name, f"{100 * top1:.2f} %") for name, top1 in accuracy])}

On {len(pictures.test)} test pictures that took no part in training or search. \
`python {SCRIPT} {export.path.name} PICTURES` \
measures it again.

## Latency
{_table(("target", "predicted ms", "90 %", "measured ms"), [_latency(each) for each in export.latencies])}

One picture at a time.{" (busy): the device was never quiet." if any(e.disturbed for e in export.latencies) else ""}

## Origin
- Subnet `{subnet.encoding}`
- Study `{provenance.study}`, trial {provenance.trial}; supernet `{provenance.supernet}`
- {f"Fine-tuned alone for {tuning.steps} steps" if tuning else "Weights as the supernet has them"}
- Training pictures: SHA-256 `{provenance.data}`
- {_rounding(export)}
"""


def _rounding(export: ExportedSubnet) -> str:
    bits = export.provenance.weight_bits
    if export.form.precision == "fp32":
        return f"The weights of a training with {bits}-bit weights, not rounded"
    return f"Weights of {bits} bits per output channel, activations of 8 bits, with the scales that training learned"


def _latency(each: FileLatency) -> tuple[str, ...]:
    predicted, interval = "", ""
    if each.prediction:
        predicted = f"{each.prediction.latency_ms:.4g}"
        interval = "{:.4g} to {:.4g}".format(*each.prediction.interval_ms)
    return f"`{each.target}`", predicted, interval, f"{each.measured_ms:.4g}{' (busy)' if each.disturbed else ''}"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows))
