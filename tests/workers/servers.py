# SPDX-License-Identifier: Apache-2.0
"""The server's side of a workflow's channel, without a server: answers come from functions."""

from typing import NamedTuple

from flprov._base import canonical_json
from flprov.blobs import digest_of
from flprov.messages import Update
from flprov.sdk import read_state
from flprov.wire import encode_tensors, pb, read_tensors, tensor_infos, verify_update

INLINE = 64 << 10


class Saved(NamedTuple):
    """What is on the disk of a state: its model, and the best one, if they are files of their own."""

    rest: bytes
    model: bytes | None = None
    best: bytes | None = None

    def read(self):
        parts = {"model": self.model, "best": self.best}
        apart = {name: read_tensors(data) for name, data in parts.items() if data is not None}
        return read_state(self.rest, **apart)


class FakeServer:
    """A channel for `run_workflow`. `answer(broadcast, site, model)` gives an Update or a text.

    Args:
        saved: the state to go on with, `Saved` or bytes, and its round.
        die_at: the step (a send or a receive) at which the workflow's process is killed.
    """

    def __init__(self, folder, spec, answer, *, sites=("b", "a"), saved=None, die_at=None):
        self.folder, self.spec, self.answer = folder, spec, answer
        self.sites, self.die_at = sites, die_at
        self.steps = 0
        self.frames = []
        self.broadcasts = []
        self.saved = []
        self.metrics = []
        self.results = {}
        self.reason = None
        self.failure = None
        self.progress = []
        self.said = []
        self.withdrawn = []
        self.refused = []
        self.ready = False
        self.serial = 0
        self.known = {}  # digest -> what the workflow may name by it
        self.taken = []  # the names of its files that were taken
        for name in ("app", "in", "out", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        begin = pb.StartWorkflow(job_id="j", spec=canonical_json(spec), sites=sites)
        if saved is not None:
            state, begin.round = saved
            state = Saved(state) if isinstance(state, bytes) else state
            begin.state.CopyFrom(self.hand_in(state.rest))
            for part, data in (("model", state.model), ("best", state.best)):
                if data is not None:
                    getattr(begin, part).CopyFrom(self.hand_in(data))
                    self.known[digest_of(data)] = data
        self.frames.append(pb.ToWorker(start_workflow=begin))

    def receive(self):
        self.step()
        return self.frames.pop(0) if self.frames else None

    def pending(self):
        return bool(self.frames)

    def send(self, message):
        self.step()
        body = message.WhichOneof("body")
        getattr(self, f"on_{body}")(getattr(message, body))

    def step(self):
        if self.steps == self.die_at:
            raise Killed
        self.steps += 1

    # ---- what the workflow sends ---------------------------------------------------------

    def on_ready(self, _):
        self.ready = True

    def on_broadcast(self, broadcast):
        data = self.take_out(broadcast.model)
        self.broadcasts.append((broadcast, data))
        model, sites = read_tensors(data), list(broadcast.sites)
        for number, site in enumerate(reversed(sites)):  # not in canonical order
            answer = pb.SiteAnswer(task_id=broadcast.task_id, site=site, last=number + 1 == len(sites))
            found = self.answer(broadcast, site, model)
            if isinstance(found, Update):
                answer.update.CopyFrom(self.to_message(found, tensor_infos(data), broadcast.expects))
            else:
                answer.absent.CopyFrom(pb.Failure(code="absent", message=found))
            self.frames.append(pb.ToWorker(answer=answer))

    def on_close(self, close):
        found = {
            part: self.take_out(getattr(close, part))
            for part in ("state", "model", "best")
            if close.HasField(part)
        }
        state = Saved(found.pop("state"), **found)
        self.saved.append(state)
        self.metrics.append(dict(close.metrics))
        self.known = {digest_of(data): data for data in found.values()}
        digest = "" if state.model is None else digest_of(state.model)
        self.frames.append(pb.ToWorker(saved=pb.RoundSaved(round=close.round, model=digest)))
        self.step()  # killed after the disk, before the reply
        for path in (self.folder / "in").iterdir():
            path.unlink()

    def on_finished(self, finished):
        self.results = {name: self.take_out(payload) for name, payload in finished.results.items()}
        self.reason = finished.reason

    def on_withdraw(self, withdraw):
        self.withdrawn.append(withdraw.task_id)
        own = [frame for frame in self.frames if frame.answer.task_id != withdraw.task_id]
        last = pb.SiteAnswer(task_id=withdraw.task_id, last=True, absent=pb.Failure(message="withdrawn"))
        self.frames = [*own, pb.ToWorker(answer=last)]

    def on_refuse(self, refuse):
        self.refused.append((refuse.task_id, refuse.site, refuse.reason))

    def on_failure(self, failure):
        self.failure = failure

    def on_progress(self, progress):
        if progress.doing:
            self.said.append(progress.doing)
        else:
            self.progress.append((dict(progress.values), progress.step))

    # ---- bytes ---------------------------------------------------------------------------

    def to_message(self, update, infos, expects):
        data = encode_tensors(update.params, {"format": "pt"} if update.site == "torch" else {})
        verify_update(infos, data, update.kind.value, expects)
        return pb.UpdateMessage(
            kind=update.kind.value,
            tensors=self.hand_in(data),
            samples=update.samples,
            weight=update.weight,
            metrics=update.metrics,
        )

    def hand_in(self, data):
        if len(data) <= INLINE:
            return pb.Payload(inline=data, size=len(data))
        self.serial += 1
        (self.folder / "in" / str(self.serial)).write_bytes(data)
        return pb.Payload(file=str(self.serial), size=len(data))

    def take_out(self, payload):
        if payload.WhichOneof("where") == "inline":
            return payload.inline
        if payload.WhichOneof("where") == "digest":
            return self.known[payload.digest]
        path = self.folder / "out" / payload.file
        if path.exists():  # else the same frame has named it before
            data = path.read_bytes()
            path.unlink()
            self.taken.append(payload.file)
            self.known[digest_of(data)] = self.known[payload.file] = data
        return self.known[payload.file]


class Killed(BaseException):
    """SIGKILL, as far as the workflow can tell."""
