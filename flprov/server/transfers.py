# SPDX-License-Identifier: Apache-2.0
"""Blobs over a call, both ways, resumed at the byte that is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from flprov.blobs import BlobStore, Watch
from flprov.errors import NotFound, ProtocolError
from flprov.wire import pb, verify_same

CHUNK = 1 << 20


def _no_base(_header: pb.UploadHeader) -> None:
    """Where everything is sent whole."""


async def send_blob(blobs: BlobStore, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
    """The bytes of a blob from `offset` on: `length` of them, or all when that is 0.

    Raises:
        NotFound: it is not here, or not that long.
    """
    size = blobs.size(digest)
    if (end := offset + length) > size:
        raise NotFound(f"blob {digest[:12]} has {size} bytes, not {end}")
    left = length or size - offset
    for data in blobs.read(digest, offset, min(CHUNK, left) or CHUNK):
        yield data if len(data) <= left else data[:left]
        left -= len(data)
        if left <= 0:
            return


async def receive_blob(
    blobs: BlobStore,
    requests: AsyncIterator[Any],
    *,
    owner: str,
    verify: Callable[[pb.UploadHeader], bool],
    most: int,
    base_of: Callable[[pb.UploadHeader], Path | None] = _no_base,
    watch: Callable[[int], Watch] | None = None,
) -> AsyncIterator[pb.UploadReply]:
    """Take one blob: the header is answered with the bytes that are here, the end with `complete`.

    Each piece is answered as well, so that the sender knows what is still on the way.

    Args:
        owner: who sends; nobody can spoil another's upload of the same digest.
        verify: raises when the header is not acceptable; says whether the sender is known to have this
            blob. Who is not has to send every byte of it, also when it is here already: the name of a
            blob is no proof of having it.
        most: bytes that are taken at all.
        base_of: the blob that the header names as its base, if it is here; raises when it may not be named.
        watch: makes, for a blob of so many bytes, what sees them as they arrive.

    Raises:
        ProtocolError: no header, more bytes than announced, or another digest than announced.
    """
    first = await anext(requests, None)
    if not isinstance(first, pb.UploadHeader):
        raise ProtocolError("an upload begins with its header")
    header = first
    known = verify(header)
    if header.size > most:
        raise ProtocolError(f"{header.size} bytes; at most {most} are taken here")
    if blobs.has(header.digest):
        if not known:
            yield pb.UploadReply(offset=0, whole=True)
            async for offset in _compare(blobs, header.digest, requests):
                yield pb.UploadReply(offset=offset)
        await blobs.settle(header.digest)  # it may have come from a workflow, and not be on the disk yet
        yield pb.UploadReply(offset=header.size, complete=True)
        return
    mine = f"{header.job_id}/{owner}" if header.job_id else owner  # what is a job's goes with it
    seen = None if watch is None else watch(header.size)
    upload = blobs.upload(header.digest, header.size, owner=mine, watch=seen)
    base = base_of(header) if header.same else None
    if base is not None:
        verify_same(header.same, header.size, base.stat().st_size)
        await upload.draw_on(base, header.same)
    yield pb.UploadReply(offset=upload.offset, whole=base is None)
    async for data in requests:
        await upload.write(data)
        yield pb.UploadReply(offset=upload.offset)
    await upload.finish()
    yield pb.UploadReply(offset=header.size, complete=True)


async def _compare(blobs: BlobStore, digest: str, requests: AsyncIterator[bytes]) -> AsyncIterator[int]:
    """Take the bytes of a blob that is here already, and keep none of them; how many have come."""
    with blobs.path(digest).open("rb") as file:
        async for data in requests:
            if file.read(len(data)) != data:
                raise ProtocolError(f"what was sent as blob {digest[:12]} has another digest")
            yield file.tell()
        if file.read(1):
            raise ProtocolError(f"blob {digest[:12]} ended after {file.tell() - 1} bytes")
