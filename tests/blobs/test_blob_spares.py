# SPDX-License-Identifier: Apache-2.0
"""Files that nobody needs any more: written over by the next ones, and never while somebody has them."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flprov._base import LEAST_SPARE, is_spare, open_to_fill, spare_name
from flprov.blobs import BlobStore, digest_of, shelf, spares
from flprov.blobs.disk import OpenFile
from flprov.blobs.shelf import SYNC_EVERY
from flprov.errors import ProtocolError
from flprov.wire import TensorFile, read_tensors, write_tensors

MIB = 1 << 20
SIZE = 3 * MIB
OLD, NEW = os.urandom(SIZE), os.urandom(SIZE)


async def put(blobs: BlobStore, data: bytes, *, durable: bool = False) -> Path:
    """The blob's path, once nobody has it open any more."""
    upload = blobs.upload(digest_of(data), len(data), durable=durable)
    await send(upload, data)
    await upload.finish()
    path = blobs.path(digest_of(data))
    while not OpenFile(path, os.O_RDONLY).is_alone():  # the thread that gave it its name ends with it
        await asyncio.sleep(0)
    return path


async def send(upload, data: bytes, upto: int = 1 << 40) -> None:
    while upload.offset < min(upto, len(data)):
        await upload.write(data[upload.offset : upload.offset + MIB])


def number(path: Path) -> int:
    return path.stat().st_ino


def spares_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_spare(path.name)]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("size", [SIZE, SIZE - 1, 2 * MIB, SIZE + MIB, LEAST_SPARE])
async def test_the_next_upload_is_written_over_a_blob_that_was_removed(blobs, tmp_path, size, durable):
    old = number(await put(blobs, OLD))
    blobs.remove(digest_of(OLD))
    data = os.urandom(size)
    path = await put(blobs, data, durable=durable)
    assert (number(path), path.read_bytes()) == (old, data)
    assert os.listxattr(path) == []
    assert list((tmp_path / "blobs" / "partial").iterdir()) == []


async def test_a_small_upload_is_a_new_file(blobs, tmp_path):
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    await put(blobs, b"small")
    assert len(spares_in(tmp_path / "blobs" / "partial")) == 1


@pytest.mark.parametrize("how", ["mapped", "open", "named"])
async def test_what_somebody_still_has_is_not_written_over(blobs, tmp_path, how):
    path = await put(blobs, OLD)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if how == "mapped":
            file.close()
        else:
            mapped.close()
        if how == "named":
            (tmp_path / "name").hardlink_to(path)
            file.close()
        blobs.remove(digest_of(OLD))
        await put(blobs, NEW)
        seen = {"mapped": lambda: mapped[:], "open": file.read, "named": (tmp_path / "name").read_bytes}
        assert seen[how]() == OLD


async def test_a_name_of_a_blob_that_goes_last_leaves_its_file(blobs, tmp_path):
    path = await put(blobs, OLD)
    old = number(path)
    blobs.link(digest_of(OLD), tmp_path / "in")
    blobs.remove(digest_of(OLD))
    blobs.unlink(tmp_path / "in")
    assert not (tmp_path / "in").exists()
    assert number(await put(blobs, NEW)) == old


async def test_a_cut_upload_goes_on_where_it_was_and_not_at_what_was_there_before(blobs, tmp_path):
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    cut = blobs.upload(digest_of(NEW), SIZE)
    await send(cut, NEW, 2 * MIB)
    assert blobs.stale_uploads(before=_never()) == []  # one that goes on is not stale
    again = BlobStore(tmp_path / "blobs")  # as after a SIGKILL
    assert again.stale_uploads(before=_never()) == [2 * MIB]
    upload = again.upload(digest_of(NEW), SIZE)
    assert upload.offset == 2 * MIB
    await send(upload, NEW)
    await upload.finish()
    assert again.path(digest_of(NEW)).read_bytes() == NEW


