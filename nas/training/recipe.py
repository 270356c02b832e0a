"""How a supernet is trained, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ...errors import InvalidInput
from ..pictures.augmentation import AUGMENTATIONS, AugmentationName
from .budget import Budget
from .training_samplers import SAMPLERS, SamplerName

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KEPT = frozenset({"precision", "shards"})
"""What suits the machine rather than the network: a resumed training keeps what it was begun with."""


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained; the learning rate is for the batch as it is.

    `label_share` of the students' loss is cross-entropy on the labels: in a training of a few hundred steps the
    teacher has nothing to teach for the first third. 0 is AlphaNet's recipe. `ema` is the share that the averaged
    weights, which are what is evaluated, keep in a step; 0: no averaging. `precision` is that of the convolutions in
    the floating point phase; the quantised phase is fp32 always, since 16-bit floats would round the codes again.
    A batch is cut into `shards`, each normalised by its own statistics; the processes of a training share them out, and
    any number of processes that divides `shards` takes the same steps.
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
    sampler: SamplerName = "uniform"
    augmentation: AugmentationName = "crop"
    ema: float = 0.999
    precision: Precision = "fp32"
    shards: int = 1

    def __post_init__(self) -> None:
        for what, value, known in (
            ("sampler", self.sampler, SAMPLERS),
            ("augmentation", self.augmentation, AUGMENTATIONS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise InvalidInput(f"'{value}' is no {what}.", f"Use {', '.join(known)}.")
        if self.batch < 2 * self.shards:
            raise InvalidInput(
                f"A batch of {self.batch} cannot be cut into {self.shards} parts of at least two pictures.",
                "Use larger batches, or fewer processes.",
            )

    def values(self) -> dict[str, Any]:
        """Plain values for `from_values`."""
        return asdict(self)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Recipe:
        """Inverse of `values`."""
        budgets = {name: Budget(**values[name]) for name in ("float_budget", "quantised_budget")}
        return cls(**{**values, **budgets})

    def check_same(self, begun: Recipe, name: str) -> None:
        """Raises InvalidInput, naming the first difference, unless a training begun so may go on like this."""
        for each in fields(self):
            mine, stored = getattr(self, each.name), getattr(begun, each.name)
            if mine != stored and each.name not in KEPT:
                raise InvalidInput(
                    f"The supernet '{name}' was begun with {each.name.replace('_', ' ')} {_shown(stored)}, "
                    f"not {_shown(mine)}.",
                    "Give the same options to resume it, or another name for a new one.",
                )


def _shown(value: Any) -> str:
    if not isinstance(value, Budget):
        return str(value)
    parts = [f"{value.steps} steps"] if value.steps is not None else []
    parts += [f"{value.seconds:g} s"] if value.seconds is not None else []
    return " and ".join(parts)
