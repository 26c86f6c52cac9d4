# SPDX-License-Identifier: Apache-2.0
"""A run that is killed anywhere leaves whole kits and one CA, and the next run finishes it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT, contents, with_endpoints, with_site

from flprov._base import hold_lock
from flprov.errors import Conflict, LocalError
from flprov.kits import load_kit, provision
from flprov.kits import provisioning as module

HERE = Path(__file__).parent

# Runs provision in a process that kills itself at the n-th call of one function, before or after it.
KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from kit_parties import NOW, PROJECT, with_endpoints
    from flprov.kits import builder, provisioning, authorities

    workspace, where, name, count, when, project = sys.argv[2:]
    module = {"builder": builder, "provisioning": provisioning, "authorities": authorities}[where]
    real, calls = getattr(module, name), []

    def dying(*args, **options):
        calls.append(name)
        last = len(calls) == int(count)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(module, name, dying)
    wanted = PROJECT if project == "same" else with_endpoints("new.heart.example:443")
    provisioning.provision(wanted, provisioning.Path(workspace), now=NOW)
"""

FIRST_RUN = [
    ("authorities", "write_private", 2, "after"),  # half a CA in staging
    ("builder", "write_tree", 1, "before"),
    ("builder", "write_tree", 3, "after"),
    ("provisioning", "sync_tree", 1, "before"),
    ("provisioning", "sync_tree", 1, "after"),
    ("provisioning", "sync_folder", 1, "before"),  # the CA has its name, no kit has
    ("provisioning", "replace_tree", 1, "before"),
    ("provisioning", "replace_tree", 3, "after"),
    ("provisioning", "replace_keeping_backup", 1, "before"),  # everything but the record
    ("provisioning", "replace_keeping_backup", 1, "after"),
]
LATER_RUN = [
    ("builder", "write_tree", 2, "after"),
    ("provisioning", "sync_tree", 1, "after"),
    ("provisioning", "replace_tree", 1, "after"),
    ("provisioning", "replace_tree", 4, "before"),
    ("provisioning", "replace_keeping_backup", 1, "before"),
]


def run_and_kill(workspace, where, name, count, when, project):
    arguments = [str(HERE), str(workspace), where, name, str(count), when, project]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def expect_only_whole_kits(workspace):
    kits = [path for path in (workspace / "kits").iterdir() if not path.name.startswith(".")]
    for kit in kits:
        load_kit(kit, now=NOW)
    return {kit.name for kit in kits}


def expect_finished(workspace, project):
    """One run finishes, the next finds nothing to do and nothing is left lying about."""
    provision(project, workspace, now=NOW)
    assert provision(project, workspace, now=NOW).changed == ()
    names = {party.name for party in (project.server, *project.sites, *project.people)}
    assert expect_only_whole_kits(workspace) == names
    assert {path.name for path in workspace.iterdir()} - {"project.json.bak", "removed"} == {
        ".gitignore",
        ".lock",
        "ca",
        "kits",
        "project.json",
    }


@pytest.mark.parametrize("point", FIRST_RUN, ids=lambda point: "-".join(map(str, point[1:])))
def test_a_first_run_that_is_killed_is_finished_by_the_second(tmp_path, point):
    workspace = tmp_path / "workspace"
    run_and_kill(workspace, *point, "same")
    before = expect_only_whole_kits(workspace)
    ca = contents(workspace / "ca") if (workspace / "ca").exists() else None
    keys = {name: (workspace / "kits" / name / "identity/key.pem").read_bytes() for name in before}
    expect_finished(workspace, PROJECT)
    if ca is not None:
        assert contents(workspace / "ca") == ca
    for name in before - {"server"}:  # what had reached its place stays
        assert (workspace / "kits" / name / "identity/key.pem").read_bytes() == keys[name]


