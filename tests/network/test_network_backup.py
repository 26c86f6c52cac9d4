# SPDX-License-Identifier: Apache-2.0
"""Backup of a server with a job under way, restore, and SIGKILL in the middle of both."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import GATED, Network, write_app

pytestmark = pytest.mark.network


def flprov(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flprov", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_round(admin, job_id: str, rounds: int) -> None:
    for job in admin.watch(job_id):
        if job.rounds_done >= rounds:
            return
    raise AssertionError("the job ended")


def test_job_goes_on_from_its_round_on_a_server_that_was_restored(network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED))
    wait_round(admin, job.job_id, 1)
    file = tmp_path / "b.tar"
    found = json.loads(flprov("server", "backup", network.kit("server"), "-o", file, "--json"))
    assert (found["running"], found["jobs"], found["missing"]) == (True, 1, [])
    admin.lock_site("site-2", reason="after the backup")
    network.kill("server")
    # Another machine with the same kit; a process of the job may still write to where it was.
    (network.local("server") / "state").rename(tmp_path / "old")
    said = flprov("server", "restore", network.kit("server"), file)
    assert "flprov server enable" in said
    network.start("server")
    for name in network.names:
        network.open_gate(name)
    again = network.admin()
    done = again.wait(job.job_id, timeout=60)
    assert done.state == "completed"  # also while the server is drained: only new jobs wait
    assert [len(record.contributors) for record in done.rounds] == [2, 2, 2]
    assert again.status().server.drained
    waiting = again.submit(tmp_path / "gated")
    assert again.job(waiting.job_id).state == "queued"
    again.enable_server()
    assert again.wait(waiting.job_id, timeout=60).state == "completed"


# ---- SIGKILL -----------------------------------------------------------------------------------

RESTORE = """
import asyncio, os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from flprov._base import SystemClock
from flprov.kits import load_kit
from flprov.server import restore
from flprov.server.operations import restore as module
kit, file, where = load_kit(Path(sys.argv[1]), now=datetime.now(UTC)), Path(sys.argv[2]), sys.argv[3]
def die(*_args, **_kwargs): os.kill(os.getpid(), signal.SIGKILL)
module = sys.modules["flprov.server.operations.restore"]
if where == "after":
    exchange = module._exchange
    module._exchange = lambda *args: (exchange(*args), die())
elif where != "unpacking":
    setattr(module, where, die)
progress = die if where == "unpacking" else lambda done, total: None
options = {"by": "x", "clock": SystemClock(), "force": True, "progress": progress}
asyncio.run(restore(kit, kit.local / "state", file, **options))
"""

BACKUP = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from flprov.kits import load_kit
from flprov.server import back_up
kit, file, share = load_kit(Path(sys.argv[1]), now=datetime.now(UTC)), Path(sys.argv[2]), float(sys.argv[3])
def die(done, total):
    if done >= share * total: os.kill(os.getpid(), signal.SIGKILL)
back_up(kit, kit.local / "state", file, now=datetime.now(UTC), progress=die)
"""


def killed(script: str, *words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.fixture
def stopped(make_network: Callable[[int], Network]) -> Network:
    """A server that has run, and does not."""
    network = make_network(1)
    network.start("server")
    network.running.pop("server").stop()
    return network


def test_restore_that_is_killed_leaves_the_old_state_or_the_new_one(stopped, tmp_path):
    kit, file, local = stopped.kit("server"), tmp_path / "b.tar", stopped.local("server")
    flprov("server", "backup", kit, "-o", file)
    mark = local / "state" / "mark"
    mark.write_text("the old one")
    for where in ("unpacking", "_mark_restored", "_exchange"):
        killed(RESTORE, kit, file, where)
        assert mark.read_text() == "the old one"
        assert len(list(local.glob("state*"))) == 2  # what the one before left is gone
    killed(RESTORE, kit, file, "after")
    assert not mark.exists()
    assert [path.read_text() for path in local.glob("state.replaced-*/mark")] == ["the old one"]
    stopped.start("server")
    stopped.running.pop("server").stop()
    flprov("server", "restore", kit, file, "--force")
    assert [path.read_text() for path in local.glob("state*/mark")] == ["the old one"]
    assert not list(local.glob("state*/.unfinished"))


def test_backup_that_is_killed_leaves_no_file_and_the_next_one_works(stopped, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    kit, file = stopped.kit("server"), folder / "b.tar"
    for share in (0.0, 0.6, 1.0):
        killed(BACKUP, kit, file, share)
        assert list(folder.iterdir()) == []
    flprov("server", "backup", kit, "-o", file)
    assert [path.name for path in folder.iterdir()] == ["b.tar"]
    assert not (stopped.local("server") / "state" / "backup.partial").exists()


def test_backup_and_restore_say_what_is_wrong(stopped, tmp_path):
    kit = stopped.kit("server")
    assert "there is no folder" in flprov("server", "backup", kit, "-o", tmp_path / "a" / "b.tar", code=5)
    assert "there is no file" in flprov("server", "restore", kit, tmp_path / "none.tar", code=5)
    assert "is the kit of" in flprov(
        "server", "backup", stopped.kit("site-1"), "-o", tmp_path / "b.tar", code=3
    )
    file = tmp_path / "b.tar"
    flprov("server", "backup", kit, "-o", file)
    assert "not overwritten" in flprov("server", "backup", kit, "-o", file, code=2)
    assert "--force" in flprov("server", "restore", kit, file, code=2)
    stopped.start("server")
    assert "is running" in flprov("server", "restore", kit, file, "--force", code=3)
    data = Path(file).read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    stopped.running.pop("server").stop()
    assert "take another one" in flprov("server", "restore", kit, tmp_path / "cut.tar", "--force", code=1)
