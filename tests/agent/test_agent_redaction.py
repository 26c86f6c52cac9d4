# SPDX-License-Identifier: Apache-2.0
"""What a site masks does not leave it: in logs and messages, whatever the pattern, the line or the link."""

from __future__ import annotations

import asyncio
import itertools
import time

from agent_rig import FakeServer

from flprov.agent.logs import LONGEST_LINE, NOT_SHARED, LogSender
from flprov.agent.redaction import HIDDEN, Redactor, hide
from flprov.policy import LogRules

MRN = LogRules(redact=("MRN[0-9]+",))


def arrived(server: FakeServer) -> bytes:
    path = server.logs.path("j1", "site-1")
    return path.read_bytes() if path.exists() else b""


async def send(bulk, path, rules=MRN) -> None:
    await LogSender(bulk, "j1", path, rules=rules).flush(10.0)


async def test_matches_leave_as_stars_and_nothing_moves(bulk, server, tmp_path):
    (tmp_path / "log").write_bytes(b"a MRN12345 b\nplain\nMRN1MRN2\n")
    await send(bulk, tmp_path / "log")
    assert arrived(server) == b"a ******** b\nplain\n********\n"


async def test_a_line_that_is_not_whole_waits_until_it_is(bulk, server, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\nMRN12")
    sender = LogSender(bulk, "j1", path, rules=MRN)
    await sender._drain(last=False)
    sender.grew()
    await asyncio.sleep(0)
    async with sender._sending:
        pass
    assert arrived(server) in (b"", b"one\n")
    with path.open("ab") as file:
        file.write(b"345 two\n")
    await sender.flush(10.0)
    assert arrived(server) == b"one\n******** two\n"


async def test_a_server_that_has_half_a_line_gets_the_rest_of_it_masked(bulk, server, tmp_path):
    (tmp_path / "log").write_bytes(b"one\nx MRN12345 y\n")
    server.logs.append("j1", "site-1", 0, b"one\nx ***")
    await send(bulk, tmp_path / "log")
    assert arrived(server) == b"one\nx ******** y\n"


async def test_of_a_line_that_is_too_long_nothing_leaves(bulk, server, tmp_path):
    line = b"x" * (4 * LONGEST_LINE - 2) + b"MRN12345" + b"y" * LONGEST_LINE  # reading ends within MRN
    (tmp_path / "log").write_bytes(line + b"\nnext\n")
    await send(bulk, tmp_path / "log")
    found = arrived(server)
    assert len(found) == len(line) + 6
    assert found.endswith(b"\nnext\n")
    assert b"MRN" not in found
    assert b"xx" not in found
    assert b"cannot be redacted" in found


async def test_without_patterns_a_long_line_leaves_in_pieces(bulk, server, tmp_path):
    data = b"x" * (3 * LONGEST_LINE)
    (tmp_path / "log").write_bytes(data)
    await send(bulk, tmp_path / "log", LogRules())
    assert arrived(server) == data


async def test_a_site_that_does_not_share_sends_one_line(bulk, server, tmp_path):
    (tmp_path / "log").write_bytes(b"secret\n" * 100)
    sender = LogSender(bulk, "j1", tmp_path / "log", rules=LogRules(share=False))
    for _ in range(3):
        sender.grew()
        await asyncio.sleep(0)
    await sender.flush(10.0)
    assert arrived(server) == NOT_SHARED


async def test_a_pattern_that_takes_for_ever_hides_its_piece_and_stops_nobody():
    redactor = Redactor(("(a+)+$",), seconds=0.5)
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    data = b"some words before, to make room for the reason why nothing is seen\n" + b"a" * 60 + b"!\n"
    found = await redactor.mask(data)
    ticking.cancel()
    assert found == hide(data)
    assert HIDDEN in found
    assert max(b - a for a, b in itertools.pairwise(ticks)) < 0.4
    assert await redactor.mask(b"fine\n") == b"fine\n"  # it has started again
    await redactor.close()


async def test_messages_are_masked_too_and_foreign_letters_keep_their_length():
    redactor = Redactor(("Müller|MRN[0-9]+",))
    assert await redactor.redact("Herr Müller: MRN77") == "Herr *******: *****"
    assert await redactor.redact("") == ""
    assert await redactor.mask(b"\xff\xfe MRN1\n") == b"\xff\xfe ****\n"
    await redactor.close()
