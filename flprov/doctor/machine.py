# SPDX-License-Identifier: Apache-2.0
"""This machine: Python and flprov, room on the disk, GPUs, and how job code is confined."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from flprov import __version__
from flprov.doctor.patient import Patient
from flprov.doctor.rows import Rows, ok, problem, skipped, warning
from flprov.errors import FlprovError
from flprov.policy import load_policy

_LEAST = 1 << 30  # bytes free; below, a model of a few hundred MB and its log have no room
_LITTLE = 10 << 30
_NVIDIA = "0x10de"  # PCI vendor
_PCI = Path("/sys/bus/pci/devices")


def check_python() -> Rows:
    """What runs this, and on what."""
    system = f"{platform.system()} {platform.release()}"
    text = f"flprov {__version__}, Python {platform.python_version()} ({sys.executable}), {system}"
    return (ok("python", text),)


def check_disk(folder: Path) -> Rows:
    """Room where state lies, or will lie."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return (problem("disk", f"{there}: {error.strerror}"),)
    text = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free at {there}"
    advice = "models, updates and logs lie there: make room, or put the kit on a larger disk"
    if usage.free < _LEAST:
        return (problem("disk", text, advice),)
    if usage.free < _LITTLE:
        return (warning("disk", text, advice),)
    return (ok("disk", text),)


def check_gpus() -> Rows:
    """Every GPU as NVML reports it, or why there is none."""
    from flprov.agent import read_gpus

    gpus, note = read_gpus()
    if gpus:
        return tuple(
            ok(
                "gpu",
                f"{gpu.name}, {gpu.memory_total / 2**30:.0f} GiB"
                f" ({gpu.memory_used / 2**30:.1f} used), driver {gpu.driver}",
                subject=str(gpu.index),
            )
            for gpu in gpus
        )
    if _has_nvidia_hardware():
        text = f"there is NVIDIA hardware in this machine, but no GPU can be used: {note}"
        return (warning("gpu", text, "nvidia-smi says more; is the driver loaded?"),)
    return (skipped("gpu", f"{note}: jobs that ask for GPUs do not run here"),)


def _has_nvidia_hardware() -> bool:
    try:
        return any(path.read_text().strip() == _NVIDIA for path in _PCI.glob("*/vendor"))
    except OSError:
        return False


def check_confinement(patient: Patient | None) -> Rows:
    """How job code is kept from everything else here; tried, not guessed."""
    if sys.platform != "linux":
        return (skipped("confinement", "jobs run on Linux only"),)
    from flprov.workers import confinement_gaps, confinement_method

    method, gaps = confinement_method(), confinement_gaps()
    if method != "none":
        return (ok("confinement", "; ".join([f"job code is confined by {method}", *gaps])),)
    text = "job code cannot be confined here: neither Landlock nor bubblewrap works"
    advice = "a kernel with Landlock (5.13 or later), or: apt install bubblewrap"
    if patient is not None and _waives(patient):
        return (warning("confinement", f"{text}; policy.yml waives it", advice),)
    return (problem("confinement", f"{text}, so jobs are refused", advice),)


def _waives(patient: Patient) -> bool:
    try:
        return load_policy(patient.kit.local / "policy.yml").unconfined
    except FlprovError:
        return False
