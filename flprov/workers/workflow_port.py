# SPDX-License-Identifier: Apache-2.0
"""The workflow's port: a controller's asks and states to frames for the server, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flprov._base import canonical_json
from flprov.errors import ProtocolError, Unavailable
from flprov.messages import Site, Task, Tensors, Update, UpdateKind
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
from flprov.wire import format_kinds, pb, read_metadata, read_tensors
from flprov.workers.payloads import make_payload, open_payload
from flprov.workers.session import Frames

SERVER = "server"  # the name under which filters run beside the server


class Stopped(SystemExit):
    """The server asked the workflow to end. No Exception, so that a controller does not catch it."""

    def __init__(self) -> None:
        super().__init__(0)


class ChannelPort:
    """A `Port` over the channel to the server.

    Attributes:
        state: the last one that is on the server's disk, or the one to start from.
        format: "pt" once the model is known to be torch's, so that sites get it as such.
    """

    def __init__(
        self,
        channel: Frames,
        folder: Path,
        *,
        job_id: str,
        args: Mapping[str, object],
        state: State,
        format: str,  # noqa: A002 - safetensors' own word
        task_filters: Sequence[TaskFilter] = (),
        result_filters: Sequence[ResultFilter] = (),
    ) -> None:
        self.state = state
        self.format = format
        self._channel = channel
        self._folder = folder
        self._job_id = job_id
        self._args = args
        self._task_filters = task_filters
        self._result_filters = result_filters
        self._tasks: dict[str, Task] = {}  # by id, those that are open
        self._early: list[Answer] = []  # that came before anybody waited for them

    def ask(self, ask: Ask) -> None:
        """See `Port.ask`."""
        task = filter_task(self._task_filters, self._task(ask), self._site(SERVER))
        message = pb.Broadcast(
            task_id=ask.task_id,
            name=ask.name,
            round=ask.round,
            rounds=ask.rounds,
            expects=format_kinds(ask.expects),
            model=make_payload(task.params, self._metadata(), self._folder),
            sites=ask.to,
            scalars=canonical_json(task.scalars),
            requires=ask.requires,
        )
        if task.extra:
            message.extra.CopyFrom(make_payload(task.extra, self._metadata(), self._folder))
        self._tasks[ask.task_id] = task
        self._channel.send(pb.FromWorker(broadcast=message))

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
        self._channel.send(pb.FromWorker(withdraw=pb.Withdraw(task_id=task_id)))

    def save(self, state: State) -> State:
        """See `Port.save`."""
        tensors, metadata = flatten_state(state)
        payload = make_payload(tensors, {**metadata, **self._metadata()}, self._folder)
        # Mapped before the server hears of the file, as it takes it away; from here on the tensors
        # cost no memory of ours.
        saved = read_state(self._folder / "out" / payload.file if payload.file else payload.inline)
        closed = state.round - 1
        self._channel.send(
            pb.FromWorker(close=pb.CloseRound(round=closed, state=payload, metrics=state.metrics))
        )
        reply = self._receive("saved").saved
        if reply.round != closed:
            raise ProtocolError(f"round {reply.round} was saved, but {closed} was to be")
        self.state = saved
        return saved

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Port.log`."""
        progress = pb.Progress(job_id=self._job_id, values=values, step=step or 0)
        self._channel.send(pb.FromWorker(progress=progress))

    def finish(self, state: State) -> None:
        """Hand the server what the job has come to: the final model, if it has one, and its documents."""
        found: dict[str, pb.Payload] = {}
        for name, document in state.results.items():
            data = canonical_json(document)
            found[name] = pb.Payload(inline=data, size=len(data))
        if state.model or not found:
            found["model.safetensors"] = make_payload(state.model, self._metadata(), self._folder)
        self._channel.send(pb.FromWorker(finished=pb.Finished(results=found)))

    def _take_answer(self, message: pb.SiteAnswer) -> Answer:
        task = self._tasks.get(message.task_id)
        if task is None:
            raise ProtocolError(f"an answer came for task {message.task_id!r}, which is not open")
        if message.last:
            del self._tasks[message.task_id]
        if message.WhichOneof("outcome") == "update":
            update = self._take(message.site, message.update, task)
            return Answer(task_id=message.task_id, site=message.site, update=update, last=message.last)
        reason = message.absent.message or message.absent.code
        return Answer(task_id=message.task_id, site=message.site, reason=reason, last=message.last)

    def _metadata(self) -> Mapping[str, str]:
        return {"format": self.format} if self.format else {}

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
        if read_metadata(source).get("format") == TORCH:
            self.format = TORCH
        update = Update(
            params=read_tensors(source),
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

    def _receive(self, expected: str) -> pb.ToWorker:
        message = self._channel.receive()
        if message is None:
            raise Unavailable("the server has closed the channel")
        body = message.WhichOneof("body")
        if body == "quit":
            raise Stopped
        if body != expected:
            raise ProtocolError(f"the workflow was sent {body!r} while it waited for {expected!r}")
        return message
