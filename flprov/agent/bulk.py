# SPDX-License-Identifier: Apache-2.0
"""The bulk connection: blobs both ways and logs, resumed where they broke off, beside control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from flprov._base import Clock, backoff
from flprov.blobs import BlobStore
from flprov.errors import ProtocolError, Unavailable
from flprov.kits import Credential
from flprov.pki import Anchors
from flprov.rpc import Connection
from flprov.rpc import methods as m
from flprov.wire import Message, pb

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
MOST_BLOB = 64 << 30


class Bulk:
    """Transfers that outlive a broken link. Cancel a call to give it up."""

    def __init__(self, connect: Callable[[], Connection], blobs: BlobStore, clock: Clock) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._blobs = blobs
        self._clock = clock
        self._fetching: dict[str, asyncio.Lock] = {}

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    async def ask(self, method: m.Method, request: Message, *, timeout: float) -> Any:  # noqa: ANN401 - the row's
        """The reply to one request, tried once: what else there is to ask beside control."""
        return await self._open().unary(method, request, timeout)

    def renew(self, credential: Credential, server_anchors: Anchors) -> None:
        """Show this certificate from now on. Transfers that are under way go on as they are."""
        if self._connection is not None:
            self._connection.renew(credential.chain_pem, credential.private_pem, server_anchors)

    async def fetch(self, job_id: str, digest: str, size: int) -> None:
        """Bring a blob here. One transfer per blob, however many jobs ask.

        Raises:
            ProtocolError: it is larger than any blob may be.
        """
        if size > MOST_BLOB:
            raise ProtocolError(
                f"the server announced a blob of {size} bytes; at most {MOST_BLOB} are fetched"
            )
        async with self._fetching.setdefault(digest, asyncio.Lock()):
            waits = backoff()
            while not self._blobs.has(digest):
                try:
                    await self._fetch_once(job_id, digest, size)
                except Unavailable as error:
                    await self._pause(error, waits)
        self._fetching.pop(digest, None)

    async def _fetch_once(self, job_id: str, digest: str, size: int) -> None:
        upload = self._blobs.upload(digest, size)
        request = pb.BlobRequest(digest=digest, offset=upload.offset, job_id=job_id)
        async for chunk in self._open().download(m.FETCH_BLOB, request):
            await upload.write(chunk.data)
        await upload.finish()

    async def send(self, job_id: str, digest: str) -> None:
        """Bring a blob of ours to the server."""
        waits = backoff()
        while True:
            try:
                await self._send_once(job_id, digest)
            except Unavailable as error:
                await self._pause(error, waits)
            else:
                return

    async def _pause(self, error: Unavailable, waits: Iterator[float]) -> None:
        logger.info("a transfer broke off (%s), and goes on", error)
        await self._clock.sleep(next(waits))

    async def _send_once(self, job_id: str, digest: str) -> None:
        start: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        size = self._blobs.size(digest)

        async def messages() -> AsyncIterator[pb.UploadMessage]:
            header = pb.UploadHeader(digest=digest, size=size, job_id=job_id, kind="update")
            yield pb.UploadMessage(header=header)
            offset = await start
            if offset < size:
                for data in self._blobs.read(digest, offset, CHUNK):
                    yield pb.UploadMessage(data=data)

        complete = False
        async for reply in self._open().stream(m.SEND_BLOB, messages()):
            if not start.done():
                start.set_result(reply.offset)
            complete = reply.complete
        if not complete:
            raise ProtocolError(f"the server ended the upload of {digest[:12]} without having all of it")

    async def send_log(self, job_id: str, offset: int, data: bytes) -> int:
        """Send part of a job's log; returns the offset that the server wants next."""

        async def messages() -> AsyncIterator[pb.LogMessage]:
            yield pb.LogMessage(job_id=job_id, offset=offset, data=data)

        wanted = offset
        async for reply in self._open().stream(m.SEND_LOGS, messages()):
            wanted = reply.offset
        return wanted

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            await self._connection.close()
