"""Errors on the wire."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from milliseek import errors
from milliseek.rpc.limits import TooLarge
from milliseek.rpc.status import DETAILS_KEY, error_from_status, status_from_error


def there_and_back(error):
    status = status_from_error(error)
    return error_from_status(status.code, status.message, status.trailing_metadata)


def test_the_details_are_a_google_rpc_status():
    status = status_from_error(errors.NotFound("There is no target x.", "See 'milliseek devices'."))
    rich = status_pb2.Status.FromString(dict(status.trailing_metadata)[DETAILS_KEY])
    assert (rich.code, rich.message) == (grpc.StatusCode.NOT_FOUND.value[0], "There is no target x.")
    info = error_details_pb2.ErrorInfo()
    assert rich.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("NOT_FOUND", "milliseek")
    assert dict(info.metadata) == {"remedy": "See 'milliseek devices'."}


def test_classes_with_one_code_are_told_apart():
    assert type(there_and_back(errors.Busy("b"))) is errors.Busy
    assert type(there_and_back(errors.MeasurementError("m"))) is errors.MeasurementError
    missing = there_and_back(errors.MissingExtra("torch", "search"))
    assert type(missing) is errors.MissingExtra
    assert "pip install" in missing.remedy


def test_a_class_from_elsewhere_arrives_as_its_nearest_public_base():
    error = TooLarge("Too much.", "Send less.")
    assert status_from_error(error).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert type(there_and_back(error)) is errors.InvalidInput
    assert str(there_and_back(error)) == "Too much. Send less."


def test_an_unknown_reason_falls_back_to_the_code():
    status = status_from_error(errors.NotFound("Gone."))
    details = status.trailing_metadata[0][1].replace(b"NOT_FOUND", b"NEW_CLASS")
    error = error_from_status(status.code, status.message, [(DETAILS_KEY, details)])
    assert type(error) is errors.NotFound


@pytest.mark.parametrize("text", ["", "x" * 5000, "ü" * 5000, "line\nbreak", "lost \udcff byte"])
def test_any_text_fits_into_metadata(text):
    status = status_from_error(errors.InvalidInput(text, text))
    assert sum(len(key) + len(value) for key, value in status.trailing_metadata) < 4096
    assert len(status.message.encode()) <= 1000
    back = there_and_back(errors.InvalidInput(text, text))
    if len(text) < 100:
        assert back.message == text.replace("\udcff", "?")
    else:
        assert back.message.endswith("…")


@pytest.mark.parametrize("metadata", [[], [(DETAILS_KEY, b"\xff\xff")], [("other", "text")]])
def test_statuses_of_others(metadata):
    not_found = error_from_status(grpc.StatusCode.NOT_FOUND, "no such thing", metadata)
    assert type(not_found) is errors.NotFound
    assert type(error_from_status(grpc.StatusCode.ABORTED, "busy", metadata)) is errors.MeasurementError
    assert error_from_status(grpc.StatusCode.UNIMPLEMENTED, "what", metadata) is None
    assert error_from_status(grpc.StatusCode.UNAVAILABLE, "gone", metadata) is None
    assert error_from_status(grpc.StatusCode.INTERNAL, "oops", metadata) is None
