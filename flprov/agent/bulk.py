# SPDX-License-Identifier: Apache-2.0
"""The bulk connection: blobs both ways and logs, resumed where they broke off, beside control.

Where the other side has another blob with some of the same tensors, the *base*, these are not sent again.
Only the digest of the whole vouches for the result: when it is wrong, everything is sent once more.

No more is on the way than the line carries in half a second (see pace.py): what is sent is counted until
the server says that it has it, what is fetched is asked for in ranges.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flprov._base import Clock, backoff
from flprov.agent.pace import LEAST, MOST, Pace
from flprov.blobs import BlobStore, Upload
from flprov.errors import FlprovError, Nature, ProtocolError
from flprov.kits import Credential
from flprov.pki import Anchors
from flprov.rpc import Connection
from flprov.rpc import methods as m
from flprov.wire import Message, gaps, pb, unchanged, verify_same

logger = logging.getLogger(__name__)

MOST_BLOB = 64 << 30
MOST_PIECE = 2 << 20  # in one message
_POINTS_TIMEOUT = 60.0  # seconds; 30 KB at 64 kbit/s take four
_COMPARE_TIMEOUT = 600.0  # seconds; the server reads two models, perhaps from a slow disk
_WORTH_COMPARING = 1 << 20  # bytes; a question costs a trip
_RANGES = 2  # asked for at once: the line is not idle while a question travels; more would come mixed

OnBytes = Callable[[int, int], None]  # bytes done, bytes in all


def _tell_nobody(_done: int, _total: int) -> None:
    """For a transfer that nobody watches."""


class Bulk:
    """Transfers that outlive a broken link. Cancel a call to give it up."""

    def __init__(self, connect: Callable[[], Connection], blobs: BlobStore, clock: Clock) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._blobs = blobs
        self._clock = clock
        self._fetching: dict[str, asyncio.Lock] = {}
        self._up = Pace(clock)
        self._down = Pace(clock)
        self.sending = 0  # blobs that are on their way to the server
        self._moved = 0  # pieces that have arrived, either way
        self._troubles: dict[str, tuple[str, str]] = {}  # by transfer: which try, and the reason

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

    # ---- to the site ---------------------------------------------------------------------

    async def fetch(
        self,
        job_id: str,
        digest: str,
        size: int,
        on_bytes: OnBytes = _tell_nobody,
        *,
        durable: bool = False,
        base: str = "",
    ) -> None:
        """Bring a blob here. One transfer per blob, however many jobs ask.

        Args:
            job_id: for which job.
            digest: the blob's name.
            size: its bytes.
            on_bytes: told how many of them are here.
            durable: whether it is on the disk when this returns; what is not is fetched again after a boot.
            base: a blob that the server has given us for this job before; empty: none.

        Raises:
            ProtocolError: it is larger than any blob may be.
            FlprovError: what trying again would not change.
        """
        if size > MOST_BLOB:
            raise ProtocolError(
                f"the server announced a blob of {size} bytes; at most {MOST_BLOB} are fetched"
            )
        async with self._fetching.setdefault(digest, asyncio.Lock()):

            async def attempt(base: str) -> None:
                if self._blobs.has(digest):
                    await self._blobs.settle(digest) if durable else None
                else:
                    upload = self._blobs.upload(digest, size, owner=job_id, durable=durable)
                    await self._fetch_once(job_id, upload, on_bytes, base)

            await self._whole_without(base, f"fetching {digest[:12]}", attempt)
        self._fetching.pop(digest, None)

    async def _compare(self, job_id: str, digest: str, base: str, size: int) -> Sequence[pb.SameBytes]:
        """What of the blob need not come, because it stands in the base."""
        if size < _WORTH_COMPARING or not base or not self._blobs.has(base):
            return ()
        request = pb.CompareRequest(digest=digest, base=base, job_id=job_id)
        try:
            reply: pb.CompareReply = await self.ask(m.COMPARE_BLOB, request, timeout=_COMPARE_TIMEOUT)
            verify_same(reply.same, size, self._blobs.size(base))
        except FlprovError as error:
            if error.nature is Nature.TRANSIENT:
                raise
            logger.info("fetching all of %s: %s", digest[:12], error)
            return ()
        return reply.same

    async def _fetch_once(self, job_id: str, upload: Upload, on_bytes: OnBytes, base: str) -> None:
        size = upload.size
        same = await self._compare(job_id, upload.digest, base, size)
        if same:
            await upload.draw_on(self._blobs.path(base), same)
        asked: deque[_Range] = deque()
        wanted = gaps(same, size, upload.offset)
        at = end = 0
        try:
            while upload.offset < size:
                while len(asked) < _RANGES:
                    if at == end:
                        at, end = next(wanted, (size, size))
                    if at == size:
                        break
                    asked.append(self._ask_for(job_id, upload.digest, at, min(self._down.piece, end - at)))
                    at += asked[-1].size
                await self._lay_down(asked[0], upload)
                asked.popleft()
                self._moved += 1
                on_bytes(upload.offset, size)
            await upload.finish()
        finally:
            for one in asked:
                one.task.cancel()
            await asyncio.gather(*(one.task for one in asked), return_exceptions=True)

    def _ask_for(self, job_id: str, digest: str, offset: int, size: int) -> _Range:
        chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        request = pb.BlobRequest(digest=digest, offset=offset, length=size, job_id=job_id)
        return _Range(size, chunks, asyncio.create_task(self._fetch_range(request, chunks)))

    async def _fetch_range(self, request: pb.BlobRequest, chunks: asyncio.Queue[bytes | None]) -> None:
        since = await self._down.take(request.length)
        left = request.length
        try:
            async with contextlib.aclosing(self._open().download(m.FETCH_BLOB, request)) as replies:
                async for data in replies:
                    left -= len(data)
                    if left < 0:
                        raise ProtocolError(f"the server sent more than the {request.length} bytes asked for")
                    chunks.put_nowait(data)
        except BaseException:
            self._down.release(request.length)
            raise
        else:
            self._down.confirm(request.length, since)
        finally:
            chunks.put_nowait(None)

    async def _lay_down(self, asked: _Range, upload: Upload) -> None:
        """Write a range as it comes; of one that breaks off, what has come."""
        end = upload.offset + asked.size
        while (data := await asked.chunks.get()) is not None:
            await upload.write(data)
        await asked.task
        if upload.offset < end:
            await upload.finish()  # says where it ended

    # ---- to the server -------------------------------------------------------------------

    async def send(
        self, job_id: str, digest: str, on_bytes: OnBytes = _tell_nobody, *, base: str = ""
    ) -> None:
        """Bring a blob of ours to the server; `base` is one that it has given us for this job, if it has.

        Raises:
            NotFound: it is not here.
            FlprovError: what trying again would not change.
        """

        async def attempt(base: str) -> None:
            await self._send_once(job_id, digest, on_bytes, base)

        self.sending += 1
        try:
            await self._whole_without(base, f"sending {digest[:12]}", attempt)
        finally:
            self.sending -= 1

    async def _send_once(self, job_id: str, digest: str, on_bytes: OnBytes, base: str) -> None:
        size = self._blobs.size(digest)
        header = pb.UploadHeader(digest=digest, size=size, job_id=job_id, kind="update")
        if size >= _WORTH_COMPARING and base and self._blobs.has(base):
            paths = self._blobs.path(base), self._blobs.path(digest)
            if same := await asyncio.to_thread(unchanged, *paths):
                header.base = base
                header.same.extend(same)
        sending = _Sending(self._up, self._blobs.path(digest), header)
        complete = False
        try:
            async with contextlib.aclosing(self._open().stream(m.SEND_BLOB, sending.messages())) as replies:
                async for reply in replies:
                    self._moved += sending.confirmed(reply)
                    on_bytes(min(reply.offset, size), size)
                    complete = reply.complete
        finally:
            sending.release()
        if not complete:
            raise ProtocolError(f"the server ended the upload of {digest[:12]} without having all of it")

    async def send_log(self, job_id: str, offset: int, data: bytes, *, first: int = 0) -> int:
        """Send part of a job's log; returns the offset that the server wants next. Tried once.

        Args:
            job_id: whose log.
            offset: of the first of these bytes.
            data: not more than `log_piece` of them, if what is urgent is not to wait.
            first: before this offset there is nothing here any more.
        """

        async def messages() -> AsyncIterator[pb.LogMessage]:
            yield pb.LogMessage(job_id=job_id, offset=offset, data=data, first=first)

        wanted = offset
        since = await self._up.take(len(data))
        try:
            async with contextlib.aclosing(self._open().stream(m.SEND_LOGS, messages())) as replies:
                async for reply in replies:
                    wanted = reply.offset
        except BaseException:
            self._up.release(len(data))
            raise
        self._up.confirm(len(data), since)
        return wanted

    async def send_points(self, job_id: str, source: str, first: int, points: Sequence[pb.Point]) -> None:
        """Send numbers that a job told; `first` is the number of the first of them. Tried once."""
        message = pb.PointsMessage(job_id=job_id, source=source, first=first, points=points)
        since = await self._up.take(size := message.ByteSize())
        try:
            await self.ask(m.SEND_POINTS, message, timeout=_POINTS_TIMEOUT)
        except BaseException:
            self._up.release(size)
            raise
        self._up.confirm(size, since)

    @property
    def log_piece(self) -> int:
        """How many bytes of a log to send at once."""
        return self._up.piece

    # ---- trouble -------------------------------------------------------------------------

    async def _whole_without(self, base: str, what: str, attempt: Callable[[str], Awaitable[None]]) -> None:
        """Transfer with this base; without one if that fails for a reason that time does not change."""
        try:
            await self._persist(what, lambda: attempt(base))
        except FlprovError as error:
            if not base:
                raise
            logger.info("%s: again, all of it: %s", what, error)
            await self._persist(what, lambda: attempt(""))

    async def _persist(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try until it is done. Only what time may change is tried again; the reason is said."""
        waits, tries, moved = backoff(), 0, self._moved
        try:
            while True:
                try:
                    await attempt()
                except FlprovError as error:
                    if error.nature is not Nature.TRANSIENT:
                        raise
                    if self._moved > moved:
                        waits, tries, moved = backoff(), 0, self._moved
                    tries += 1
                    wait = next(waits)
                    self._complain(what, f"try {tries}, next in {wait:.0f} s", str(error))
                    await self._clock.sleep(wait)
                else:
                    return
        finally:
            self._troubles.pop(what, None)

    def _complain(self, what: str, count: str, reason: str) -> None:
        if self._troubles.get(what, ("", ""))[1] != reason:
            logger.info("%s: %s: %s", what, count, reason)
        self._troubles[what] = (count, reason)

    @property
    def trouble(self) -> str:
        """Why transfers wait now, and for how long; empty when they do not."""
        return "; ".join(f"{what}: {count}: {reason}" for what, (count, reason) in self._troubles.items())

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            await self._connection.close()


class _Range(NamedTuple):
    """Part of a blob that was asked for."""

    size: int
    chunks: asyncio.Queue[bytes | None]  # what has come of it; None is the end
    task: asyncio.Task[None]


class _Sending:
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
