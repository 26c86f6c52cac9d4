# SPDX-License-Identifier: Apache-2.0
"""What of one transfer is on the way: an upload's pieces, a download's ranges."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from flprov.agent.pace import LEAST, MOST, Pace
from flprov.errors import ProtocolError
from flprov.wire import gaps, pb

MOST_PIECE = 2 << 20  # in one message
_RANGES = 2  # asked for at once: the line is not idle while a question travels


class Asking:
    """One download's requests, range after range. The server answers them in this order."""

    def __init__(self, pace: Pace, job_id: str, digest: str, wanted: Iterator[tuple[int, int]]) -> None:
        self._pace = pace
        self._job_id = job_id
        self._digest = digest
        self._wanted = wanted  # begin and end of what is to come
        self._under_way: deque[tuple[int, float]] = deque()  # size, moment
        self._came = 0  # bytes of the first of these
        self._room = asyncio.Event()

    async def messages(self) -> AsyncIterator[pb.BlobRequest]:
        for begin, end in self._wanted:
            offset = begin
            while offset < end:
                while len(self._under_way) >= _RANGES:
                    self._room.clear()
                    await self._room.wait()
                size = min(self._pace.piece, end - offset)
                self._under_way.append((size, await self._pace.take(size)))
                yield pb.BlobRequest(digest=self._digest, offset=offset, length=size, job_id=self._job_id)
                offset += size

    def came(self, size: int) -> int:
        """So many more bytes are here; how many ranges that settles.

        Raises:
            ProtocolError: nobody has asked for so many.
        """
        if not self._under_way:
            raise ProtocolError(f"the server sent {size} bytes that nobody asked for")
        asked, since = self._under_way[0]
        self._came += size
        if self._came > asked:
            raise ProtocolError(f"the server sent more than the {asked} bytes asked for")
        if self._came < asked:
            return 0
        self._came = 0
        self._under_way.popleft()
        self._pace.confirm(asked, since)
        self._room.set()
        return 1

    def release(self) -> None:
        """The call is over."""
        while self._under_way:
            self._pace.release(self._under_way.popleft()[0])


class Sending:
    """One upload's messages, and which of its bytes are on the way."""

    def __init__(self, pace: Pace, path: Path, header: pb.UploadHeader) -> None:
        self._pace = pace
        self._path = path
        self._header = header
        self._start: asyncio.Future[pb.UploadReply] = asyncio.get_running_loop().create_future()
        self._under_way: deque[tuple[int, int, float]] = deque()  # end, size, moment
        self._ahead = MOST  # bytes that the server has room for
        self._room = asyncio.Event()

    async def messages(self) -> AsyncIterator[pb.UploadHeader | bytes]:
        yield self._header
        first = await self._start
        same = () if first.whole else self._header.same
        with self._path.open("rb", buffering=0) as file:
            for offset, end in gaps(same, self._header.size, first.offset):
                file.seek(offset)
                while offset < end:
                    size = min(self._pace.piece, MOST_PIECE, max(LEAST, self._ahead // 2), end - offset)
                    await self._wait_for_room(size)
                    since = await self._pace.take(size)
                    offset += size
                    self._under_way.append((offset, size, since))
                    yield file.read(size)

    async def _wait_for_room(self, size: int) -> None:
        """Until the server can take so much more: of many senders each gets a share."""
        while self._under_way and size + sum(one for _, one, _ in self._under_way) > self._ahead:
            self._room.clear()
            await self._room.wait()

    def confirmed(self, reply: pb.UploadReply) -> int:
        """The server has everything before an offset; how many pieces that settles."""
        offset = reply.offset
        self._ahead = reply.ahead or MOST
        self._room.set()
        if not self._start.done():
            self._start.set_result(reply)
        settled = 0
        while self._under_way and self._under_way[0][0] <= offset:
            _, size, since = self._under_way.popleft()
            self._pace.confirm(size, since)
            settled += 1
        return settled

    def release(self) -> None:
        """The call is over."""
        while self._under_way:
            self._pace.release(self._under_way.popleft()[1])