@pytest.mark.parametrize("point", LATER_RUN, ids=lambda point: "-".join(map(str, point[1:])))
def test_a_later_run_that_is_killed_leaves_old_or_new_kits_and_is_finished(workspace, point):
    ca = contents(workspace / "ca")
    run_and_kill(workspace, *point, "moved")
    old, new = PROJECT.server.endpoints, ("new.heart.example:443",)
    for name in expect_only_whole_kits(workspace):
        assert load_kit(workspace / "kits" / name, now=NOW).endpoints in (old, new)
    expect_finished(workspace, with_endpoints("new.heart.example:443"))
    assert contents(workspace / "ca") == ca


def test_a_run_that_was_killed_can_also_be_undone(workspace):
    run_and_kill(workspace, "provisioning", "replace_keeping_backup", 1, "before", "moved")
    provision(PROJECT, workspace, now=NOW)
    assert load_kit(workspace / "kits/alice", now=NOW).endpoints == PROJECT.server.endpoints


def test_old_leftovers_are_cleared(workspace):
    (workspace / ".staging/hospital-a").mkdir(parents=True)
    (workspace / "kits/.alice.abcd.old").mkdir()
    (workspace / ".project.json.abcd.partial").write_text("{")
    expect_finished(workspace, PROJECT)


def test_a_second_run_at_the_same_time_is_refused_with_the_firsts_number(workspace):
    before = contents(workspace)
    with hold_lock(workspace / ".lock"), pytest.raises(Conflict, match=f"process {os.getpid()}") as caught:
        provision(PROJECT, workspace, now=NOW)
    assert "wait" in caught.value.hint
    assert contents(workspace).keys() == before.keys()


def test_runs_at_the_same_time_make_one_ca(tmp_path):
    workspace = tmp_path / "workspace"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from kit_parties import NOW, PROJECT; from pathlib import Path; from flprov.kits import provision;"
        "from flprov.errors import Conflict\n"
        "try: print(provision(PROJECT, Path(sys.argv[2]), now=NOW).root_fingerprint)\n"
        "except Conflict: print('refused')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(HERE), str(workspace)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert {error for _, error in outputs} == {""}
    said = {out.strip() for out, _ in outputs} - {"refused"}
    assert len(said) == 1, said
    expect_finished(workspace, PROJECT)


