"""Multiply-accumulates and parameters of subnets and spaces, from their layers alone."""

from __future__ import annotations

from typing import NamedTuple

from .space import Space, Subnet, extreme_subnet


class Count(NamedTuple):
    """Size of one network.

    `macs`: multiply-accumulates of its convolutions, without the classifier, as in the published figures;
    `params`: all trained parameters, with a classifier of the hyperspace's nominal number of classes.
    """

    macs: int
    params: int


def count(subnet: Subnet) -> Count:
    """Size of a subnet; no weights are made."""
    network = subnet.network(subnet.space.hyperspace.nominal_classes)
    return Count(sum(layer.macs for layer in network.layers if layer.op == "conv"), network.params)


def count_range(space: Space) -> tuple[Count, Count]:
    """Sizes of the smallest and the largest subnet of a space."""
    smallest, largest = (count(extreme_subnet(space, largest=largest)) for largest in (False, True))
    return smallest, largest
