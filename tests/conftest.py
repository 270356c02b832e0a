"""A predictor fitted on made-up measurements, and tables of made-up phones, for tests that measure nothing."""

from __future__ import annotations

import gzip
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from milliseek.db.engine import Database
    from milliseek.kernels.kernel import Kernel
    from milliseek.predictors.models.predictor import Predictor

# A shell's background jobs inherit that ctrl-C is ignored, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

WIDTHS = (256, 512, 768, 1024)
FAMILIES = ("plain", "residual", "mobile", "shuffle")
Graph = list[dict[str, Any]]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of public measurements that golden tests read, named by MILLISEEK_DATA."""
    folder = os.environ.get("MILLISEEK_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MILLISEEK_DATA names no folder of public measurements")
    return Path(folder)


class Phones:
    """Made-up devices that pay for kernels, multiply-accumulates and elements moved, and small networks for them."""

    COSTS: ClassVar = {"phone": (0.02, 1e-7, 1e-6), "tablet": (0.01, 6e-8, 9e-7), "board": (0.03, 4e-7, 2e-6)}
    """Milliseconds of a kernel, of a multiply-accumulate (depthwise: three times that), of an element."""

    @classmethod
    def kernel_ms(cls, device: str, kernel: Kernel) -> float:
        """What a kernel takes there."""
        from milliseek.kernels.costs import input_bytes, is_view, macs, output_bytes

        call, product, element = cls.COSTS[device]
        if is_view(kernel):
            return 0.0
        moved = (input_bytes(kernel) + output_bytes(kernel)) / 4
        return call + product * (1 + 2 * kernel.is_depthwise) * macs(kernel) + element * moved

    @classmethod
    def latency_ms(cls, device: str, graph: Graph) -> float:
        """What a network takes there, fused as on CPUs."""
        from milliseek.kernels.operators.fusion import fused
        from milliseek.kernels.operators.graph_json import read_graph

        return sum(cls.kernel_ms(device, kernel) for kernel in fused(read_graph(graph), "operators"))

    @staticmethod
    def network(family: str, depth: int, width: int, size: int = 32) -> Graph:
        """Of the family `plain`, `residual`, `mobile` or `shuffle`."""
        graph: Graph = [{"op": "input", "inp": [], "out": [1, size, size, 3]}]

        def add(op: str, out: int, *inputs: int, **more: Any) -> int:
            graph.append({"op": op, "inp": list(inputs), "out": [1, size, size, out] if size else [1, out], **more})
            return len(graph) - 1

        def unit(op: str, x: int, out: int, ks: int) -> int:
            return add("relu", out, add("bn", out, add(op, out, x, ks=ks, stride=1)))

        x = unit("conv", 0, width, 3)
        for stage in range(depth):
            if family == "plain":
                y = unit("conv", x, width, 3)
                width += 8 * (stage % 2)
                x = unit("conv", y, width, 1)
            elif family == "residual":
                x = add("relu", width, add("add", width, x, unit("conv", unit("conv", x, width, 1), width, 3)))
            elif family == "mobile":
                y = unit("dwconv", unit("conv", x, 2 * width, 1), 2 * width, 3)
                x = add("add", width, x, unit("conv", y, width, 1))
            else:
                y = unit("dwconv", unit("conv", x, width, 1), width, 3)
                width *= 2
                x = add("concat", width, x, y)
            if stage % 2 and size > 8:
                size //= 2
                x = add("maxpool", width, x, ks=2, stride=2)
        size = 0
        add("fc", 10, add("gap", width, x))
        return graph

    @classmethod
    def rows(cls, devices: Sequence[str] = ("phone",), families: Sequence[str] = FAMILIES) -> list[dict[str, Any]]:
        """Fifteen networks of each family as rows of a table, in milliseconds by device."""
        rows = []
        for family in families:
            for i in range(15):
                graph = cls.network(family, 2 + i % 3, 8 + 4 * (i // 3), 48 if i % 2 else 32)
                latency_ms = {device: cls.latency_ms(device, graph) for device in devices}
                rows.append({"id": f"{family}_{i}", "family": family, "latency_ms": latency_ms, "graph": graph})
        return rows

    @staticmethod
    def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
        """The rows as JSON lines, gzip if the name says so."""
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)
        return path


@pytest.fixture(scope="session")
def phones() -> type[Phones]:
    return Phones


@pytest.fixture(scope="session")
def made_up() -> Predictor:
    """fp32 matrix products of this machine that take 1 us and 0.1 us per 1000 products, and a report about them."""
    import numpy as np

    from milliseek.devices.facts import local_facts
    from milliseek.kernels.kernel import Kernel, TensorSpec
    from milliseek.predictors.models import report
    from milliseek.predictors.models.correction import Correction
    from milliseek.predictors.models.kernel_model import fit_kernel_model
    from milliseek.predictors.models.predictor import Predictor
    from milliseek.predictors.profiles.drift import select_references

    def gemm(cin: int, cout: int) -> Kernel:
        weights, bias = (TensorSpec(shape, "float32", constant=True) for shape in ((cout, cin), (cout,)))
        inputs = (TensorSpec((1, cin), "float32"), weights, bias)
        return Kernel("", "Gemm", (("transB", 1),), inputs, (TensorSpec((1, cout), "float32"),), opset=13)

    measured = {gemm(cin, cout): 1e-3 + 1e-7 * cin * cout for cin in WIDTHS for cout in WIDTHS}
    errors = np.random.default_rng(0).normal(0, 0.05, 40)
    told = report.Report(
        kernels=tuple(
            report.TestedKernel(
                f"{i:064x}", "Gemm" if i % 4 else "Softmax", 0.01 * (i + 1), 0.01 * (i + 1) * (1 + error)
            )
            for i, error in enumerate(errors)
        ),
        networks=tuple(report.TestedNetwork(f"net{i}", 2.0 + i, (2.0 + i) * (1 + errors[i])) for i in range(6)),
        curve=tuple(report.CurvePoint(10.0 * i, 50 * i, 0.1 * i, min(1.0, 0.15 * i)) for i in range(1, 7)),
        references=select_references(measured, count=4),
    )
    return Predictor(
        f"{local_facts().id}/onnxruntime/fp32",
        "1.0.0",
        fit_kernel_model(list(measured), np.array(list(measured.values()))),
        Correction(1.02, 0.002, 0.03, 0.004, 2.0, 0.02, (0.01, -0.02)),
        told,
    )


@pytest.fixture(scope="session")
def keep() -> Callable[[Database, Predictor], str]:
    """Store a predictor of this machine as the next version of its target; returns `TARGET@VERSION`."""

    def store(database: Database, predictor: Predictor) -> str:
        from milliseek.db.artefacts import save_artefact
        from milliseek.db.predictors import add_predictor
        from milliseek.predictors.models.predictor import to_bytes
        from milliseek.predictors.targets import device_target

        target = device_target(database, predictor.target)
        held_out: dict[str, Any] = predictor.report.figures(predictor.correction)
        with database.session() as session:
            row = add_predictor(
                session,
                target.row_id,
                runtime_version=predictor.runtime_version,
                artefact_sha256=save_artefact(session, database.artefacts, to_bytes(predictor), "predictor"),
                held_out={**held_out["held_out_kernels"], "networks": held_out["held_out_networks"]},
                kernels=16,
                networks=6,
            )
            return f"{target.name}@{row.version}"

    return store


@pytest.fixture
def home(tmp_path: Path, made_up: Predictor, keep: Callable[[Database, Predictor], str]) -> Path:
    """A MILLISEEK_HOME whose database holds the made-up predictor."""
    from milliseek.db.engine import Database

    folder = tmp_path / "home"
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    keep(database, made_up)
    database.close()
    return folder


def _postgres_programs() -> Path | None:
    """The folder of initdb, pg_ctl and postgres, the newest if there are several."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((path.parent for path in versions), key=lambda path: float(path.parts[-2]), default=None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database on a throwaway PostgreSQL, reached over a socket in a folder of its own.

    MILLISEEK_TEST_POSTGRES names a database on another server instead, made for this: the tests drop what is in its
    schema `public`. Where there is no PostgreSQL they are skipped, or fail if MILLISEEK_TEST_POSTGRES is `required`.
    """
    given = os.environ.get("MILLISEEK_TEST_POSTGRES", "")
    if given not in ("", "required"):
        yield given
        return
    if (programs := _postgres_programs()) is None:
        (pytest.fail if given else pytest.skip)("no PostgreSQL here; on Debian or Ubuntu: apt install postgresql")
    folder = tempfile.mkdtemp(prefix="milliseek-postgres-")  # not pytest's, which other accounts cannot enter
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [programs / program, "-D", f"{folder}/data", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **account)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    # Ends the server when its input closes, even if that is because these tests were killed.
    end = 'read -r _; "$0/pg_ctl" -D "$1/data" -m immediate -s stop; rm -rf "$1"'
    watch = ["sh", "-c", end, programs, folder]
    with subprocess.Popen(watch, stdin=subprocess.PIPE, cwd="/", start_new_session=True, **account):
        run("initdb", "--username=milliseek", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = "-c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
        run("pg_ctl", "--wait", f"--log={folder}/log", f"--options=-k {folder} {settings}", "start")
        yield f"postgresql://milliseek@/postgres?host={folder}"


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty PostgreSQL database."""
    from sqlalchemy import create_engine, text

    engine = create_engine(postgres_server.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_server
