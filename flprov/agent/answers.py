# SPDX-License-Identifier: Apache-2.0
"""A site's answers, on disk until the server has saved their round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from flprov.errors import ProtocolError, StateDamaged
from flprov.store import Change, Delete, Put, Row, Store
from flprov.wire import parse_message, pb


@dataclass(frozen=True, kw_only=True)
class _Kept:
    answer: pb.TaskAnswer
    round: int


class Answers:
    """Every answer whose round is still open, by job and task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, _Kept] = {}
        self._begun: dict[str, _Kept] = {}  # their records are on their way in; whoever waited may be gone
        self._dropping: set[str] = set()  # their records are on their way out
        self._forgotten: set[str] = set()  # their records go with the next answer that is kept

    def load(self) -> None:
        """Read what an earlier run of the agent kept."""
        for key, value in self._store.load("answer").items():
            try:
                answer = parse_message(pb.TaskAnswer, bytes.fromhex(str(value["answer"])))
            except (ProtocolError, ValueError) as error:
                raise StateDamaged(f"the kept answer {key} cannot be read") from error
            self._kept[key] = _Kept(answer=answer, round=int(value["round"]))

    def get(self, job_id: str, task_id: str) -> pb.TaskAnswer | None:
        """The answer to this task, if there is one."""
        kept = self._kept.get(f"{job_id}/{task_id}")
        return kept.answer if kept else None

    def of(self, job_id: str) -> list[pb.TaskAnswer]:
        """Every kept answer of a job."""
        return [kept.answer for key, kept in self._kept.items() if key.startswith(f"{job_id}/")]

    def blobs(self) -> set[str]:
        """Digests that kept answers name."""
        return {kept.answer.update.tensors.digest for kept in self._kept.values()} - {""}

    async def keep(
        self,
        answer: pb.TaskAnswer,
        *,
        round: int,  # noqa: A002 - the field's word
        also: Sequence[Change] = (),
    ) -> None:
        """Write an answer down, and what goes with it; it is on disk when this returns."""
        key = f"{answer.job_id}/{answer.task_id}"
        outcome = "ok" if answer.WhichOneof("outcome") == "update" else "failed"
        row = Row(who="site", what="task.answer", object=key, outcome=outcome, reason=answer.failure.message)
        value = {"answer": answer.SerializeToString().hex(), "round": round}
        older = self._forgotten.copy()
        self._begun[key] = _Kept(answer=answer, round=round)
        changes = [*(Delete("answer", old) for old in sorted(older)), Put("answer", key, value), *also]
        # That a task failed is a small thing to keep, also when the disk has no room for more.
        await self._store.commit(changes, row, urgent=outcome != "ok")
        self._forgotten -= older
        if (kept := self._begun.pop(key, None)) is not None:  # else its job has been dropped meanwhile
            self._kept[key] = kept

    def due(self, job_id: str, *, up_to: int | None = None) -> list[str]:
        """The keys of a job's answers that may go, of rounds up to `up_to` or all."""
        return [
            key
            for key, kept in self._kept.items()
            if key.startswith(f"{job_id}/")
            and (up_to is None or kept.round <= up_to)
            and key not in self._dropping
        ]

    async def forget_lost(self, has: Callable[[str], bool], jobs: Collection[str]) -> None:
        """Forget answers whose blob is gone, and those of jobs that are not here any more.

        The power was cut before the blob came to disk, and not to the server: it asks for the task again, and
        it is done again.
        """
        named = {key: kept.answer.update.tensors.digest for key, kept in self._kept.items()}
        lost = [
            key
            for key, digest in named.items()
            if (digest and not has(digest)) or self._kept[key].answer.job_id not in jobs
        ]
        if lost:
            await self._store.write([Delete("answer", key) for key in lost], urgent=True)
        for key in lost:
            del self._kept[key]

    def let_go(self, job_id: str, *, up_to: int) -> set[str]:
        """Forget a job's answers of rounds up to `up_to`; returns the digests that they named.

        Their records go with the next answer: that is one write less in each round. An answer that a restart
        brings back is said once more, to a server that has it.
        """
        gone = self.due(job_id, up_to=up_to)
        self._forgotten.update(gone)
        return self._pop(gone)

    async def drop(self, job_id: str) -> set[str]:
        """Forget all of a job's answers, and their records; returns the digests that they named.

        Nothing is synced.
        """
        begun = [key for key in self._begun if key.startswith(f"{job_id}/")]
        self._kept |= {key: self._begun.pop(key) for key in begun}
        gone = self.due(job_id)
        await self._delete(job_id, gone)
        return self._pop(gone)

    def _pop(self, gone: Sequence[str]) -> set[str]:
        dropped = [self._kept.pop(key) for key in gone]
        return {kept.answer.update.tensors.digest for kept in dropped} - {""}

    async def _delete(self, job_id: str, gone: Sequence[str]) -> None:
        older = {key for key in self._forgotten if key.startswith(f"{job_id}/")}
        if not gone and not older:
            return
        self._dropping.update(gone)
        try:
            await self._store.write([Delete("answer", key) for key in (*sorted(older), *gone)], urgent=True)
        finally:
            self._dropping.difference_update(gone)
        self._forgotten -= older
