# SPDX-License-Identifier: Apache-2.0
"""Who watches a blob sees just the bytes that have its name, however they come."""

import pytest

from flprov.blobs import BlobStore, digest_of
from flprov.errors import ProtocolError
from flprov.wire import pb

DATA = bytes(range(256)) * 5000
DIGEST = digest_of(DATA)


class Seen:
    """A watch that keeps what it sees."""

    def __init__(self):
        self.data = b""
        self.digest = ""

    def update(self, data):
        self.data += bytes(data)

    def named(self, digest):
        self.digest = digest


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


async def test_an_upload_is_seen_as_it_arrives(blobs, seen):
    upload = blobs.upload(DIGEST, len(DATA), watch=seen)
    for start in range(0, len(DATA), 300_000):
        await upload.write(DATA[start : start + 300_000])
    assert seen.digest == ""
    await upload.finish()
    assert (seen.data, seen.digest) == (DATA, DIGEST)


async def test_of_an_upload_that_goes_on_the_beginning_is_seen_as_well(blobs, seen):
    first = blobs.upload(DIGEST, len(DATA), owner="site")
    await first.write(DATA[:500_000])
    first.close()
    second = blobs.upload(DIGEST, len(DATA), owner="site", watch=seen)
    await second.write(DATA[second.offset :])
    await second.finish()
    assert (seen.data, seen.digest) == (DATA, DIGEST)


async def test_what_is_drawn_from_a_base_is_seen_in_its_place(blobs, seen):
    base = await blobs.put(DATA[:700_000])
    same = [pb.SameBytes(offset=300_000, size=400_000, base_offset=300_000)]
    upload = blobs.upload(DIGEST, len(DATA), watch=seen)
    await upload.draw_on(blobs.path(base), same)
    await upload.write(DATA[:300_000])
    await upload.write(DATA[700_000:])
    await upload.finish()
    assert (seen.data, seen.digest) == (DATA, DIGEST)


async def test_what_is_not_the_announced_blob_goes_by_its_own_name(blobs, seen):
    upload = blobs.upload(DIGEST, 3, watch=seen)
    await upload.write(b"abc")
    with pytest.raises(ProtocolError, match="another digest"):
        await upload.finish()
    assert seen.digest == digest_of(b"abc")


async def test_of_what_is_here_already_nothing_is_seen(blobs, seen):
    await blobs.put(DATA)
    await blobs.upload(DIGEST, len(DATA), watch=seen).finish()
    assert (seen.data, seen.digest) == (b"", "")


async def test_a_file_that_is_taken_is_seen_as_it_is_hashed(blobs, seen, tmp_path):
    path = tmp_path / "update"
    path.write_bytes(DATA)
    assert await blobs.take(path, limit=len(DATA), watch=seen) == (DIGEST, len(DATA))
    assert (seen.data, seen.digest) == (DATA, DIGEST)


async def test_nobody_vouches_for_a_file_that_somebody_may_still_change(blobs, seen, tmp_path):
    path = tmp_path / "update"
    path.write_bytes(DATA)
    with path.open("r+b"):
        assert await blobs.take(path, limit=len(DATA), watch=seen) == (DIGEST, len(DATA))
    assert seen.digest == ""
