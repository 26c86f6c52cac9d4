# SPDX-License-Identifier: Apache-2.0
"""The workflow's port: a controller's asks and states to frames for the server, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flprov._base import canonical_json
from flprov.blobs import digest_of
from flprov.errors import ProtocolError, Unavailable
from flprov.messages import Encoding, Site, Task, Tensors, Update, UpdateKind
from flprov.sdk import (
    TORCH,
    Answer,
    Ask,
    ResultFilter,
    State,
    TaskFilter,
    filter_result,
    filter_task,
    flatten_state,
    read_state,
)
from flprov.wire import format_kinds, pb, read_model, read_tensors
from flprov.workers.modelfiles import ModelFiles
from flprov.workers.payloads import INLINE, make_payload, open_payload
from flprov.workers.session import Frames

if TYPE_CHECKING:
    from types import FrameType

SERVER = "server"  # the name under which filters run beside the server
_FINGERPRINT = 12  # hexadecimal digits


class Stopped(SystemExit):
    """The server asked the workflow to end. No Exception, so that a controller does not catch it."""

    def __init__(self) -> None:
        super().__init__(0)


@dataclass(frozen=True, kw_only=True)
class _Sent:
    own_id: str
    task: Task


class WorkflowFrames(Frames, Protocol):
    """What a port needs of `WorkerChannel`."""

    def pending(self) -> bool: ...


class ChannelPort:
    """A `Port` over the channel to the server.

    Attributes:
        state: the last one that the server has, on its disk or on the way there, or the one to start from.
    """

    def __init__(
        self,
        channel: WorkflowFrames,
        folder: Path,
        *,
        job_id: str,
        args: Mapping[str, object],
        state: State,
        files: ModelFiles,
        task_filters: Sequence[TaskFilter] = (),
        result_filters: Sequence[ResultFilter] = (),
    ) -> None:
        self.state = state
        self._channel = channel
        self._folder = folder
        self._files = files
        self._job_id = job_id
        self._args = args
        self._task_filters = task_filters
        self._result_filters = result_filters
        self._tasks: dict[str, _Sent] = {}  # by the id that travels, those that are open
        self._ids: dict[str, str] = {}  # the controller's id -> the one that travels
        self._early: list[Answer] = []  # that came before anybody waited for them
        self._saving: int | None = None  # the round whose state is on its way to the server's disk
        self._quit = False  # the server, or a SIGTERM, asks for the end
        self._waiting = False  # for the server's next word
        self._minds = False  # whether the controller looks at `aborted` itself

    def ask(self, ask: Ask) -> None:
        """See `Port.ask`."""
        task = filter_task(self._task_filters, self._task(ask), self._site(SERVER))
        message = pb.Broadcast(
            name=ask.name,
            round=ask.round,
            rounds=ask.rounds,
            expects=format_kinds(ask.expects),
            model=self._payload(task.params, task.encoding),
            sites=ask.to,
            scalars=canonical_json(task.scalars),
            requires=ask.requires,
            optional=ask.optional,
        )
        if task.extra:
            message.extra.CopyFrom(self._payload(task.extra))
        room = INLINE  # that all of them may take in one frame
        for site, tensors in sorted(ask.extra_of.items()):
            payload = self._payload(tensors, most=room)
            room -= len(payload.inline)
            message.extra_of[site].CopyFrom(payload)
        message.task_id = f"{ask.task_id}~{self._fingerprint(message)}"
        self._tasks[message.task_id] = _Sent(own_id=ask.task_id, task=task)
        self._ids[ask.task_id] = message.task_id
        self._send(pb.FromWorker(broadcast=message))

    def wait(self, tasks: Collection[str]) -> Answer:
        """See `Port.wait`."""
        for number, early in enumerate(self._early):
            if early.task_id in tasks:
                return self._early.pop(number)
        while True:
            answer = self._take_answer(self._receive("answer").answer)
            if answer.task_id in tasks:
                return answer
            self._early.append(answer)

    def withdraw(self, task_id: str) -> None:
        """See `Port.withdraw`."""
        self._send(pb.FromWorker(withdraw=pb.Withdraw(task_id=self._ids[task_id])))

    def refuse(self, task_id: str, site: str, reason: str) -> None:
        """See `Port.refuse`."""
        self._send(pb.FromWorker(refuse=pb.Refuse(task_id=self._ids[task_id], site=site, reason=reason)))

    def save(self, state: State) -> State:
        """See `Port.save`."""
        self._wait_saved()
        model, file = self._files.keep(state.model)
        best, best_file = self._files.keep(state.best.model) if state.best else ({}, None)
        apart = {"model": file, "best": best_file}
        tensors, metadata = flatten_state(state, apart=[part for part in apart if apart[part] is not None])
        closed = state.round - 1
        rest = make_payload(tensors, {**metadata, **self._files.metadata}, self._folder)
        message = pb.CloseRound(round=closed, state=rest, metrics=state.metrics)
        read = partial(
            read_state,
            self._folder / "out" / rest.file if rest.file else rest.inline,
            model=None if file is None else model,
            best=None if best_file is None else best,
        )
        # Mapped before the server hears of the file, as it takes it away; from here on the tensors
        # cost no memory of ours.
        saved = read() if rest.file else None
        if file is not None:
            message.model.CopyFrom(self._files.payload(file))
        if best_file is not None:
            message.best.CopyFrom(message.model if best_file is file else self._files.payload(best_file))
        self._send(pb.FromWorker(close=message))
        self._saving = closed
        # A large model goes by the digest that the server has found; nothing else waits for its disk.
        self._files.settle(file, "" if file is None else self._wait_saved(), best_file)
        self.state = read() if saved is None else saved
        self._ids.clear()
        return self.state

    def _wait_saved(self) -> str:
        """Wait until the state that is on its way is on the server's disk; the digest of its model."""
        return "" if self._saving is None else self._heard_saved(self._receive("saved").saved)

    def _heard_saved(self, said: pb.RoundSaved) -> str:
        if said.round != self._saving:
            raise ProtocolError(f"round {said.round} was saved, but {self._saving} was to be")
        self._saving = None
        return said.model

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Port.log`."""
        progress = pb.Progress(job_id=self._job_id, values=values, step=step or 0, counted=step is None)
        self._channel.send(pb.FromWorker(progress=progress))

    def report(self, text: str) -> None:
        """See `Port.report`."""
        self._channel.send(pb.FromWorker(progress=pb.Progress(job_id=self._job_id, doing=text)))

    def aborted(self) -> bool:
        """See `Port.aborted`."""
        self._minds = True
        while not self._quit and self._channel.pending():
            message = self._channel.receive()
            if message is None or message.WhichOneof("body") == "quit":
                self._quit = True
            elif message.WhichOneof("body") == "answer":
                self._early.append(self._take_answer(message.answer))
            elif message.WhichOneof("body") == "saved":
                self._heard_saved(message.saved)
            else:
                raise ProtocolError(f"the workflow was sent {message.WhichOneof('body')!r} out of turn")
        return self._quit

    def on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of SIGTERM: end, unless the controller looks at `aborted` itself."""
        self._quit = True
        if self._waiting or not self._minds:
            raise Stopped

    def finish(self, state: State, reason: str = "") -> None:
        """Hand the server what the job has come to: the final model and the best, if any, and its documents.

        `reason` says why it ended before its last round, if it did.
        """
        self._wait_saved()
        found: dict[str, pb.Payload] = {}
        documents, models = dict(state.results), {"model.safetensors": state.model}
        if (best := state.best) is not None:
            documents["best.json"] = {
                "metric": best.metric,
                "mode": best.mode,
                "value": best.value,
                "round": best.round,
            }
            models["best.safetensors"] = best.model
        for name, document in documents.items():
            data = canonical_json(document)
            found[name] = pb.Payload(inline=data, size=len(data))
        for name, model in models.items():
            if model or not found:
                found[name] = self._payload(model)
        self._send(pb.FromWorker(finished=pb.Finished(results=found, reason=reason)))

    def _take_answer(self, message: pb.SiteAnswer) -> Answer:
        sent = self._tasks.get(message.task_id)
        if sent is None:
            raise ProtocolError(f"an answer came for task {message.task_id!r}, which is not open")
        if message.last:
            del self._tasks[message.task_id]
        answer = Answer(task_id=sent.own_id, site=message.site, last=message.last)
        if message.WhichOneof("outcome") == "update":
            return replace(answer, update=self._take(message.site, message.update, sent.task))
        return replace(answer, reason=message.absent.message or message.absent.code)

    def _payload(
        self, tensors: Tensors, encoding: Mapping[str, Encoding] | None = None, *, most: int = INLINE
    ) -> pb.Payload:
        file = None if encoding else self._files.find(tensors)
        if file is not None:
            return self._files.payload(file)
        return make_payload(tensors, self._files.metadata, self._folder, most=most, encoding=encoding)

    def _fingerprint(self, message: pb.Broadcast) -> str:
        """What the task is, in a few letters, whatever its sites.

        It is part of the id, so that an answer never counts for another task: in a round that is run again
        after a crash, a site may have answered what it is now asked about another model.
        """
        found = pb.Broadcast()
        found.CopyFrom(message)
        found.ClearField("sites")
        for payload in (found.model, found.extra, *found.extra_of.values()):
            if payload.file:
                digest = self._files.digest_of(payload.file)
                payload.CopyFrom(pb.Payload(digest=digest, size=payload.size))
        return digest_of(found.SerializeToString(deterministic=True))[:_FINGERPRINT]

    def _task(self, ask: Ask) -> Task:
        return Task(
            name=ask.name,
            params=ask.model,
            round=ask.round,
            rounds=ask.rounds,
            job_id=self._job_id,
            args=self._args,
            scalars=ask.scalars,
            extra=ask.extra,
        )

    def _site(self, name: str) -> Site:
        return Site(name=name, job_id=self._job_id, folder=self._folder / "work")

    def _take(self, site: str, message: pb.UpdateMessage, task: Task) -> Update:
        """The update of `site`: its tensors mapped at once, as the file goes when the round is saved."""
        source = open_payload(message.tensors, self._folder)
        params, metadata = read_model(source, scratch=self._folder / "out")
        if metadata.get("format") == TORCH:
            self._files.format = TORCH
        update = Update(
            params=params,
            kind=UpdateKind(message.kind),
            samples=message.samples,
            weight=message.weight if message.HasField("weight") else None,
            metrics=dict(message.metrics),
            site=site,
        )
        if not self._result_filters:
            return update
        filtered = filter_result(self._result_filters, update, task, self._site(site))
        return replace(filtered, site=site, params=self._park(filtered.params))

    def _park(self, tensors: Tensors) -> Tensors:
        """The same tensors, mapped: filtered updates of many sites must not add up in memory."""
        payload = make_payload(tensors, {}, self._folder)
        if not payload.file:
            return tensors
        path = self._folder / "out" / payload.file
        mapped = read_tensors(path)
        path.unlink()
        return mapped

    def _send(self, message: pb.FromWorker) -> None:
        if self._quit:
            raise Stopped
        self._channel.send(message)

    def _receive(self, expected: str) -> pb.ToWorker:
        while True:
            message = self._hear()
            body = message.WhichOneof("body")
            if body == expected:
                return message
            if body != "saved":
                raise ProtocolError(f"the workflow was sent {body!r} while it waited for {expected!r}")
            self._heard_saved(message.saved)

    def _hear(self) -> pb.ToWorker:
        if self._quit:
            raise Stopped
        try:
            self._waiting = True
            message = self._channel.receive()
        finally:
            self._waiting = False
        if message is None:
            raise Unavailable("the server has closed the channel")
        if message.WhichOneof("body") == "quit":
            raise Stopped
        return message
