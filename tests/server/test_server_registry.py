# SPDX-License-Identifier: Apache-2.0
"""Who belongs to the project: the gate of every call, and what is remembered of each site."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from server_fakes import FailingStore
from server_parties import ADA, DOMAIN, SITE_ORGS, site
from server_world import hello

from flprov.errors import IdentityRefused, NotFound
from flprov.kits import RegistryEntry
from flprov.server.registry import Registry
from flprov.server.sessions import Session
from flprov.store import Row
from flprov.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock) -> FailingStore:
    return FailingStore(clock=clock)


def make(store, orgs=SITE_ORGS) -> Registry:
    entries = tuple(RegistryEntry(name=name, org=org) for name, org in orgs.items())
    registry = Registry(SimpleNamespace(trust_domain=DOMAIN, registry=entries), store)
    registry.load()
    return registry


@pytest.mark.parametrize("caller", [ADA, site("site-1"), site("site-2")], ids=str)
def test_gate_lets_in_who_belongs_here(store, caller):
    make(store).verify_enrolled(caller)


STRANGERS = {
    "a site that the project does not have": site("site-9", "org-a"),
    "a site of another organisation": site("site-1", "org-b"),
    "a site of another project": replace(site("site-1"), trust_domain="lung.example"),
    "a person of another project": replace(ADA, trust_domain="lung.example"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_gate_refuses_strangers(store, case):
    words = (
        "belongs to another project"
        if "project of" in case or "another project" in case
        else "is not enrolled"
    )
    with pytest.raises(IdentityRefused, match=words):
        make(store).verify_enrolled(STRANGERS[case])


async def test_site_is_remembered_over_a_restart(store, clock):
    registry = make(store)
    session = Session(site("site-1"), hello("site-1"), since=clock.now())
    await registry.saw(session, clock.now())
    clock.advance(100)
    session.last_seen = clock.now()
    session.close("the server is stopping")
    await registry.lost(session, clock.now())
    found = make(store).find("site-1")
    assert (found.host, found.version, found.last_seen) == ("site-1.example", "1.0", clock.now())
    assert found.first_connected == session.since
    assert found.cert_not_after == session.since
    assert [row.reason for row in store.told("site.disconnect")] == ["the server is stopping"]


async def test_first_connection_stays_the_first(store, clock):
    registry = make(store)
    first = clock.now()
    for _ in range(2):
        await registry.saw(Session(site("site-1"), hello("site-1"), since=clock.now()), None)
        clock.advance(3600)
    assert registry.find("site-1").first_connected == first


async def test_site_that_left_the_project_is_forgotten_and_one_that_moved_has_its_new_org(store, clock):
    registry = make(store)
    for name in ("site-1", "site-2"):
        await registry.saw(Session(site(name), hello(name), since=clock.now()), None)
    again = make(store, {"site-1": "org-b"})
    assert again.orgs == {"site-1": "org-b"}
    assert again.find("site-1").host == "site-1.example"
    with pytest.raises(NotFound):
        again.find("site-2")


async def test_site_comes_and_goes_although_the_disk_is_full(store, clock, caplog):
    """What was decided about it is another matter; but how else would an abort reach it?"""
    registry = make(store)
    store.full = True
    await registry.saw(Session(site("site-1"), hello("site-1"), since=clock.now()), None)
    assert registry.find("site-1").first_connected == clock.now()
    assert "site.connect of site site-1 could not be recorded: the log cannot be written" in caplog.text
    assert store.load("site") == {}


@pytest.mark.parametrize("name", ["site-9", "", "../site-1", "\x1b[2J"])
def test_unknown_site_is_not_found(store, name):
    with pytest.raises(NotFound, match=r"no site .* in this project") as found:
        make(store).find(name)
    assert str(found.value).isprintable()


class SlowStore:
    """A store whose commits take until they are let go on."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, *args: Any, **kwargs: Any) -> None:
        self.begun.set()
        await self.go_on.wait()
        await self._store.commit(*args, **kwargs)


async def test_a_site_that_is_cut_off_is_shown_as_gone_though_its_call_is_cancelled(store, clock):
    """Its handler is cancelled in the middle of the commit: the row is written, and the state follows it."""
    registry = make(store)
    session = Session(site("site-1"), hello("site-1"), since=clock.now())
    await registry.saw(session, clock.now())
    gone = clock.now() + timedelta(minutes=5)
    registry._store = slow = SlowStore(store)
    task = asyncio.create_task(registry.lost(session, gone))
    await slow.begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    slow.go_on.set()
    await asyncio.gather(task, return_exceptions=True)
    assert registry.find("site-1").gone_at == gone
    assert registry.find("site-1").gone_because == "connection lost"


async def test_a_site_that_has_a_newer_connection_is_not_gone(store, clock):
    registry = make(store)
    older, newer = (Session(site("site-1"), hello("site-1"), since=clock.now()) for _ in range(2))
    await registry.saw(older, clock.now())
    await registry.saw(newer, clock.now())
    older.close("the site connected again")
    await registry.lost(older, clock.now(), gone=False)
    assert [row.reason for row in store.told("site.disconnect")] == ["the site connected again"]
    assert registry.find("site-1").gone_at is None


async def test_a_site_that_says_goodbye_leaves_and_is_not_lost(store, clock):
    registry = make(store)
    session = Session(site("site-1"), hello("site-1"), since=clock.now())
    await registry.saw(session, clock.now())
    session.leaving = "stopped by its operator"
    await registry.lost(session, clock.now())
    assert [row.reason for row in store.told("site.leave")] == ["stopped by its operator"]
    assert store.told("site.disconnect") == []
    found = make(store).find("site-1")
    assert (found.left_by_itself, found.gone_because) == (True, "stopped by its operator")
    await registry.saw(session, clock.now())
    assert registry.find("site-1").gone_at is None


async def test_what_comes_at_once_about_a_site_is_all_on_disk(store, clock):
    registry = make(store)
    session = Session(site("site-1"), hello("site-1"), since=clock.now())
    await registry.saw(session, clock.now())
    registry._store = slow = SlowStore(store)
    leaf = SimpleNamespace(not_after=clock.now() + timedelta(days=30), serial=0xABC, issued_at=clock.now())
    row = Row(who=session.identity.uri, what="cert.renew", object="site-1")
    renewing = asyncio.create_task(registry.renewed("site-1", leaf, row))
    leaving = asyncio.create_task(registry.lost(session, clock.now()))
    await slow.begun.wait()
    await asyncio.sleep(0)
    slow.go_on.set()
    await asyncio.gather(renewing, leaving)
    assert (registry.find("site-1").cert_serial, registry.find("site-1").gone_at) == ("abc", clock.now())
    assert make(store).find("site-1") == registry.find("site-1")
