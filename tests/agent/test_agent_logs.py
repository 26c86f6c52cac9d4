# SPDX-License-Identifier: Apache-2.0
"""A job's log on its way to the server: every byte once and in place, whatever either side has lost."""

from __future__ import annotations

import pytest
from agent_rig import FakeServer

from flprov.agent.logs import LogSender


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def sender(bulk, path):
    return LogSender(bulk, "j1", path)


def arrived(server: FakeServer) -> bytes:
    path = server.logs.path("j1", "site-1")
    return path.read_bytes() if path.exists() else b""


async def test_a_log_is_sent_as_it_grows(sender, server, path):
    path.write_bytes(b"one\n")
    sender.grew()
    await sender.flush()
    with path.open("ab") as file:
        file.write(b"two\n")
    sender.grew()
    await sender.flush()
    assert arrived(server) == b"one\ntwo\n"
    assert server.log_offsets == [0, 4]


async def test_many_growths_are_few_calls(sender, server, path):
    path.write_bytes(b"x" * 999 + b"\n")
    for _ in range(1000):
        sender.grew()
    await sender.flush()
    assert arrived(server) == b"x" * 999 + b"\n"
    assert len(server.log_offsets) <= 2


async def test_a_large_log_goes_in_pieces(sender, server, path):
    data = (b"x" * 99 + b"\n") * 100
    path.write_bytes(data)
    await sender.flush()
    assert server.log_offsets[:2] == [0, 4096]
    assert arrived(server) == data


async def test_a_log_that_is_not_there_yet_is_empty(sender, server):
    sender.grew()
    await sender.flush()
    assert server.log_offsets == []


async def test_while_the_server_is_away_nothing_is_lost(sender, server, path):
    path.write_bytes(b"one\n")
    server.away = True
    sender.grew()
    await sender.flush()
    assert arrived(server) == b""
    path.write_bytes(b"one\ntwo\n")
    server.away = False
    await sender.flush()
    assert arrived(server) == b"one\ntwo\n"


async def test_a_growth_after_an_outage_sends_what_was_missed(sender, server, path):
    path.write_bytes(b"one\n")
    server.away = True
    sender.grew()
    await sender.flush()
    server.away = False
    path.write_bytes(b"one\ntwo\n")
    sender.grew()
    await sender.flush()
    assert arrived(server) == b"one\ntwo\n"


async def test_a_server_that_has_lost_bytes_gets_them_again(sender, server, path):
    path.write_bytes(b"0123456789")
    await sender.flush()
    server.logs.path("j1", "site-1").write_bytes(b"0123")  # a power cut there: logs are not synced
    path.write_bytes(b"0123456789abc")
    await sender.flush()
    assert arrived(server) == b"0123456789abc"
    assert server.log_offsets == [0, 10, 4]


async def test_a_new_sender_goes_on_where_the_server_ends(bulk, server, path):
    server.logs.append("j1", "site-1", 0, b"0123")
    path.write_bytes(b"0123456789")
    await LogSender(bulk, "j1", path).flush()
    assert arrived(server) == b"0123456789"


async def test_a_server_that_stays_where_it_is_is_not_asked_for_ever(sender, server, path, monkeypatch):
    monkeypatch.setattr(server.logs, "append", lambda job_id, party, offset, data, first=0: offset)
    path.write_bytes(b"0123456789")
    await sender.flush()
    assert server.log_offsets == [0]
