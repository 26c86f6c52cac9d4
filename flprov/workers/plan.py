# SPDX-License-Identifier: Apache-2.0
"""The plan of a launch: from what a parent asks for to what the shim is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flprov.errors import ConfinementRefused
from flprov.workers.bubblewrap import FILTER_PLACE, bubblewrap_command
from flprov.workers.confinement import short_name
from flprov.workers.detection import Method, detect_method, try_private_mounts
from flprov.workers.order import LaunchOrder
from flprov.workers.processes import TAG_VARIABLE
from flprov.workers.record import EXIT_RECORD, SHIM_RECORD, SHIM_SOCKET
from flprov.workers.view import plan_view

# flprov is imported first and from lib/, which has nothing but a link to this very package: nothing
# can take its name. lib/ stays on the path, at its end, for children that multiprocessing spawns.
_WORKER = (
    "import sys; sys.path.insert(0, sys.argv[1]); import flprov, importlib; "
    "sys.path.append(sys.path.pop(0)); sys.exit(importlib.import_module(sys.argv[2]).main())"
)


@dataclass(frozen=True, kw_only=True)
class _Confined:
    """A command, and the parts of the shim's order that confine it."""

    command: list[str]
    details: dict[str, Any]


def plan_launch(order: LaunchOrder, method: Method | None, tag: str) -> dict[str, Any]:
    """The shim's order: a JSON object. Asks the interpreter and the kernel, so not for the loop.

    Raises:
        ConfinementRefused: the job cannot be confined as it has to be.
        LocalError: something that it needs is not there.
    """
    confined = _confine(order, method or detect_method(), short_name(tag))
    folder = order.folder
    return {
        "job_id": order.job_id,
        "tag": tag,
        "parent": "server" if order.main == "workflow" else "agent",
        "command": confined.command,
        "environment": _environment(order, tag),
        "work": str(folder / "work"),
        "short_work": short_name(tag),
        "log": str(folder / "log"),
        "log_limit": order.log_limit,
        "shim_record": str(folder / SHIM_RECORD),
        "exit_record": str(folder / EXIT_RECORD),
        "door": str(folder / SHIM_SOCKET),
        "grace": order.grace,
        "orphan_seconds": order.orphan_seconds,
        **confined.details,
    }


def _confine(order: LaunchOrder, method: Method, short_work: str) -> _Confined:
    command = [str(order.python.absolute()), "-I", "-u", "-X", "faulthandler", "-c", _WORKER]
    command += [str(order.folder / "lib"), order.module]
    if method is Method.NONE:
        if not order.unconfined:
            raise ConfinementRefused(
                "job code cannot be confined on this machine: no Landlock and no working bubblewrap",
                hint="install bubblewrap, or set `unconfined: true` in the site's policy.yml",
            )
        return _Confined(command=command, details={"method": method.value, "private_mounts": False})
    view = plan_view(order)
    if method is Method.BUBBLEWRAP:
        wrapped = [*bubblewrap_command(view, work=order.folder / "work", short_work=short_work), *command]
        return _Confined(command=wrapped, details={"method": method.value, "filter_place": FILTER_PLACE})
    details = {
        "method": method.value,
        "rules": view.rules(),
        "private_mounts": try_private_mounts() is not None,
        "sockets": [str(path) for path in view.writable],
    }
    return _Confined(command=command, details=details)


def _environment(order: LaunchOrder, tag: str) -> dict[str, str]:
    """Made from nothing: whatever the agent has in its own environment stays there."""
    work = str(order.folder / "work")
    return {
        **order.variables,
        "CUDA_VISIBLE_DEVICES": ",".join(order.gpus),
        "HOME": work,
        "LANG": "C.UTF-8",
        "PATH": f"{order.python.absolute().parent}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": short_name(tag),
        "USER": "flprov",
        TAG_VARIABLE: tag,
    }
