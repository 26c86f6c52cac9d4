# SPDX-License-Identifier: Apache-2.0
"""Renewals at the server: what a site gets, who did not renew, and the server's own certificate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from server_fakes import PATIENCE
from server_network import Network
from server_parties import ADA, NOW, OLGA, site
from server_world import World, hello

from flprov._base import from_document, parse_json
from flprov.errors import (
    FlprovError,
    IdentityRefused,
    LocalError,
    Misuse,
    NotFound,
    PermissionRefused,
    SiteLocked,
    SiteUnavailable,
    TimedOut,
)
from flprov.kits import Credential, current_credential, load_kit, own_anchors
from flprov.pki import (
    Kind,
    Leaf,
    create_key,
    create_request,
    describe_leaf,
    host_names,
    public_key_pem,
    verify_key_matches,
    verify_peer,
)
from flprov.rpc import methods as m
from flprov.server.identities import Identities, renewalservice, serverrenewal
from flprov.server.identities.book import describe
from flprov.server.records import Enrolment, Mark
from flprov.server.sessions import Session
from flprov.wire import pb
from flprov.wire.documents import RenewalDocument

DAY = 86_400.0
SITE = site("site-1")


@pytest.fixture
def identities(network: Network) -> Identities:
    return network.identities


class Asking:
    """A site that asks for certificates."""

    def __init__(self, network: Network) -> None:
        self._service = network.identities.renewals
        self.leaf: Leaf | None = None

    async def renew(self, key: bytes | None = None) -> tuple[bytes, bytes]:
        private = key or create_key()
        call: Any = SimpleNamespace(caller=SITE, leaf=self.leaf, method=m.RENEW)
        issued = await self._service.renew(call, pb.RenewRequest(request=create_request(private)))
        return issued.chain, private


@pytest.fixture
def asking(network: Network) -> Asking:
    return Asking(network)


# ---- a site renews ---------------------------------------------------------------------------


async def test_a_site_gets_a_certificate_for_itself_and_the_key_that_it_made(network, world, identities):
    private = create_key()
    request = pb.RenewRequest(request=create_request(private))
    issued = await network.connect(SITE).unary(m.RENEW, request, timeout=PATIENCE)
    anchors = identities.around.trust.current.anchors["sites"]
    assert verify_peer(issued.chain, anchors, now=world.clock.now(), kinds=[Kind.SITE]) == SITE
    verify_key_matches(issued.chain, private)
    leaf = describe_leaf(issued.chain)
    assert leaf.not_after == NOW + timedelta(days=90)
    assert [record.serial for record in identities.around.book.of(SITE.uri)] == [f"{leaf.serial:x}"]
    [row] = world.store.told("cert.renew")
    assert (row.who, row.object, row.data["serial"]) == (SITE.uri, "site-1", f"{leaf.serial:x}")
    assert world.registry.find("site-1").cert_not_after == leaf.not_after


async def test_the_book_is_on_disk_before_the_answer(asking, world, identities):
    chain, _ = await asking.renew()
    identities.around.book.__init__(world.store)
    identities.around.book.load()
    assert identities.around.book.knows(f"{describe_leaf(chain).serial:x}")


@pytest.mark.parametrize("request_pem", [b"", b"nonsense", b"\x00" * 100_000])
async def test_what_is_no_request_is_refused_and_leaves_nothing(network, world, identities, request_pem):
    with pytest.raises(IdentityRefused, match="cannot be read"):
        await network.connect(SITE).unary(m.RENEW, pb.RenewRequest(request=request_pem), timeout=PATIENCE)
    assert identities.around.book.of(SITE.uri) == ()
    assert world.store.told("cert.renew") == []


async def test_a_full_disk_issues_nothing(asking, world, identities):
    world.store.full = True
    with pytest.raises(LocalError):
        await asking.renew()
    assert identities.around.book.of(SITE.uri) == ()
    world.store.full = False
    await asking.renew()


async def test_sixteen_certificates_are_enough_for_anybody(asking, world, identities):
    outcomes = await asyncio.gather(*(asking.renew() for _ in range(30)), return_exceptions=True)
    refused = [found for found in outcomes if isinstance(found, IdentityRefused)]
    assert len(refused) == 14
    assert "16 certificates that are still valid" in str(refused[0])
    assert "flprov invite create site-1" in str(refused[0].hint)
    await world.clock.elapse(89 * DAY)
    with pytest.raises(IdentityRefused):
        await asking.renew()
    await world.clock.elapse(2 * DAY)
    await asking.renew()
    assert len(identities.around.book.of(SITE.uri)) == 1  # those that have expired are forgotten


async def test_a_site_that_is_locked_meanwhile_gets_no_answer(asking, world):
    task = asyncio.create_task(asking.renew())
    await asyncio.sleep(0)  # it waits for the disk now
    mark = Mark(by=ADA.uri, at=world.clock.now(), reason="audit")
    world.registry.enrol(Enrolment(name="site-1", org="org-a", locked=mark))
    with pytest.raises(SiteLocked, match="audit"):
        await task


# ---- a site that did not ---------------------------------------------------------------------


class Connected:
    """A site's session, and what ended it."""

    def __init__(self, network: Network, leaf: Leaf) -> None:
        self.ended: list[FlprovError] = []
        network.identities.around.drop = self._drop
        session = Session(SITE, hello("site-1"), since=network.world.clock.now(), leaf=leaf)
        self.session = session
        network.world.sessions.add(session)

    def _drop(self, uri: str, reason: FlprovError) -> int:
        assert uri == SITE.uri
        self.ended.append(reason)
        return 1


