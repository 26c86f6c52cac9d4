# SPDX-License-Identifier: Apache-2.0
"""The bulk connection: blobs both ways and logs, resumed where they broke off, beside control.

Where the other side has another blob with some of the same tensors, the *base*, these are not sent again.
Only the digest of the whole vouches for the result: when it is wrong, everything is sent once more.

No more is on the way than the line carries in half a second (see pace.py): what is sent is counted until
the server says that it has it, what is fetched is asked for in ranges (underway.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from flprov._base import Clock, backoff
from flprov.agent.pace import Pace
from flprov.agent.underway import Asking, Sending
from flprov.blobs import BlobStore, Upload
from flprov.errors import FlprovError, Nature, ProtocolError
from flprov.kits import Credential
from flprov.pki import Anchors
from flprov.rpc import Connection
from flprov.rpc import methods as m
from flprov.wire import Message, gaps, pb, unchanged, verify_same

logger = logging.getLogger(__name__)

MOST_BLOB = 64 << 30
_POINTS_TIMEOUT = 60.0  # seconds; 30 KB at 64 kbit/s take four
_COMPARE_TIMEOUT = 600.0  # seconds; the server reads two models, perhaps from a slow disk
_WORTH_COMPARING = 1 << 20  # bytes; a question costs a trip

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
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
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
        if upload.offset < size:
            asking = Asking(self._down, job_id, upload.digest, gaps(same, size, upload.offset))
            try:
                await self._take_in(asking, upload, on_bytes)
            finally:
                asking.release()
        await upload.finish()

    async def _take_in(self, asking: Asking, upload: Upload, on_bytes: OnBytes) -> None:
        """Write what was asked for as it comes; of what breaks off, what has come."""
        async with contextlib.aclosing(self._open().stream(m.FETCH_BLOB, asking.messages())) as replies:
            async for data in replies:
                settled = asking.came(len(data))
                await upload.write(data)
                self._moved += settled
                on_bytes(upload.offset, upload.size)

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
        sending = Sending(self._up, self._blobs.path(digest), header)
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
