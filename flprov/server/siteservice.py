# SPDX-License-Identifier: Apache-2.0
"""What sites call: the control stream, blobs both ways, logs.

A site is a peer, not a friend: everything it names is checked against its own jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from flprov import __version__
from flprov._base import Clock
from flprov.blobs import BlobStore
from flprov.errors import (
    FlprovError,
    NoRoom,
    NotFound,
    PermissionRefused,
    ProtocolError,
    Unavailable,
    UpdateRefused,
)
from flprov.rpc import Call, CallCancelled, CallerGone
from flprov.rpc.methods import ObjectRule
from flprov.server.access import verify_may_touch
from flprov.server.comparing import Comparisons
from flprov.server.foreign import CODE, TRACEBACK, foreign_line, foreign_text, read_vitals
from flprov.server.jobs import events as ev
from flprov.server.jobs.gather import Asked
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.run import JobRun
from flprov.server.jobs.workflow import INLINE
from flprov.server.log.witnesses import Witnesses
from flprov.server.logs import LogBook
from flprov.server.records import BlobRef, UpdateRecord
from flprov.server.registry import Registry
from flprov.server.sessions import Session, Sessions
from flprov.server.shares import Shares
from flprov.server.transfers import receive_blob, send_blob
from flprov.wire import PROTOCOL, FiniteFiles, failure_of, pb, tensor_infos, verify_protocol

logger = logging.getLogger(__name__)

_MOST_UPDATE = 64 << 30  # bytes; the disk is the true limit
_LONGEST_WORK = 1e9  # seconds that an update may say it took; thirty years
_MOST_FREED = 100
_NO_ROOM = NoRoom("").code
_MOST_POINTS = 2_000  # in one message
_MOST_COUNTED = 1 << 53  # points of one source; above this, JSON's numbers have gaps
_LONGEST_SOURCE = 64  # characters
_BEATS_A_SECOND = 50  # of all sites together; each takes half a millisecond to read
_LONGEST_TASK = 200  # characters of a task id, as in rounds.py


def _pass_over(_session: Session, _version: int) -> None:
    """Where no trust bundles travel."""


def _let_go(_session: Session, _leaving: pb.Leaving) -> None:
    """Where nobody waits for a site to go."""


class SiteService:
    """The handlers of every method that a site may call."""

    def __init__(
        self,
        *,
        clock: Clock,
        registry: Registry,
        sessions: Sessions,
        jobs: Jobs,
        blobs: BlobStore,
        logs: LogBook,
        installation: str,
        heartbeat_seconds: float,
        note_trust: Callable[[Session, int], None] = _pass_over,
        witnesses: Witnesses | None = None,
        note_leaving: Callable[[Session, pb.Leaving], None] = _let_go,
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._sessions = sessions
        self._jobs = jobs
        self._blobs = blobs
        self._comparisons = Comparisons(blobs)
        self._finite = FiniteFiles()
        self._shares = Shares()
        self._logs = logs
        self._installation = installation
        self._heartbeat_seconds = heartbeat_seconds
        self._note_trust = note_trust
        self._witnesses = witnesses
        self._note_leaving = note_leaving

    # ---- control -------------------------------------------------------------------------

    async def control(self, call: Call, requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        """A site's one stream: its Hello first, then reports up and commands down."""
        hello = await self._hello(requests)
        session = Session(call.caller, hello, since=self._clock.now(), leaf=call.leaf)
        self._sessions.add(session)
        try:
            await self._registry.saw(session, call.not_after)
            yield await self._welcome(session)
            async for message in self._converse(call, session, requests):
                yield message
        finally:
            gone = self._sessions.remove(session)
            await self._registry.lost(session, self._clock.now(), gone=gone)

    async def _welcome(self, session: Session) -> pb.ToSite:
        welcome = pb.Welcome(
            protocol=PROTOCOL,
            version=__version__,
            installation=self._installation,
            heartbeat_seconds=self._spacing,
            jobs=[run.record.id for run in self._jobs.active_at(session.name)],
            standing=pb.Standing(drained=self._registry.closed(session.name)),
        )
        if self._witnesses is not None:
            welcome.head.CopyFrom(await self._witnesses.greet(session))
        return pb.ToSite(welcome=welcome)

    @property
    def _spacing(self) -> float:
        """Seconds between two heartbeats of a site: of many sites each beats less often.

        Nothing waits for them: HTTP/2's pings find a dead link, and what changes comes at once.
        """
        return max(self._heartbeat_seconds, len(self._registry.sites) / _BEATS_A_SECOND)

    async def _converse(
        self, call: Call, session: Session, requests: AsyncIterator[pb.FromSite]
    ) -> AsyncIterator[pb.ToSite]:
        reader = asyncio.create_task(self._read(session, requests), name=f"control {session.name}")
        session.cut = lambda: call.cut(Unavailable(session.closed_because))
        try:
            while (message := await session.outgoing()) is not None:
                yield session.together(message)
                del message  # until the next word this site would keep it, and so would a thousand others
        finally:
            session.over()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _hello(self, requests: AsyncIterator[pb.FromSite]) -> pb.Hello:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("body") != "hello":
            raise ProtocolError("a control stream begins with Hello")
        verify_protocol(first.hello.protocol, peer="the site")
        if not 8 <= len(first.hello.installation) <= 64:
            raise ProtocolError("Hello without an installation")
        first.hello.host = foreign_line(first.hello.host, 255)
        first.hello.version = foreign_line(first.hello.version, 64)
        first.hello.manifest = foreign_line(first.hello.manifest, 64)
        first.hello.started_at = foreign_line(first.hello.started_at, 64)
        return first.hello

    async def _read(self, session: Session, requests: AsyncIterator[pb.FromSite]) -> None:
        try:
            async for message in requests:
                session.last_seen = self._clock.now()
                await self._take(session, message)
                del message  # as above
            session.close(session.leaving or "its connection was closed without a goodbye")
        except FlprovError as error:
            logger.warning("site %s: %s", session.name, error)
            session.close(str(error))
        except (CallerGone, CallCancelled):
            session.close("connection lost")
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("site %s: its control stream broke here", session.name)
            session.close("internal error")

    async def _take(self, session: Session, message: pb.FromSite) -> None:
        match message.WhichOneof("body"):
            case "heartbeat":
                self._heartbeat(session, message.heartbeat)
            case "deployed":
                body = message.deployed
                if body.refused.code == _NO_ROOM and self._run(session, body.job_id) is not None:
                    self._jobs.scheduler.defer(session.name, body.job_id, foreign_line(body.refused.message))
                await self._tell(
                    session,
                    body.job_id,
                    ev.SiteDeployed(
                        site=session.name,
                        ready=body.ready,
                        refusal=foreign_line(body.refused.message),
                        code=foreign_line(body.refused.code, CODE),
                        hint=foreign_line(body.refused.hint, 1000),
                        transient=body.refused.code == _NO_ROOM,
                    ),
                )
            case "answer":
                await self._answer(session, message.answer)
            case "progress":
                run = self._run(session, message.progress.job_id)
                if run is not None:
                    run.note_progress(session.name, message.progress)
            case "trust":
                self._note_trust(session, message.trust.version)
            case "leaving":
                back = "it restarts" if message.leaving.back else "it was stopped"
                session.leaving = foreign_line(message.leaving.reason, 200) or back
                self._note_leaving(session, message.leaving)
            case "witness":
                if self._witnesses is not None:
                    await self._witnesses.take(session, message.witness)
            case "probed":
                self._jobs.plans.heard(session.name, message.probed)
            case "stopped":
                stopped = message.stopped
                reason = foreign_line(stopped.reason)
                freed = tuple(foreign_line(text, 200) for text in stopped.freed[:_MOST_FREED])
                event = ev.SiteStopped(site=session.name, clean=stopped.clean, reason=reason, freed=freed)
                await self._tell(session, stopped.job_id, event)
            case other:
                raise ProtocolError(f"a site cannot send {other or 'an empty message'} here")

    def _heartbeat(self, session: Session, beat: pb.Heartbeat) -> None:
        if not session.may_beat(self._clock.monotonic()):
            return
        session.vitals = read_vitals(beat.vitals)
        if session.vitals.at is not None:
            session.note_clock(session.vitals.at, self._clock.now())
        self._jobs.scheduler.heard(session)

    def _run(self, session: Session, job_id: str) -> JobRun | None:
        """The job, if it is one of this site's; what a site says of others is passed over."""
        run = self._jobs.get(job_id)
        return run if run is not None and session.name in run.sites.parts else None

    async def _tell(self, session: Session, job_id: str, event: ev.Event) -> None:
        run = self._run(session, job_id)
        if run is not None:
            await run.hear(event)

    # ---- answers -------------------------------------------------------------------------

    async def _answer(self, session: Session, answer: pb.TaskAnswer) -> None:
        run = self._run(session, answer.job_id)
        if run is None:
            return
        site, task = session.name, answer.task_id
        if len(task) > _LONGEST_TASK:
            raise ProtocolError(f"an answer names a task of {len(task)} characters")
        if answer.WhichOneof("outcome") == "failure":
            await run.hear(_failed(site, task, answer.failure))
            return
        gather = run.rounds.gathers.get(task)
        if gather is None or site not in gather.asked.sites:
            await run.hear(ev.SiteLate(site=site, task_id=task))
            return
        try:
            update = await self._verify(run, site, gather.asked, answer.update)
        except Unavailable as error:
            again = pb.AnswerAck(job_id=answer.job_id, task_id=task)
            again.refused.CopyFrom(failure_of(error))
            session.send(pb.ToSite(ack=again))
        except (UpdateRefused, NotFound) as error:  # a blob is gone once its round is over
            code = UpdateRefused("").code
            await run.hear(ev.SiteFailed(site=site, task_id=task, code=code, message=str(error)))
        else:
            await run.hear(ev.SiteUpdated(site=site, update=update))

    async def _verify(self, run: JobRun, site: str, asked: Asked, update: pb.UpdateMessage) -> UpdateRecord:
        """The update as a record, if it fits the task that it answers."""
        from flprov.wire import verify_numbers  # late, as below: with numpy, and not needed to be ready

        tensors = self._tensors(run, site, update.tensors)
        weight = update.weight if update.HasField("weight") else None
        verify_numbers(update.samples, weight, update.metrics, run.record.spec.sites.max_weight)
        if tensors.digest or asked.model.digest:
            await asyncio.to_thread(self._verify_tensors, update, tensors, asked.model, asked.expects)
        else:  # small ones are checked before a thread has been woken
            self._verify_tensors(update, tensors, asked.model, asked.expects)
        return UpdateRecord(
            job_id=run.record.id,
            task_id=asked.task_id,
            site=site,
            kind=update.kind,
            tensors=tensors,
            samples=update.samples,
            weight=update.weight if update.HasField("weight") else None,
            metrics=dict(update.metrics),
            seconds=update.seconds,
        )

    def _tensors(self, run: JobRun, site: str, payload: pb.Payload) -> BlobRef:
        if payload.WhichOneof("where") == "digest":
            if not run.rounds.sent_by(site, payload.digest):
                raise Unavailable(
                    "this server has not seen the site send that blob: it may have been restarted"
                )
            return BlobRef(digest=payload.digest, size=self._blobs.size(payload.digest))
        if len(payload.inline) > INLINE:
            raise UpdateRefused(f"{len(payload.inline)} bytes came by value; at most {INLINE} may")
        return BlobRef(inline=payload.inline.hex(), size=len(payload.inline))

    def _verify_tensors(
        self, update: pb.UpdateMessage, tensors: BlobRef, model: BlobRef, expects: str
    ) -> None:
        from flprov.wire import verify_update

        if not 0 <= update.seconds <= _LONGEST_WORK:  # also true of NaN
            raise UpdateRefused(f"seconds is {update.seconds}; it must be from 0 to {_LONGEST_WORK:g}")
        base = tensor_infos(self._source(model)) if model.size else None
        finite = tensors.digest in self._finite  # seen as it arrived
        verify_update(base, self._source(tensors), update.kind, expects, finite=finite)

    def _source(self, ref: BlobRef) -> Path | bytes:
        return self._blobs.path(ref.digest) if ref.digest else bytes.fromhex(ref.inline)

    # ---- bulk ----------------------------------------------------------------------------

    async def fetch_blob(self, call: Call, requests: AsyncIterator[pb.BlobRequest]) -> AsyncIterator[bytes]:
        """Ranges of an app, or of what goes with a task that one of the site's own jobs has given it."""
        async for request in requests:
            run = self._own_job(call, request.job_id)
            self._verify_given(call, run, request)
            async for chunk in send_blob(self._blobs, request.digest, request.offset, request.length):
                yield chunk
                run.sites.note_moved(call.caller.name)

    async def compare_blob(self, call: Call, request: pb.CompareRequest) -> pb.CompareReply:
        """Which bytes of a blob that the site may fetch stand in one that it was given before."""
        run = self._own_job(call, request.job_id)
        self._verify_given(call, run, request)
        if not run.rounds.verify_had(call.caller.name, request.base):
            return pb.CompareReply()
        return await self._comparisons.compare(request.base, request.digest)

    def _verify_given(self, call: Call, run: JobRun, request: pb.BlobRequest | pb.CompareRequest) -> None:
        if request.digest != run.record.app and request.digest not in run.rounds.given(call.caller.name):
            # This server, or the workflow, was started again; it may be about to ask.
            if run.active and (run.rounds.replayed or not len(run.rounds.gathers)):
                raise Unavailable(
                    f"round {run.record.round + 1} of job {run.record.id} is about to be opened"
                )
            raise PermissionRefused(
                f"job {run.record.id} has no blob {request.digest[:12]!r} for {call.caller.name}"
            )

    async def send_blob(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[pb.UploadReply]:
        """An update's tensors; resumable."""
        site = call.caller.name
        taken: list[tuple[JobRun, str]] = []

        def verify(header: pb.UploadHeader) -> bool:
            run = self._own_job(call, header.job_id)
            if not run.active:
                raise PermissionRefused(
                    f"job {run.record.id} is {run.record.state.value}: it takes no updates"
                )
            taken.append((run, header.digest))
            return run.rounds.verify_may_send(site, header.digest)

        async def moving() -> AsyncIterator[Any]:
            async for message in requests:
                yield message
                for run, _ in taken:
                    run.sites.note_moved(site)

        def base_of(header: pb.UploadHeader) -> Path | None:
            run = taken[0][0]
            there = run.rounds.verify_had(site, header.base) and self._blobs.has(header.base)
            return self._blobs.path(header.base) if there else None

        replies = receive_blob(
            self._blobs,
            moving(),
            owner=site,
            verify=verify,
            most=_MOST_UPDATE,
            base_of=base_of,
            watch=self._finite.watch,
        )
        with self._shares.sending(site):
            async for reply in replies:
                if reply.complete:
                    run, digest = taken[0]
                    if run.active:
                        run.rounds.note_sent(site, digest)
                    else:  # the job has ended while the last of it was on its way
                        self._jobs.collect({digest})
                reply.ahead = self._shares.each
                yield reply

    async def send_logs(
        self, call: Call, requests: AsyncIterator[pb.LogMessage]
    ) -> AsyncIterator[pb.LogReply]:
        """The site's part of its jobs' logs; each message is answered with the next wanted offset."""
        async for message in requests:
            run = self._own_job(call, message.job_id)
            offset = await asyncio.to_thread(
                self._logs.append,
                run.record.id,
                call.caller.name,
                message.offset,
                message.data,
                first=message.first,
            )
            self._logs.tell(run.record.id)
            yield pb.LogReply(job_id=run.record.id, offset=offset)

    async def send_points(self, call: Call, request: pb.PointsMessage) -> pb.PointsReply:
        """Numbers that a job told at the site; they are written when this returns, and each once."""
        run = self._own_job(call, request.job_id)
        count = len(request.points)
        if count > _MOST_POINTS or len(request.source) > _LONGEST_SOURCE:
            raise ProtocolError(f"{count} points came at once; at most {_MOST_POINTS} may")
        if request.first > _MOST_COUNTED:
            raise ProtocolError(f"no site has told {request.first} numbers of one job")
        if not count or (run.record.state.terminal and not run.record.unconfirmed):
            return pb.PointsReply(next=request.first + count)
        now = self._clock.now().timestamp()
        points, site = list(request.points), call.caller.name
        wanted = await self._jobs.series.take(run.record.id, site, request.source, request.first, points, now)
        return pb.PointsReply(next=wanted)

    def _own_job(self, call: Call, job_id: str) -> JobRun:
        run = self._jobs.get(job_id)
        if run is None:
            raise PermissionRefused(f"no job {job_id[:40]!r} for site {call.caller.name}")
        verify_may_touch(call.caller, run.record, ObjectRule.OWN_SITE, self._registry.orgs)
        return run


def _failed(site: str, task_id: str, failure: pb.Failure) -> ev.SiteFailed:
    return ev.SiteFailed(
        site=site,
        task_id=task_id,
        code=foreign_line(failure.code, CODE) or "job-failed",
        message=foreign_line(failure.message),
        traceback=foreign_text(failure.traceback, TRACEBACK),
        hint=foreign_line(failure.hint, 1000),
    )
