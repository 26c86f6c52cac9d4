# SPDX-License-Identifier: Apache-2.0
"""A `Port` without processes: sites are functions, the disk is a list."""

import dataclasses

from flprov.sdk import Answer, encode_state, read_state


class FakePort:
    """Sites answer by `answer(ask, site)`: an Update, or a text that says why not.

    `die_at` names the step (counted over asks and saves) at which the process is killed.
    """

    def __init__(self, answer, *, die_at=None):
        self.answer = answer
        self.asks = []
        self.waiting = []
        self.saved = []
        self.logged = []
        self.refused = []
        self.reported = []
        self.is_aborted = False
        self.steps = 0
        self.die_at = die_at

    def ask(self, ask):
        self.step()
        self.asks.append(ask)
        found = {site: self.answer(ask, site) for site in reversed(ask.to)}
        answers = [
            Answer(task_id=ask.task_id, site=site, reason=given)
            if isinstance(given, str)
            else Answer(task_id=ask.task_id, site=site, update=dataclasses.replace(given, site=site))
            for site, given in found.items()
        ]
        if answers:
            answers[-1] = dataclasses.replace(answers[-1], last=True)
        self.waiting += answers or [Answer(task_id=ask.task_id, site="", last=True)]

    def wait(self, tasks):
        found = next(answer for answer in self.waiting if answer.task_id in tasks)
        self.waiting.remove(found)
        return found

    def withdraw(self, task_id):
        kept = [answer for answer in self.waiting if answer.task_id != task_id]
        self.waiting = [*kept, Answer(task_id=task_id, site="", last=True)]

    def save(self, state):
        self.step()
        self.saved.append(encode_state(state))
        self.step()  # killed after the disk, before the reply
        return read_state(self.saved[-1])

    def refuse(self, task_id, site, reason):
        self.step()
        self.refused.append((task_id, site, reason))

    def log(self, values, step):
        self.logged.append((dict(values), step))

    def report(self, text):
        self.reported.append(text)

    def aborted(self):
        return self.is_aborted

    def step(self):
        if self.steps == self.die_at:
            raise Killed
        self.steps += 1


class Killed(BaseException):
    """SIGKILL, as far as a controller can tell."""
