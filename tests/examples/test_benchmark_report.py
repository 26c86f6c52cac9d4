# SPDX-License-Identifier: Apache-2.0
"""benchmarks/report.py and trial.py: what is reported, and the end of processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from report import Measure, machine, show, write_report
from trial import Watch


def measure(**changes: object) -> Measure:
    values: dict[str, object] = {"name": "a thing", "definition": "From a to b.", "values": (3.0, 1.0, 2.0)}
    return Measure(**(values | changes))  # type: ignore[arg-type]


def test_median_is_compared_with_the_target() -> None:
    assert measure(target=2.0).verdict == "met"
    assert measure(target=1.9).verdict == "MISSED"
    assert measure().verdict == "-"


def test_report_has_every_value_and_a_table(tmp_path: Path) -> None:
    table = write_report(
        tmp_path, "x", title="X", command="python x.py", measures=[measure(target=2.0)], load=0.5
    )
    document = json.loads((tmp_path / "x.json").read_text())
    assert document["measures"][0]["values"] == [3.0, 1.0, 2.0]
    assert document["measures"][0]["median"] == 2.0
    assert "| a thing | 2.00 s | 1.00 s - 3.00 s | 3 | <= 2.00 s | met |" in table.read_text()
    assert "python x.py" in table.read_text()


def test_machine_is_described_without_its_name() -> None:
    assert f"Python {sys.version.split()[0]}" in machine()
    assert socket.gethostname() not in machine()


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12.3 ms"), (0.1, "0.10 s"), (75.0, "75.00 s")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert show(seconds) == text


def test_memory_has_no_decimals() -> None:
    assert show(1234.5, "MB") == "1,234 MB"


def test_watch_waits_for_the_last_process() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat, subprocess.Popen(["true"]) as quick:
        watch = Watch([cat.pid, quick.pid])
        assert cat.stdin is not None
        cat.stdin.close()
        watch.wait(10)
        assert cat.wait(0) == 0


def test_watch_says_when_a_process_stays() -> None:
    with pytest.raises(TimeoutError, match="1 processes"):
        Watch([os.getpid()]).wait(0.01)
