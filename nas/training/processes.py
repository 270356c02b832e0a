"""The processes that train one supernet together: one alone, or those that `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import InvalidInput


@dataclass(frozen=True)
class Processes:
    """This process (`rank`) among `count` that take the same steps; `device` is the one that this process computes on.

    Gradients are added up once a step instead of by DistributedDataParallel's hooks: a sandwich step runs backward
    several times, each time through other parameters, and those hooks leave out what the last pass does not use.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that stores and prints."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its sum over the processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        whole = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(whole)
        for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def copy_leader(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes the leading process's."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def agreed(self, values: Sequence[float]) -> list[float]:
        """The leading process's numbers, so that no two processes decide differently."""
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return [float(value) for value in shared.tolist()]

    def shared(self, data: bytes | None) -> bytes | None:
        """What the leading process holds."""
        if self.count == 1:
            return data
        held = [data]
        dist.broadcast_object_list(held, 0, device=self.device)
        return held[0]


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """The processes of `torchrun`, whose variables the environment holds, or this one alone.

    `device`: `cpu`, `cuda`, or `auto` for a GPU where there is one. Raises InvalidInput for `cuda` without one.
    """
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def choose_device(name: str, number: int = 0) -> torch.device:
    """The device that `--device` names: `cpu`, `cuda` (the GPU with that number) or `auto`; raises InvalidInput.

    On a GPU float32 is float32 from then on: TF32 would round the codes of the quantised phase.
    """
    available = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if name not in ("cuda", "auto"):
        raise InvalidInput(f"'{name}' is no device to train on.", "Use auto, cpu or cuda.")
    if not available:
        raise InvalidInput("PyTorch sees no GPU here.", "Use --device cpu, or install a build of PyTorch for your GPU.")
    if number >= (gpus := torch.cuda.device_count()):
        raise InvalidInput(
            f"Process {number + 1} has no GPU of its own: there are {gpus}.",
            f"Start {gpus} processes, or use --device cpu.",
        )
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", number)


def preferred_precision(device: torch.device) -> str:
    """`bf16` or `fp16` on GPUs, whichever they have, and `fp32` on CPUs, where 16 bits are slower."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