async def test_after_a_boot_only_what_was_synced_counts(blobs, tmp_path, monkeypatch):
    old, data = os.urandom(3 * SYNC_EVERY), os.urandom(3 * SYNC_EVERY)
    await put(blobs, old)
    blobs.remove(digest_of(old))
    await send(blobs.upload(digest_of(data), len(data)), data, 2 * SYNC_EVERY + MIB)
    monkeypatch.setattr(shelf, "boot_id", lambda: "the next boot")
    again = BlobStore(tmp_path / "blobs").upload(digest_of(data), len(data))
    assert again.offset == SYNC_EVERY
    await send(again, data)
    await again.finish()


async def test_what_was_there_before_is_never_taken_for_what_was_sent(blobs):
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    upload = blobs.upload(digest_of(OLD), SIZE)
    assert upload.offset == 0
    with pytest.raises(ProtocolError, match="ended after 0 of"):
        await upload.finish()
    assert not blobs.has(digest_of(OLD))


async def test_a_larger_upload_of_the_name_begins_anew(blobs):
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    await send(blobs.upload(digest_of(NEW[:MIB]), SIZE), NEW, 2 * MIB)
    upload = blobs.upload(digest_of(NEW[:MIB]), MIB)
    assert upload.offset == 0
    await send(upload, NEW[:MIB])
    await upload.finish()


async def test_spares_are_kept_for_a_while_and_go_with_their_process(blobs, tmp_path, monkeypatch):
    partial = tmp_path / "blobs" / "partial"
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    BlobStore(tmp_path / "blobs")
    assert spares_in(partial) == []
    monkeypatch.setattr(spares, "_IDLE", 0)
    await put(blobs, NEW)
    blobs.remove(digest_of(NEW))
    while spares_in(partial):
        await asyncio.sleep(0)


async def test_spares_are_dropped_with_the_job_that_they_come_from(blobs, tmp_path):
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    blobs.drop_spares()
    assert spares_in(tmp_path / "blobs" / "partial") == []


