# SPDX-License-Identifier: Apache-2.0
"""Files that a confined process hands over: blobs without a copy, once nobody can change them any more."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flprov.blobs import BlobStore, digest_of, shelf
from flprov.blobs.disk import DURABLE, UNSYNCED, OpenFile
from flprov.errors import LocalError, NotFound, ProtocolError

DATA = os.urandom(100_000)
DIGEST = digest_of(DATA)


@pytest.fixture
def out(tmp_path) -> Path:
    """The folder of a process."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def blobs(tmp_path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def hand(out: Path, data: bytes = DATA) -> Path:
    path = out / "update"
    path.write_bytes(data)
    return path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_file_becomes_a_blob_as_it_is(blobs, out):
    path = hand(out)
    number = path.stat().st_ino
    assert await blobs.take(path, limit=len(DATA)) == (DIGEST, len(DATA))
    found = blobs.path(DIGEST)
    assert (found.stat().st_ino, found.stat().st_nlink, found.read_bytes()) == (number, 1, DATA)
    assert not path.exists()
    assert list((out.parent / "blobs" / "partial").iterdir()) == []


# ---- what a hostile process keeps --------------------------------------------------------------

KEEPER = """
import mmap, os, sys
path, how = sys.argv[1:]
with open(path, "r+b") as file:
    kept = mmap.mmap(file.fileno(), 0) if how == "mapping" else os.dup(file.fileno())
print("kept", flush=True)
sys.stdin.readline()
if how == "mapping":
    kept[:4] = b"evil"
else:
    os.pwrite(kept, b"evil", 0)
print("written", flush=True)
"""


