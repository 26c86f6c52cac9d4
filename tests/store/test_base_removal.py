# SPDX-License-Identifier: Apache-2.0
"""Files are gone at once, and the space of large ones is freed where nobody waits for it."""

import asyncio
import os
import threading

from flprov._base import remove_file


async def test_a_large_file_is_closed_in_another_thread(tmp_path, monkeypatch):
    closers, closed = [], threading.Event()

    def close(number):
        closers.append(threading.current_thread())
        os_close(number)
        closed.set()

    os_close = os.close
    monkeypatch.setattr(os, "close", close)
    path = tmp_path / "large"
    path.write_bytes(bytes(2 << 20))
    remove_file(path)
    assert not path.exists()
    await asyncio.to_thread(closed.wait, 10)
    assert threading.main_thread() not in closers


def test_without_an_event_loop_it_is_closed_here(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(2 << 20))
    before = len(os.listdir("/proc/self/fd"))
    remove_file(path)
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_is_not_there_or_is_a_link_does_no_harm(tmp_path):
    remove_file(tmp_path / "nothing")
    (tmp_path / "kept").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_file(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
