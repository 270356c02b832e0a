"""`predict --subnets`: milliseconds of many subnets of a space, from a file with one encoding a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import Busy, InvalidInput, MilliseekError
from .output import milliseconds, note, percent, print_json, print_table

if TYPE_CHECKING:
    import numpy as np

    from ..client import Client
    from ..spaces.space import Space, Subnet

CHUNK = 20_000
"""Lines that are read, sent and answered together."""
MAX_LINE = 2000
"""Characters; no subnet has so many, and no longer line is read to its end."""


def predict_subnets(client: Client, file: Path, space_name: str, target: str, *, json: bool) -> None:
    """Print the latency of every subnet in `file` (`-`: standard input); blank lines are skipped.

    Raises InvalidInput, naming the line, for what is no subnet of the space.
    """
    from ..spaces.space import Space, named_space

    space = named_space(space_name)
    if not isinstance(space, Space):
        raise InvalidInput(f"'{space_name}' is a hyperspace.", "Name the space of the subnets: small32-5125-0312.")
    found: list[tuple[str, float]] = []
    versions = set()
    with _opened(file) as source:
        lines = _lines(source)
        chunks = iter(lambda: list(islice(lines, CHUNK)), [])
        for chunk in chain([next(chunks, [])], chunks):  # an empty file has an answer too
            answer = client.predict_subnets(space.encoding, target, _genes(space, chunk, file))
            found += zip((text for _, text in chunk), answer.latency_ms.tolist(), strict=True)
            versions.add(answer.predictor)
    if len(versions) > 1:
        raise Busy(f"The predictor of {target} was replaced while it was asked.", "Ask again.")
    if json:
        print_json(
            {
                "target": answer.predictor.rpartition("@")[0],
                "predictor": answer.predictor,
                "space": space.encoding,
                "interval": list(answer.interval),
                "subnets": [{"subnet": text, "latency_ms": latency_ms} for text, latency_ms in found],
            }
        )
        return
    print_table(("subnet", "ms"), [(text, milliseconds(latency_ms)) for text, latency_ms in found])
    below, above = answer.interval
    note(f"On {answer.predictor}; 90 % of latencies lie {percent(below)} below to {percent(above)} above these.")


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    try:
        source = file.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(f"'{file}' cannot be read: {error.strerror}.", "Check the path.") from error
    with source:
        yield source


def _lines(source: TextIO) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(iter(partial(source.readline, MAX_LINE), ""), 1):
        if text := line.strip():
            yield number, text


def _subnet(space: Space, text: str) -> Subnet:
    from ..spaces.space import Subnet

    if len(text) >= MAX_LINE:
        raise InvalidInput(f"It has {MAX_LINE} characters or more, no subnet has.", "Give one subnet a line.")
    name, _, genome = text.rpartition(":")
    if name and name != space.encoding:
        raise InvalidInput(f"'{name}' is not the space {space.encoding}.", "Give each space a file of its own.")
    return Subnet.decode(f"{space.encoding}:{genome}")


def _genes(space: Space, lines: Sequence[tuple[int, str]], file: Path) -> np.ndarray:
    """int32 (lines, genes)."""
    import numpy as np

    from ..spaces.codes import encode_genes, gene_count

    subnets = []
    for number, text in lines:
        try:
            subnets.append(_subnet(space, text))
        except MilliseekError as error:
            raise InvalidInput(f"Line {number} of '{file}': {error.message}", error.remedy) from error
    return encode_genes(subnets) if subnets else np.zeros((0, gene_count(space.hyperspace)), np.int32)