@pytest.mark.parametrize("how", ["descriptor", "mapping"])
async def test_what_is_still_open_for_writing_elsewhere_is_copied(blobs, out, how):
    path = hand(out)
    command = [sys.executable, "-c", KEEPER, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "kept\n"
        number = path.stat().st_ino
        assert await blobs.take(path, limit=len(DATA)) == (DIGEST, len(DATA))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
    assert blobs.path(DIGEST).stat().st_ino != number
    assert blobs.path(DIGEST).read_bytes() == DATA
    assert not path.exists()


async def test_who_only_reads_it_does_not_stand_in_the_way(blobs, out):
    path = hand(out)
    number = path.stat().st_ino
    with path.open("rb"):
        await blobs.take(path, limit=len(DATA))
    assert blobs.path(DIGEST).stat().st_ino == number


async def test_what_the_process_changes_while_it_is_copied_has_the_digest_of_the_copy(
    blobs, out, monkeypatch
):
    path, real = hand(out), OpenFile.write
    with path.open("r+b", buffering=0) as kept:

        def write_then_change(file, data, offset):
            real(file, data, offset)
            kept.write(os.urandom(16))

        monkeypatch.setattr(OpenFile, "write", write_then_change)
        digest, _ = await blobs.take(path, limit=len(DATA))
    assert digest == digest_of(blobs.path(digest).read_bytes())


# ---- what is no file ---------------------------------------------------------------------------


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_second_name(path: Path) -> None:
    path.write_bytes(DATA)
    os.link(path, path.with_name("other"))


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(len(DATA) + 1)


@pytest.mark.parametrize("make", [make_link, os.mkfifo, Path.mkdir, make_second_name, make_large])
async def test_anything_but_a_file_of_its_own_is_refused(blobs, out, make):
    make(out / "update")
    with pytest.raises(ProtocolError):
        await blobs.take(out / "update", limit=len(DATA))
    assert blobs.digests() == set()
    assert list((out.parent / "blobs" / "partial").iterdir()) == []


@pytest.mark.parametrize("make", [make_link, os.mkfifo, Path.mkdir, make_second_name])
async def test_what_takes_the_place_of_the_file_in_the_last_moment_is_refused(blobs, out, make, monkeypatch):
    path, real = hand(out), Path.rename

    def replace_first(self, target):
        if self == path:
            path.unlink()
            make(path)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", replace_first)
    with pytest.raises(ProtocolError):
        await blobs.take(path, limit=len(DATA))
    assert blobs.digests() == set()
    assert list((out.parent / "blobs" / "partial").iterdir()) == []


async def test_a_process_that_swaps_files_all_the_time_gets_one_of_them_taken_whole(blobs, out):
    other = os.urandom(100_000)
    (out / "a").write_bytes(DATA)
    (out / "b").write_bytes(other)
    swapper = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys\n"
            "place, n = sys.argv[1], 0\n"
            "good = open(place + '/a', 'rb').read(); bad = open(place + '/b', 'rb').read()\n"
            "while True:\n"
            "    n += 1\n"
            "    name = f'{place}/t{n}'\n"
            "    with open(name, 'wb') as file:\n"
            "        file.write(good if n % 2 else bad)\n"
            "    os.replace(name, place + '/update')\n"
            "    n == 1 and print('ready', flush=True)\n",
            str(out),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with swapper:
        try:
            swapper.stdout.readline()
            for _ in range(20):
                try:
                    digest, _ = await blobs.take(out / "update", limit=len(DATA))
                except NotFound:
                    continue
                assert blobs.path(digest).read_bytes() in (DATA, other)
        finally:
            swapper.kill()
    assert blobs.digests() <= {DIGEST, digest_of(other)}


async def test_where_there_are_no_leases_it_is_copied(blobs, out, monkeypatch):
    def refuse(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("flprov.blobs.disk.fcntl.fcntl", refuse)
    path = hand(out)
    number = path.stat().st_ino
    assert await blobs.take(path, limit=len(DATA)) == (DIGEST, len(DATA))
    assert blobs.path(DIGEST).stat().st_ino != number


async def test_from_another_disk_it_is_copied(blobs, out, monkeypatch):
    path, real = hand(out), Path.rename

    def refuse(self, target):
        if self == path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert await blobs.take(path, limit=len(DATA)) == (DIGEST, len(DATA))
    assert blobs.path(DIGEST).read_bytes() == path.read_bytes() == DATA


# ---- who is killed on the way ------------------------------------------------------------------


async def test_who_asks_again_gets_the_same_answer(blobs, out, tmp_path):
    path, kept = hand(out), tmp_path / "kept"
    assert await blobs.take(path, limit=len(DATA), kept=kept) == (DIGEST, len(DATA))
    assert kept.stat().st_ino == blobs.path(DIGEST).stat().st_ino
    assert await blobs.take(path, limit=len(DATA), kept=kept) == (DIGEST, len(DATA))
    kept.unlink()
    with pytest.raises(NotFound):
        await blobs.take(path, limit=len(DATA), kept=kept)


async def test_killed_after_the_move_it_is_still_there(blobs, out, tmp_path, monkeypatch):
    path, kept = hand(out), tmp_path / "kept"
    path.rename(kept)  # as far as an earlier process came
    assert await blobs.take(path, limit=len(DATA), kept=kept) == (DIGEST, len(DATA))
    assert blobs.path(DIGEST).read_bytes() == DATA


async def test_what_is_refused_is_not_kept(blobs, out, tmp_path):
    make_second_name(out / "update")
    with pytest.raises(ProtocolError):
        await blobs.take(out / "update", limit=len(DATA), kept=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


# ---- the disk ----------------------------------------------------------------------------------


async def test_it_is_on_the_disk_once_it_is_settled(blobs, out, monkeypatch):
    await blobs.take(hand(out), limit=len(DATA))
    assert mode(blobs.path(DIGEST)) == UNSYNCED
    calls: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda number, name=name, real=real: (calls.append(name), real(number)))
    await blobs.settle(DIGEST)
    assert calls == ["fdatasync", "fsync", "fsync"]  # the bytes, the mode that vouches for them, the name
    assert mode(blobs.path(DIGEST)) == DURABLE
    await blobs.settle(DIGEST)
    assert calls[3:] == ["fsync"]


async def test_what_was_not_settled_is_not_trusted_after_a_boot(tmp_path, blobs, out, monkeypatch):
    await blobs.take(hand(out), limit=len(DATA))
    kept = await blobs.put(b"kept")
    assert BlobStore(tmp_path / "blobs").digests() == {DIGEST, kept}
    monkeypatch.setattr(shelf, "boot_id", lambda: "the next boot")
    assert BlobStore(tmp_path / "blobs").digests() == {kept}


async def test_what_is_fetched_again_need_not_be_on_the_disk(tmp_path, blobs, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    big = bytes(20 << 20)
    upload = blobs.upload(digest_of(big), len(big), durable=False)
    await upload.write(big)
    await upload.finish()
    assert (synced, mode(blobs.path(digest_of(big)))) == ([], UNSYNCED)
    again = blobs.upload(digest_of(big), len(big))
    await again.finish()  # somebody else needs it to be there tomorrow
    assert (len(synced), mode(blobs.path(digest_of(big)))) == (1, DURABLE)


async def test_a_disk_that_fails_while_it_is_settled_vouches_for_nothing(blobs, out, monkeypatch):
    await blobs.take(hand(out), limit=len(DATA))

    def fail(_number):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(LocalError):
        await blobs.settle(DIGEST)
    assert mode(blobs.path(DIGEST)) == UNSYNCED
    with pytest.raises(NotFound):
        await blobs.settle("0" * 64)
