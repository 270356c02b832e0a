"""The command line as a user runs it: child processes, real files, a database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Milliseek = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MILLISEEK_")}
    return {**kept, "MILLISEEK_HOME": str(home), "COLUMNS": "80", "PYTHONSAFEPATH": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "milliseek", *map(str, arguments)]


@pytest.fixture
def milliseek(tmp_path: Path) -> Milliseek:
    """Run the command line with a home of its own; `home=` overrides it."""

    def run(*arguments: object, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=environment(home or tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


def answer(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object on stdout."""
    assert len(result.stdout.splitlines()) == 1, (result.stdout, result.stderr)
    found: dict[str, Any] = json.loads(result.stdout)
    return found
