# SPDX-License-Identifier: Apache-2.0
"""The status socket of a process on this machine: it answers, is not there, or is stuck."""

from __future__ import annotations

import asyncio
import socket

import pytest

from flprov.errors import ServerUnavailable
from flprov.rpc import ask_local, serve_local


async def test_a_process_answers_with_what_is_so_now(tmp_path):
    async with serve_local(tmp_path, lambda: b'{"ok": true}'):
        assert await asyncio.to_thread(ask_local, tmp_path, what="x", hint="y") == b'{"ok": true}'
    with pytest.raises(ServerUnavailable, match="x is not running"):
        ask_local(tmp_path, what="x", hint="y")


def test_what_another_user_runs_is_not_said_to_be_not_running(tmp_path, monkeypatch):
    def refuse(_folder: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("flprov.rpc.local._short", refuse)
    with pytest.raises(
        ServerUnavailable, match=r"whether x runs cannot be asked: .* is another user's"
    ) as found:
        ask_local(tmp_path, what="x", hint="start it")
    assert found.value.hint == "run this as the user that runs it"


def test_a_process_that_is_stuck_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("flprov.rpc.local._PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("status.sock")
        listener.listen()
        with pytest.raises(ServerUnavailable, match="has not answered"):
            ask_local(tmp_path, what="x", hint="y")
