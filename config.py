"""Where things are kept, and which environment variables change that."""

from __future__ import annotations

import os
from pathlib import Path

DB_VARIABLE = "MILLISEEK_DB"
HOME_VARIABLE = "MILLISEEK_HOME"
SERVER_VARIABLE = "MILLISEEK_SERVER"
TOKEN_VARIABLE = "MILLISEEK_TOKEN"  # noqa: S105 - the name of a variable
CA_FILE_VARIABLE = "MILLISEEK_CA_FILE"


def data_dir() -> Path:
    """Folder of the default database and of the artefacts: MILLISEEK_HOME, else the platform's user data folder."""
    if configured := os.environ.get(HOME_VARIABLE):
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("milliseek"))


def cache_dir() -> Path:
    """Folder of what can be made again: `cache` in MILLISEEK_HOME, else the platform's user cache folder."""
    if configured := os.environ.get(HOME_VARIABLE):
        return Path(configured).expanduser() / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir("milliseek"))


def database_url(option: str | None = None) -> str:
    """SQLAlchemy URL from the option `--db`, else MILLISEEK_DB, else SQLite in `data_dir()`.

    A value without `://` is taken as the path of a SQLite file.
    """
    value = option or os.environ.get(DB_VARIABLE) or str(data_dir() / "milliseek.db")
    return value if "://" in value else f"sqlite:///{Path(value).expanduser().absolute()}"


def server_address(option: str | None = None) -> str | None:
    """`host:port` of a running latency service: `--server`, else MILLISEEK_SERVER, else None (one is started)."""
    return option or os.environ.get(SERVER_VARIABLE)


def token() -> str:
    """What tells a service who is asking: MILLISEEK_TOKEN, empty if it is not set."""
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def ca_file() -> str | None:
    """File of the certificates (PEM) that a service may show: MILLISEEK_CA_FILE, None if it is not set."""
    return os.environ.get(CA_FILE_VARIABLE) or None
