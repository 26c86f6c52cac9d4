# SPDX-License-Identifier: Apache-2.0
"""Blobs and uploads across SIGKILL, restarts, full and broken disks."""

import asyncio
import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest

from flprov.blobs import BlobStore, digest_of, folder, shelf
from flprov.blobs.disk import OpenFile
from flprov.blobs.upload import SYNC_EVERY
from flprov.errors import Conflict, LocalError, ProtocolError

MIB = 1 << 20
BIG = random.Random(1).randbytes(20 * MIB + 12345)
BIG_DIGEST = digest_of(BIG)


async def send(upload, data, piece=MIB):
    for start in range(upload.offset, len(data), piece):
        await upload.write(data[start : start + piece])


async def send_whole(upload):
    await send(upload, BIG)
    await upload.finish()


def partials(blobs):
    return sorted(path.name for path in (blobs._shelf.blob("0" * 64).parents[1] / "partial").iterdir())


@pytest.fixture
def restart(blobs, monkeypatch, tmp_path):
    """The same folder as a new process sees it."""

    def fresh(*, boot=False):
        monkeypatch.setattr(shelf, "_PROCESS", f"process-{random.random()}")
        if boot:
            monkeypatch.setattr(shelf, "boot_id", lambda: "the next boot")
        return BlobStore(tmp_path / "blobs")

    return fresh


# ---- SIGKILL -------------------------------------------------------------------------------

UPLOAD = """
import asyncio, random, sys
from pathlib import Path
from flprov.blobs import BlobStore

async def main():
    folder, digest, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    data = random.Random(1).randbytes((20 << 20) + 12345)
    upload, chance = BlobStore(folder).upload(digest, len(data)), random.Random(seed)
    print(upload.offset, flush=True)
    while upload.offset < len(data):
        await upload.write(data[upload.offset : upload.offset + chance.randrange(1 << 20)])
        print(upload.offset, flush=True)
    await upload.finish()
    print("done", flush=True)

asyncio.run(main())
"""


