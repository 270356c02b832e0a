"""Every error that a user can cause or cure: one hierarchy, each with a gRPC code and a remedy."""

from __future__ import annotations

from typing import ClassVar


class MilliseekError(Exception):
    """Something that the user can cure; `message` names the thing, `remedy` says what to do.

    `code` is the name of the gRPC status code that carries the error over the wire.
    """

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InvalidInput(MilliseekError):
    """A file, option or request that cannot be what it claims to be."""

    code = "INVALID_ARGUMENT"


class NotFound(MilliseekError):
    """A name that nothing answers to: target, space, study, file."""

    code = "NOT_FOUND"


class Unauthenticated(MilliseekError):
    """No token came along where one is needed, or none that holds."""

    code = "UNAUTHENTICATED"


class PermissionDenied(MilliseekError):
    """The token holds, but not for what was asked."""

    code = "PERMISSION_DENIED"


class NotReady(MilliseekError):
    """The thing exists, but a step that must come first has not been taken."""

    code = "FAILED_PRECONDITION"


class Busy(MilliseekError):
    """Somebody else holds what is needed; trying again later helps."""

    code = "ABORTED"


class StorageError(MilliseekError):
    """The database or the artefact folder cannot be read or written."""

    code = "UNAVAILABLE"


class MeasurementError(MilliseekError):
    """The device could not run or time what it was given."""

    code = "ABORTED"


class ServiceError(MilliseekError):
    """The latency service does not answer, or answers with a failure of its own."""

    code = "UNAVAILABLE"


class Interrupted(MilliseekError):
    """The user pressed ctrl-C."""

    code = "CANCELLED"


class MissingExtra(MilliseekError):
    """An optional package is not installed."""

    code = "FAILED_PRECONDITION"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"The Python package '{package}' is not installed.",
            f"Install it with: pip install 'milliseek[{extra}]'",
        )


ERROR_BY_CODE: dict[str, type[MilliseekError]] = {
    cls.code: cls
    for cls in (
        MilliseekError,
        MeasurementError,
        InvalidInput,
        NotFound,
        NotReady,
        PermissionDenied,
        ServiceError,
        Unauthenticated,
    )
}
"""The class that a client raises for a status code from the wire."""
