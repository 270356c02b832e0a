"""Make the skeletons in kernels/prior anew: export, quantise, drop the weights, pack.

Resumable: files that FOLDER already holds are not made again. A network that fails is reported and left out; delete its
`.failed` file to try it once more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

from milliseek.kernels.onnx.quantise import quantise_for_timing
from milliseek.kernels.prior import Precision
from milliseek.kernels.skeleton import Format, fill, strip

FAMILIES = {
    "CoaT": "coat_lite_tiny",
    "ConvNeXt": "convnext_pico convnextv2_atto",
    "CSPNet": "cspresnet50@256",
    "DLA": "dla46_c dla60x_c",
    "DeiT": "deit_small_patch16_224",
    "DenseNet": "densenet161@160 densenet169",
    "EdgeNeXt": "edgenext_x_small edgenext_small@256",
    "EfficientFormer": "efficientformer_l1",
    "EfficientNet": "efficientnet_b1@240 tf_efficientnetv2_b1@240",
    "EfficientNet-Lite": "efficientnet_lite1@240 efficientnet_lite2@260",
    "EfficientViT": "efficientvit_b1 efficientvit_m0",
    "FBNet": "fbnetv3_b",
    "FastViT": "fastvit_t12@256",
    "GENet": "gernet_m",
    "GhostNet": "ghostnet_050 ghostnet_130 repghostnet_080 repghostnet_150",
    "HRNet": "hrnet_w18_small_v2",
    "HardCoRe-NAS": "hardcorenas_c hardcorenas_f",
    "IGCV3": "cv_igcv3_w3d4",
    "Inception": "inception_v3@299",
    "LCNet": "lcnet_050 lcnet_075 lcnet_150",
    "LeViT": "levit_192",
    "MixNet": "mixnet_m mixnet_l tf_mixnet_s@160",
    "MnasNet": "mnasnet_small mnasnet_050 semnasnet_075",
    "MobileNetV1": "mobilenetv1_100 cv_mobilenet_w3d4",
    "MobileNetV2": "mobilenetv2_050 mobilenetv2_140 mobilenetv2_110d@192",
    "MobileNetV3": "mobilenetv3_small_100 mobilenetv3_small_050@160 mobilenetv3_large_075",
    "MobileNetV4": "mobilenetv4_hybrid_medium@256 mobilenetv4_conv_small_050",
    "MobileOne": "mobileone_s1",
    "MobileViT": "mobilevit_xxs@256 mobilevit_s@256 mobilevitv2_050@256 mobilevitv2_100@192",
    "PVT": "pvt_v2_b0",
    "PoolFormer": "poolformer_s12",
    "ProxylessNAS": "cv_proxylessnas_cpu",
    "ReXNet": "rexnet_130",
    "RegNet": "regnetx_002 regnetx_008 regnetx_016@160 regnety_002 regnety_004",
    "RepVGG": "repvgg_a1 repvgg_b0@160",
    "ResNeXt": "resnext26ts@192 seresnext26t_32x4d",
    "ResNet": "resnet10t@176 resnet14t@176 resnet26 resnet34 resnet50d skresnet18",
    "ShuffleNet": "cv_shufflenet_g2_w1 cv_shufflenetv2_wd2 cv_shufflenetv2_w3d2",
    "SqueezeNet": "cv_squeezenet_v1_0 cv_squeezeresnet_v1_1",
    "Swin": "swin_tiny_patch4_window7_224",
    "TinyNet": "tinynet_b@188 tinynet_d@152",
    "TinyViT": "tiny_vit_5m_224",
    "ViT": "vit_small_patch32_224",
    "VoVNet": "ese_vovnet39b",
}
"""Networks of the prior: timm's names, or pytorchcv's as cv_NAME, with `@` and a resolution other than 224."""

NETWORKS = [(family, name) for family, names in FAMILIES.items() for name in names.split()]
HERE = Path(__file__).resolve().parent
PRIOR = HERE.parent / "kernels" / "prior"
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def skeleton_path(folder: Path, name: str, model_format: Format, precision: Precision) -> Path:
    return folder / f"{model_format}_{precision}" / f"{name}.{model_format}"


def make_skeleton(folder: Path, name: str, model_format: Format, precision: Precision) -> None:
    """Write one skeleton; INT8 ones are quantised from the filled fp32 skeleton, which has sensible activations."""
    fp32 = skeleton_path(folder, name, model_format, "fp32")
    if precision == "fp32":
        exported = folder / model_format / fp32.name
        exported.parent.mkdir(parents=True, exist_ok=True)
        if not exported.exists():
            subprocess.run([sys.executable, HERE / "published.py", name, exported], check=True)
        skeleton = strip(exported.read_bytes(), model_format)
    else:
        quantised = quantise(fill(fp32.read_bytes(), model_format), model_format)
        skeleton = strip(quantised, model_format)
    fill(skeleton, model_format)
    path = skeleton_path(folder, name, model_format, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(skeleton)


def quantise(model: bytes, model_format: Format) -> bytes:
    """Weights of 7 or 8 bits differ in values alone: one skeleton stands for both."""
    if model_format == "onnx":
        return quantise_for_timing(model, weight_bits=7)
    from milliseek.kernels.convert import quantise_tflite_for_timing

    return quantise_tflite_for_timing(model)


def collect(folder: Path, name: str, model_format: Format, precision: Precision, timeout_s: float) -> None:
    """Make one skeleton in a child process, which may crash or hang."""
    path = skeleton_path(folder, name, model_format, precision)
    failed = path.with_suffix(".failed")
    if path.exists() or failed.exists():
        return
    command = [sys.executable, __file__, str(folder), "--one", name, model_format, precision]
    try:
        child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
        reason = (child.stderr.strip().splitlines() or ["killed"])[-1] if child.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"longer than {timeout_s:g} s"
    if reason:
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(reason)
    print(model_format, precision, name, reason or "ok", flush=True)


def pack(folder: Path, model_format: Format, precision: Precision) -> None:
    """Write the archive of one format and precision, the same bytes for the same skeletons."""
    found = [(f"{family}/{name}", skeleton_path(folder, name, model_format, precision)) for family, name in NETWORKS]
    archive_path = PRIOR / f"{model_format}_{precision}.zip"
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_LZMA) as archive:
        for name, path in found:
            if path.exists():
                archive.writestr(zipfile.ZipInfo(f"{name}.{model_format}"), path.read_bytes(), zipfile.ZIP_LZMA)
        print(archive_path.name, len(archive.namelist()), "networks", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for exported files and skeletons; several GB")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one network")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        make_skeleton(options.folder, *options.one)
        return
    for model_format in options.formats:
        for precision in options.precisions:
            for _, name in NETWORKS:
                collect(options.folder, name, model_format, precision, options.timeout)
            pack(options.folder, model_format, precision)


if __name__ == "__main__":
    main()
