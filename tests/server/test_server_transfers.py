# SPDX-License-Identifier: Apache-2.0
"""Blobs over a call: resumed at the missing byte, kept only when whole and what was announced."""

from __future__ import annotations

import itertools

import pytest

from flprov.blobs import BlobStore, digest_of
from flprov.errors import NotFound, PermissionRefused, ProtocolError
from flprov.server.transfers import receive_blob, send_blob
from flprov.wire import pb

DATA = bytes(range(256)) * 40
DIGEST = digest_of(DATA)


@pytest.fixture
def blobs(tmp_path) -> BlobStore:
    return BlobStore(tmp_path)


def header(data=DATA, **changes):
    found = {"digest": digest_of(data), "size": len(data)} | changes
    return pb.UploadHeader(**found)


def piece(data):
    return data


async def receive(blobs, *messages, owner="site-1", known=False, most=1 << 20):
    async def requests():
        for message in messages:
            yield message

    taken = receive_blob(blobs, requests(), owner=owner, verify=lambda _: known, most=most)
    replies = [(reply.offset, reply.complete) async for reply in taken]
    return [replies[0], replies[-1]] if len(replies) > 1 else replies


async def sent(blobs, digest, offset=0, length=0):
    return b"".join([chunk async for chunk in send_blob(blobs, digest, offset, length)])


async def test_blob_arrives_in_pieces_of_any_size(blobs):
    replies = await receive(
        blobs, header(), piece(DATA[:1]), piece(b""), piece(DATA[1:5000]), piece(DATA[5000:])
    )
    assert replies == [(0, False), (len(DATA), True)]
    assert await sent(blobs, DIGEST) == DATA


async def test_large_and_small_pieces_go_through_the_hash_in_order(blobs):
    data = b"".join(bytes([number]) * (300_000 if number % 2 else 1000) for number in range(6))
    cuts = [0, 1000, 301_000, 302_000, 602_000, 602_500, len(data)]
    pieces = [piece(data[start:end]) for start, end in itertools.pairwise(cuts)]
    assert (await receive(blobs, header(data), *pieces))[-1] == (len(data), True)
    swapped = [pieces[1], pieces[0], *pieces[2:]]
    other = BlobStore(blobs.path(digest_of(data)).parents[2] / "other")
    with pytest.raises(ProtocolError, match="another digest"):
        await receive(other, header(data), *swapped)


async def test_each_piece_is_answered_so_that_the_sender_knows_what_is_on_the_way(blobs):
    async def requests():
        yield header()
        for start in (0, 4000, 8000):
            yield piece(DATA[start : start + 4000])

    for _ in range(2):  # the second time it is here, and has to be sent all the same
        taken = receive_blob(blobs, requests(), owner="x", verify=lambda _: False, most=1 << 20)
        replies = [(reply.offset, reply.complete) async for reply in taken]
        assert replies == [(0, False), (4000, False), (8000, False), (10240, False), (10240, True)]


async def test_part_of_a_blob_is_sent(blobs):
    await blobs.put(DATA)
    for offset, length in ((0, 1), (100, 5000), (len(DATA) - 1, 1), (10, len(DATA) - 10)):
        assert await sent(blobs, DIGEST, offset, length) == DATA[offset : offset + length]


async def test_empty_blob_is_a_blob(blobs):
    assert await receive(blobs, header(b"")) == [(0, False), (0, True)]
    assert await sent(blobs, digest_of(b"")) == b""


async def test_upload_goes_on_where_it_broke_off(blobs):
    with pytest.raises(ProtocolError, match="ended after 6000 of 10240 bytes"):
        await receive(blobs, header(), piece(DATA[:6000]))
    assert not blobs.has(DIGEST)
    replies = await receive(blobs, header(), piece(DATA[6000:]))
    assert replies == [(6000, False), (len(DATA), True)]
    assert await sent(blobs, DIGEST) == DATA


async def test_nobody_goes_on_with_or_spoils_the_upload_of_another(blobs):
    for owner, data in (("site-1", DATA[:6000]), ("site-2", b"\0" * 100)):
        with pytest.raises(ProtocolError, match="ended after"):
            await receive(blobs, header(), piece(data), owner=owner)
    assert await receive(blobs, header(), piece(DATA[6000:]), owner="site-1") == [
        (6000, False),
        (len(DATA), True),
    ]


async def test_other_bytes_than_announced_are_not_kept(blobs):
    with pytest.raises(ProtocolError, match="has another digest"):
        await receive(blobs, header(), piece(b"\0" * len(DATA)))
    assert blobs.digests() == set()
    assert await receive(blobs, header(), piece(DATA)) == [(0, False), (len(DATA), True)]


