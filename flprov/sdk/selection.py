# SPDX-License-Identifier: Apache-2.0
"""Selection: which round's model was the best, and whether the job may end early.

What `best`, `mode`, `patience` and `min_delta` under `workflow` in job.yml say, for every workflow. It is
decided when a round is committed, from the round's metrics alone, and kept in the state: a workflow that
is killed and started again decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flprov.errors import JobFailed
from flprov.sdk.options import suggest
from flprov.sdk.state import Best, State


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A metric, and how its values are compared.

    A value is better if it is above the best so far (`mode: max`; below it with `min`) by more than
    `min_delta`. Of equal values the earliest round's stays. The first round that is judged must have the
    metric; a later round without it is not judged, and does not count against `patience`.
    """

    best: str | None = None  # the metric; None: nothing is selected
    mode: str = "max"
    patience: int = 0  # rounds that were judged in a row and were not better, before the job ends; 0: never
    min_delta: float = 0.0

    def judge(self, state: State) -> State:
        """`state`, the end of a round, with its `best` brought up to date. To judge twice changes nothing.

        Raises:
            JobFailed: the first round to be judged does not report the metric.
        """
        if self.best is None:
            return replace(state, best=None)
        number, so_far = state.round - 1, self._so_far(state)
        if so_far is not None and (so_far.judged >= number or self.best not in state.metrics):
            return state
        if self.best not in state.metrics:
            raise JobFailed(
                f"workflow.best: round {number + 1} reports no metric {self.best!r}"
                f"{suggest(self.best, state.metrics)}",
                hint="report it, or choose another one: --set workflow.best=...",
            )
        value = state.metrics[self.best]
        if so_far is None or self._is_better(value, so_far.value):
            chosen = Best(
                metric=self.best, mode=self.mode, value=value, round=number, judged=number, model=state.model
            )
        else:
            chosen = replace(so_far, judged=number, waited=so_far.waited + 1)
        return replace(state, best=chosen)

    def reason_to_end(self, state: State) -> str:
        """Why no round should follow on `state`; empty: nothing speaks against another one."""
        found = self._so_far(state)
        if not self.patience or found is None or found.waited < self.patience:
            return ""
        return (
            f"ended early, after {state.round} rounds: {found.metric} has not become better than the"
            f" {found.value:.6g} of round {found.round + 1} in {found.waited} rounds"
        )

    def _so_far(self, state: State) -> Best | None:
        """The best up to now, if it was chosen by the same rule: a clone may have another one."""
        found = state.best
        return found if found is not None and (found.metric, found.mode) == (self.best, self.mode) else None

    def _is_better(self, value: float, than: float) -> bool:
        gain = value - than if self.mode == "max" else than - value
        return gain > self.min_delta
