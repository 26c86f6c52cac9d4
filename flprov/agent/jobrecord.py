# SPDX-License-Identifier: Apache-2.0
"""What the site keeps of a job, so that it goes on with the job's process after the agent was killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flprov.agent.admission import Admitted
from flprov.errors import FlprovError, ProtocolError, StateDamaged
from flprov.store import Change, Delete, Put, Store
from flprov.wire import parse_message, pb

_KIND = "task"


def job_record(message: pb.Deploy, admitted: Admitted) -> dict[str, Any]:
    """The record of a job that was admitted: everything that admission needs to see again."""
    return {
        "app": admitted.submission.app,
        "submission": message.submission.hex(),
        "signature": message.signature.hex(),
        "chain": message.chain.hex(),
        "datasets": {name: str(path) for name, path in admitted.datasets.items()},
        "python": str(admitted.python),
    }


def deploy_again(job_id: str, record: Mapping[str, Any]) -> pb.Deploy:
    """The server's word that the job was admitted on.

    Raises:
        StateDamaged: the record has no such word: an older version wrote it.
    """
    try:
        return pb.Deploy(
            job_id=job_id,
            submission=bytes.fromhex(record["submission"]),
            signature=bytes.fromhex(record["signature"]),
            chain=bytes.fromhex(record["chain"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateDamaged("an older version of flprov accepted it") from error


def verify_same(record: Mapping[str, Any], admitted: Admitted) -> None:
    """Check that the site still means what the process was started with.

    Raises:
        FlprovError: its IT has changed site.yml since.
    """
    if record.get("python") != str(admitted.python):
        raise FlprovError(f"site.yml names another interpreter now: {admitted.python}")
    older = record.get("datasets", {})
    for name, path in admitted.datasets.items():
        if older.get(name) != str(path):
            raise FlprovError(f"site.yml names another place for dataset {name!r} now")  # where: stays here


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A task that a job's process was given."""

    order: pb.TaskOrder
    tries: int  # how many processes were given it, one after the other


def blobs_of(order: pb.TaskOrder) -> set[str]:
    """Digests of what a task needs here: its model, and the tensors beside it."""
    return {order.model.digest, order.extra.digest} - {""}


class OpenTasks:
    """The task that each job's process is at.

    Written a moment after the process has heard of it, if it is still at it, and not synced: what a power
    cut takes here it takes from the process as well, and the server's order comes again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._begun: dict[str, Begun] = {}
        self._written: set[str] = set()  # jobs of which there is a record, or will be in a moment

    def load(self) -> None:
        """Read what an earlier run of the agent has left. Raises StateDamaged."""
        for job_id, value in self._store.load(_KIND).items():
            try:
                order = parse_message(pb.TaskOrder, bytes.fromhex(str(value["order"])))
                self._begun[job_id] = Begun(order=order, tries=int(value["tries"]))
                self._written.add(job_id)
            except (ProtocolError, KeyError, ValueError) as error:
                raise StateDamaged(f"the open task of job {job_id} cannot be read") from error

    def get(self, job_id: str) -> Begun | None:
        """The open task of a job, if it has one."""
        return self._begun.get(job_id)

    def tries(self, job_id: str, task_id: str) -> int:
        """How many processes were given this task."""
        begun = self._begun.get(job_id)
        return begun.tries if begun is not None and begun.order.task_id == task_id else 0

    def begin(self, job_id: str, order: pb.TaskOrder, *, tries: int) -> None:
        """The next process is about to hear of it; `keep` is for what is not over within a moment."""
        self._begun[job_id] = Begun(order=order, tries=tries)

    async def keep(self, job_id: str) -> None:
        """Write the open task of a job down, if it has one; it outlives the agent when this returns."""
        begun = self._begun.get(job_id)
        if begun is not None:
            self._written.add(job_id)
            value = {"order": begun.order.SerializeToString().hex(), "tries": begun.tries}
            await self._store.write([Put(_KIND, job_id, value)])

    def end(self, job_id: str) -> list[Change]:
        """What makes it no open task any more: for the commit that says what became of it."""
        self._begun.pop(job_id, None)
        written = job_id in self._written
        self._written.discard(job_id)
        return [Delete(_KIND, job_id)] if written else []
