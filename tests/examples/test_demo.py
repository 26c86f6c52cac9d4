# SPDX-License-Identifier: Apache-2.0
"""examples/demo.py, which `make demo` runs: once for real, interrupted, and its parts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from app_runner import ROOT

from flprov.project import load_project

Load = Callable[[str], ModuleType]
DEMO = ROOT / "examples" / "demo.py"


@pytest.fixture
def demo(load_example: Load) -> ModuleType:
    return load_example("demo")


def test_copy_of_the_sample_is_the_sample_on_another_port(demo: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    file.write_text(demo.localise(demo.SAMPLE.read_text(), 41234))
    copy, sample = load_project(file), load_project(demo.SAMPLE)
    assert (copy.server.listen, copy.server.endpoints) == ("127.0.0.1:41234", ("localhost:41234",))
    assert (copy.sites, copy.people, copy.organisations) == (
        sample.sites,
        sample.people,
        sample.organisations,
    )


def test_sample_that_was_changed_is_not_guessed_at(demo: ModuleType) -> None:
    with pytest.raises(demo.StepFailed, match=r"0\.0\.0\.0:8443"):
        demo.localise("name: other\n", 41234)


def test_port_that_is_taken_is_said_and_another_chosen(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        taken = sock.getsockname()[1]
        monkeypatch.setattr(demo, "WANTED_PORT", taken)
        assert demo.choose_port() not in (0, taken)
    assert f"Port {taken} is taken" in capsys.readouterr().out


def test_paths_are_shown_as_one_would_type_them(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert demo.shown(ROOT / "demo" / "result") == "demo/result"
    assert demo.shown(Path("/elsewhere")) == "/elsewhere"


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def start_demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLPROV_")}
    environment["XDG_CONFIG_HOME"] = str(folder / "config")
    # Who runs this in the background of a script ignores SIGINT, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, str(DEMO), "--folder", str(folder / "demo"), *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.network
def test_demo_trains_and_leaves_its_results_and_no_process(tmp_path: Path) -> None:
    process = start_demo(tmp_path, "--rounds", "2")
    output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, output + errors
    rows = re.findall(r"^ +[12] +([0-9.]+)%(?: +[0-9.]+%){3}$", output, re.MULTILINE)
    assert len(rows) == 2
    assert float(rows[-1]) > 80
    for name in ("model.safetensors", "metrics.json", "metrics.png", "record.json"):
        assert (tmp_path / "demo" / "result" / name).stat().st_size > 0
    assert "hospital-c.local/policy.yml" in output  # what was allowed is said
    assert f"poc up -o {tmp_path}/demo/network" in output
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_stops_its_network(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = start_demo(tmp_path)
    assert process.stdout is not None
    next(line for line in process.stdout if "$ flprov status" in line)
    assert len(processes_of(tmp_path)) > 4
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status, output + errors
    assert "stopped: " in output
    assert processes_of(tmp_path) == []
