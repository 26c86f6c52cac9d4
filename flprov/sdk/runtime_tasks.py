# SPDX-License-Identifier: Apache-2.0
"""Tasks that our own code does at a site, whatever job.yml names: their names begin with "flprov.".

They pass no filter and no envelope of the job.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from flprov.errors import NotFound, PermissionRefused
from flprov.messages import Site, Task, Update

# Task name -> "module:function" of ours, `(task, site) -> Update`; imported when such a task comes.
RUNTIME_TASKS: Mapping[str, str] = {
    "flprov.he.hello": "flprov.sdk.he.tasks:say_hello",
    "flprov.he.lock": "flprov.sdk.he.tasks:lock_key",
    "flprov.he.open": "flprov.sdk.he.tasks:open_model",
    "flprov.he.share": "flprov.sdk.he.tasks:share_key",
    "flprov.he.take": "flprov.sdk.he.tasks:take_key",
}


def is_runtime_task(name: str) -> bool:
    """Whether a task of this name is for our own code: job.yml cannot name one with a dot in it."""
    return name.startswith("flprov.")


def verify_agreed(name: str, workflow: str | None, options: Mapping[str, object]) -> None:
    """Check that the job, as a person signed it and the site has it, wants this task: not the server alone.

    Args:
        name: of one of our tasks.
        workflow: the type in job.yml.
        options: of the workflow, in job.yml.

    Raises:
        PermissionRefused: it does not.
    """
    if name.startswith("flprov.he.") and workflow != "fedavg_he":
        raise PermissionRefused(f"task {name!r} is for jobs of fedavg_he, and this one is none")
    if name == "flprov.he.open" and options.get("release", True) is not True:
        raise PermissionRefused(
            "job.yml says `release: false`: no model of this job is opened for the server"
        )


def run_runtime_task(task: Task, site: Site) -> Update:
    """Do one of them.

    Raises:
        NotFound: this version of flprov does not know it.
    """
    entry = RUNTIME_TASKS.get(task.name)
    if entry is None:
        raise NotFound(
            f"the workflow sent task {task.name!r}, which flprov does not know at {site.name}",
            hint="the server's flprov is newer than this site's: update the site",
        )
    module, _, attribute = entry.partition(":")
    update: Update = getattr(importlib.import_module(module), attribute)(task, site)
    return update
