"""A phone behind the program `adb`: copying to it, running commands on it, and what goes wrong in words."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from ...errors import InvalidInput, NotReady

_END = "milliseek-exit-code:"
"""Old phones send no exit codes, and a broken connection looks like the end of the output: so commands tell both."""

_REPLUG = "Plug it in again, or run `adb reconnect`; `adb devices` must list it as 'device'."
_PROBLEMS = (
    (r"unauthorized|authorizing", "does not trust this computer yet", "Unlock it and accept USB debugging."),
    (r"no permissions|insufficient permissions", "may not be used by this user", "See `adb devices` for the reason."),
    (r"device offline|still connecting", "is offline", _REPLUG),
    (
        r"device '.*' not found|no devices",
        "is not connected",
        "Plug it in and switch on USB debugging, or run `adb connect HOST:PORT`; `adb devices` must list it.",
    ),
    (
        r"cannot connect to daemon|failed to check server version|could(n't| not) connect|Connection refused",
        "is out of reach: the adb server does not answer",
        "Start it with `adb start-server`, or check --adb-server.",
    ),
)
"""What adb prints, what it says about the phone, and what helps."""


class ShellResult(NamedTuple):
    """What a command printed, on both streams, and its exit code."""

    output: str
    code: int


class Adb:
    """One phone by its serial number; `server` is the host:port of an adb server, by default adb's own choice.

    Every method raises NotReady when the phone or adb cannot be used now: absent, not authorised, offline, gone in the
    middle, silent for longer than its time limit. Not safe to call from several threads, but for `interrupt`.
    """

    def __init__(self, serial: str, server: str | None = None) -> None:
        self.serial = serial
        self._command = ["adb"]
        if server is not None:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit():
                raise InvalidInput(f"'{server}' is no adb server.", "Write host:port, such as 127.0.0.1:5037.")
            self._command += ["-H", host, "-P", port]
        self._command += ["-s", serial]
        self._process: subprocess.Popen[str] | None = None

    def shell(self, command: str, time_limit_s: float = 30.0) -> ShellResult:
        """Run a command line of the phone's shell; its failure is an exit code, no error."""
        told, trouble, _ = self._call(["shell", f"{{ {command}\n}} 2>&1; echo {_END}$?"], time_limit_s)
        output, end, code = told.replace("\r\n", "\n").rpartition(_END)
        if not end or not code.strip().isdigit():
            raise self._problem(trouble)
        return ShellResult(output, int(code))

    def push(self, source: Path, destination: str, time_limit_s: float = 300.0) -> str | None:
        """Copy a file to the phone; returns why the phone refused it, None if it did not."""
        told, trouble, code = self._call(["push", str(source), destination], time_limit_s)
        if code == 0:
            return None
        refusal = next((line for line in (told + trouble).splitlines() if ": remote " in line), None)
        if refusal is None:
            raise self._problem(told + trouble)
        return refusal.rpartition(": ")[2][:300]

    def interrupt(self) -> None:
        """End the call that is under way in another thread; it raises NotReady."""
        if process := self._process:
            process.kill()

    def _call(self, arguments: list[str], time_limit_s: float) -> tuple[str, str, int]:
        try:
            # A session of its own: ctrl-C reaches this process alone, which then cleans up.
            self._process = subprocess.Popen(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NotReady(
                "The program 'adb' is not installed.",
                "On Debian or Ubuntu: apt install adb. Elsewhere: Android's SDK Platform Tools.",
            ) from error
        with self._process as process:
            try:
                told, trouble = process.communicate(timeout=time_limit_s)
            except subprocess.TimeoutExpired as error:
                raise NotReady(f"The phone '{self.serial}' has been silent for {time_limit_s:g} s.", _REPLUG) from error
            finally:
                self._process = None
                process.kill()
        return told, trouble, process.returncode

    def _problem(self, trouble: str) -> NotReady:
        for pattern, sentence, remedy in _PROBLEMS:
            if re.search(pattern, trouble):
                return NotReady(f"The phone '{self.serial}' {sentence}.", remedy)
        errors = (line.rpartition("error: ")[2] for line in trouble.splitlines() if "error: " in line)
        reason = next(errors, "the connection broke")[:300]
        return NotReady(f"The phone '{self.serial}' does not answer: {reason}.", _REPLUG)
