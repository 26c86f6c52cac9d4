# SPDX-License-Identifier: Apache-2.0
"""Live control streams: one per site, bounded, heard of by those who listen."""

from __future__ import annotations

import asyncio

import pytest
from server_parties import NOW, site
from server_world import hello

from flprov.errors import KitRefused, SiteUnavailable
from flprov.server.sessions import Session, Sessions
from flprov.wire import pb


def session(name="site-1", installation="", host="") -> Session:
    words = {"host": host} if host else {}
    return Session(site(name), hello(name, installation, **words), since=NOW)


def number(value: int) -> pb.ToSite:
    return pb.ToSite(closed=pb.RoundClosed(round=value))


async def test_commands_leave_in_order_and_then_the_end():
    one = session()
    for value in range(3):
        one.send(number(value))
    one.close("done")
    found = [await one.outgoing() for _ in range(4)]
    assert [message and message.closed.round for message in found] == [0, 1, 2, None]


async def test_first_reason_of_an_end_is_the_reason():
    one = session()
    one.close("first")
    one.close("second")
    assert one.closed_because == "first"


def test_listeners_hear_of_every_coming_and_going():
    sessions, heard = Sessions(), []
    sessions.listen(lambda who, connected: heard.append((who.name, connected)))
    one = session()
    sessions.add(one)
    sessions.remove(one)
    sessions.remove(one)
    assert heard == [("site-1", True), ("site-1", False)]


async def test_newer_socket_of_the_same_installation_takes_the_place():
    sessions, heard = Sessions(), []
    older, newer = session(), session()
    sessions.add(older)
    sessions.listen(lambda who, connected: heard.append(connected))
    sessions.add(newer)
    sessions.remove(older)  # its stream ends only now
    assert sessions.get("site-1") is newer
    assert older.closed_because == "the site connected again"
    assert heard == [True]


def test_another_installation_is_refused_and_changes_nothing():
    sessions, heard = Sessions(), []
    first = session(installation="machine-one", host="one.example")
    sessions.add(first)
    sessions.listen(lambda who, connected: heard.append(connected))
    with pytest.raises(KitRefused, match=r"two.example uses a second copy of its kit") as found:
        sessions.add(session(installation="machine-two", host="two.example"))
    assert "flprov cert revoke site-1" in found.value.hint
    assert (sessions.get("site-1"), first.closed_because, heard) == (first, "", [])


def test_message_to_who_is_not_here_says_so():
    with pytest.raises(SiteUnavailable, match="site site-1 is not connected"):
        Sessions().send("site-1", number(1))


def test_site_that_does_not_read_is_dropped_with_a_bounded_queue():
    sessions, one = Sessions(), session()
    sessions.add(one)
    for value in range(10_050):
        sessions.send("site-1", number(value))
    assert one.closed_because == "it stopped reading its commands"
    assert one.waiting <= 10_000
    assert ("site-1" in sessions, [live.name for live in sessions]) == (
        True,
        ["site-1"],
    )  # until its stream ends


async def test_what_is_not_urgent_travels_with_the_next_word():
    one = session()
    one.send(number(0), urgent=False)
    one.send(number(1), urgent=False)
    one.send(number(2))
    first = await one.outgoing()
    together = one.together(first)
    assert [each.closed.round for each in together.several.messages] == [0, 1, 2]
    assert one.waiting == 0


async def test_what_is_not_urgent_leaves_by_itself_after_a_moment():
    one = session()
    one.send(number(0), urgent=False)
    waiting = asyncio.ensure_future(one.outgoing())
    await asyncio.sleep(0)
    assert not waiting.done()
    message = await waiting  # a timer of the loop, and nothing else, can bring it
    assert one.together(message) is message


async def test_what_is_large_travels_alone():
    one = session()
    large = pb.ToSite(task=pb.TaskOrder(scalars=bytes(300_000)))
    for message in (number(0), large, number(1)):
        one.send(message)
    kinds = [one.together(await one.outgoing()).WhichOneof("body") for _ in range(3)]
    assert kinds == ["closed", "task", "closed"]
