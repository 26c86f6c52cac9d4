# SPDX-License-Identifier: Apache-2.0
"""Two uploads of one blob by one owner: once the newer one has begun, the older one writes nothing."""

import asyncio
import threading

import pytest

from flprov.blobs import BlobStore, digest_file, digest_of
from flprov.blobs.disk import OpenFile
from flprov.errors import Conflict
from flprov.wire import pb

MIB = 1 << 20
GOOD = b"g" * (6 * MIB)
DIGEST = digest_of(GOOD)


class Stopped:
    """Reading a base stops after its first piece, until it is told to go on."""

    def __init__(self, monkeypatch):
        self.reached, self.go_on = threading.Event(), threading.Event()
        read = OpenFile.read_chunks

        def read_and_stop(file, *args):
            for number, data in enumerate(read(file, *args)):
                if number == 1:
                    self.reached.set()
                    self.go_on.wait(60)
                yield data

        monkeypatch.setattr(OpenFile, "read_chunks", read_and_stop)

    async def begin(self, blobs, size):
        """An upload in whose name a thread copies another blob, and has copied some."""
        base = await blobs.put(b"\xff" * (8 * MIB))
        older = blobs.upload(DIGEST, size, owner="job/site")
        same = [pb.SameBytes(offset=0, size=min(size, 8 * MIB), base_offset=0)]
        copying = asyncio.create_task(older.draw_on(blobs.path(base), same))
        await asyncio.to_thread(self.reached.wait)
        return copying


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.mark.parametrize("size", [len(GOOD), 64 << 30])
async def test_a_base_that_is_still_copied_does_not_get_into_what_was_hashed(blobs, monkeypatch, size):
    stopped = Stopped(monkeypatch)
    copying = await stopped.begin(blobs, size)
    newer = blobs.upload(DIGEST, len(GOOD), owner="job/site")
    newer._file.cut(0)  # as if the base had begun with the same bytes
    newer.offset = 0
    await newer.write(GOOD)
    await newer.finish()
    stopped.go_on.set()
    with pytest.raises(Conflict):
        await copying
    assert digest_file(blobs.path(DIGEST)) == DIGEST
    assert blobs.size(DIGEST) == len(GOOD)


async def test_a_base_whose_call_was_cancelled_does_not_either(blobs, monkeypatch):
    stopped = Stopped(monkeypatch)
    copying = await stopped.begin(blobs, len(GOOD))
    copying.cancel()
    await asyncio.wait([copying])
    newer = blobs.upload(DIGEST, len(GOOD), owner="job/site")
    newer._file.cut(0)
    newer.offset = 0
    stopped.go_on.set()
    await newer.write(GOOD)
    await newer.finish()
    assert digest_file(blobs.path(DIGEST)) == DIGEST
