"""The Python client of the service: predictions, devices and measurements. It needs the base installation only."""

from .aio import AsyncClient
from .endpoint import Endpoint
from .sync import Client

__all__ = ["AsyncClient", "Client", "Endpoint"]
