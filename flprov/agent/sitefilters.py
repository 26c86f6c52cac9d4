# SPDX-License-Identifier: Apache-2.0
"""The site's last word on tensors: the filters of its policy.yml, applied here, outside the job's process.

An update is taken out of the process's reach, checked, filtered, checked again and written down as the
answer; only what is written down as the answer is ever sent, and it is sent again as the same bytes. An
agent that is killed before it is written down has sent nothing: the process says its answer again, and the
noise is drawn anew. So of one answer no two noises leave.

Tensors are mapped, and new ones lie in files of the job's own folder that its process does not see: memory
does not grow with the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flprov.agent.updates import INLINE, source_of, verify_own_update
from flprov.blobs import BlobStore, disk_errors
from flprov.errors import JobFailed, Misuse, PolicyRefused, UpdateRefused
from flprov.jobs import JobSpec
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.policy import FilterRules
from flprov.wire import pb, read_encodings

if TYPE_CHECKING:
    from flprov.messages import Tensors

_WHERE = "filters.{} of policy.yml"
_TORCH = "pt"  # what files of torch's tensors say they are; see flprov.sdk.TORCH


def verify_filterable(rules: FilterRules, spec: JobSpec) -> None:
    """Raise PolicyRefused if it is known that the site's filters cannot be applied to this job's tensors."""
    if not (rules.task or rules.result):
        return
    from flprov.sdk import BESIDE, OPAQUE  # late: most sites filter nothing, and it is a lot to import

    brought, sent = BESIDE.get(spec.workflow.type or ""), OPAQUE.get(spec.workflow.type or "")
    if rules.task and brought is not None:
        raise PolicyRefused(
            f"this site's policy filters every model that comes, and {spec.workflow.type} sends"
            f" {brought} beside it, to which no filter can be applied",
            hint="ask the site to run it without `filters.task` in its policy.yml, or run another workflow",
        )
    if rules.result and sent is not None:
        names = ", ".join(str(row["type"]) for row in rules.result)
        raise PolicyRefused(
            f"this site's policy filters every update ({names}), and the updates of {spec.workflow.type}"
            f" are {sent}, to which no filter can be applied",
            hint="ask the site to run it without `filters` in its policy.yml, or run another workflow",
        )


def describe_rules(rules: FilterRules, answers: int) -> list[str]:
    """What the site's policy does to the tensors of a job with so many rounds, in sentences."""
    if not (rules.task or rules.result):
        return []
    from flprov.sdk import describe_filters  # late: see above

    found = []
    for what, rows in (("models that come", rules.task), ("updates that leave", rules.result)):
        said = describe_filters(rows, _WHERE.format("task" if rows is rules.task else "result"), answers)
        found += [f"{what}: {line}" for line in said]
    return found


