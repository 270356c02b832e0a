"""Where things are kept, and which environment variables change that."""

from __future__ import annotations

import os
from pathlib import Path

DB_VARIABLE = "MILLISEEK_DB"
HOME_VARIABLE = "MILLISEEK_HOME"
SERVER_VARIABLE = "MILLISEEK_SERVER"


def data_dir() -> Path:
    """Folder of the default database and of the artefacts: MILLISEEK_HOME, else the platform's user data folder."""
    if configured := os.environ.get(HOME_VARIABLE):
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("milliseek"))


def database_url(option: str | None = None) -> str:
    """SQLAlchemy URL from the option `--db`, else MILLISEEK_DB, else SQLite in `data_dir()`.

    A value without `://` is taken as the path of a SQLite file.
    """
    value = option or os.environ.get(DB_VARIABLE) or str(data_dir() / "milliseek.db")
    return value if "://" in value else f"sqlite:///{Path(value).expanduser().absolute()}"


def server_address(option: str | None = None) -> str | None:
    """`host:port` of a running latency service: `--server`, else MILLISEEK_SERVER, else None (one is started)."""
    return option or os.environ.get(SERVER_VARIABLE)
