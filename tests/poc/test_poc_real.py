# SPDX-License-Identifier: Apache-2.0
"""`flprov poc` with its real server, sites and job processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from flprov.cli.poc import starter
from flprov.poc.processes import ProcessMark, find_descendants, mark

pytestmark = pytest.mark.network

# Leaves a daemon behind, as scripts do: a session of its own, no parent that waits for it.
APP = """
import os, sys, time
import flprov.client as fl
fl.init()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("daemon", flush=True)
        time.sleep(600)
    os._exit(0)
fl.receive()
time.sleep(600)
"""


@pytest.fixture
def flprov(tmp_path):
    """Runs a command of a user with a home of its own; ends the user's network."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.pop("FLPROV_KIT", None)

    def run(*words: str, code: int = 0, said: str = "", **variables: str) -> str:
        command = [*starter().command, *words]
        done = subprocess.run(
            command,
            input=said,
            capture_output=True,
            text=True,
            env=environment | variables,
            cwd=tmp_path,
            timeout=90,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run
    if (tmp_path / "poc").exists():
        run("poc", "down", "--delete")


def test_a_network_comes_up_is_seen_and_goes_down(flprov, tmp_path):
    report = json.loads(flprov("poc", "up", "--json"))
    assert report["started"] == ["server", "site-1", "site-2"]
    assert report["folder"] == str(tmp_path / "poc")
    found = json.loads(flprov("poc", "status", "--json"))
    assert found["state"] == "running"
    sites = json.loads(flprov("status", "--json"))["sites"]  # as the admin whose kit `up` has chosen
    assert [(site["name"], site["state"]) for site in sites] == [
        ("site-1", "connected"),
        ("site-2", "connected"),
    ]
    completed = flprov(_FLPROV_COMPLETE="bash_complete", COMP_WORDS="flprov site show site-", COMP_CWORD="3")
    assert completed == "plain,site-1\nplain,site-2\n"
    assert "site-2" in flprov("admin", said="site ls\nsite show nowhere\n", code=5)
    pids = {party["pid"] for party in found["parties"]}
    assert json.loads(flprov("poc", "down", "--json"))["killed"] == []
    assert [mark(pid) for pid in pids] == [None, None, None]
    assert json.loads(flprov("poc", "status", "--json", code=4))["state"] == "stopped"


def test_down_ends_the_processes_of_jobs_too(flprov, tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "job.yml").write_text("name: daemons\nworkflow: {type: fedavg, rounds: 1}\ntasks: train.py\n")
    (app / "train.py").write_text(APP)
    flprov("poc", "up", "-n", "1")
    flprov("job", "submit", str(app))
    follow_until(flprov, tmp_path, "daemon")
    before = family(flprov)
    assert len(before) >= 7  # server and site; a shim and a worker each; the daemon; perhaps templates
    report = json.loads(flprov("poc", "down", "--json"))
    assert report["killed"] == []
    assert [process for process in before if process.alive] == []
    assert of_network(tmp_path) == []


def family(flprov) -> set[ProcessMark]:
    """The server, the sites, and everything that they have started."""
    parties = json.loads(flprov("poc", "status", "--json"))["parties"]
    processes = {found for party in parties if (found := mark(party["pid"]))}
    return processes | find_descendants(processes)


def follow_until(flprov, tmp_path: Path, word: str) -> None:
    """Follow the job's log until a word comes."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    command = [*starter().command, "job", "logs", "-f", "last"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as follower:
        for line in follower.stdout:
            if word in line:
                break
        else:
            raise AssertionError(f"the log ended without {word!r}")
        follower.terminate()


def of_network(folder: Path) -> list[int]:
    """Processes that were started for something below `folder`, or stand there."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        info = process.info
        words = " ".join(info["cmdline"] or [])
        here = str(folder) in words or (info["cwd"] or "").startswith(str(folder))
        if here and info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process.pid)
    return found
