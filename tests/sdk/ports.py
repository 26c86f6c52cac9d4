# SPDX-License-Identifier: Apache-2.0
"""A `Port` without processes: sites are functions, the disk is a list."""

import dataclasses

from flprov.sdk import Answers, encode_state, read_state


class FakePort:
    """Sites answer by `answer(ask, site)`: an Update, or a text that says why not.

    `die_at` names the step (counted over asks and saves) at which the process is killed.
    """

    def __init__(self, answer, *, die_at=None):
        self.answer = answer
        self.asks = []
        self.saved = []
        self.logged = []
        self.steps = 0
        self.die_at = die_at

    def ask(self, ask):
        self.step()
        self.asks.append(ask)
        found = {site: self.answer(ask, site) for site in ask.to}
        updates = [dataclasses.replace(u, site=site) for site, u in found.items() if not isinstance(u, str)]
        absent = {site: reason for site, reason in found.items() if isinstance(reason, str)}
        return Answers(updates=tuple(reversed(updates)), absent=absent)

    def save(self, state):
        self.step()
        self.saved.append(encode_state(state))
        self.step()  # killed after the disk, before the reply
        return read_state(self.saved[-1])

    def log(self, values, step):
        self.logged.append((dict(values), step))

    def step(self):
        if self.steps == self.die_at:
            raise Killed
        self.steps += 1


class Killed(BaseException):
    """SIGKILL, as far as a controller can tell."""
