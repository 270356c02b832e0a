"""The training of a supernet.

Sandwich training (BigNAS, AlphaNet): every step adds up the gradients of a teacher, which learns from the labels, and
of its students, which learn from the teacher and, in short trainings, from the labels too. First in floating point,
then with LSQ+ fake quantisation at a tenth of the learning rate (SpaceEvo, section 4).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InvalidInput
from ...spaces.space import Space, Subnet, extreme_subnet, random_subnet
from ..pictures.data import Batches, Pictures
from .budget import Meter, cosine
from .losses import adaptive_alpha_divergence
from .processes import Processes
from .recipe import Recipe
from .supernet import Supernet, from_file, start_quantisation, to_file
from .training_samplers import Draw, OneSubnet, SubnetSampler, make_sampler

CALIBRATION_SUBNETS = 8
SCORED_PICTURES = 64
"""Validation pictures on which samplers score subnets at the end of an epoch."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _SeededDropout(nn.Module):
    """Dropout whose mask depends on the seed alone, so that a resumed training draws the same one."""

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self._share = share
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand(x.shape, generator=self._generator) >= self._share
        return x * kept.to(x.device) / (1 - self._share)


@dataclass(frozen=True)
class StepReport:
    """What a training step says: its phase, the teacher's loss and accuracy on the batch, seconds."""

    quantised: bool
    loss: float
    top1: float
    seconds: float