@pytest.fixture
def leaf(early_kit) -> Leaf:
    return describe_leaf(early_kit("site-1").chain_pem)


async def test_a_site_that_did_not_renew_is_ended_at_its_last_moment_and_told_why(network, world, leaf):
    connected = Connected(network, leaf)
    await world.clock.elapse(90 * DAY)
    assert connected.ended == []
    await world.clock.elapse(1)
    [error] = connected.ended
    assert "expired on 2026-04-01 00:00:00 UTC, and it was not renewed" in str(error)
    assert "flprov invite create site-1" in str(error.hint)
    assert connected.session.closed_because == str(error)


async def test_a_control_stream_outlives_the_certificate_with_which_it_began(network, world, asking, leaf):
    connected = Connected(network, leaf)
    await world.clock.elapse(60 * DAY)
    await asking.renew()
    await world.clock.elapse(89 * DAY)
    assert connected.ended == []
    await world.clock.elapse(2 * DAY)
    assert "expired on 2026-05-31" in str(connected.ended[0])


async def test_after_a_restore_from_an_old_backup_the_certificate_itself_counts(network, world, leaf):
    """The book knows an older one only, and the site comes with a newer one."""
    older = describe(leaf, "renewal")
    network.identities.around.book.add(older)
    newer = SimpleNamespace(not_after=NOW + timedelta(days=120))
    connected = Connected(network, newer)  # type: ignore[arg-type]
    await world.clock.elapse(119 * DAY)
    assert connected.ended == []
    await world.clock.elapse(2 * DAY)
    assert len(connected.ended) == 1


async def test_a_site_that_went_is_watched_no_more(network, world, leaf):
    connected = Connected(network, leaf)
    world.sessions.remove(connected.session)
    await world.clock.elapse(100 * DAY)
    assert connected.ended == []


# ---- an admin asks ---------------------------------------------------------------------------


async def ask(network: Network, name: str, *, by: Any = ADA, key: str = "", **more: Any) -> RenewalDocument:
    request = pb.PartyChange(name=name, key=key, **more)
    reply = await network.connect(by).unary(m.RENEW_CERTIFICATE, request, timeout=PATIENCE)
    return from_document(RenewalDocument, parse_json(reply.json))


async def asked(dialled: Any, asking: Asking) -> pb.RenewNow:
    while (message := await dialled.next()).WhichOneof("body") != "renew":
        pass
    await asking.renew()
    return message.renew


async def test_an_admin_has_a_site_renew_and_hears_when_it_has(network, dial, asking, world):
    dialled = dial("site-1")
    await dialled.open()
    reply, told = await asyncio.gather(
        ask(network, "site-1", key="k", reason="its key was seen"), asked(dialled, asking)
    )
    assert told.reason == "its key was seen"
    assert (reply.name, reply.not_after) == ("site-1", NOW + timedelta(days=90))
    assert len(world.store.told("cert.ask")) == 1
    again = await ask(network, "site-1", key="k")  # the answer was lost, say
    assert again == reply
    assert len(world.store.told("cert.ask")) == 1


async def test_an_admin_has_the_server_renew(network, world, identities):
    before = identities.renewals.own.credential
    reply = await ask(network, "server", key="k")
    after = identities.renewals.own.credential
    assert reply.serial == f"{after.leaf.serial:x}"
    assert after.private_pem != before.private_pem


async def test_who_may_not_manage_a_site_may_not_have_it_renew(network):
    for name in ("site-1", "server"):
        with pytest.raises(PermissionRefused):
            await ask(network, name, by=OLGA)


async def test_a_site_that_is_not_there_cannot_be_asked(network):
    with pytest.raises(SiteUnavailable, match="site-1 is not connected"):
        await ask(network, "site-1")
    with pytest.raises(NotFound):
        await ask(network, "site-9")


async def test_a_command_that_was_held_up_is_not_carried_out(network, world):
    with pytest.raises(Misuse, match="not_after"):
        await ask(network, "server", not_after="2025-12-31T00:00:00Z")
    assert world.store.told("cert.ask") == []


