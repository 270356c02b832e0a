"""Servers and agents as processes that are killed and started again, and what surrounds them."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import psutil

from milliseek.predictors.networks.files import ModelForm, sample_networks
from milliseek.spaces.hyperspace import HYPERSPACES

from .conftest import command, environment

PATIENCE_S = 240.0


class Program:
    """One `milliseek` command that is started again whenever it was killed."""

    def __init__(self, home: Path, name: str, *arguments: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home.parent / f"{name}.log"
        self._home, self._arguments = home, arguments
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command(*self._arguments),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment(self._home),
                cwd=self._home.parent,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_child(self) -> None:
        """The process that measures, if there is one."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)


class Line:
    """A connection to a server that can go dead: what is sent over it vanishes, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.dead = threading.Event()
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with closing(near), suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            other = {near: far, far: near}
            while not self._over.is_set():
                for ready in select.select([near, far], [], [], 0.1)[0]:
                    if not (data := ready.recv(1 << 16)):
                        return
                    if not self.dead.is_set():
                        other[ready].sendall(data)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def small_model() -> bytes:
    form = ModelForm("onnx", "fp32", 8)
    ((_, model),) = sample_networks([HYPERSPACES["tiny32"]], 1, form, np.random.default_rng(0))
    return model.data