class SiteFilters:
    """The filters of a site's policy, for one job.

    Args:
        rules: what the policy says.
        site: the site's name.
        job_id: the job.
        folder: the job's, at the site; a folder `site` is made in it.
        blobs: the site's.
        max_weight: what one update may count at most, if the job says so.
    """

    def __init__(
        self,
        rules: FilterRules,
        site: str,
        job_id: str,
        folder: Path,
        blobs: BlobStore,
        max_weight: float | None,
    ) -> None:
        self._rules = rules
        self._max_weight = max_weight
        self._site = Site(name=site, job_id=job_id, folder=folder / "site")
        self._blobs = blobs

    def verify_task(self, order: pb.TaskOrder) -> None:
        """Raise PolicyRefused of a task whose tensors cannot all be filtered.

        Filters know what a model is. Tensors beside it may be control variates, sealed keys or anything
        else; let through as they are, they would be a way past the policy.
        """
        if self.on_tasks and order.extra.size:
            raise PolicyRefused(
                f"this site's policy filters every model that comes, and task {order.name!r} brings tensors"
                " beside the model, to which no filter can be applied"
            )

    @property
    def on_tasks(self) -> bool:
        """Whether models are filtered before job code sees them."""
        return bool(self._rules.task)

    @property
    def on_results(self) -> bool:
        """Whether updates are filtered before they leave."""
        return bool(self._rules.result)

    def write_model(self, order: pb.TaskOrder, path: Path) -> pb.Payload:
        """The model of a task as job code may see it, in the new file `path`. Blocks.

        Raises:
            UpdateRefused: a filter cannot be applied to it.
            LocalError: the disk is full.
        """
        from flprov.wire import write_tensors  # late, here and below: with numpy

        with self._own_faults():
            task = self._filtered_task(order)
            size = write_tensors(path, task.params, _metadata(order.model, self._blobs), task.encoding)
        return pb.Payload(file=path.name, size=size)

    async def filter_update(self, update: pb.UpdateMessage, order: pb.TaskOrder) -> pb.UpdateMessage:
        """The update as it may leave, checked again; its tensors are a blob of ours, or inline.

        Args:
            update: what the process has sent, out of its reach and checked.
            order: the task that it answers.

        Raises:
            UpdateRefused: a filter cannot be applied to it, or what comes out fits its task no more.
            LocalError: the disk is full.
        """
        path = self._site.folder / f"{secrets.token_hex(8)}.safetensors"
        try:
            found = await asyncio.to_thread(self._write_update, update, order, path)
            if found.tensors.file:
                digest, size = await self._blobs.adopt(path, limit=found.tensors.size)
                found.tensors.CopyFrom(pb.Payload(digest=digest, size=size))
        finally:
            path.unlink(missing_ok=True)
        await asyncio.to_thread(verify_own_update, found, order, self._blobs, self._max_weight)
        return found

    def _write_update(self, update: pb.UpdateMessage, order: pb.TaskOrder, path: Path) -> pb.UpdateMessage:
        from flprov.wire import encode_tensors, read_tensors, write_tensors

        found = pb.UpdateMessage()
        found.CopyFrom(update)
        source = source_of(update.tensors, self._blobs)
        with self._own_faults():
            tensors = read_tensors(source, scratch=self._site.folder)
            if not tensors:
                found.tensors.CopyFrom(_inline(encode_tensors({})))  # its header could say anything
                return found
            if update.kind == UpdateKind.OPAQUE.value:
                raise UpdateRefused(
                    "this site's policy filters every update, and to an opaque one no filter can be applied"
                )
            filtered = self._filtered(tensors, update, order)
            metadata = _metadata(update.tensors, self._blobs)
            found.metrics.update(filtered.metrics)
            size = write_tensors(path, filtered.params, metadata, filtered.encoding)
            if size <= INLINE:
                found.tensors.CopyFrom(_inline(path.read_bytes()))
            else:
                found.tensors.CopyFrom(pb.Payload(file=path.name, size=size))
        return found

    def _filtered(self, tensors: Tensors, update: pb.UpdateMessage, order: pb.TaskOrder) -> Update:
        from flprov.sdk import build_result_filters, filter_result  # late: see verify_filterable

        sent = Update(
            params=tensors,
            kind=UpdateKind(update.kind),
            samples=update.samples,
            encoding=read_encodings(source_of(update.tensors, self._blobs)),
        )
        filters = build_result_filters(self._rules.result, _WHERE.format("result"))
        return filter_result(filters, sent, self._filtered_task(order), self._site)

    def _filtered_task(self, order: pb.TaskOrder) -> Task:
        """The task with its model as job code saw it: the filters of models give the same every time."""
        from flprov.sdk import build_task_filters, filter_task  # late: see verify_filterable
        from flprov.wire import read_tensors

        task = Task(name=order.name, params={}, round=order.round, rounds=order.rounds, job_id=order.job_id)
        if not order.model.size:
            return task
        source = source_of(order.model, self._blobs)
        params = read_tensors(source, scratch=self._site.folder, sparse=False)
        task = replace(task, params=params, encoding=read_encodings(source))
        return filter_task(build_task_filters(self._rules.task, _WHERE.format("task")), task, self._site)

    @contextlib.contextmanager
    def _own_faults(self) -> Iterator[None]:
        """What a filter cannot do is the update's fault; that there is no room is ours."""
        self._site.folder.mkdir(mode=0o700, exist_ok=True)
        try:
            with disk_errors("tensors cannot be filtered"):
                yield
        except (JobFailed, Misuse) as error:
            raise UpdateRefused(
                f"the policy of this site cannot be kept: {error}", hint=error.hint
            ) from error


def _metadata(tensors: pb.Payload, blobs: BlobStore) -> Mapping[str, str]:
    """Of the texts beside tensors what torch's say; the rest could carry away what a filter took."""
    from flprov.wire import read_metadata

    found = read_metadata(source_of(tensors, blobs)).get("format")
    return {"format": found} if found == _TORCH else {}


def _inline(data: bytes) -> pb.Payload:
    return pb.Payload(inline=data, size=len(data))
