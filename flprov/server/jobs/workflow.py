# SPDX-License-Identifier: Apache-2.0
"""The workflow's process beside the server: its folder, its start, and bytes in and out of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from flprov._base import remove_file
from flprov.blobs import BlobStore
from flprov.errors import FlprovError, ProtocolError
from flprov.jobs import JobSpec, unpack_bundle
from flprov.server.jobs.events import Event, WorkflowGone, WorkflowSaid
from flprov.server.records import BlobRef, StateRef
from flprov.wire import pb
from flprov.workers import Launcher, LaunchOrder, Method, Process, Starting, reap_leftovers

logger = logging.getLogger(__name__)

_RESULT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_OURS = frozenset({"metrics.json", "record.json", "series.jsonl", "logs"})  # what we put beside the results
_MOST_RESULTS = 100

INLINE = 64 << 10  # bytes; larger tensors travel as files
_MOST_RESULT = 64 << 30


def verify_names(names: Collection[str]) -> None:
    """Check the names of a workflow's results: they become files on other people's machines.

    Raises:
        ProtocolError: one is not a plain file name, or is taken by a file of ours.
    """
    if len(names) > _MOST_RESULTS:
        raise ProtocolError(f"the workflow left {len(names)} results; at most {_MOST_RESULTS} are kept")
    for name in names:
        if not _RESULT_NAME.fullmatch(name) or name in _OURS:
            raise ProtocolError(f"the workflow named a result {ascii(name)[:80]}")


def to_payload(ref: BlobRef) -> pb.Payload:
    """A reference as it goes to a site: by value or by digest."""
    if ref.digest:
        return pb.Payload(digest=ref.digest, size=ref.size)
    return pb.Payload(inline=bytes.fromhex(ref.inline), size=ref.size)


class Workflow:
    """One job's workflow process. Events go to `tell`; the job's run decides what they mean."""

    def __init__(
        self,
        *,
        job_id: str,
        folder: Path,
        launcher: Launcher,
        blobs: BlobStore,
        unconfined: bool,
        tell: Callable[[Event], None],
        hear: Callable[[Event], Awaitable[None]],
        log_grew: Callable[[], None],
    ) -> None:
        self.folder = folder
        self._job_id = job_id
        self._starting = Starting(launcher)
        self._blobs = blobs
        self._unconfined = unconfined
        self._tell = tell
        self._hear = hear  # for what the process says: it waits while the job is behind
        self._log_grew = log_grew
        self._process: Process | None = None
        self._started: asyncio.Event | None = None  # set once the start has succeeded or failed
        self._serial = 0
        self._handed = False  # whether the in/ folder holds anything
        self._taken: dict[str, BlobRef] = {}  # file -> what was in it: for who has to ask twice
        self._known: dict[str, BlobRef] = {}  # digest -> what the process may name by it

    @property
    def log(self) -> Path:
        """Where the process's output goes."""
        return self.folder / "log"

    async def run(self, app: str, spec: JobSpec, python: Path) -> None:
        """Start the process and hand on what it says, until it ends."""
        self._started = asyncio.Event()
        try:
            try:
                self._process = process = await self._start(app, spec, python)
            finally:
                self._started.set()
            process.on_log(self._log_grew)
            while (frame := await process.channel.receive()) is not None:
                await self._hear(WorkflowSaid(frame=frame))
            record = await process.wait()
            why = f"the workflow's process ended: {record.reason}"
            self._tell(WorkflowGone(code="job-failed", message=why, killed=record.outside))
        except FlprovError as error:
            self._tell(WorkflowGone(code=error.code, message=str(error), hint=error.hint or ""))
        except OSError as error:
            self._tell(WorkflowGone(code="local-error", message=f"cannot start the workflow: {error}"))
        except Exception:  # the outermost of its task: a job without its workflow would run for ever
            logger.exception("job %s: its workflow could not be run", self._job_id)
            why = "internal error at the server; its log has the details"
            self._tell(WorkflowGone(code="local-error", message=why))

    async def _start(self, app: str, spec: JobSpec, python: Path) -> Process:
        await asyncio.to_thread(self._prepare, app)
        return await self._starting.launch(
            LaunchOrder(
                job_id=self._job_id,
                folder=self.folder,
                main="workflow",
                python=python,
                unconfined=self._unconfined,
                grace=spec.resources.grace_seconds,
            )
        )

    def _prepare(self, app: str) -> None:
        reap_leftovers(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clear()
        self._taken.clear()
        self._known.clear()
        for name in ("in", "out", "work"):
            (self.folder / name).mkdir(mode=0o700)
        unpack_bundle(self._blobs.path(app), self.folder / "app")

    def clear(self) -> None:
        """Remove what the process worked with; its log stays."""
        try:
            found = list(self.folder.iterdir())  # once: a start looks at the folders of thousands of jobs
        except OSError:
            return
        for path in found:
            half = path.match(".*.partial")  # of a server that was killed
            if half or path.name in ("app", "in", "out", "work"):
                shutil.rmtree(path, ignore_errors=True)

    async def send(self, message: pb.ToWorker) -> None:
        """Send a frame; nothing happens when the process is gone (its end is an event of its own)."""
        if self._process is None:
            return
        try:
            await self._process.channel.send(message)
        except FlprovError:
            return

    async def stop(self, grace: float) -> tuple[int, ...]:
        """Kill the process and all it started, also an earlier server's; returns what is left of them."""
        self._starting.give_up()
        if self._started is not None:
            await self._started.wait()
        process, self._process = self._process, None
        if process is not None:
            try:
                return await process.stop(grace)
            except OSError as error:  # what is left of it is found as an earlier server's is
                logger.warning("job %s: its workflow could not be stopped: %s", self._job_id, error)
        return (await asyncio.to_thread(reap_leftovers, self.folder)).remaining

    @property
    def taken(self) -> set[str]:
        """Digests of what was taken out and may be about to be named in a record."""
        return {ref.digest for ref in self._taken.values()}

    def forget_taken(self) -> None:
        """What was taken out is where it belongs: the next file of the same name is another one."""
        self._taken.clear()

    def hand_in(self, ref: BlobRef) -> pb.Payload:
        """Bytes for the process: by value, or as a file in its in/ folder."""
        if not ref.digest:
            return to_payload(ref)
        self._serial += 1
        name = f"{self._serial:06d}.safetensors"
        self._blobs.link(ref.digest, self.folder / "in" / name)
        self._handed = True
        return pb.Payload(file=name, size=ref.size)

    def take_back(self, payload: pb.Payload) -> None:
        """Remove what was handed in, and what the process was not told of."""
        if payload.file:
            with contextlib.suppress(OSError):
                self._blobs.unlink(self.folder / "in" / payload.file)

    def hand_in_state(self, state: StateRef, start: pb.StartWorkflow) -> None:
        """The saved state that the process goes on with."""
        start.state.CopyFrom(self.hand_in(state))
        for ref, payload in ((state.model, start.model), (state.best, start.best)):
            if ref is not None:
                payload.CopyFrom(self.hand_in(ref))
        self.settle(state)

    def settle(self, state: StateRef) -> None:
        """The state is saved: of what the process has handed over, it may name the blobs of this one."""
        parts = [ref for ref in (state.model, state.best) if ref is not None]
        self._known = {ref.digest: ref for ref in parts if ref.digest}

    def drop_inputs(self) -> None:
        """Remove what was handed in; the process has committed its round."""
        if not self._handed:
            return
        self._handed = False
        with contextlib.suppress(OSError):  # an unconfined job may have taken the folder away
            for path in (self.folder / "in").iterdir():
                self._blobs.unlink(path)

    async def take_out(self, payload: pb.Payload) -> BlobRef:
        """Bytes from the process, which is not trusted: out of its reach, in the blob store or by value.

        A blob may not be on the disk yet; see `keep`.

        Raises:
            ProtocolError: the payload is not of the process's own making.
        """
        where = payload.WhichOneof("where")
        if where == "inline":
            return await self._keep(payload.inline)
        if where == "digest":
            known = self._known.get(payload.digest)
            if known is None:
                raise ProtocolError(
                    f"the workflow named the blob {ascii(payload.digest)[:20]}, which it has not made"
                )
            return known
        if where != "file":
            raise ProtocolError("the workflow sent tensors neither by value nor as a file")
        name = payload.file
        if "/" in name or name in ("", ".", ".."):
            raise ProtocolError(f"the workflow named {name!r}, which is not a file in its folder")
        if name in self._taken:
            return self._taken[name]
        path = self.folder / "out" / name
        confined = self._process is not None and self._process.confinement == Method.LANDLOCK.value
        take = self._blobs.take if confined else self._blobs.adopt
        digest, size = await take(path, limit=_MOST_RESULT)
        found = self._taken[name] = self._known[digest] = BlobRef(digest=digest, size=size)
        with contextlib.suppress(OSError):  # the folder is the process's own: it may have locked it
            remove_file(path)
        return found

    async def keep(self, payload: pb.Payload) -> BlobRef:
        """The same, for what is about to be named in a record: it is on the disk when this returns."""
        ref = await self.take_out(payload)
        if ref.digest:
            await self._blobs.settle(ref.digest)
        return ref

    async def take_state(self, frame: pb.CloseRound) -> StateRef:
        """A state from the process, with the parts that are files of their own. Raises like `take_out`.

        It may not be on the disk yet; see `sync_state`.
        """
        rest = await self.take_out(frame.state)
        model = await self.take_out(frame.model) if frame.HasField("model") else None
        best = await self.take_out(frame.best) if frame.HasField("best") else None
        return StateRef(inline=rest.inline, digest=rest.digest, size=rest.size, model=model, best=best)

    async def sync_state(self, state: StateRef) -> None:
        """Bring a state that was taken to disk. Raises LocalError."""
        for digest in state.digests:
            await self._blobs.settle(digest)

    async def _keep(self, data: bytes) -> BlobRef:
        if len(data) <= INLINE:
            return BlobRef(inline=data.hex(), size=len(data))
        return BlobRef(digest=await self._blobs.put(data), size=len(data))