async def test_a_site_that_does_not_get_there_is_not_waited_for_without_end(network, dial, monkeypatch):
    monkeypatch.setattr(renewalservice, "_PATIENCE", 0.05)
    dialled = dial("site-1")
    await dialled.open()
    with pytest.raises(TimedOut, match="has not done so") as caught:
        await ask(network, "site-1")
    assert "flprov site status KIT" in str(caught.value.hint)


# ---- the server's own ------------------------------------------------------------------------


class Shown:
    """Hears what the listener is told to show."""

    def __init__(self, network: Network) -> None:
        self.all: list[tuple[bytes, bytes]] = []
        network.identities.around.show = lambda chain, key, anchors: self.all.append((chain, key))

    async def wait(self, count: int) -> tuple[bytes, bytes]:
        async with asyncio.timeout(PATIENCE):
            while len(self.all) < count:
                await asyncio.sleep(0)
        return self.all[count - 1]


async def test_the_server_renews_itself_at_a_third_with_a_new_key_and_the_same_names(
    network, world, identities, early_kit
):
    kit, shown = early_kit("server"), Shown(network)
    await world.clock.elapse(29 * DAY)
    assert shown.all == []
    await world.clock.elapse(11 * DAY)
    chain, key = await shown.wait(1)
    verify_key_matches(chain, key)
    assert key != kit.private_pem
    assert host_names(chain) == host_names(kit.chain_pem)
    assert describe_leaf(chain).identity == kit.identity
    assert identities.around.credential() == (chain, key)
    await world.clock.elapse(40 * DAY)
    assert (await shown.wait(2))[1] != key
    assert len(world.store.told("cert.renew")) == 2


async def test_after_a_restart_the_server_shows_what_it_had_renewed(network, world, early_kit):
    shown = Shown(network)
    await ask(network, "server")
    chain, _ = await shown.wait(1)
    kit = early_kit("server")
    found = current_credential(kit, anchors=own_anchors(kit), now=world.clock.now(), state=world.folder)
    assert found.chain_pem == chain


@contextlib.asynccontextmanager
async def started(world: World, kit: Any) -> AsyncIterator[Network]:
    made = Network(world, kit)
    try:
        yield made
    finally:
        await made.close()


async def test_a_server_whose_certificate_has_expired_helps_itself(world, early_kit, caplog):
    world.clock.advance(400 * DAY)
    kit = load_kit(early_kit("server").folder, now=world.clock.now())
    async with started(world, kit) as network:
        credential: Credential = network.identities.renewals.own.credential
        assert credential.not_after == world.clock.now() + timedelta(days=90)
        assert "expired on 2026-04-01 00:00:00 UTC" in caplog.text
        await world.clock.elapse(1)
        [row] = world.store.told("cert.renew")
        assert row.data["serial"] == f"{credential.leaf.serial:x}"


async def test_a_full_disk_keeps_no_expired_server_from_starting(world, early_kit, caplog, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serverrenewal, "store_credential", full)
    world.clock.advance(100 * DAY)
    world.store.full = True
    async with started(world, load_kit(early_kit("server").folder, now=world.clock.now())) as network:
        await world.clock.elapse(1)
        own = network.identities.renewals.own
        assert own.credential.not_after > world.clock.now()
        assert "could not be stored" in caplog.text
        assert "could not be written down" in caplog.text
        monkeypatch.undo()
        world.store.full = False
        await ask(network, "server")  # and it goes on to renew
        assert (world.folder / "identity.pem").exists()


async def test_a_certificate_of_a_ca_that_issues_no_more_is_renewed_at_once(network, world, identities):
    shown, trust = Shown(network), identities.around.trust
    await world.clock.elapse(1)
    assert shown.all == []
    own = identities.renewals.own
    own.credential.leaf.__dict__["issuer_key_id"] = "00" * 20  # as if another CA had issued it
    for listener in trust._listeners:
        listener(trust.current)
    await shown.wait(1)
    assert own.credential.leaf.issuer_key_id == trust.current.active(Kind.SERVER)


async def test_a_full_disk_leaves_the_old_one_in_use_and_is_tried_again(
    network, world, identities, monkeypatch, caplog
):
    stored, shown = serverrenewal.store_credential, Shown(network)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serverrenewal, "store_credential", full)
    before = identities.renewals.own.credential
    await world.clock.elapse(40 * DAY)
    async with asyncio.timeout(PATIENCE):
        while "No space left" not in caplog.text:
            await asyncio.sleep(0)
    assert (shown.all, identities.renewals.own.credential) == ([], before)
    monkeypatch.setattr(serverrenewal, "store_credential", stored)
    identities.renewals.own.renew_now()
    await shown.wait(1)


def test_nothing_secret_is_shown(early_kit):
    found = current_credential(early_kit("server"), anchors=own_anchors(early_kit("server")), now=NOW)
    assert "PRIVATE" not in repr(found)
    assert public_key_pem(found.private_pem)