async def test_more_than_announced_is_not_kept(blobs):
    with pytest.raises(ProtocolError, match="longer than the announced 10240 bytes"):
        await receive(blobs, header(), piece(DATA), piece(b"x"))
    assert blobs.digests() == set()


@pytest.mark.parametrize("size", [1001, 2**63, 2**64 - 1])
async def test_more_than_is_taken_here_is_refused_before_it_comes(blobs, size):
    with pytest.raises(ProtocolError, match=f"{size} bytes; at most 1000 are taken here"):
        await receive(blobs, header(size=size), most=1000)


@pytest.mark.parametrize(
    "digest", ["", "x" * 64, "A" * 64, "../../etc/passwd", "0" * 63, "0" * 65, "\x1b[2J"]
)
async def test_name_that_is_no_digest_is_refused(blobs, digest):
    with pytest.raises(ProtocolError, match="is not the name of a blob") as found:
        await receive(blobs, header(digest=digest), piece(DATA))
    assert str(found.value).isprintable()


@pytest.mark.parametrize("first", [piece(b"x"), pb.UploadReply()])
async def test_upload_begins_with_its_header(blobs, first):
    with pytest.raises(ProtocolError, match="an upload begins with its header"):
        await receive(blobs, first)
    with pytest.raises(ProtocolError, match="an upload begins with its header"):
        await receive(blobs)


async def test_header_that_is_not_acceptable_begins_nothing(blobs, tmp_path):
    async def requests():
        yield header()
        yield piece(DATA)

    def refuse(_header):
        raise PermissionRefused("no")

    taken = receive_blob(blobs, requests(), owner="x", verify=refuse, most=1 << 20)
    with pytest.raises(PermissionRefused):
        await anext(taken)
    assert list((tmp_path / "partial").iterdir()) == []


async def test_blob_that_is_here_need_not_come_from_who_is_known_to_have_it(blobs):
    await blobs.put(DATA)
    assert await receive(blobs, header(), known=True) == [(len(DATA), True)]


async def test_blob_that_is_here_has_to_come_from_anybody_else(blobs):
    await blobs.put(DATA)
    replies = await receive(blobs, header(), piece(DATA[:7]), piece(DATA[7:]))
    assert replies == [(0, False), (len(DATA), True)]
    for lie in ((), (piece(DATA[:-1]),), (piece(DATA + b"x"),), (piece(b"x" + DATA[1:]),)):
        with pytest.raises(ProtocolError):
            await receive(blobs, header(), *lie)
    assert await sent(blobs, DIGEST) == DATA


async def test_download_goes_on_at_an_offset(blobs):
    await blobs.put(DATA)
    for offset in (0, 1, 5000, len(DATA)):
        assert await sent(blobs, DIGEST, offset) == DATA[offset:]


@pytest.mark.parametrize("offset", [len(DATA) + 1, 2**63, 2**64 - 1])
async def test_offset_behind_the_end_is_not_found(blobs, offset):
    await blobs.put(DATA)
    with pytest.raises(NotFound, match=f"has {len(DATA)} bytes, not {offset}"):
        await sent(blobs, DIGEST, offset)


async def test_a_range_that_ends_behind_the_end_is_not_found(blobs):
    """Whoever asks waits for all of it: fewer bytes would be no answer."""
    await blobs.put(DATA)
    with pytest.raises(NotFound, match=f"has {len(DATA)} bytes, not {len(DATA) + 1}"):
        await sent(blobs, DIGEST, 10, len(DATA) - 9)


async def test_blob_that_is_not_here_is_not_found(blobs):
    with pytest.raises(NotFound):
        await sent(blobs, "0" * 64)


@pytest.mark.parametrize("known", [True, False])
async def test_blob_that_a_workflow_left_unsynced_is_on_the_disk_before_the_site_hears_so(tmp_path, known):
    """A site sends the model back unchanged; after a power cut the update's record must find it."""
    blobs = BlobStore(tmp_path / "blobs")
    (tmp_path / "model").write_bytes(DATA)
    await blobs.take(tmp_path / "model", limit=1 << 20)
    messages = () if known else (piece(DATA),)
    replies = await receive(blobs, header(), *messages, known=known)
    assert replies[-1] == (len(DATA), True)
    (tmp_path / "blobs" / "boot").write_text("the boot before\n")
    assert BlobStore(tmp_path / "blobs").has(DIGEST)
