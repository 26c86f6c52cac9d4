# SPDX-License-Identifier: Apache-2.0
"""A hint to ext4 that makes writing thousands of small folders ten times faster.

ext4 puts a folder's children into the block group of their parent. Without a journal (micro VMs, some
appliances) it passes over every inode there that was deleted in the last minutes, one by one, for each
new file: 17,000 files took between 0.7 and 6 s here, by how much had been deleted before. A folder that
is marked as the top of unrelated hierarchies (`chattr +T`) has its subfolders spread over the disk;
the same files take 0.2 s. Kits are unrelated, so the hint is true anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
from pathlib import Path

_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS on 64-bit Linux (linux/fs.h)
_SET_FLAGS = 0x40086602  # FS_IOC_SETFLAGS
_TOP_OF_HIERARCHY = 0x00020000  # FS_TOPDIR_FL, chattr(1) "T"


def spread_subfolders(folder: Path) -> None:
    """Tell the file system that the folders in `folder` are unrelated. Where it has no such hint, nothing."""
    if sys.platform != "linux":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # another file system: ENOTTY, EOPNOTSUPP
            (flags,) = struct.unpack("=q", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=q", flags | _TOP_OF_HIERARCHY))
    finally:
        os.close(descriptor)
