# SPDX-License-Identifier: Apache-2.0
"""The hint about unrelated folders: given where the file system takes it, harmless where it does not."""

from __future__ import annotations

import errno
import struct
import sys

import pytest

from flprov.kits import placement

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the hint is Linux's")


def test_the_hint_is_added_to_the_flags_that_are_there(tmp_path, monkeypatch):
    asked = []

    def ioctl(descriptor, request, data):
        asked.append((request, struct.unpack("=q", data)[0]))
        return struct.pack("=q", 0x00080000)  # extents, as every folder on ext4 has

    monkeypatch.setattr(placement.fcntl, "ioctl", ioctl)
    placement.spread_subfolders(tmp_path)
    assert asked == [(0x80086601, 0), (0x40086602, 0x000A0000)]


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM])
def test_a_file_system_without_the_hint_is_left_alone(tmp_path, monkeypatch, number):
    def ioctl(descriptor, request, data):
        raise OSError(number, "no")

    monkeypatch.setattr(placement.fcntl, "ioctl", ioctl)
    placement.spread_subfolders(tmp_path)
    (tmp_path / "child").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["child"]