class SupernetTraining:
    """A training that can stop after any step and go on elsewhere: `state()` holds all of it.

    Batches, subnets and dropout are functions of the seed and the step, and nothing is drawn from torch's own random
    numbers, so a training resumed from its state equals one that was never interrupted wherever budgets are given in
    steps. `supernet` is what is trained, `averaged` what is evaluated. `only`: one subnet, trained alone.
    """

    def __init__(
        self,
        space: Space,
        pictures: Pictures,
        recipe: Recipe,
        processes: Processes | None = None,
        only: Subnet | None = None,
    ) -> None:
        self.space, self.pictures, self.recipe = space, pictures, recipe
        self.processes = processes or Processes(torch.device("cpu"))
        if recipe.shards % self.processes.count:
            raise InvalidInput(
                f"{self.processes.count} processes cannot share the {recipe.shards} part(s) of each batch equally.",
                "Resume with as many processes as the training was begun with, or a divisor of that.",
            )
        self.supernet = Supernet(space, len(pictures.classes), recipe.weight_bits, recipe.seed, only)
        self.supernet.to(self.processes.device)
        self.averaged = self._average_anew()
        self._meters = (Meter(recipe.float_budget), Meter(recipe.quantised_budget))
        self._batches = Batches(pictures, recipe.batch, recipe.seed, recipe.augmentation)
        per_epoch = max(1, len(pictures.train) // recipe.batch)
        self._sampler: SubnetSampler = (
            OneSubnet(only)
            if only
            else make_sampler(recipe.sampler, space, recipe.random_subnets, recipe.seed, per_epoch)
        )
        self._optimiser = self._make_optimiser()
        self._scaler = torch.amp.GradScaler(self.processes.device.type, enabled=recipe.precision == "fp16")

    @property
    def steps(self) -> int:
        """Steps taken."""
        return sum(meter.steps for meter in self._meters)

    @property
    def quantised_steps(self) -> int:
        """Those of them with fake quantisation."""
        return self._meters[1].steps

    @property
    def epoch(self) -> int:
        """How often all training pictures have been seen."""
        return self.steps * self.recipe.batch // len(self.pictures.train)

    @property
    def seconds(self) -> float:
        """Seconds spent in steps, over all sittings."""
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
    def phase(self) -> str:
        """`float`, `quantised` or `finished`."""
        if self.finished:
            return "finished"
        return "quantised" if self.supernet.quantised else "float"

    @property
    def finished(self) -> bool:
        """Whether both budgets are spent."""
        return all(meter.spent for meter in self._meters)

    def step(self) -> StepReport:
        """One sandwich step of the phase that is due; the first one of the second phase starts the quantisers."""
        started = time.monotonic()
        step = self.steps
        if self._meters[0].spent and not self.supernet.quantised:
            self._start_quantisation()
        if step and self._epoch_begins(step):
            self._sampler.rescore(self._losses)
        meter = self._meters[int(self.supernet.quantised)]
        rate = self.recipe.learning_rate * (0.1 if self.supernet.quantised else 1.0) * cosine(meter.fraction)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss, top1 = self._descend(step)
        self._average(meter.steps + 1)
        (seconds,) = self.processes.agreed([time.monotonic() - started])
        meter.count(seconds)
        return StepReport(self.supernet.quantised, loss, top1, seconds)

    def _descend(self, step: int) -> tuple[float, float]:
        """Gradients of all shards and processes, and the optimiser's step; the teacher's loss and accuracy."""
        draw = self._sampler.draw(step, self.progress)
        x, labels = self._batches.at(step)
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        totals: list[Tensor] = []
        told = torch.zeros(2 + len(draw.students), device=self.processes.device)
        for shard in range(self.processes.rank, self.recipe.shards, self.processes.count):
            self._optimiser.zero_grad()
            part = slice(shard, None, self.recipe.shards)
            told += self._sandwich(draw, x[part], labels[part].to(self.processes.device), step, shard)
            used = [p for p in parameters if p.grad is not None]  # the same ones in every shard
            gradients = [p.grad for p in used if p.grad is not None]
            if totals:
                torch._foreach_add_(totals, gradients)
            else:
                totals = gradients
        self.processes.add_up([*totals, told])
        top1, *losses = self.processes.agreed(told.tolist())
        skipped = self.recipe.precision == "fp16" and not self.supernet.quantised  # by the scaler
        if not skipped and not all(map(math.isfinite, losses)):  # before the weights, and the checkpoints, take it up
            raise InvalidInput(
                f"The training has diverged: after {self.steps} steps the loss is no number any more.",
                "Train it under another name with a lower learning rate.",
            )
        for parameter, total in zip(used, totals, strict=True):
            parameter.grad = total
        self._scaler.unscale_(self._optimiser)
        nn.utils.clip_grad_value_(parameters, 1.0)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self.supernet.quantised:
            self.supernet.quantisation.constrain()
        self._sampler.observe(draw, losses)
        return losses[0], top1

    def _sandwich(self, draw: Draw, x: Tensor, labels: Tensor, step: int, shard: int) -> Tensor:
        """Gradients of one shard's part of the batch; its share of accuracy and cross-entropies, teacher first."""
        recipe = self.recipe
        size = recipe.batch / len(labels)

        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

        drop = _SeededDropout(recipe.dropout, (recipe.seed * 1_000_003 + step) * 4099 + shard)
        logits = self._logits(draw.teacher, x, drop)
        loss = cross_entropy(logits)
        self._scaler.scale(loss / size).backward()
        soft = logits.detach()
        told = [(soft.argmax(1) == labels).float().mean(), loss.detach()]
        for subnet in draw.students:
            output = self._logits(subnet, x)
            hard = cross_entropy(output)
            distance = torch.lerp(adaptive_alpha_divergence(output, soft), hard, recipe.label_share)
            self._scaler.scale(distance / size).backward()
            told.append(hard.detach())
        return torch.stack(told) / size

    def _logits(self, subnet: Subnet, x: Tensor, drop: nn.Module | None = None) -> Tensor:
        precision = "fp32" if self.supernet.quantised else self.recipe.precision
        kind = self.processes.device.type
        with torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32"):
            return self.supernet.logits(subnet, x, drop=drop).float()

    def _epoch_begins(self, step: int) -> bool:
        pictures, batch = len(self.pictures.train), self.recipe.batch
        return step * batch // pictures != (step - 1) * batch // pictures

    @torch.no_grad()
    def _losses(self, subnets: Sequence[Subnet]) -> list[float]:
        """Cross-entropies on some training pictures, normalised by their own statistics."""
        train = self.pictures.train
        rng = np.random.default_rng((self.recipe.seed, 4))
        chosen = rng.choice(len(train), min(SCORED_PICTURES, len(train)), replace=False)
        x = self.pictures.tensor(train.pixels[chosen])
        labels = torch.from_numpy(train.labels[chosen]).to(self.processes.device)
        return self.processes.agreed([float(F.cross_entropy(self._logits(each, x), labels)) for each in subnets])

    def _start_quantisation(self) -> None:
        """From the averaged weights, on which the quantised phase goes on."""
        self.supernet = self.averaged
        rng = np.random.default_rng((self.recipe.seed, 3))
        if self.supernet.only:
            subnets: tuple[Subnet, ...] = (self.supernet.only,) * CALIBRATION_SUBNETS
        else:
            extremes = (extreme_subnet(self.space, largest=largest) for largest in (True, False))
            subnets = (*extremes, *(random_subnet(self.space, rng) for _ in range(CALIBRATION_SUBNETS)))
        start_quantisation(self.supernet, subnets, [self._batches.at(i) for i in range(len(subnets))])
        self.processes.copy_leader(self.supernet.parameters())
        self.averaged = self._average_anew()
        self._optimiser = self._make_optimiser()

    def _average_anew(self) -> Supernet:
        return deepcopy(self.supernet) if self.recipe.ema else self.supernet

    @torch.no_grad()
    def _average(self, steps: int) -> None:
        """Move the averaged weights; early in a phase they follow closely, or the start would weigh for long."""
        if self.averaged is not self.supernet:
            kept = min(self.recipe.ema, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(self.averaged.parameters(), self.supernet.parameters(), 1 - kept)

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
        averaged = self.averaged is not self.supernet
        return to_file(
            {
                "supernet": self.supernet.state(),
                "averaged": self.averaged.state() if averaged else None,
                "optimiser": self._optimiser.state_dict(),
                "scaler": self._scaler.state_dict(),
                "sampler": self._sampler.state(),
                "recipe": self.recipe.values(),
                "spent": [(meter.steps, meter.seconds) for meter in self._meters],
                "pictures": self.pictures.fingerprint,
            }
        )

    @classmethod
    def from_state(cls, data: bytes, pictures: Pictures, processes: Processes | None = None) -> SupernetTraining:
        """Inverse of `state`, on the device of `processes`; raises InvalidInput for other data or other pictures."""
        state = checked_state(data, pictures)
        supernet = Supernet.from_state(state["supernet"])
        training = cls(supernet.space, pictures, Recipe.from_values(state["recipe"]), processes, supernet.only)
        training.supernet = supernet.to(training.processes.device)
        training.averaged = training.supernet
        if state["averaged"]:
            training.averaged = Supernet.from_state(state["averaged"]).to(training.processes.device)
        training._optimiser = training._make_optimiser()
        training._optimiser.load_state_dict(state["optimiser"])
        training._scaler.load_state_dict(state["scaler"])
        training._sampler.load(state["sampler"])
        for meter, (steps, seconds) in zip(training._meters, state["spent"], strict=True):
            meter.steps, meter.seconds = steps, seconds
        return training


def trained_supernet(data: bytes, pictures: Pictures) -> Supernet:
    """The averaged weights of a training's `state()`, in main memory; raises InvalidInput for other pictures."""
    state = checked_state(data, pictures)
    return Supernet.from_state(state["averaged"] or state["supernet"])


def checked_state(data: bytes, pictures: Pictures) -> dict[str, Any]:
    """What a training's `state()` holds; raises InvalidInput for other data or other pictures."""
    state = from_file(data)
    if "averaged" not in state or "sampler" not in state:
        raise InvalidInput("This is the supernet of another version of milliseek.", "Train it again.")
    if state["pictures"] != pictures.fingerprint:
        raise InvalidInput(
            "The supernet was trained on other pictures than those given.", "Give the same data, or start anew."
        )
    return state
