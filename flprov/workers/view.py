# SPDX-License-Identifier: Apache-2.0
"""The view: every file that a confined worker can reach. What is not named here does not open.

Folders of the system and of the interpreter, to read; the app and what came in for it, to read; the
site's datasets for this job, to read; `out/` and `work/`, to write. No kit, key, state, home or other job.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flprov.errors import ConfinementRefused, LocalError
from flprov.workers.confinement import SHARED_MEMORY
from flprov.workers.detection import PACKAGE
from flprov.workers.gpus import gpu_devices
from flprov.workers.interpreter import interpreter_folders
from flprov.workers.order import LaunchOrder

_SYSTEM = ["/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store"]
# For the loader, time zones, getpwuid, TLS roots and fonts. No resolver: there is no network.
_LOADER = ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nvidia", "OpenCL", "vulkan"]
_LOCAL = ["group", "localtime", "mime.types", "nsswitch.conf", "os-release", "passwd", "timezone"]
_ETC = [*_LOADER, *_LOCAL, "ca-certificates", "fonts", "pki", "ssl"]
# How many processors and how much memory, for OpenMP, BLAS and torch.
_SYS = ["sys/fs", "sys/kernel", "sys/vm"]
_SYS = ["devices/system", "fs/cgroup", "kernel/mm"]
_SYS_GPU = ["bus/pci", "class", "devices", "module"]
_DEVICES = ["full", "null", "random", "urandom", "zero"]


@dataclass(frozen=True, kw_only=True)
class View:
    """The paths that a worker may use; all of them exist."""

    system: tuple[Path, ...]  # to read: operating system, interpreter, our package
    kernel: tuple[Path, ...]  # to read: below /proc and /sys
    job: tuple[Path, ...]  # to read: app, in, datasets
    writable: tuple[Path, ...]
    devices: tuple[Path, ...]  # every job's, without GPUs
    gpus: tuple[Path, ...]

    def rules(self) -> list[tuple[str, str]]:
        """The same as Landlock rules: the name of a set of rights, a path."""
        readable = (*self.system, *self.kernel, *self.job)
        return [
            *(("read", str(path)) for path in readable),
            *(("write", str(path)) for path in (*self.writable, Path(SHARED_MEMORY))),
            *(("device", str(path)) for path in (*self.devices, *self.gpus)),
        ]


def plan_view(order: LaunchOrder) -> View:
    """What the worker of this order will see.

    Raises:
        LocalError: a dataset, the interpreter or a GPU is not there.
        ConfinementRefused: a folder to be opened contains the state, the kit or other jobs.
    """
    for path in order.readable:
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where we may not look (Python < 3.14)
            raise LocalError(
                f"the dataset folder {path} does not exist", hint="correct `datasets` in the site's site.yml"
            )
    sys_names = [*_SYS, *_SYS_GPU] if order.gpus else _SYS
    view = View(
        system=(
            *_existing("/", _SYSTEM),
            *_existing("/etc", _ETC),
            *interpreter_folders(order.python),
            PACKAGE,
        ),
        # All of /proc: libraries read that of the job's own processes, which have yet to start. The
        # kernel shows environment, memory and files of other processes to no confined one.
        kernel=(Path("/proc"), *_existing("/sys", sys_names)),
        job=(*(order.folder / name for name in ("app", "in", "lib")), *order.readable),
        writable=(order.folder / "out", order.folder / "work"),
        devices=_existing("/dev", _DEVICES),
        gpus=gpu_devices(order.gpus),
    )
    _verify_apart(view, (order.folder.parent, *order.private))
    return view


def _existing(root: str, names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(path for name in names if (path := Path(root) / name).exists())


def _verify_apart(view: View, private: Iterable[Path]) -> None:
    """Landlock rules only add up: a folder that is opened cannot have a closed one below it."""
    hidden = [path.resolve() for path in private]
    for path in (*view.system, *view.job):
        real = path.resolve()
        for secret in hidden:
            if secret.is_relative_to(real):
                raise ConfinementRefused(
                    f"job code would see {secret}, because {path} has to be open to it",
                    hint=f"move one of the two, so that {path} does not contain {secret}",
                )
