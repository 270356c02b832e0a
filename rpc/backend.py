"""What the latency service needs from whoever knows the predictors."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..results import KernelLatencies, LatencyTable, Prediction, SubnetLatencies, TargetInfo


class LatencyBackend(Protocol):
    """Answers latency questions; the service adds nothing but transport, limits and error codes.

    Thread safety: every method is called from a pool of threads, any two at the same time, also the same
    method twice. A call whose client has gone away still runs to its end. Arguments belong to the callee;
    results must not be changed afterwards.

    Errors: a `MilliseekError` reaches the client as the same class with the same message and remedy (a
    subclass defined outside `milliseek.errors` as its nearest base class in there). Any other exception is a
    bug: it is logged with its traceback, and the client learns only that the service failed.
    """

    def store_model(self, data: bytes, name: str) -> str:
        """Check and keep a model file; return its SHA-256 as 64 lower-case hexadecimal digits.

        `data` is the whole file, not empty; `name` its file name without folders, whose suffix tells the
        format. Storing the same bytes again is harmless and returns the same name. Nothing is kept when it
        raises.

        Raises `InvalidInput` for a file that is not a readable model, `StorageError` when it cannot be
        written.
        """
        ...

    def predict_model(self, sha256: str, target: str) -> Prediction:
        """Predict a stored model on a target.

        Raises `NotFound` for an unknown model or target, `NotReady` for a target without a predictor,
        `InvalidInput` for a target that is not written as one.
        """
        ...

    def predictor(self, target: str) -> str:
        """Version that answers for a target now, as `Prediction.predictor` of `predict_model` has it; cheap.

        Raises as `predict_model` does.
        """
        ...

    def predict_kernels(self, target: str, kernels: list[str]) -> KernelLatencies:
        """Predict kernels on a target, each given as its `spec`; 0 or more, in their order.

        A spec comes from the client: it may be anything, within the limits of the service.

        Raises `NotFound` for an unknown target, `NotReady` for a target without a predictor, `InvalidInput` for a text
        that is no kernel of the target's runtime.
        """
        ...

    def predict_subnets(self, space: str, target: str, genes: np.ndarray) -> SubnetLatencies:
        """Predict subnets of a space: `genes` is an int32 array (subnets, genes a subnet), 0 or more subnets.

        `space` names a space (`small32-5125-0312`), as genes do not carry block types; the result's
        `latency_ms` has the order of the rows.

        Raises `NotFound` for an unknown space or target, `NotReady` for a target without a predictor,
        `InvalidInput` for genes that encode no subnet of the space (naming the first such row).
        """
        ...

    def latency_table(self, space: str, target: str) -> LatencyTable:
        """Compile a space, or a whole hyperspace, for a target, or for one version of its predictor (`TARGET@3`).

        Raises `NotFound` for an unknown space or target, `NotReady` for a target without a predictor.
        """
        ...

    def targets(self) -> list[TargetInfo]:
        """The targets that have a predictor, ordered by name; cheap, since clients ask to see whether we are up."""
        ...
