"""The supernet: shared weights and quantisers of all subnets of a space, and their training.

Sandwich training (BigNAS, AlphaNet): every step adds up the gradients of the largest subnet, which learns from the
labels, of two random ones and of the smallest, which learn from the largest and, in short trainings, from the labels
too. First in floating point, then with LSQ+
fake quantisation at a tenth of the learning rate (SpaceEvo, section 4).
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InvalidInput
from ..spaces.elastic import FLOAT, ElasticNetwork, Numerics, Statistics
from ..spaces.space import Space, Subnet, extreme_subnet, random_subnet
from .budget import Budget, Meter, cosine
from .data import Batches, Pictures, resize
from .fake_quant import ActivationSampler, FakeQuantisation
from .losses import adaptive_alpha_divergence

CALIBRATION_SUBNETS = 8


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained; the learning rate is for the batch as it is.

    `label_share` of the smaller subnets' loss is cross-entropy on the labels: in a training of a few hundred steps the
    largest subnet has nothing to teach for the first third. 0 is AlphaNet's recipe.
    """

    float_budget: Budget
    quantised_budget: Budget
    weight_bits: int = 8
    batch: int = 16
    learning_rate: float = 0.1
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    dropout: float = 0.2
    random_subnets: int = 2
    label_share: float = 0.5
    seed: int = 0


