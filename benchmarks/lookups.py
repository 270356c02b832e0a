"""Subnet latencies a second from a latency table: in process, and through the service's stream."""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from common import report

from milliseek import config
from milliseek.client import Client
from milliseek.db.engine import Database
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.predictors.service import LatencyService
from milliseek.predictors.targets import device_target
from milliseek.rpc.server import InProcessServer
from milliseek.spaces.codes import encode_genes
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, random_subnet


def rate(work: object, count: int, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()  # type: ignore[operator]
        seconds.append(time.perf_counter() - started)
    return count / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="local/onnxruntime/int8", help="a profiled target")
    parser.add_argument("--space", default="tiny32-1515-1111")
    parser.add_argument("--subnets", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--db")
    options = parser.parse_args()
    database = Database.open(config.database_url(options.db))
    target = device_target(database, options.target).name
    space = Space.decode(options.space)
    rng = np.random.default_rng(0)
    genes = encode_genes([random_subnet(space, rng) for _ in range(2000)])
    genes = np.tile(genes, (options.subnets // 2000, 1))
    subnet = random_subnet(space, rng)
    network = subnet.network(10)
    model = network_model(network, random_parameters(network.layers), "int8")
    with (
        LatencyService(database) as service,
        InProcessServer(service) as server,
        Client(server.address, timeout_s=600) as client,
    ):
        lookup = LatencyLookup(client.latency_table(options.space, target))
        sha256 = client.upload(model)
        client.predict(sha256, target)
        figures = {
            "subnets_per_second_in_process": rate(lambda: lookup.subnets_ms(space, genes), len(genes), options.repeats),
            "subnets_per_second_service": rate(
                lambda: client.predict_subnets(options.space, target, genes), len(genes), options.repeats
            ),
            "known_model_predictions_per_second": rate(
                lambda: [client.predict(sha256, target) for _ in range(200)], 200, options.repeats
            ),
        }
    database.close()
    report("lookups", {"target": options.target, "space": options.space, **figures})


if __name__ == "__main__":
    main()
