"""Devices and targets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from milliseek.db import devices
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, NotFound


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


def test_devices_of_one_model_serve_its_name(database: Database) -> None:
    with database.session() as session:
        for name, model in (("board-2", "board"), ("board-1", "board"), ("phone", None), ("board", "else")):
            devices.upsert_device(session, name, "agent", {}, model)

        def serving(name: str) -> list[str]:
            return [device.name for device in devices.devices_serving(session, name)]

        assert serving("board") == ["board", "board-1", "board-2"]
        assert serving("board-1") == ["board-1"]
        assert serving("tablet") == []
        devices.upsert_device(session, "board-2", "agent", {}, "other")
        assert serving("board") == ["board", "board-1"]


def test_pages_of_devices(database: Database) -> None:
    with database.session() as session:
        for i in range(5):
            devices.upsert_device(session, f"board-{i}", "agent", {})
        devices.remove_device(session, "board-2")
        first = devices.page_devices(session, limit=2)
        rest = devices.page_devices(session, first[-1].name, limit=9)
        assert [device.name for device in (*first, *rest)] == ["board-0", "board-1", "board-3", "board-4"]


def test_sign_of_life(database: Database) -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    with database.session() as session:
        device = devices.upsert_device(session, "board-1", "agent", {})
        assert (device.state, device.last_seen_at, device.connected_until) == ("active", None, None)
        devices.touch_device(session, "board-1", 30, now=now)
    with database.session(read_only=True) as session:
        device = devices.get_device(session, "board-1")
        assert (device.last_seen_at, device.connected_until) == (now, now + timedelta(seconds=30))


def test_draining_outlives_a_new_registration(database: Database) -> None:
    with database.session() as session:
        devices.upsert_device(session, "board-1", "agent", {})
        devices.set_device_state(session, "board-1", "draining")
        assert devices.upsert_device(session, "board-1", "agent", {}).state == "draining"
        assert devices.set_device_state(session, "board-1", "active").state == "active"


def test_removed_device_is_hidden_until_it_registers_again(database: Database) -> None:
    with database.session() as session:
        first = devices.upsert_device(session, "board-1", "agent", {"cores": 4}, "board")
        devices.touch_device(session, "board-1", 30)
        devices.remove_device(session, "board-1")
        assert devices.find_device(session, "board-1") is None
        assert devices.list_devices(session) == []
        assert devices.devices_serving(session, "board") == []
        for use in (devices.remove_device, devices.get_device):
            with pytest.raises(NotFound, match=r"'board-1' is not known here.*milliseek devices list"):
                use(session, "board-1")
        again = devices.upsert_device(session, "board-1", "agent", {"cores": 8}, "board")
        assert (again.id, again.state, again.connected_until) == (first.id, "active", None)


def test_this_machine_cannot_be_removed(database: Database) -> None:
    with database.session() as session:
        devices.upsert_device(session, "epyc-1a2b", "local", {})
        with pytest.raises(InvalidInput, match="cannot be removed"):
            devices.remove_device(session, "epyc-1a2b")
        assert devices.find_device(session, "epyc-1a2b") is not None