class Supernet:
    """Trained shared parameters of a space: `elastic` weights and, once they exist, `quantisation`."""

    def __init__(self, space: Space, classes: int, weight_bits: int, seed: int = 0) -> None:
        self.space = space
        self.classes = classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.elastic = ElasticNetwork(space, classes)
        self.quantisation = FakeQuantisation(self.elastic.layers, weight_bits)
        self.quantised = False

    @property
    def numerics(self) -> Numerics:
        """Fake quantisation once it has been started, floating point before."""
        return self.quantisation if self.quantised else FLOAT

    def logits(
        self, subnet: Subnet, x: Tensor, statistics: Statistics | None = None, drop: nn.Module | None = None
    ) -> Tensor:
        """Logits (batch, classes) of a subnet for normalised pictures of any size."""
        network = subnet.network(self.classes)
        output: Tensor = self.elastic(
            network, resize(x, subnet.resolution), self.numerics, statistics, drop or nn.Identity()
        )
        return output

    def state(self) -> dict[str, Any]:
        """Everything that `from_state` needs: tensors and plain values."""
        return {
            "space": self.space.encoding,
            "classes": self.classes,
            "weight_bits": self.quantisation.weight_bits,
            "quantised": self.quantised,
            "elastic": self.elastic.state_dict(),
            "quantisation": self.quantisation.state_dict(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Supernet:
        """Inverse of `state`."""
        supernet = cls(Space.decode(state["space"]), state["classes"], state["weight_bits"])
        supernet.elastic.load_state_dict(state["elastic"])
        supernet.quantisation.load_state_dict(state["quantisation"])
        supernet.quantised = state["quantised"]
        return supernet

    def to_bytes(self) -> bytes:
        """The supernet as a file that `from_bytes` reads without running code from it."""
        return _save(self.state())

    @classmethod
    def from_bytes(cls, data: bytes) -> Supernet:
        """Inverse of `to_bytes`; raises InvalidInput for anything else."""
        return cls.from_state(_load(data))


@torch.no_grad()
def start_quantisation(supernet: Supernet, subnets: Sequence[Subnet], batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Start all quantisers from the weights and from what these subnets show, each on one batch; then use them."""
    sampler = ActivationSampler()
    for subnet, (x, _) in zip(subnets, batches, strict=True):
        supernet.elastic(subnet.network(supernet.classes), resize(x, subnet.resolution), sampler)
    supernet.quantisation.start(supernet.elastic, sampler.samples())
    supernet.quantised = True


class _SeededDropout(nn.Module):
    """Dropout whose mask depends on the seed alone, so that a resumed training draws the same one."""

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self._share = share
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand(x.shape, generator=self._generator) >= self._share
        return x * kept / (1 - self._share)


@dataclass(frozen=True)
class StepReport:
    """What a training step says: its phase, the largest subnet's loss and accuracy on the batch, seconds."""

    quantised: bool
    loss: float
    top1: float
    seconds: float


@dataclass
class SupernetTraining:
    """A training that can stop after any step and go on elsewhere: `state()` holds all of it.

    Batches, subnets and dropout are functions of the seed and the step, so a training resumed from its state equals one
    that was never interrupted wherever budgets are given in steps.
    """

    space: Space
    pictures: Pictures
    recipe: Recipe
    supernet: Supernet = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.supernet = Supernet(self.space, len(self.pictures.classes), recipe.weight_bits, recipe.seed)
        self._meters = (Meter(recipe.float_budget), Meter(recipe.quantised_budget))
        self._batches = Batches(self.pictures, recipe.batch, recipe.seed)
        self._extremes = tuple(extreme_subnet(self.space, largest=largest) for largest in (True, False))
        self._optimiser = self._make_optimiser()

    @property
    def steps(self) -> int:
        """Steps taken."""
        return sum(meter.steps for meter in self._meters)

    @property
    def seconds(self) -> float:
        """Seconds spent in steps, over all sessions."""
        return sum(meter.seconds for meter in self._meters)

    @property
    def progress(self) -> float:
        """0 to 1, each phase in proportion to its budget."""
        floating, quantised = self.recipe.float_budget, self.recipe.quantised_budget
        parts = (floating.seconds, quantised.seconds)
        if parts[0] is None or parts[1] is None:
            parts = (floating.steps, quantised.steps)
        shares = (1.0, 1.0) if parts[0] is None or parts[1] is None else (float(parts[0]), float(parts[1]))
        done = sum(share * meter.fraction for share, meter in zip(shares, self._meters, strict=True))
        return done / max(1e-9, sum(shares))

    @property
    def finished(self) -> bool:
        """Whether both budgets are spent."""
        return all(meter.spent for meter in self._meters)

    def step(self) -> StepReport:
        """One sandwich step of the phase that is due; the first one of the second phase starts the quantisers."""
        started = time.monotonic()
        recipe, supernet, step = self.recipe, self.supernet, self.steps
        if self._meters[0].spent and not supernet.quantised:
            self._start_quantisation()
        meter = self._meters[int(supernet.quantised)]
        rate = recipe.learning_rate * (0.1 if supernet.quantised else 1.0) * cosine(meter.fraction)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        x, labels = self._batches.at(step)
        self._optimiser.zero_grad()
        loss, top1 = self._sandwich(x, labels, step)
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_value_(parameters, 1.0)
        self._optimiser.step()
        if supernet.quantised:
            supernet.quantisation.constrain()
        seconds = time.monotonic() - started
        meter.count(seconds)
        return StepReport(supernet.quantised, loss, top1, seconds)

    def _sandwich(self, x: Tensor, labels: Tensor, step: int) -> tuple[float, float]:
        recipe, supernet = self.recipe, self.supernet
        largest, smallest = self._extremes
        rng = np.random.default_rng((recipe.seed, 2, step))
        drop = _SeededDropout(recipe.dropout, recipe.seed * 1_000_003 + step)
        logits = supernet.logits(largest, x, drop=drop)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss.backward()
        soft = logits.detach()
        drawn = [random_subnet(self.space, rng) for _ in range(recipe.random_subnets)]
        for subnet in (*drawn, smallest):
            output = supernet.logits(subnet, x)
            distance = adaptive_alpha_divergence(output, soft)
            if recipe.label_share:
                hard = F.cross_entropy(output, labels, label_smoothing=recipe.label_smoothing)
                distance = torch.lerp(distance, hard, recipe.label_share)
            distance.backward()
        return float(loss.detach()), float((soft.argmax(1) == labels).float().mean())

    def _start_quantisation(self) -> None:
        rng = np.random.default_rng((self.recipe.seed, 3))
        drawn = [random_subnet(self.space, rng) for _ in range(CALIBRATION_SUBNETS)]
        subnets = (*self._extremes, *drawn)
        start_quantisation(self.supernet, subnets, [self._batches.at(i) for i in range(len(subnets))])
        self._optimiser = self._make_optimiser()

    def _make_optimiser(self) -> torch.optim.SGD:
        named = list(self.supernet.elastic.named_parameters())
        decayed = [p for name, p in named if name.endswith("weight")]
        plain = [p for name, p in named if not name.endswith("weight")]
        if self.supernet.quantised:
            plain += [p for p in self.supernet.quantisation.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": plain},
        ]
        return torch.optim.SGD(groups, self.recipe.learning_rate, momentum=0.9, nesterov=True)

    def state(self) -> bytes:
        """Everything needed to go on, as a file without code in it."""
        return _save(
            {
                "supernet": self.supernet.state(),
                "optimiser": self._optimiser.state_dict(),
                "recipe": asdict(self.recipe),
                "spent": [(meter.steps, meter.seconds) for meter in self._meters],
                "pictures": self.pictures.fingerprint,
            }
        )

    @classmethod
    def from_state(cls, data: bytes, pictures: Pictures) -> SupernetTraining:
        """Inverse of `state`; raises InvalidInput for other data or other pictures."""
        state = _load(data)
        if state["pictures"] != pictures.fingerprint:
            raise InvalidInput(
                "The supernet was trained on other pictures than those given.", "Give the same data, or start anew."
            )
        values = dict(state["recipe"])
        for name in ("float_budget", "quantised_budget"):
            values[name] = Budget(**values[name])
        training = cls(Space.decode(state["supernet"]["space"]), pictures, Recipe(**values))
        training.supernet = Supernet.from_state(state["supernet"])
        training._optimiser = training._make_optimiser()
        training._optimiser.load_state_dict(state["optimiser"])
        for meter, (steps, seconds) in zip(training._meters, state["spent"], strict=True):
            meter.steps, meter.seconds = steps, seconds
        return training


def _save(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _load(data: bytes) -> dict[str, Any]:
    import pickle

    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InvalidInput(f"This is not a supernet file: {error}.", "Train the supernet again.") from error
    if not isinstance(state, dict):
        raise InvalidInput("This is not a supernet file.", "Train the supernet again.")
    return state
