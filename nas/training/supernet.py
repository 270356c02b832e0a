"""The supernet: shared weights and quantisers of all subnets of a space."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InvalidInput
from ...spaces.elastic import FLOAT, ElasticLayers, ElasticNetwork, Numerics, Statistics
from ...spaces.space import Space, Subnet
from ..pictures.data import resize
from .fake_quant import ActivationSampler, FakeQuantisation


class Supernet:
    """Trained shared parameters of a space: `elastic` weights and, once they exist, `quantisation`.

    With `only` they are those of this subnet alone, in its own shapes, and no other subnet can be taken from them.
    """

    def __init__(self, space: Space, classes: int, weight_bits: int, seed: int = 0, only: Subnet | None = None) -> None:
        self.space = space
        self.classes = classes
        self.only = only
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.elastic: ElasticLayers = (
                ElasticLayers({layer.name: layer for layer in only.network(classes).layers})
                if only
                else ElasticNetwork(space, classes)
            )
        self.quantisation = FakeQuantisation(self.elastic.layers, weight_bits)
        self.quantised = False

    @property
    def numerics(self) -> Numerics:
        """Fake quantisation once it has been started, floating point before."""
        return self.quantisation if self.quantised else FLOAT

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.elastic.parameters()).device

    def to(self, device: torch.device | str) -> Supernet:
        """This supernet, moved there."""
        self.elastic.to(device)
        self.quantisation.to(device)
        return self

    def parameters(self) -> list[Tensor]:
        """All weights, then all scales and offsets, in one order."""
        return [*self.elastic.parameters(), *self.quantisation.parameters()]

    def logits(
        self, subnet: Subnet, x: Tensor, statistics: Statistics | None = None, drop: nn.Module | None = None
    ) -> Tensor:
        """Logits (batch, classes) of a subnet for normalised pictures of any size."""
        network, x = subnet.network(self.classes), x.to(self.device)
        output: Tensor = self.elastic(
            network, resize(x, subnet.resolution), self.numerics, statistics, drop or nn.Identity()
        )
        return output

    def state(self) -> dict[str, Any]:
        """Everything that `from_state` needs: tensors and plain values."""
        return {
            "space": self.space.encoding,
            "classes": self.classes,
            "only": self.only and self.only.genome,
            "weight_bits": self.quantisation.weight_bits,
            "quantised": self.quantised,
            "elastic": self.elastic.state_dict(),
            "quantisation": self.quantisation.state_dict(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Supernet:
        """Inverse of `state`."""
        only = Subnet.decode(f"{state['space']}:{state['only']}") if state["only"] else None
        supernet = cls(Space.decode(state["space"]), state["classes"], state["weight_bits"], only=only)
        supernet.elastic.load_state_dict(state["elastic"])
        supernet.quantisation.load_state_dict(state["quantisation"])
        supernet.quantised = state["quantised"]
        return supernet

    def to_bytes(self) -> bytes:
        """The supernet as a file that `from_bytes` reads without running code from it."""
        return to_file(self.state())

    @classmethod
    def from_bytes(cls, data: bytes) -> Supernet:
        """Inverse of `to_bytes`; raises InvalidInput for anything else."""
        return cls.from_state(from_file(data))


@torch.no_grad()
def start_quantisation(supernet: Supernet, subnets: Sequence[Subnet], batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Start all quantisers from the weights and from what these subnets show, each on one batch; then use them."""
    sampler = ActivationSampler()
    for subnet, (x, _) in zip(subnets, batches, strict=True):
        pictures = resize(x.to(supernet.device), subnet.resolution)
        supernet.elastic(subnet.network(supernet.classes), pictures, sampler)
    supernet.quantisation.start(supernet.elastic, sampler.samples())
    supernet.quantised = True


def to_file(state: dict[str, Any]) -> bytes:
    """Tensors and plain values as a file without code in it, the same bytes for the same values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_file(data: bytes) -> dict[str, Any]:
    """Inverse of `to_file`, with all tensors in main memory; raises InvalidInput for anything else."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InvalidInput(f"This is not a supernet file: {error}.", "Train the supernet again.") from error
    if not isinstance(state, dict):
        raise InvalidInput("This is not a supernet file.", "Train the supernet again.")
    return state
