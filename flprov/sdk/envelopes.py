# SPDX-License-Identifier: Apache-2.0
"""Envelopes: what a workflow does to every task and update in the site's worker, whatever job.yml lists.

A task is opened before any filter and trainer sees it; an update is closed after all filters. So a
trainer need not know, and no filter works on what it cannot read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from flprov.messages import Site, Task, Update, UpdateKind

# Type of the workflow -> "module:Class" of ours; imported when a job names it.
ENVELOPES: Mapping[str, str] = {"fedavg_he": "flprov.sdk.he.envelope:EncryptedEnvelope"}


class Envelope(Protocol):
    """What happens at a site between the wire and the job's own code."""

    def takes(self, expects: Sequence[UpdateKind]) -> tuple[UpdateKind, ...]:
        """The kinds of update that a trainer may send, where the task's answer is one of `expects`."""
        ...

    def open(self, task: Task, site: Site) -> Task:
        """`task` as the job's code gets it."""
        ...

    def close(self, update: Update, task: Task, site: Site) -> Update:
        """`update`, the answer to the opened `task`, as it leaves."""
        ...


class NoEnvelope:
    """Tasks and updates as they are."""

    def takes(self, expects: Sequence[UpdateKind]) -> tuple[UpdateKind, ...]:
        """See `Envelope.takes`."""
        return tuple(expects)

    def open(self, task: Task, site: Site) -> Task:  # noqa: ARG002
        """See `Envelope.open`."""
        return task

    def close(self, update: Update, task: Task, site: Site) -> Update:  # noqa: ARG002
        """See `Envelope.close`."""
        return update


def find_envelope(workflow: str | None) -> Envelope:
    """The envelope of the workflow that job.yml names by `type`."""
    name = ENVELOPES.get(workflow or "")
    if name is None:
        return NoEnvelope()
    module, _, attribute = name.partition(":")
    made: Envelope = getattr(importlib.import_module(module), attribute)()
    return made