def upload_until_killed(folder, seed, lines):
    """What the process said, until SIGKILL struck at some moment after so many lines."""
    command = [sys.executable, "-c", UPLOAD, str(folder), BIG_DIGEST, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


async def test_upload_killed_again_and_again_goes_on_where_it_was(tmp_path):
    chance, reached, starts = random.Random(3), 0, []
    for attempt in range(20):
        said = upload_until_killed(tmp_path, attempt, chance.randint(5, 25))
        starts += map(int, said[:1])
        assert starts[-1] >= reached
        if not said or said[-1] == "done" or BlobStore(tmp_path).has(BIG_DIGEST):
            break
        reached = int(said[-1])
    assert max(starts) > 0
    blobs = BlobStore(tmp_path)
    upload = blobs.upload(BIG_DIGEST, len(BIG))
    await send(upload, BIG)
    await upload.finish()
    assert blobs.path(BIG_DIGEST).read_bytes() == BIG
    assert partials(blobs) == []


@pytest.mark.parametrize(("boot", "kept"), [(False, 19 * MIB), (True, SYNC_EVERY)])
async def test_upload_keeps_all_after_a_restart_and_what_was_synced_after_a_boot(blobs, restart, boot, kept):
    await send(blobs.upload(BIG_DIGEST, len(BIG)), BIG[: 19 * MIB])
    again = restart(boot=boot)
    upload = again.upload(BIG_DIGEST, len(BIG))
    assert upload.offset == kept  # the second step may have been on its way to the disk
    await send(upload, BIG)
    await upload.finish()
    assert again.path(BIG_DIGEST).read_bytes() == BIG


async def test_beginning_that_rotted_on_disk_is_found_at_the_end(blobs, restart):
    await send(blobs.upload(BIG_DIGEST, len(BIG)), BIG[: 9 * MIB])
    again = restart()
    (partial,) = (path for path in (again._shelf.blob(BIG_DIGEST).parents[1] / "partial").iterdir())
    with partial.open("r+b") as file:
        file.write(b"\0" * 4096)
    upload = again.upload(BIG_DIGEST, len(BIG))
    assert upload.offset == 9 * MIB
    await send(upload, BIG)
    with pytest.raises(ProtocolError, match="another digest"):
        await upload.finish()
    assert again.upload(BIG_DIGEST, len(BIG)).offset == 0


async def test_upload_that_died_while_it_got_its_name_goes_on(blobs, restart):
    await blobs.upload(digest_of(b"abc"), 3).write(b"abc")
    partial = blobs._shelf.partial(digest_of(b"abc"), "")
    partial.chmod(0o444)
    upload = restart().upload(digest_of(b"abc"), 3)
    assert partial.stat().st_mode & 0o777 == 0o600
    await send(upload, b"abc")
    await upload.finish()
    assert blobs.path(digest_of(b"abc")).read_bytes() == b"abc"


async def test_leftovers_of_an_earlier_process_go_and_uploads_stay(blobs, restart):
    await blobs.upload(BIG_DIGEST, len(BIG)).write(b"abc")
    blobs._shelf.temporary().write_bytes(b"half")
    BlobStore(blobs._shelf.blob(BIG_DIGEST).parents[1])  # this process's own are in use
    assert len(partials(blobs)) == 2
    restart()
    assert partials(blobs) == [f"{BIG_DIGEST}.part"]


async def test_every_blob_is_synced_before_it_is_acknowledged(tmp_path, blobs, monkeypatch):
    calls = []

    def note(name, real):
        def call(first, *rest):
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            calls.append((name, "partial" if "partial/" in path else path.rpartition("/")[2]))
            return real(first, *rest)

        return call

    for name in ("fsync", "fdatasync", "rename"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    (tmp_path / "source").write_bytes(b"adopted")
    upload = blobs.upload(digest_of(b"uploaded"), 8)
    await upload.write(b"uploaded")
    for act in (blobs.put(b"put"), blobs.adopt(tmp_path / "source", limit=99), upload.finish()):
        calls.clear()
        await act
        home = calls[-1][1]
        assert calls == [("fsync", "partial"), ("fsync", "blobs"), ("rename", "partial"), ("fsync", home)]
        assert len(home) == 2
    calls.clear()
    await blobs.put(b"put")  # it may be another caller's, not yet durable
    assert [name for name, _ in calls] == ["fsync"]


async def test_upload_syncs_every_eight_mebibytes(blobs, monkeypatch):
    offsets, real = [], os.fdatasync
    upload = blobs.upload(BIG_DIGEST, len(BIG))
    monkeypatch.setattr(os, "fdatasync", lambda number: (offsets.append(upload.offset), real(number)))
    await send(upload, BIG, piece=3 * MIB)
    first, second = offsets  # each from a thread, which may begin a piece or two later
    assert 8 * MIB < first < 18 * MIB <= second


# ---- disks that are full or broken -----------------------------------------------------------


@contextlib.contextmanager
def file_limit(size):
    """Files end at `size` bytes, as on a disk that is full in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_upload_onto_a_full_disk_keeps_what_arrived_and_goes_on(blobs):
    upload = blobs.upload(BIG_DIGEST, len(BIG))
    with file_limit(3 * MIB + 100), pytest.raises(LocalError):
        await send(upload, BIG)
    with pytest.raises(LocalError, match="over"):
        await upload.write(b"x")
    again = blobs.upload(BIG_DIGEST, len(BIG))
    assert again.offset == 3 * MIB + 100
    await send(again, BIG)
    await again.finish()
    assert blobs.path(BIG_DIGEST).read_bytes() == BIG


async def test_put_and_adopt_on_a_full_disk_leave_nothing(blobs, tmp_path):
    (tmp_path / "source").write_bytes(BIG)
    with file_limit(MIB):
        for act in (blobs.put(BIG), blobs.adopt(tmp_path / "source", limit=len(BIG))):
            with pytest.raises(LocalError):
                await act
    assert partials(blobs) == []
    assert blobs.digests() == set()
    assert await blobs.put(BIG) == BIG_DIGEST


def failing(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


async def test_full_disk_is_named_with_a_hint(blobs, monkeypatch):
    monkeypatch.setattr(OpenFile, "write", failing(errno.ENOSPC))
    with pytest.raises(LocalError, match="the disk is full") as caught:
        await blobs.put(b"x")
    assert "free some space" in caught.value.hint


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
async def test_failed_sync_is_never_acknowledged_and_its_bytes_are_not_trusted(blobs, monkeypatch, call):
    upload = blobs.upload(BIG_DIGEST, len(BIG))
    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing(errno.EIO))
        with pytest.raises(LocalError):
            await send_whole(upload)
    assert not blobs.has(BIG_DIGEST)
    assert blobs.upload(BIG_DIGEST, len(BIG)).offset == 0


# ---- races ---------------------------------------------------------------------------------


async def test_upload_whose_caller_is_cancelled_while_it_gets_its_name(blobs, monkeypatch):
    inside, go_on, real = threading.Event(), threading.Event(), OpenFile.seal

    def slow(file):
        inside.set()
        go_on.wait(10)
        real(file)

    monkeypatch.setattr(OpenFile, "seal", slow)
    upload = blobs.upload(digest_of(b"abc"), 3)
    await upload.write(b"abc")
    finishing = asyncio.create_task(upload.finish())
    await asyncio.to_thread(inside.wait, 10)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    del upload, finishing
    again = blobs.upload(digest_of(b"abc"), 3)
    assert (again.offset, again.publishing) == (3, True)
    with pytest.raises(ProtocolError, match="does not have 2 bytes"):
        blobs.upload(digest_of(b"abc"), 2)  # would cut off what is getting its name
    go_on.set()
    await again.finish()
    assert blobs.path(digest_of(b"abc")).read_bytes() == b"abc"
    assert partials(blobs) == []


async def test_file_that_grows_while_it_is_adopted_is_cut_at_the_limit(blobs, tmp_path, monkeypatch):
    source = tmp_path / "out"
    source.write_bytes(b"x" * 100)
    real = folder.open_foreign

    def open_then_grow(path, limit):
        file = real(path, limit)
        os.truncate(path, 1 << 40)  # a terabyte of holes
        return file

    monkeypatch.setattr(folder, "open_foreign", open_then_grow)
    with pytest.raises(ProtocolError, match="limit of 1000 bytes"):
        await blobs.adopt(source, limit=1000)
    assert partials(blobs) == []


async def test_file_that_changes_while_it_is_adopted_has_the_digest_of_the_copy(blobs, tmp_path, monkeypatch):
    source = tmp_path / "out"
    source.write_bytes(BIG)
    real = OpenFile.write

    def write_then_change(file, data, offset):
        real(file, data, offset)
        with source.open("r+b") as changing:
            changing.seek(5 * MIB)
            changing.write(os.urandom(4096))

    monkeypatch.setattr(OpenFile, "write", write_then_change)
    digest, size = await blobs.adopt(source, limit=len(BIG))
    assert size == len(BIG)
    assert digest == digest_of(blobs.path(digest).read_bytes()) != BIG_DIGEST


# ---- the rest ------------------------------------------------------------------------------


async def test_link_across_devices_is_a_whole_read_only_copy(blobs, tmp_path, monkeypatch):
    digest = await blobs.put(BIG)
    monkeypatch.setattr(os, "link", failing(errno.EXDEV))
    before = os.umask(0o077)
    try:
        blobs.link(digest, tmp_path / "in")
    finally:
        os.umask(before)
    assert (tmp_path / "in").read_bytes() == BIG
    assert (tmp_path / "in").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "in").stat().st_ino != blobs.path(digest).stat().st_ino
    with pytest.raises(Conflict):
        blobs.link(digest, tmp_path / "in")
    with file_limit(MIB), pytest.raises(LocalError):
        blobs.link(digest, tmp_path / "other")
    assert not (tmp_path / "other").exists()


async def test_link_takes_no_space(blobs, tmp_path):
    digest = await blobs.put(b"abc")
    blobs.link(digest, tmp_path / "in")
    assert (tmp_path / "in").stat().st_ino == blobs.path(digest).stat().st_ino


async def test_prune_removes_what_nobody_goes_on_with(blobs, restart):
    await blobs.upload(BIG_DIGEST, len(BIG)).write(b"abc")
    live = blobs.upload(digest_of(b"live"), 4)
    await live.write(b"li")
    now = datetime.now(UTC)
    assert blobs.prune(now - timedelta(hours=1)) == 0
    assert blobs.prune(now + timedelta(hours=1)) == 1
    await live.write(b"ve")
    await live.finish()
    assert blobs.digests() == {digest_of(b"live")}


async def test_strange_files_in_the_folder_are_no_blobs(blobs, tmp_path):
    digest = await blobs.put(b"abc")
    home = blobs.path(digest).parent
    (home / "README").write_text("x")
    (home / ("f" * 64)).write_text("in the wrong folder")
    assert blobs.digests() == {digest}


async def test_memory_does_not_grow_with_the_blob(blobs, tmp_path):
    with (tmp_path / "source").open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        digest, size = await blobs.adopt(tmp_path / "source", limit=64 * MIB)
        assert sum(len(piece) for piece in blobs.read(digest)) == size
        other = BlobStore(tmp_path / "other")
        upload = other.upload(digest, size)
        for piece in blobs.read(digest):
            await upload.write(piece)
        await upload.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


def test_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(LocalError, match="blobs"):
        BlobStore(tmp_path / "blobs")


def test_descriptors_are_closed_when_an_upload_is_forgotten(blobs):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        blobs.upload(BIG_DIGEST, 5)
    assert len(os.listdir("/proc/self/fd")) == before
