# SPDX-License-Identifier: Apache-2.0
"""Which boot of the machine this is: what was never synced is gone, or half there, after the next."""

from __future__ import annotations


def boot_id() -> str:
    """Another after each boot of the machine; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