def test_a_disk_that_is_full_changes_nothing_and_is_named(workspace, monkeypatch):
    before = contents(workspace)

    def full(folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(module, "sync_tree", full)
    with pytest.raises(LocalError, match="No space left on device"):
        provision(with_endpoints("new.heart.example:443"), workspace, now=NOW)
    after = contents(workspace)
    del before[".lock"], after[".lock"]
    assert after == before


# ---- a disk that is full for real, and SIGKILL at any system call ------------------------------


@contextlib.contextmanager
def file_limit(size):
    """No file can grow beyond `size` bytes, as on a disk that has no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 20, 100, 1000, 2000, 4000])
def test_a_first_run_without_room_fails_clearly_and_the_next_one_finishes(tmp_path, size):
    workspace = tmp_path / "workspace"
    with file_limit(size), pytest.raises(LocalError, match=r"the workspace cannot be written: .*too large"):
        provision(PROJECT, workspace, now=NOW)
    expect_finished(workspace, PROJECT)
    assert (workspace / ".gitignore").read_text().splitlines()[-1] == "*"


@pytest.mark.parametrize("size", [10, 1000, 4000])
def test_a_later_run_without_room_leaves_every_kit_and_the_record_whole(workspace, size):
    before, moved = contents(workspace), with_endpoints("new.heart.example:443")
    with file_limit(size), pytest.raises(LocalError):
        provision(moved, workspace, now=NOW)
    after = contents(workspace)
    assert {name for name in before if after.get(name) != before[name]} <= {".lock"}
    expect_finished(workspace, moved)


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for 700 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_fills_up_and_the_workspace_stays_whole(small_disk):
    workspace = small_disk / "workspace"
    provision(PROJECT, workspace, now=NOW)
    ca, sites = contents(workspace / "ca"), PROJECT.sites
    many = replace(PROJECT, sites=(*sites, *(replace(sites[0], name=f"site-{n}") for n in range(30))))
    with pytest.raises(LocalError, match="No space left on device") as caught:
        provision(many, workspace, now=NOW)
    assert "nothing is lost" in caught.value.hint
    assert expect_only_whole_kits(workspace) >= {"server", "hospital-a", "hospital-b", "alice", "bob"}
    assert contents(workspace / "ca") == ca
    expect_finished(workspace, PROJECT)


EDITED = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from kit_parties import NOW, PROJECT, with_site
from flprov.kits import provision
project = with_site("hospital-c") if sys.argv[3] == "first" else replace(
    PROJECT, sites=PROJECT.sites[:1], server=replace(PROJECT.server, endpoints=("new.heart.example:443",))
)
provision(project, Path(sys.argv[2]), now=NOW)
"""
# strace counts each kind of call by itself. The step: how many are passed over in the long tests.
WRITES = {
    "mkdir": 7,
    "rename": 2,
    "renameat2": 1,
    "unlinkat": 13,
    "rmdir": 7,
    "fsync": 5,
    "syncfs": 1,
    "write": 29,
}
SECOND = replace(
    PROJECT,
    sites=PROJECT.sites[:1],
    server=replace(PROJECT.server, endpoints=("new.heart.example:443",)),
)


def kill_at(workspace, run, name, call):
    """Run with SIGKILL at the n-th system call of one kind; whether it was killed."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}"]
    command += ["-e", f"inject={name}:signal=KILL:when={call}"]
    done = subprocess.run(
        [*command, sys.executable, "-c", EDITED, str(HERE), str(workspace), run],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.fixture(scope="session")
def tracing(tmp_path_factory):
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine")
    if kill_at(tmp_path_factory.mktemp("trace") / "w", "first", "mkdir", 60_000):
        pytest.skip("this machine does not let us trace a process")


def killed_everywhere(copy, run, wanted, name, folder):
    """Kill a run at the calls of one kind until it gets through; each time the next one must finish.

    Two at a time, each in a workspace of its own.
    """

    def killed(call):
        workspace = folder / str(call)
        if copy is not None:
            shutil.copytree(copy, workspace)
        killed = kill_at(workspace, run, name, call)
        if (workspace / "kits").exists():
            expect_only_whole_kits(workspace)
        keys = contents(workspace / "ca") if (workspace / "ca").exists() else None
        expect_finished(workspace, wanted)
        assert keys in (None, contents(workspace / "ca"))
        shutil.rmtree(workspace)
        return killed

    step, count = WRITES[name], 0
    with ThreadPoolExecutor(2) as pool:
        for call in range(1, 2000, 2 * step):
            for was_killed in pool.map(killed, (call, call + step)):
                if not was_killed:
                    return count
                count += 1
    raise AssertionError("it never got through")


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize(
    ("name", "call"), [("write", 7), ("syncfs", 1), ("renameat2", 2), ("rename", 3), ("fsync", 4)]
)
def test_killed_at_a_system_call_of_a_later_run(workspace, name, call):
    assert kill_at(workspace, "later", name, call)
    assert expect_only_whole_kits(workspace) >= {"server", "hospital-a", "alice", "bob"}
    expect_finished(workspace, SECOND)


@pytest.mark.slow
@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("name", ["mkdir", "rename", "fsync", "syncfs", "write"])
def test_killed_at_any_system_call_of_a_first_run(tmp_path, name):
    folder = tmp_path / "runs"
    folder.mkdir()
    assert killed_everywhere(None, "first", with_site("hospital-c"), name, folder) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("name", sorted(WRITES))
def test_killed_at_any_system_call_of_a_later_run(provisioned, tmp_path, name):
    assert killed_everywhere(provisioned, "later", SECOND, name, tmp_path / "runs") > 0
