"""The main job, killed in the middle of its search and run again."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from .conftest import answer, command, environment

QUICKSTART = ("quickstart", "--minutes", "1", "--json")
TRIALS = """
SELECT t.number, t.state, group_concat(v.value) FROM trials t
JOIN studies s ON s.study_id = t.study_id LEFT JOIN trial_values v ON v.trial_id = t.trial_id
WHERE s.study_name = 'quickstart1-subnets' GROUP BY t.trial_id ORDER BY t.number
"""
PARAMETERS = """
SELECT t.number, group_concat(p.param_name || '=' || p.param_value) FROM trials t
JOIN studies s ON s.study_id = t.study_id
JOIN (SELECT * FROM trial_params ORDER BY param_name) p ON p.trial_id = t.trial_id
WHERE s.study_name = 'quickstart1-subnets' AND t.state = 'COMPLETE' GROUP BY t.trial_id
"""


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # the tables come later
            return []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_main_job_survives_a_kill_in_the_middle_of_the_search(tmp_path: Path) -> None:
    database = tmp_path / "home" / "milliseek.db"
    setting: dict[str, Any] = {"env": environment(tmp_path / "home"), "cwd": tmp_path, "stdin": subprocess.DEVNULL}
    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(command(*QUICKSTART), stdout=log, stderr=log, start_new_session=True, **setting)
        try:
            while len([r for r in rows(database, TRIALS) if r[1] == "COMPLETE"]) < 4:
                assert first.poll() is None, (tmp_path / "first.log").read_text()
                time.sleep(0.05)  # poll the database; the loop ends on a condition
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
    before = {number: values for number, state, values in rows(database, TRIALS) if state == "COMPLETE"}

    second = subprocess.run(command(*QUICKSTART), capture_output=True, text=True, check=False, **setting)

    assert second.returncode == 0, second.stderr
    assert "Going on with quickstart1" in second.stderr
    after = rows(database, TRIALS)
    complete = {number: values for number, state, values in after if state == "COMPLETE"}
    assert before.items() <= complete.items()
    assert len(complete) > len(before)
    assert all(state != "RUNNING" for _, state, _ in after)
    genomes = [parameters for _, parameters in rows(database, PARAMETERS)]
    assert len(set(genomes)) == len(genomes)

    result = answer(second)
    assert result["target"].endswith("/onnxruntime/int8")
    assert len(result["subnets"]) == 3
    for subnet in result["subnets"]:
        low, high = subnet["interval_ms"]
        assert low < subnet["predicted_ms"] < high
        assert subnet["predicted_ms"] <= subnet["budget_ms"] * 1.001
        assert subnet["measured_ms"] > 0
        assert abs(subnet["top1"] - subnet["top1_fake_quant"]) <= 0.04  # a minute trains little: many near ties
        file = Path(subnet["path"])
        assert file.stat().st_size == subnet["size_bytes"]
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        (logits,) = session.run(None, {entry.name: np.zeros(entry.shape, np.float32)})
        assert logits.shape == (1, 10)
        properties = session.get_modelmeta().custom_metadata_map
        assert properties["milliseek.subnet"] == subnet["subnet"]
