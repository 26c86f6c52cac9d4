# SPDX-License-Identifier: Apache-2.0
"""Whether a trainer has looked at what its workflow requires of it.

FedProx without mu is FedAvg, and nobody would see it in the numbers: so a task says which of its scalars
and extra tensors have to be looked at, and an answer by somebody who did not is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from flprov.errors import Misuse
from flprov.messages import Task

V = TypeVar("V")
EXTRA = "extra"  # in `requires`: any of the tensors in Task.extra


class NotedMapping(Mapping[str, V]):
    """A mapping that notes whose values were asked for."""

    def __init__(self, values: Mapping[str, V], looked: set[str], group: str = "") -> None:
        self._values = values
        self._looked = looked
        self._group = group

    def __getitem__(self, key: str) -> V:
        self._looked |= {key, self._group}
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def note_reads(task: Task, looked: set[str]) -> Task:
    """`task`, which adds to `looked` the names of the scalars and extra tensors that are read of it."""
    scalars = NotedMapping(task.scalars, looked)
    return replace(task, scalars=scalars, extra=NotedMapping(task.extra, looked, EXTRA))


def verify_looked(what: str, requires: Sequence[str], looked: set[str]) -> None:
    """Check that everything was looked at that a task requires.

    Raises:
        Misuse: something was not; the message names it.
    """
    passed_over = [name for name in requires if name not in looked]
    if passed_over:
        raise Misuse(
            f"{what} requires its trainer to use {', '.join(passed_over)}, and it never looked there;"
            " the job's workflow would silently be another algorithm",
            hint="call fl.correct_gradients(net, lr=...) between backward() and optimizer.step()",
        )
