"""A stand-in for adbd, the daemon on a phone: it speaks ADB's wire protocol over TCP, in a folder as its file system.

Only the phone is made up: the client and the server are the real program `adb`. Commands run in this machine's shell;
paths under /data, /sys and some under /proc are those of the folder, in what is asked and in what is answered.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_HEADER = struct.Struct("<6I")
_VERSION, _MAX_DATA = 0x01000001, 256 * 1024
_PLACES = re.compile(r"/(?:data|sys|proc/cpuinfo|proc/meminfo)\b")
_STDOUT, _STDERR, _EXIT = 1, 2, 3
_TOKEN, _PUBLIC_KEY = 1, 3

POLICIES = {"policy0": ("schedutil", 300000, 1803000), "policy4": ("sched_pixel", 500000, 2802000)}
"""Clusters of two cores: governor, lowest and highest frequency."""

_GETPROP = """\
[ro.build.fingerprint]: [google/oriole/oriole:14/AP2A:user/release-keys]
[ro.build.version.release]: [14]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 6]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor]
"""

FIXED = """\
INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.
INFO: count=50 first=200 curr=101 min=100 max=200 avg=110 std=5 p5=100 median=102 p95=150
INFO: Inference timings in us: Init: 1000, First inference: 200, Warmup (avg): 120, Inference (avg): 110
"""
"""What a benchmark_model prints."""


def fixed_program(path: Path, for_models: str = "") -> Path:
    """A benchmark_model that prints FIXED for probes, and for models unless `for_models` does something else."""
    path.write_text(f"#!/bin/sh\ncase \"$*\" in *.tflite*) {for_models or ':'} ;; esac\ncat <<'END'\n{FIXED}END\n")
    return path


class Phone:
    """The file system of a phone: `root` is its /. Its shell's user is not root; with `rooted` there is a `su`."""

    def __init__(
        self, root: Path, *, rooted: bool = False, cores: int | None = None, room_bytes: int = 1 << 40
    ) -> None:
        self.root = root
        self.room_bytes = room_bytes
        self.install("getprop", f"cat <<'END'\n{_GETPROP}END")
        self.install("id", "echo ${PHONE_USER:-2000}")
        self.install("uname", "echo aarch64")
        self.install("su", 'PHONE_USER=0 exec sh -c "$2"' if rooted else "echo 'su: denied' >&2; exit 1")
        cpus = cores or max(os.sched_getaffinity(0)) + 1
        self.write("/sys/devices/system/cpu/present", f"0-{cpus - 1}\n")
        for index in range(cpus):
            policy = "policy4" if index >= cpus // 2 else "policy0"
            self.write(f"/sys/devices/system/cpu/cpu{index}/cpufreq/cpuinfo_max_freq", f"{POLICIES[policy][2]}\n")
            self.write(f"/sys/devices/system/cpu/cpu{index}/cpufreq/scaling_cur_freq", "1200000\n")
        for policy, (governor, lowest, highest) in POLICIES.items():
            folder = f"/sys/devices/system/cpu/cpufreq/{policy}"
            self.write(f"{folder}/scaling_governor", f"{governor}\n")
            self.write(f"{folder}/scaling_min_freq", f"{lowest}\n")
            self.write(f"{folder}/scaling_max_freq", f"{highest}\n")
        for index, (kind, millidegrees) in enumerate({"BIG": 41500, "battery": 60000, "soc-therm": 39000}.items()):
            self.write(f"/sys/class/thermal/thermal_zone{index}/type", f"{kind}\n")
            self.write(f"/sys/class/thermal/thermal_zone{index}/temp", f"{millidegrees}\n")
        self.write("/proc/cpuinfo", "processor : 0\nFeatures : fp asimd asimdhp asimddp\nCPU part : 0xd44\n\n")
        self.write("/proc/meminfo", "MemTotal:        7714820 kB\nMemFree:  1000 kB\n")
        (root / "data/local/tmp").mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def clocks(self) -> dict[str, tuple[str, int]]:
        """Governor and lowest frequency of each cluster, now."""
        folder = self.root / "sys/devices/system/cpu/cpufreq"
        return {
            name: (
                (folder / name / "scaling_governor").read_text().strip(),
                int((folder / name / "scaling_min_freq").read_text()),
            )
            for name in POLICIES
        }

    def left_behind(self) -> list[str]:
        """What is in the place where programs may lie."""
        return sorted(str(path.relative_to(self.root)) for path in (self.root / "data/local/tmp").rglob("*"))

    def used_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.root / "data").rglob("*") if path.is_file())

    def run(self, command: str) -> subprocess.Popen[bytes]:
        """The phone's shell."""
        path = os.pathsep.join([str(self.root / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.Popen(
            ["sh", "-c", _PLACES.sub(lambda match: f"{self.root}{match[0]}", command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.root,
            env={**os.environ, "PATH": path, "PHONE_ROOT": str(self.root)},
        )

    def said(self, output: bytes) -> bytes:
        """What the shell printed, as it would be on the phone."""
        return output.replace(str(self.root).encode(), b"")

    def install(self, name: str, script: str) -> None:
        """Make a command of its shell."""
        self.write(f"/bin/{name}", f"#!/bin/sh\n{script}\n")
        (self.root / "bin" / name).chmod(0o755)


class Adbd:
    """A context manager around a listening daemon for one `phone`; `address` is what `adb connect` takes.

    `features` are what it announces: shell_v2 (exit codes, two streams), stat_v2. `state` may be unauthorized: then it
    never trusts. A command that contains `cut_at` ends the connection for good in its middle.
    """

    def __init__(
        self,
        phone: Phone,
        features: Sequence[str] = ("shell_v2", "stat_v2"),
        *,
        state: str = "device",
        cut_at: str = "",
        port: int = 0,
    ) -> None:
        self.phone, self.features, self.state, self.cut_at = phone, features, state, cut_at
        self.commands: list[str] = []
        self.pushed: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Adbd:
        self.start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def unplug(self) -> None:
        """End all connections, and take no other."""
        for end in (self._listener, *self._connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def start(self, call: Callable[..., None], *arguments: object) -> None:
        """Run something beside; it is waited for at the end."""
        thread = threading.Thread(target=call, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(connection)
                self.start(_Connection(self, connection).serve)


class _Connection:
    """One TCP connection: messages of a header of six numbers and a payload, in streams."""

    def __init__(self, adbd: Adbd, connection: socket.socket) -> None:
        self.adbd, self._socket = adbd, connection
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def serve(self) -> None:
        try:
            while True:
                command, first, second, size, _, magic = _HEADER.unpack(self._receive(_HEADER.size))
                assert magic == command ^ 0xFFFFFFFF
                self._take(command.to_bytes(4, "little"), first, second, self._receive(size))
        except (OSError, EOFError):
            pass
        finally:
            self._socket.close()
            for stream in self._streams.values():
                stream.end()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        header = _HEADER.pack(number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        with self._sending:
            self._socket.sendall(header + data)

    def _take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command in (b"CNXN", b"AUTH") and self.adbd.state == "unauthorized":
            if first != _PUBLIC_KEY:  # no signature is good enough; the key itself would need a finger on the screen
                self.send(b"AUTH", _TOKEN, 0, bytes(20))
        elif command == b"CNXN":
            told = f"device::ro.product.name=oriole;features={','.join(self.adbd.features)}"
            self.send(b"CNXN", _VERSION, _MAX_DATA, told.encode())
        elif command == b"OPEN":
            stream = self._streams[first] = _Stream(self, first)
            self.send(b"OKAY", first, first)
            self.adbd.start(stream.serve, data.rstrip(b"\0").decode())
        elif stream := self._streams.get(second):
            if command == b"WRTE":
                stream.feed(data)
                self.send(b"OKAY", second, first)
            elif command == b"OKAY":
                stream.ready.set()
            elif command == b"CLSE":
                stream.end()
                del self._streams[second]

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class _Stream:
    """A service that the client opened; its number is the client's."""

    def __init__(self, connection: _Connection, number: int) -> None:
        self._connection, self._number = connection, number
        self._adbd, self._phone = connection.adbd, connection.adbd.phone
        self._buffer, self._arrived = bytearray(), threading.Condition()
        self._ended = False
        self.ready = threading.Event()

    def serve(self, service: str) -> None:
        name, _, rest = service.partition(":")
        with suppress(OSError, EOFError):
            if name.startswith("shell"):
                self._shell(rest, framed="v2" in name.split(","))
            elif name == "sync":
                self._sync()
            self._connection.send(b"CLSE", self._number, self._number)

    def feed(self, data: bytes) -> None:
        with self._arrived:
            self._buffer += data
            self._arrived.notify()

    def end(self) -> None:
        with self._arrived:
            self._ended = True
            self._arrived.notify()
        self.ready.set()

    def _write(self, data: bytes) -> None:
        """Send, and wait until the client takes more."""
        for start in range(0, len(data), _MAX_DATA):
            self.ready.clear()
            if self._ended:
                raise EOFError
            self._connection.send(b"WRTE", self._number, self._number, data[start : start + _MAX_DATA])
            self.ready.wait()

    def _read(self, size: int) -> bytes:
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._buffer) >= size or self._ended)
            if len(self._buffer) < size:
                raise EOFError
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return data

    def _shell(self, command: str, *, framed: bool) -> None:
        self._adbd.commands.append(command)
        process = self._phone.run(command)
        if self._adbd.cut_at and self._adbd.cut_at in command:
            self._adbd.unplug()
        out, err = map(self._phone.said, process.communicate())
        if not framed:  # one terminal for both, with its line ends
            self._write((out + err).replace(b"\n", b"\r\n"))
            return
        for kind, data in ((_STDOUT, out), (_STDERR, err)):
            if data:
                self._write(struct.pack("<BI", kind, len(data)) + data)
        self._write(struct.pack("<BIB", _EXIT, 1, process.returncode % 256))

    def _sync(self) -> None:
        while True:
            kind, size = struct.unpack("<4sI", self._read(8))
            if kind == b"QUIT":
                return
            self._answer(kind, self._read(size).decode())

    def _answer(self, kind: bytes, path: str) -> None:
        if kind in (b"STAT", b"LST2", b"STA2"):
            file = self._file(path)
            stat = file.stat() if file.exists() else os.stat_result([0] * 10)
            if kind == b"STAT":
                self._write(struct.pack("<4s3I", kind, stat.st_mode, stat.st_size, int(stat.st_mtime)))
            else:
                numbers = (0, 0, stat.st_mode, 1, 0, 0, stat.st_size, 0, 0, 0)
                self._write(struct.pack("<4sIQQ4IQ3q", kind, 0 if stat.st_mode else 2, *numbers))
        elif kind == b"SEND":
            self._receive_file(self._file(path.rpartition(",")[0]))
        else:
            self._fail(f"unknown request {kind!r}")

    def _receive_file(self, file: Path) -> None:
        self._adbd.pushed.append(file.name)
        if not file.parent.is_dir():
            list(self._parts())
            self._fail("couldn't create file: No such file or directory")
            return
        room = self._phone.room_bytes - self._phone.used_bytes()
        written = 0
        with file.open("wb") as opened:
            for part in self._parts():
                written += len(part)
                opened.write(part[: max(0, room)])
        if written > room:
            file.unlink()
            self._fail("write failed: No space left on device")
        else:
            self._write(struct.pack("<4sI", b"OKAY", 0))

    def _parts(self) -> Iterator[bytes]:
        while True:
            kind, size = struct.unpack("<4sI", self._read(8))
            if kind == b"DONE":
                return
            yield self._read(size)

    def _fail(self, reason: str) -> None:
        self._write(struct.pack("<4sI", b"FAIL", len(reason)) + reason.encode())

    def _file(self, path: str) -> Path:
        return self._phone.root / path.lstrip("/")


class AdbServer:
    """A context manager around an adb server of our own: its port, keys and log are nobody else's."""

    def __init__(self, home: Path) -> None:
        self.port = self.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}

    def __enter__(self) -> AdbServer:
        self.adb("start-server")
        return self

    def __exit__(self, *_: object) -> None:
        self.adb("kill-server")

    @staticmethod
    def free_port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as end:
            return int(end.getsockname()[1])

    def adb(self, *arguments: str) -> str:
        command = ["adb", "-P", str(self.port), *arguments]
        return subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    @contextmanager
    def connected(self, adbd: Adbd, state: str = "device") -> Iterator[str]:
        """The serial number of a phone that this server knows, once it is in `state`."""
        command = ["adb", "-P", str(self.port), "connect", adbd.address]
        with subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as connecting:
            end = time.monotonic() + 30
            while f"{adbd.address}\t{state}\n" not in self.adb("devices"):
                assert time.monotonic() < end, self.adb("devices")
                time.sleep(0.01)
            connecting.kill()  # waits ten seconds for a phone that does not trust us
        yield adbd.address
        if adbd.address in self.adb("devices"):
            self.adb("disconnect", adbd.address)
