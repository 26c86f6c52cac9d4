# SPDX-License-Identifier: Apache-2.0
"""Device files of NVIDIA GPUs: the ones that a job gets, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flprov.errors import LocalError

_SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


def gpu_devices(
    uuids: Sequence[str], *, proc: Path = Path("/proc/driver/nvidia"), dev: Path = Path("/dev")
) -> tuple[Path, ...]:
    """The device files behind these UUIDs, with those that every CUDA program opens.

    MIG instances (`MIG-...`) get the device of the GPU that they are a part of; which slice of it
    they may use is governed by the files in /dev/nvidia-caps and by CUDA_VISIBLE_DEVICES.

    Raises:
        LocalError: the driver knows no such GPU.
    """
    if not uuids:
        return ()
    minors = _minors(proc)
    nodes = [dev / f"nvidia{_minor(uuid, minors)}" for uuid in uuids]
    nodes += [dev / name for name in _SHARED_NODES]
    if any(uuid.startswith("MIG-") for uuid in uuids):
        nodes.append(dev / "nvidia-caps")
    return tuple(sorted({node for node in nodes if node.exists()}))


def _minor(uuid: str, minors: dict[str, str]) -> str:
    whole = _parent_of_slice(uuid) if uuid.startswith("MIG-") else uuid
    if whole not in minors:
        known = ", ".join(sorted(minors)) or "none"
        raise LocalError(f"the driver on this machine knows no GPU {uuid} (it has: {known})")
    return minors[whole]


def _minors(proc: Path) -> dict[str, str]:
    """UUID -> number of the device file, from the driver's own listing."""
    found = {}
    for information in proc.glob("gpus/*/information"):
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if "GPU UUID" in fields and "Device Minor" in fields:
            found[fields["GPU UUID"]] = fields["Device Minor"]
    return found


def _parent_of_slice(uuid: str) -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            name = pynvml.nvmlDeviceGetUUID(parent)
            return name.decode() if isinstance(name, bytes) else str(name)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise LocalError(f"the driver on this machine knows no GPU {uuid}") from error
