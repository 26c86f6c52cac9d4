# SPDX-License-Identifier: Apache-2.0
"""What was acknowledged is there after SIGKILL; a disk that fails fails one commit, not the store."""

import asyncio
import contextlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from flprov._base import SystemClock
from flprov.errors import LocalError
from flprov.store import Put, Row, RowFilter, open_store, verify_chain
from flprov.store.writer import Writer
from flprov.testing.clock import FakeClock

ROW = Row(who="server", what="job.start", object="job-1")

COMMIT_FOR_EVER = """
import asyncio, itertools, sys
from pathlib import Path
from flprov._base import SystemClock
from flprov.store import Put, Row, open_store

async def one_caller(store, name):
    for n in itertools.count(1):
        row = Row(who="server", what="count", object=name, data={"n": n})
        index = await store.commit([Put("count", name, {"n": n})], row)
        sys.stdout.write(f"{index} {name} {n}\\n")
        sys.stdout.flush()

async def main():
    store = open_store(Path(sys.argv[1]), clock=SystemClock())
    await asyncio.gather(*(one_caller(store, f"caller-{c}") for c in range(4)))

asyncio.run(main())
"""


def commit_until_killed(folder, *, lines):
    """Everything that a process acknowledged before SIGKILL struck, somewhere after `lines` lines."""
    command = [sys.executable, "-c", COMMIT_FOR_EVER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [line.split() for line in acknowledged if line.endswith("\n")]


async def test_everything_acknowledged_survives_sigkill(tmp_path):
    chance = random.Random(7)
    last = 0
    for _ in range(5):
        acknowledged = commit_until_killed(tmp_path, lines=chance.randint(1, 300))
        store = open_store(tmp_path, clock=SystemClock())
        rows = {row.index: row.row for row in store.rows(1, 1_000_000)}
        for index, name, n in acknowledged:
            assert (rows[int(index)].object, rows[int(index)].data) == (name, {"n": int(n)})
            assert store.get("count", name)["n"] >= int(n)
        assert verify_chain(store.rows(1, 1_000_000)) is None
        assert store.head == len(rows) > last
        last = store.head
        await store.close()


async def test_records_and_rows_agree_after_sigkill(tmp_path):
    commit_until_killed(tmp_path, lines=200)
    store = open_store(tmp_path, clock=SystemClock())
    logged = {row.row.object: row.row.data for row in store.rows(1, 1_000_000)}
    assert store.load("count") == logged
    await store.close()


@contextlib.contextmanager
def file_limit(size):
    """Writes beyond `size` bytes into any file fail, as on a disk that has gone bad."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_disk_error_fails_that_commit_and_the_next_one_works(tmp_path):
    store = open_store(tmp_path, clock=FakeClock())
    assert await store.commit([Put("job", "a", {})], ROW) == 1
    with file_limit(64 << 10):
        with pytest.raises(LocalError) as caught:
            await store.commit([Put("job", "big", {"x": "x" * 200_000})], ROW)
        assert "store.db" in str(caught.value)
        assert caught.value.hint
    assert await store.commit([Put("job", "b", {})], ROW) == 2
    assert set(store.load("job")) == {"a", "b"}
    assert verify_chain(store.rows()) is None
    await store.close()


async def test_commit_that_does_not_fit_leaves_its_batch_alone(tmp_path):
    store = open_store(tmp_path, clock=FakeClock())
    with file_limit(128 << 10):
        sizes = [10, 10, 500_000, 10]
        commits = [store.commit([Put("job", str(n), {"x": "x" * size})], ROW) for n, size in enumerate(sizes)]
        outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, int, LocalError, int]
    assert set(store.load("job")) == {"0", "1", "3"}
    assert [row.index for row in store.rows()] == [1, 2, 3]
    await store.close()


async def test_commits_that_wait_share_one_transaction(tmp_path, monkeypatch):
    batches, go_on, real = [], threading.Event(), Writer._transact

    def transact(writer, batch):
        go_on.wait(10)
        batches.append(len(batch))
        return real(writer, batch)

    monkeypatch.setattr(Writer, "_transact", transact)
    store = open_store(tmp_path, clock=FakeClock())
    commits = [asyncio.ensure_future(store.commit([], ROW)) for _ in range(100)]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*commits) == list(range(1, 101))
    assert sum(batches) == 100
    assert len(batches) <= 2  # what was there when the thread looked, and the rest
    await store.close()


async def test_surprise_in_the_writer_fails_the_commit_and_not_the_store(tmp_path, monkeypatch):
    store = open_store(tmp_path, clock=FakeClock())
    with monkeypatch.context() as broken:
        broken.setattr("flprov.store.writer.seal_rows", lambda *_: 1 / 0)
        with pytest.raises(LocalError) as caught:
            await store.commit([Put("job", "a", {})], ROW)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert await store.commit([], ROW) == 1
    assert store.load("job") == {}
    await store.close()


FILL_A_SMALL_DISK = """
import asyncio, pathlib, sys
from flprov._base import SystemClock
from flprov.errors import LocalError
from flprov.store import Put, Row, open_store, verify_chain

ROW = Row(who="server", what="job.start", object="job-1")

async def main():
    disk = pathlib.Path(sys.argv[1])
    store = open_store(disk / "state", clock=SystemClock())
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    done = 0
    try:
        while True:
            await store.commit([Put("job", str(done), {"x": "x" * 5000})], ROW)
            done += 1
    except LocalError as error:
        print("full:", error, "|", error.hint)
    for _ in range(300):  # more than an operator will ever need
        await store.commit([Put("abort", "job-1", {})], ROW, urgent=True)
    try:
        await store.commit([], ROW)
        print("an ordinary commit used the reserve")
    except LocalError:
        pass
    ballast.unlink()
    await store.commit([Put("job", "after", {})], ROW)
    assert (disk / "state/store.reserve").stat().st_size == 1 << 20
    assert len(store.load("job")) == done + 1
    assert store.load("abort") == {"job-1": {}}
    assert store.head == done + 301 and verify_chain(store.rows(1, 10**6)) is None
    await store.close()
    store = open_store(disk / "state", clock=SystemClock())
    assert store.head == done + 301
    await store.close()
    print("held")

asyncio.run(main())
"""


def on_a_small_disk(folder, program):
    """The output of `program` with `folder` as a disk of 4 MiB of its own."""
    mount = 'mount -t tmpfs -o size=4m flprov-test "$0" && exec "$@"'
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    command = [*shell, str(folder), sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="session")
def small_disks(tmp_path_factory):
    if shutil.which("unshare") is None or on_a_small_disk(tmp_path_factory.mktemp("disk"), "").returncode:
        pytest.skip("this machine does not let us mount a small disk")


@pytest.mark.usefixtures("small_disks")
def test_full_disk_refuses_commits_but_not_urgent_ones_until_there_is_space(tmp_path):
    result = on_a_small_disk(tmp_path, FILL_A_SMALL_DISK)
    assert result.stderr == ""
    first, last = result.stdout.splitlines()
    assert first.startswith("full: ")
    assert "the disk is full" in first
    assert "free some space" in first
    assert last == "held"


COMMIT_AND_REPORT = """
import asyncio, pathlib, sys
from flprov._base import SystemClock
from flprov.errors import LocalError
from flprov.store import Put, Row, open_store, verify_chain

async def main():
    store = open_store(pathlib.Path(sys.argv[1]), clock=SystemClock())
    for n in range(12):
        try:
            await store.commit([Put("n", str(n), {})], Row(who="server", what="n", object=str(n)))
            print(n)
        except LocalError as error:
            print("failed", type(error).__name__)
    assert verify_chain(store.rows()) is None
    await store.close()

asyncio.run(main())
"""


def trace(inject, folder, program):
    """Run `program` with system calls that fail as `inject` says."""
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync,fsync",
        "-e",
        f"inject={inject}",
    ]
    command += [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="session")
def tracing(tmp_path_factory):
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine")
    if trace("fsync:error=EIO:when=1000", tmp_path_factory.mktemp("trace"), "").returncode:
        pytest.skip("this machine does not let us trace a process")


@pytest.mark.usefixtures("tracing")
async def test_sync_that_fails_is_never_acknowledged(tmp_path):
    result = trace("fdatasync:error=EIO:when=8..10", tmp_path, COMMIT_AND_REPORT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split("\n")
    assert lines.count("failed LocalError") == 3
    store = open_store(tmp_path, clock=SystemClock())
    assert list(store.load("n")) == sorted(line for line in lines if line.isdigit())
    assert store.head == 9
    await store.close()


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("call", range(1, 9))
async def test_killed_at_any_sync_leaves_all_that_was_acknowledged(tmp_path, call):
    result = trace(f"fdatasync:signal=KILL:when={call}", tmp_path, COMMIT_AND_REPORT)
    acknowledged = result.stdout.split()
    assert len(acknowledged) < 12
    store = open_store(tmp_path, clock=SystemClock())
    assert set(store.load("n")) >= set(acknowledged)
    assert store.head == len(store.load("n"))
    assert verify_chain(store.rows()) is None
    await store.close()


async def test_write_ahead_log_stays_small_however_much_is_written(tmp_path):
    """It is begun anew after some 16 MiB, also while somebody reads."""
    store = open_store(tmp_path, clock=FakeClock())
    for _ in range(10):
        changes = [[Put("job", str(n), {"x": "x" * 5000})] for n in range(300)]
        await asyncio.gather(*(store.commit(change, ROW) for change in changes), store.find(RowFilter()))
    assert (tmp_path / "store.db-wal").stat().st_size < 20 << 20
    assert store.head == 3000
    await store.close()
    assert not (tmp_path / "store.db-wal").exists()
