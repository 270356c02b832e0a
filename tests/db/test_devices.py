"""Devices and targets."""

from __future__ import annotations

import pytest

from milliseek.db import devices
from milliseek.db.engine import Database
from milliseek.errors import NotFound


def test_device_is_registered_once_and_its_facts_renewed(database: Database) -> None:
    with database.session() as session:
        first = devices.upsert_device(session, "epyc-1a2b", "local", {"cores": 2})
        assert first.facts == {"cores": 2}
    with database.session() as session:
        again = devices.upsert_device(session, "epyc-1a2b", "local", {"cores": 4, "isa": ["avx2"]})
        devices.upsert_device(session, "atom-9f", "local", {})
    with database.session(read_only=True) as session:
        assert again.id == first.id
        assert [device.name for device in devices.list_devices(session)] == ["atom-9f", "epyc-1a2b"]
        found = devices.find_device(session, "epyc-1a2b")
        assert found is not None
        assert found.facts == {"cores": 4, "isa": ["avx2"]}
        assert devices.find_device(session, "epyc") is None


def test_target_keeps_what_it_was_created_with(database: Database) -> None:
    with database.session() as session:
        device = devices.upsert_device(session, "epyc-1a2b", "local", {})
        other = devices.upsert_device(session, "atom-9f", "local", {})
        target = devices.get_or_create_target(
            session,
            "epyc-1a2b/onnxruntime/int8/2t@0,1",
            device_id=device.id,
            runtime="onnxruntime",
            precision="int8",
            threads=2,
            cores="0,1",
            settings={"weight_bits": 7},
        )
        again = devices.get_or_create_target(
            session, target.name, device_id=device.id, runtime="onnxruntime", precision="int8"
        )
        assert again is target
        devices.get_or_create_target(
            session, "atom-9f/onnxruntime/fp32", device_id=other.id, runtime="onnxruntime", precision="fp32"
        )
    with database.session(read_only=True) as session:
        found = devices.get_target(session, target.name)
        of_device = devices.list_targets(session, device_id=device.id)
        everything = devices.list_targets(session)
    assert (found.threads, found.cores, found.settings) == (2, "0,1", {"weight_bits": 7})
    assert found.device.name == "epyc-1a2b"  # loaded with it: usable after the session
    assert [target.name for target in of_device] == ["epyc-1a2b/onnxruntime/int8/2t@0,1"]
    assert len(everything) == 2


def test_unknown_target_says_how_to_make_it_known(database: Database) -> None:
    with database.session(read_only=True) as session:
        assert devices.find_target(session, "pixel6/litert/int8") is None
        with pytest.raises(NotFound, match="milliseek profile pixel6/litert/int8"):
            devices.get_target(session, "pixel6/litert/int8")
