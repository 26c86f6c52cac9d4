# SPDX-License-Identifier: Apache-2.0
"""A confined process that has handed its file over can only look at it, whatever it kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flprov.agent.updates import remove_out, take_out
from flprov.blobs import BlobStore, digest_of
from flprov.wire import pb
from flprov.workers import landlock

DATA = os.urandom(300_000)

# Says what of each attempt became, after its file was taken away.
HOSTILE = """
import os, sys
from flprov.workers import landlock
out = sys.argv[1]
os.chdir(out)
landlock.restrict([("read", "/usr"), ("read", "/proc"), ("write", out)])
kept, path_only = os.open("update", os.O_RDONLY), os.open("update", os.O_PATH)
print("kept", flush=True)
sys.stdin.readline()
def attempt(name, act):
    try:
        act()
    except OSError:
        return
    print(name, flush=True)
def reopen(number):
    os.fchmod(kept, 0o666)
    os.pwrite(os.open(f"/proc/self/fd/{number}", os.O_WRONLY), b"evil", 0)
attempt("reopened", lambda: reopen(kept))
attempt("reopened by path", lambda: reopen(path_only))
attempt("truncated", lambda: os.truncate(f"/proc/self/fd/{kept}", 0))
attempt("truncated itself", lambda: os.ftruncate(kept, 0))
attempt("linked", lambda: os.link(f"/proc/self/fd/{kept}", out + "/again", follow_symlinks=True))
print("done", flush=True)
"""


@pytest.mark.skipif(landlock.abi() < 3, reason="this kernel's Landlock does not know truncation")
async def test_a_process_that_kept_its_file_open_for_reading_cannot_write_it_again(tmp_path):
    blobs, out = BlobStore(tmp_path / "blobs"), tmp_path / "job" / "out"
    out.mkdir(parents=True)
    (out / "update").write_bytes(DATA)
    said = pb.Payload(file="update", size=len(DATA))
    command = [sys.executable, "-c", HOSTILE, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "kept\n"
        number = (out / "update").stat().st_ino
        payload = await take_out(said, out, blobs, confinement="landlock")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "done\n"
    blob = blobs.path(payload.digest)
    assert (blob.stat().st_ino, blob.read_bytes()) == (number, DATA)


async def test_an_update_that_is_said_twice_is_taken_once(tmp_path):
    blobs, out = BlobStore(tmp_path / "blobs"), tmp_path / "job" / "out"
    out.mkdir(parents=True)
    (out / "update").write_bytes(DATA)
    said = pb.Payload(file="update", size=len(DATA))
    first = await take_out(said, out, blobs, confinement="landlock")
    assert (first.digest, list(out.iterdir())) == (digest_of(DATA), [])
    assert await take_out(said, out, blobs, confinement="landlock") == first
    remove_out(said, out)
    assert list((tmp_path / "job" / "taken").iterdir()) == []
    assert blobs.path(first.digest).read_bytes() == DATA


@pytest.mark.parametrize("confinement", ["", "none", "bubblewrap"])
async def test_of_a_process_that_may_reach_our_files_it_is_copied(tmp_path, confinement):
    blobs, out = BlobStore(tmp_path / "blobs"), tmp_path / "job" / "out"
    out.mkdir(parents=True)
    (out / "update").write_bytes(DATA)
    said = pb.Payload(file="update", size=len(DATA))
    payload = await take_out(said, out, blobs, confinement=confinement)
    assert blobs.path(payload.digest).stat().st_ino != (out / "update").stat().st_ino
