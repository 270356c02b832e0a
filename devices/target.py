"""The name of what a latency is asked for: `device/runtime[+delegate]/precision[/Nt][@cores]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidInput

GRAMMAR = "device/runtime[+delegate]/precision[/Nt][@cores]"
LOCAL = "local"
PRECISIONS = ("fp32", "fp16", "int8")
MAX_THREADS = 1024
MAX_CORE = 4095

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_TARGET = re.compile(
    rf"(?P<device>{_NAME})/(?P<runtime>{_NAME})(?:\+(?P<delegate>{_NAME}))?/(?P<precision>[a-z0-9]+)"
    r"(?:/(?P<threads>[0-9]{1,9})t)?(?:@(?P<cores>[0-9,-]{1,200}))?",
    re.ASCII,
)
_CORE_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)


@dataclass(frozen=True)
class Target:
    """A device, a runtime with an optional delegate, a precision, a thread count and optionally the cores.

    `cores` are logical CPU numbers, ascending and without repeats; None leaves the choice to the device.
    `str(target)` is the canonical name: one thread is not written, neighbouring cores become ranges.
    """

    device: str
    runtime: str
    precision: str
    threads: int = 1
    delegate: str | None = None
    cores: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        text = f"{self.device}/{self.runtime}"
        for name in (self.device, self.runtime, self.delegate):
            if name is not None and not re.fullmatch(_NAME, name, re.ASCII):
                raise InvalidInput(
                    f"Target '{text}' has an illegal name '{name}'.",
                    "Names are letters, digits, dots, dashes and underscores.",
                )
        if self.precision not in PRECISIONS:
            raise InvalidInput(
                f"Target '{text}' asks for the unknown precision '{self.precision}'.",
                f"Use one of {', '.join(PRECISIONS)}, as in {GRAMMAR}.",
            )
        if not 1 <= self.threads <= MAX_THREADS:
            raise InvalidInput(
                f"Target '{text}' asks for {self.threads} threads.",
                f"Use 1 to {MAX_THREADS}, as in {GRAMMAR}.",
            )
        if self.cores is not None and (
            not self.cores
            or list(self.cores) != sorted(set(self.cores))
            or not 0 <= self.cores[0] <= self.cores[-1] <= MAX_CORE
        ):
            raise InvalidInput(
                f"Target '{text}' has an illegal list of cores {self.cores}.",
                f"Cores are ascending numbers of 0 to {MAX_CORE}, such as @2,3 or @4-7.",
            )

    def __str__(self) -> str:
        delegate = f"+{self.delegate}" if self.delegate else ""
        threads = f"/{self.threads}t" if self.threads != 1 else ""
        cores = f"@{_format_cores(self.cores)}" if self.cores else ""
        return f"{self.device}/{self.runtime}{delegate}/{self.precision}{threads}{cores}"


def parse(text: str, local_id: str | None = None) -> Target:
    """Read a target's name; the device `local` becomes `local_id` when one is given.

    Raises InvalidInput, naming the grammar, for anything else.
    """
    match = _TARGET.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"'{text}' is not a target.", f"A target is {GRAMMAR}, for example local/onnxruntime/int8/2t@0-1."
        )
    device = match["device"]
    return Target(
        device=local_id if device == LOCAL and local_id else device,
        runtime=match["runtime"],
        precision=match["precision"],
        threads=int(match["threads"] or 1),
        delegate=match["delegate"],
        cores=_parse_cores(text, match["cores"]) if match["cores"] else None,
    )


def _parse_cores(text: str, cores: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in cores.split(","):
        match = _CORE_RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > MAX_CORE:
            raise InvalidInput(
                f"Target '{text}' has an illegal list of cores '@{cores}'.",
                f"Cores are written @2,3 or @4-7, each 0 to {MAX_CORE}, as in {GRAMMAR}.",
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def _format_cores(cores: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)