async def test_spares_take_no_more_than_their_share_of_the_disk(blobs, tmp_path, monkeypatch):
    await put(blobs, OLD)
    found = os.statvfs(tmp_path)
    little = os.statvfs_result((*found[:4], 4 * SIZE // found.f_frsize - 1, *found[5:]))
    monkeypatch.setattr(spares.os, "statvfs", lambda _: little)
    blobs.remove(digest_of(OLD))
    assert spares_in(tmp_path / "blobs" / "partial") == []


async def test_a_full_disk_takes_the_spares_first(blobs, tmp_path, monkeypatch):
    for data in (OLD, NEW):
        await put(blobs, data)
    for data in (OLD, NEW):
        blobs.remove(digest_of(data))
    upload, real, full = blobs.upload(digest_of(NEW), SIZE), OpenFile.write, []

    def write(file, data, offset):
        if spares_in(tmp_path / "blobs" / "partial"):
            full.append(offset)
            raise OSError(errno.ENOSPC, "full")
        real(file, data, offset)

    monkeypatch.setattr(OpenFile, "write", write)
    await send(upload, NEW)
    await upload.finish()
    assert full == [0]


async def test_where_files_have_no_attributes_they_are_made_anew(blobs, monkeypatch):
    old = number(await put(blobs, OLD))

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "no attributes here")

    monkeypatch.setattr(os, "setxattr", refuse)
    blobs.remove(digest_of(OLD))
    path = await put(blobs, NEW)
    assert number(path) != old
    assert path.read_bytes() == NEW


# ---- what a job's process wrote goes back to it ------------------------------------------------


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


async def hand_over(blobs: BlobStore, out: Path, value: float) -> str:
    write_tensors(out / "update", {"w": np.full(SIZE // 4, value, np.float32)})
    return (await blobs.take(out / "update", limit=1 << 30))[0]


async def test_a_removed_update_is_written_over_by_the_process_that_wrote_it(blobs, out):
    digest = await hand_over(blobs, out, 1)
    old = number(blobs.path(digest))
    blobs.remove(digest)
    digest = await hand_over(blobs, out, 2)
    assert number(blobs.path(digest)) == old
    assert (read_tensors(blobs.path(digest))["w"] == 2).all()


async def test_a_result_file_is_written_over_a_spare_one_and_has_its_own_length(blobs, out):
    digest = await hand_over(blobs, out, 1)
    old = number(blobs.path(digest))
    blobs.remove(digest)
    with TensorFile(out / "mean", {"w": (np.dtype(np.float32), (MIB // 4,))}) as file:
        file.put("w", 0, np.full(MIB // 4, 3, np.float32))
    assert number(out / "mean") == old
    write_tensors(out / "other", {"w": np.full(MIB // 4, 3, np.float32)})
    assert (out / "mean").read_bytes() == (out / "other").read_bytes()


async def test_a_process_that_has_its_update_mapped_does_not_get_it_back(blobs, out):
    digest = await hand_over(blobs, out, 1)
    kept = read_tensors(blobs.path(digest))["w"]
    blobs.remove(digest)
    assert list(out.iterdir()) == []
    await hand_over(blobs, out, 2)
    assert (kept == 1).all()


async def test_nothing_goes_back_to_another_folder_of_that_name(blobs, out):
    digest = await hand_over(blobs, out, 1)
    out.rename(out.with_name("moved"))
    other = out.with_name("other")
    other.mkdir()
    out.symlink_to(other)
    blobs.remove(digest)
    assert [*other.iterdir(), *out.with_name("moved").iterdir()] == []


async def test_a_folder_gets_no_heap_of_spares(blobs, out):
    for value in range(4):
        blobs_digest = await hand_over(blobs, out, value)
        for spare in spares_in(out):
            spare.rename(out / f"kept{value}{spare.name}")
        (out / spare_name()).touch()
        blobs.remove(blobs_digest)
    assert len(spares_in(out)) <= 4


def test_a_new_file_is_never_one_that_is_there(tmp_path):
    (tmp_path / spare_name()).write_bytes(OLD)
    (tmp_path / "there").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        open_to_fill(tmp_path / "there", SIZE)
    assert (tmp_path / "there").read_bytes() == b"mine"


def test_a_link_is_no_spare_file(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / spare_name()).symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        open_to_fill(tmp_path / "new", SIZE)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def _never():
    from datetime import UTC, datetime

    return datetime(9999, 1, 1, tzinfo=UTC)


async def test_spares_may_be_cleared_by_another_thread_meanwhile(blobs, monkeypatch):
    """A full disk is noticed where a base is copied, in a thread."""
    await put(blobs, OLD)
    blobs.remove(digest_of(OLD))
    rename = Path.rename

    def rename_and_clear(path, target):
        rename(path, target)
        if is_spare(path.name):
            blobs._shelf.spares.clear()

    monkeypatch.setattr(Path, "rename", rename_and_clear)
    assert await put(blobs, NEW)


def test_on_overlayfs_no_file_is_written_over_nor_taken_as_it_is(tmp_path):
    """There a lease says nothing of those who have the file mapped: the mapping is of the file below."""
    places = [tmp_path / name for name in ("lower", "upper", "work", "merged")]
    for place in places:
        place.mkdir()
    lower, upper, work, merged = places
    mount = f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {merged}"
    script = f"{mount} || exit 42; exec {sys.executable} -c '{_MAPPED_ON}' {merged}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode in (1, 42) and "Traceback" not in done.stderr:
        pytest.skip(f"no overlayfs can be mounted here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the blob is as it was hashed\n", "")


_MAPPED_ON = """
import asyncio, mmap, os, sys, ctypes
from pathlib import Path
from flprov.blobs import BlobStore, digest_file
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
async def main(place):
    made = place / "made"
    made.write_bytes(b"a" * (1 << 20))
    number = os.open(made, os.O_RDWR)
    address = libc.mmap(None, 1 << 20, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, number, 0)
    os.close(number)
    blobs = BlobStore(place / "blobs")
    digest, _ = await blobs.take(made, limit=1 << 20)
    ctypes.memset(address, 90, 1 << 20)
    right = digest_file(blobs.path(digest)) == digest
    print("the blob is as it was hashed" if right else "the blob has changed")
asyncio.run(main(Path(sys.argv[1])))
"""
