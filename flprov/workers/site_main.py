# SPDX-License-Identifier: Apache-2.0
"""The main of a job's process at a site: start, then task after task until the parent says quit.

A process serves all rounds of its job. Tasks given as `module:function` or `module:Class` are called
by the session; a script is run as `__main__` and asks for its tasks through `flprov.client`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from flprov._base import keep_freed_memory
from flprov.errors import ConfigError, JobFailed, Unavailable
from flprov.messages import Site, Task
from flprov.sdk import Executor, build_executor, is_entry, load_entry, pick_attribute, split_entry
from flprov.workers.channel import WorkerChannel
from flprov.workers.scripts import SIGTERM_STATUS, Script, command_line
from flprov.workers.session import Session, open_session, use_session
from flprov.workers.start import run_main

# Bytes that a trainer has freed and will want again in the next round. Fresh pages for an update of 100 MB
# take 20 ms of a processor, and up to 100 where the hypervisor had taken them back.
_KEPT = 256 << 20


def run_site(channel: WorkerChannel, folder: Path) -> int:
    """Serve one job in its `folder` (app/, in/, out/, work/) until it is over; the exit status."""
    keep_freed_memory(kept=_KEPT, one_heap=False)
    session = open_session(channel, folder)
    signal.signal(signal.SIGTERM, session.on_sigterm)
    channel.outlive(session.greeting)
    sys.path.insert(0, str(session.app))  # after our own imports: an app cannot replace what we use
    use_session(session)
    try:
        session.ready()
        try:
            _serve(session)
        finally:
            for close in find_closers(session):
                close()
    except Unavailable:  # the parent is gone: nobody left to tell
        return 1
    except BaseException as error:  # the outermost loop: the job's code may raise anything
        if isinstance(error, SystemExit) and session.over:
            return SIGTERM_STATUS
        session.give_up(plain_error(error))
        channel.settle()
        return 1
    return 0


def plain_error(error: BaseException) -> BaseException:
    """A SystemExit says nothing by itself."""
    if not isinstance(error, SystemExit):
        return error
    return JobFailed(f"the job's code called sys.exit({error.code!r})").with_traceback(error.__traceback__)


def find_closers(session: Session) -> list[Callable[[], object]]:
    """The `close()` of each instance that has one, and wants to know that no more tasks come."""
    found = (getattr(executor, "close", None) for executor in dict.fromkeys(session.functions.values()))
    return [close for close in found if callable(close)]


def _serve(session: Session) -> None:
    script = _find_script(session)
    load_functions(session, script)
    if script is None:
        session.wait_task()  # does one after the other; there is none to hand to a script
        return
    words = command_line(session.spec.args)
    while True:
        script.run(words)
        if session.over:
            return
        if session.open is not None:
            raise JobFailed(f"{script.path.name} ended without sending an update for {session.open}")
        if not session.asked:
            raise JobFailed(
                f"{script.path.name} ended without asking for a task",
                hint="call fl.receive() and fl.send(...) of flprov.client",
            )
        if session.wait_task() is None:
            return
        # A script may serve one task and end; it is started again for the next.


def load_functions(session: Session, script: Script | None = None) -> None:
    """Find the filters, and what the tasks name that is no script. Raises whatever the app's code raises."""
    session.load_filters()
    made: dict[str, Executor] = {}  # by entry: a class that several tasks name has one instance
    for name, text in session.spec.tasks.items():
        if is_entry(text):
            if text not in made:
                made[text] = _load_function(session, name, text, script)
            session.functions[name] = made[text]


def _find_script(session: Session) -> Script | None:
    """The script among the tasks; one process runs one.

    Raises:
        ConfigError: there are several, or it is not in the app.
    """
    scripts = {text: name for name, text in session.spec.tasks.items() if not is_entry(text)}
    if len(scripts) > 1:
        raise ConfigError(
            f"tasks: {' and '.join(sorted(scripts))} are two scripts; a job runs one",
            hint="serve all tasks in one script (fl.is_train(), fl.is_evaluate()), or name module:function",
        )
    for text, name in scripts.items():
        path = session.app / text
        if not path.is_file():
            raise ConfigError(f"tasks.{name}: no file {text!r} in the app")
        return Script(path)
    return None


def _load_function(session: Session, name: str, text: str, script: Script | None) -> Executor:
    where = f"tasks.{name}"
    module, attribute = split_entry(text, where)
    args = session.spec.args
    if script is not None and session.app.joinpath(*module.split(".")).with_suffix(".py") == script.path:
        return _in_script(script, attribute, args, where)
    return build_executor(load_entry(text, where), args, where)


def _in_script(script: Script, attribute: str, args: Mapping[str, object], where: str) -> Executor:
    """A function in the file of the running script: taken from there, so that the two share what they
    have loaded, and the script's loop is not started a second time by an import.
    """
    made: dict[int, Executor] = {}  # by run of the script

    def execute(task: Task, site: Site) -> object:
        if script.runs not in made:
            made[script.runs] = build_executor(pick_attribute(script.module, attribute, where), args, where)
        return made[script.runs](task, site)

    return execute


def main() -> NoReturn:
    """What the process calls."""
    run_main(run_site)


if __name__ == "__main__":
    main()
