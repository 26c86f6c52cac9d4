# SPDX-License-Identifier: Apache-2.0
"""Sites without processes for FLARE-shaped controllers: functions that answer a Shareable with one."""

import dataclasses
import threading

from flprov.flare.bridge.exchange import to_shareable, to_update
from flprov.messages import Task
from flprov.sdk import Answer, Sites, State, encode_state, read_state


class Killed(BaseException):
    """SIGKILL, as far as a controller can tell."""


class FlarePort:
    """A `Port`: who is `slow` never answers; waiting for nobody else lasts until the task is withdrawn."""

    def __init__(self, sites, arrival, slow, die_at):
        self.sites, self.arrival, self.slow, self.die_at = sites, arrival, slow, die_at
        self.answers, self.open, self.saved, self.withdrawn = [], {}, [], []
        self.steps = 0
        self.changed = threading.Condition()

    def ask(self, ask):
        self.step()
        order = ask.to if self.arrival == "forwards" else ask.to[::-1]
        self.open[ask.task_id] = {site for site in ask.to if site in self.slow}
        found = [self.answer(ask, site) for site in order if site not in self.slow]
        if found and not self.open[ask.task_id]:
            found[-1] = dataclasses.replace(found[-1], last=True)
        self.answers += found

    def answer(self, ask, site):
        given = self.sites[site]
        if isinstance(given, str):
            return Answer(task_id=ask.task_id, site=site, reason=given)
        task = Task(
            name=ask.name,
            params=ask.model,
            round=ask.round,
            rounds=ask.rounds,
            job_id="job",
            scalars=ask.scalars,
            extra=ask.extra,
        )
        update = to_update(given(ask.name, to_shareable(task)), task, "Trainer")
        assert update.kind in ask.expects
        return Answer(task_id=ask.task_id, site=site, update=dataclasses.replace(update, site=site))

    def wait(self, tasks):
        with self.changed:
            assert self.changed.wait_for(lambda: any(a.task_id in tasks for a in self.answers), timeout=10)
            found = next(answer for answer in self.answers if answer.task_id in tasks)
            self.answers.remove(found)
            return found

    def withdraw(self, task_id):
        with self.changed:
            self.withdrawn.append(task_id)
            self.answers.append(Answer(task_id=task_id, site="", last=True))
            self.changed.notify_all()

    def save(self, state):
        self.step()
        self.saved.append(read_state(encode_state(state)))
        self.step()  # killed after the disk, before the reply
        return self.saved[-1]

    def log(self, values, step):
        pass

    def step(self):
        if self.steps == self.die_at:
            raise Killed
        self.steps += 1


class FlareSites:
    """The sites of one run: name -> `execute(task name, Shareable)`, or the reason why it fails."""

    def __init__(self, sites, *, arrival="forwards", slow=()):
        self.sites, self.arrival, self.slow = sites, arrival, set(slow)
        self.port = None


def run_controller(
    controller,
    sites,
    *,
    rounds,
    model=None,
    tasks=("train", "validate"),
    die_at=None,
    after=None,
    selection=None,
):
    """The states that were saved, until the run has ended or was killed."""
    sites.port = FlarePort(sites.sites, sites.arrival, sites.slow, die_at)
    ours = Sites(sites.port, names=list(sites.sites), tasks=tasks, total=rounds, selection=selection)
    try:
        controller.run(ours, after or State(model=model or {}))
    except Killed:
        assert die_at is not None
    return sites.port.saved or ([after] if after else [])
