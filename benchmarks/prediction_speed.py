"""Milliseconds to predict a file that was never seen, and again: in the service's process, and through the client."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import onnx
from common import report

from milliseek import config
from milliseek.client import Client
from milliseek.db.engine import Database
from milliseek.predictors.service import LatencyService
from milliseek.predictors.targets import device_target
from milliseek.rpc.server import InProcessServer
from milliseek.spaces.blocks import ONNXW_BLOCKS, BlockChoice
from milliseek.spaces.layers import Network, NetworkBuilder
from milliseek.spaces.onnx_network import network_model, random_parameters

STAGES = ((16, 1, 1), (24, 3, 2), (40, 4, 2), (80, 6, 2), (96, 8, 1), (120, 7, 2), (200, 2, 1))
"""Width, depth and stride: MobileNetV2 made longer, 200 nodes and less than 20 MB."""
MBV2 = next(block for block in ONNXW_BLOCKS if block.name == "mbv2")


def network() -> Network:
    builder = NetworkBuilder(224)
    x = builder.conv("stem", "input", 32, 3, 2, act="relu6")
    for s, (width, depth, stride) in enumerate(STAGES):
        for i in range(depth):
            choice = BlockChoice(width, 3, 6.0 if s else 1.0)
            x = MBV2.emit(builder, f"s{s}.{i}", x, choice, 1 if i else stride)
    x = builder.conv("head", x, 1280, act="relu6")
    builder.linear("classifier", builder.pool("pool", x), 1000)
    return builder.build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="local/onnxruntime/fp32", help="a profiled target")
    parser.add_argument("--file", help="an ONNX file instead of the one made up here")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--db")
    options = parser.parse_args()
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], str | object]) -> object:
        started = time.perf_counter()
        result = work()
        spent[name].append(1000 * (time.perf_counter() - started))
        return result

    model = Path(options.file).read_bytes() if options.file else _model()
    nodes = len(onnx.load_from_string(model).graph.node)
    database = Database.open(config.database_url(options.db))
    target = device_target(database, options.target).name
    with (
        LatencyService(database) as service,
        InProcessServer(service) as server,
        Client(server.address, timeout_s=600) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        client.predict(_another(model, 0), target)  # warms the worker
        for i in range(1, options.repeats + 1):
            new = _another(model, i)
            sha256 = str(timed("store", lambda new=new: service.store_model(new, "new.onnx")))  # type: ignore[misc]
            timed("predict_new", lambda sha256=sha256: service.predict_model(sha256, target))  # type: ignore[misc]
            spent["new"].append(spent["store"][-1] + spent["predict_new"][-1])
            timed("again", lambda sha256=sha256: service.predict_model(sha256, target))  # type: ignore[misc]
            path = Path(folder, "new.onnx")
            path.write_bytes(_another(model, -i))
            timed("client_new", lambda path=path: client.predict(path, target))  # type: ignore[misc]
            timed("client_again", lambda sha256=sha256: client.predict(sha256, target))  # type: ignore[misc]
    database.close()
    report(
        "prediction_speed",
        {
            "target": options.target,
            "nodes": nodes,
            "size_bytes": len(model),
            "repeats": options.repeats,
            **{f"{name}_ms": statistics.median(times) for name, times in spent.items()},
        },
    )


def _model() -> bytes:
    made = network()
    return network_model(made, random_parameters(made.layers), "fp32")


def _another(model: bytes, i: int) -> bytes:
    """The same network as a file that nobody has seen."""
    proto = onnx.ModelProto.FromString(model)
    onnx.helper.set_model_props(proto, {"copy": str(i)})
    return proto.SerializeToString()


if __name__ == "__main__":
    main()
