# SPDX-License-Identifier: Apache-2.0
"""A workflow killed at every step and started again from what was on the disk."""

from ports import FakePort, Killed

from flprov.sdk import Sites, State, read_state


def run_workflow(workflow, answer, *, names, tasks, total=5, state=None, die_at=None):
    """What the port has seen and saved in one run; killed at `die_at` and resumed."""
    port = FakePort(answer, die_at=die_at)
    state = state or State()
    try:
        workflow.run(Sites(port, names=names, tasks=tasks, total=total), state)
    except Killed:
        again = FakePort(answer)
        again.saved = list(port.saved)
        state = read_state(port.saved[-1]) if port.saved else state
        workflow.run(Sites(again, names=names, tasks=tasks, total=total), state)
        return again
    return port


def verify_resumes(workflow, answer, **where):
    """Killed at any step and resumed, the workflow ends with the same bytes."""
    whole = run_workflow(workflow, answer, **where)
    assert whole.steps > 1
    for die_at in range(whole.steps):
        assert run_workflow(workflow, answer, die_at=die_at, **where).saved[-1] == whole.saved[-1]
