# SPDX-License-Identifier: Apache-2.0
"""FedBuff (Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022, arXiv:2106.06639), Algorithm 1, as a workflow of one's own.

Some sites train at any time, each from the model that was the newest when it began. The server steps
whenever K updates have come, by their mean; nobody waits for the slowest. An update that comes when the
server has made t more steps counts 1 / sqrt(1 + t).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flprov.sdk import Gathering, Sites, State, Tensors, Update


@dataclass(kw_only=True)
class Course:
    """Where a round of the workflow is."""

    model: Tensors
    version: int = 0  # steps of the server
    buffer: list[tuple[Update, float]] = field(default_factory=list)  # and what each of them counts
    training: dict[Gathering, int] = field(default_factory=dict)  # and the version that each began with
    failed: set[str] = field(default_factory=set)
    staleness: list[int] = field(default_factory=list)

    def busy(self) -> set[str]:
        """Sites that are at a task."""
        return {site for gathering in self.training for site in gathering.waiting}


@dataclass(frozen=True, kw_only=True)
class FedBuff:
    """The keys below `workflow` in job.yml.

    Attributes:
        buffer: K of the paper.
        steps: of the server in one round. A round is what a crash may cost: its end is saved.
        concurrency: how many sites train at a time.
        lr: the server's learning rate.
    """

    buffer: int = 3
    steps: int = 8
    concurrency: int = 3
    lr: float = 1.0

    def run(self, sites: Sites, state: State) -> None:
        """Go on as often as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            course = Course(model=state.model)
            while course.version < self.steps and not sites.aborted():
                self._send_out(sites, course)
                self._take_one(sites, course)
                if len(course.buffer) == self.buffer:
                    self._step(sites, course)
            for gathering in course.training:
                gathering.stop()  # whoever is still at it is not needed, and not missing
            metrics = {
                "accuracy": self._measure(sites, course),
                "staleness": float(np.mean(course.staleness)),
            }
            sites.commit(state.next(model=course.model, metrics=metrics))

    def _send_out(self, sites: Sites, course: Course) -> None:
        """Give the newest model to sites that are free, until enough of them train."""
        while len(course.training) < self.concurrency:
            free = [name for name in sites.names if name not in course.busy() | course.failed]
            if not free:
                break
            one = sites.sample(1 / len(free), among=free)
            told = {"version": course.version}
            # Optional: a site that fails is left out of the round, and the others go on.
            gathering = sites.start("train", course.model, to=one, scalars=told, optional=True)
            course.training[gathering] = course.version

    def _take_one(self, sites: Sites, course: Course) -> None:
        """Wait for the next update, whoever sends it."""
        if not course.training:
            raise RuntimeError("no site is left that can train")
        for gathering, update in sites.replies(*course.training):
            staleness = course.version - course.training[gathering]
            course.buffer.append((update, 1 / (1 + staleness) ** 0.5))
            course.staleness.append(staleness)
            break
        for gathering in [one for one in course.training if one.done]:
            del course.training[gathering]
            course.failed |= set(gathering.absent)

    def _step(self, sites: Sites, course: Course) -> None:
        """The model moves by the mean of the buffer."""
        course.model = {
            name: tensor
            + np.float32(self.lr / self.buffer)
            * sum(np.float32(share) * update.params[name] for update, share in course.buffer)
            for name, tensor in course.model.items()
        }
        course.buffer.clear()
        course.version += 1
        sites.report(f"step {course.version} of {self.steps}")

    def _measure(self, sites: Sites, course: Course) -> float:
        """The accuracy over the digits that the sites hold out."""
        updates: Sequence[Update] = sites.broadcast("measure", course.model, expects=())
        total = sum(update.samples for update in updates)
        return sum(update.metrics["accuracy"] * update.samples for update in updates) / total
