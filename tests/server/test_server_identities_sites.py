# SPDX-License-Identifier: Apache-2.0
"""Sites come and go while the server runs: added, removed, locked, unlocked; who may, and what survives."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from identity_parts import Parts, make_kits
from server_parties import ADA, DOMAIN, OLGA, site
from server_world import hello

from flprov.errors import (
    Conflict,
    IdentityRefused,
    LocalError,
    Misuse,
    NotFound,
    PermissionRefused,
    SiteLocked,
)
from flprov.kits import RegistryEntry
from flprov.pki import Identity, Kind, create_key, create_request, describe_leaf
from flprov.rpc import Call
from flprov.rpc import methods as m
from flprov.server.sessions import Session
from flprov.wire import documents as doc
from flprov.wire import pb


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("sites"))


@pytest.fixture
def parts(kits, tmp_path) -> Parts:
    return Parts(kits, tmp_path)


# ---- locks -------------------------------------------------------------------------------------


async def test_locked_site_is_refused_with_who_when_and_why_and_the_way_back(parts):
    await parts.connects("site-2")
    done = await parts.change(m.LOCK_SITE, "site-2", reason="updates look wrong")
    assert (done.change, done.changed, done.ended) == ("locked", True, 1)
    with pytest.raises(SiteLocked) as gate:
        parts.admit(parts.leaf("site-2"))
    for refused in (parts.dropped.why(site("site-2")), gate.value):
        said = "site site-2 was locked on 2026-01-02 01:00:00 UTC by ada: updates look wrong"
        assert str(refused) == said
        assert "flprov site unlock site-2" in (refused.hint or "")
    parts.admit(parts.leaf("site-1"))


async def test_lock_survives_a_restart_and_the_unlock_does(parts):
    await parts.change(m.LOCK_SITE, "site-2")
    parts.restart()
    with pytest.raises(SiteLocked):
        parts.admit(parts.leaf("site-2"))
    await parts.change(m.UNLOCK_SITE, "site-2")
    parts.admit(parts.leaf("site-2"))
    parts.restart()
    parts.admit(parts.leaf("site-2"))


async def test_locking_twice_keeps_the_first_reason(parts):
    await parts.change(m.LOCK_SITE, "site-2", reason="first")
    again = await parts.change(m.LOCK_SITE, "site-2", reason="second")
    assert not again.changed
    assert "first" in again.reason
    assert [row.reason for row in parts.store.told("site.lock")] == ["first"]


async def test_lock_that_cannot_be_written_is_not_in_force_and_one_with_the_reserve_is(parts):
    parts.store.full = parts.store.no_reserve = True
    with pytest.raises(LocalError):
        await parts.change(m.LOCK_SITE, "site-2")
    parts.admit(parts.leaf("site-2"))
    parts.store.no_reserve = False
    await parts.change(m.LOCK_SITE, "site-2")
    with pytest.raises(SiteLocked):
        parts.admit(parts.leaf("site-2"))


async def test_lock_is_in_force_although_its_caller_hung_up_while_it_was_written(parts):
    call = Call(caller=ADA, method=m.LOCK_SITE, peer="test")
    handler = parts.identities.table()[m.LOCK_SITE]
    asking = asyncio.ensure_future(handler(call, pb.PartyChange(name="site-2")))
    commit, reached, goes_on = parts.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(*args, **kwargs):
        reached.set()
        await goes_on.wait()
        return await commit(*args, **kwargs)

    parts.store.commit = slow
    await reached.wait()
    asking.cancel()
    goes_on.set()
    await asyncio.wait([asking])
    with pytest.raises(SiteLocked):
        parts.admit(parts.leaf("site-2"))
    assert [uri for uri, _ in parts.dropped.calls] == [site("site-2").uri]


async def test_what_a_project_admin_has_locked_an_org_admin_cannot_unlock(parts):
    await parts.change(m.LOCK_SITE, "site-2")
    with pytest.raises(PermissionRefused, match="project_admin"):
        await parts.change(m.UNLOCK_SITE, "site-2", by="olga")
    await parts.change(m.UNLOCK_SITE, "site-2")
    await parts.change(m.LOCK_SITE, "site-2", by="olga")
    assert (await parts.change(m.UNLOCK_SITE, "site-2", by="olga")).changed


async def test_removing_and_adding_a_site_does_not_open_its_lock(parts):
    await parts.change(m.LOCK_SITE, "site-2")
    await parts.change(m.REMOVE_SITE, "site-2", by="olga")
    added = await parts.change(m.ADD_SITE, "site-2", org="org-b", by="olga")
    assert any("still locked" in note for note in added.notes)
    with pytest.raises(SiteLocked):
        parts.admit(parts.leaf("site-2"))


# ---- adding ------------------------------------------------------------------------------------


async def test_added_site_belongs_at_once_and_after_a_restart(parts):
    new = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="org-b", name="site-9")
    leaf = await parts.renew(new, "join")
    with pytest.raises(IdentityRefused, match="not enrolled"):
        parts.admit(leaf)
    done = await parts.change(m.ADD_SITE, "site-9", org="org-b")
    assert any("flprov invite create site-9" in note for note in done.notes)
    parts.admit(leaf)
    parts.restart()
    parts.admit(leaf)
    assert parts.registry.find("site-9").org == "org-b"
    assert not (await parts.change(m.ADD_SITE, "site-9", org="org-b")).changed


@pytest.mark.parametrize(
    "name", ["../x", "-rf", "Site-1", "a" * 64, "", "site\N{CYRILLIC SMALL LETTER A}", "a b"]
)
async def test_name_that_no_certificate_could_hold_is_misuse(parts, name):
    with pytest.raises(Misuse):
        await parts.change(m.ADD_SITE, name, org="org-b")
    with pytest.raises((Misuse, PermissionRefused)):
        await parts.change(m.ADD_SITE, "site-9", org=name)
    assert not parts.store.told("site.add")


@pytest.mark.parametrize("name", ["server", "leo"])
async def test_name_of_another_party_cannot_be_a_sites(parts, name):
    with pytest.raises(Conflict, match="another party"):
        await parts.change(m.ADD_SITE, name, org="org-b")


async def test_site_of_one_organisation_cannot_be_added_for_another(parts):
    with pytest.raises(Conflict, match="belongs to org-a"):
        await parts.change(m.ADD_SITE, "site-1", org="org-b")
    await parts.change(m.REMOVE_SITE, "site-1")
    with pytest.raises(Conflict, match="belongs to org-a"):  # the kit still says so
        await parts.change(m.ADD_SITE, "site-1", org="org-b")


async def test_new_organisation_is_told(parts):
    assert (await parts.change(m.ADD_SITE, "site-9", org="org-x")).notes[0].startswith("org-x is new")


# ---- removing ----------------------------------------------------------------------------------


async def test_removed_site_is_ended_refused_and_its_certificates_revoked(parts):
    session = await parts.connects("site-2")
    done = await parts.change(m.REMOVE_SITE, "site-2", reason="the study is over")
    leaf = parts.leaf("site-2")
    assert done.serials == (f"{leaf.serial:x}",)
    assert "was removed" in session.closed_because
    for _ in range(2):
        with pytest.raises(IdentityRefused, match=r"removed from this project .* by ada: the study"):
            parts.admit(leaf)
        with pytest.raises(NotFound, match="was removed"):
            parts.registry.find("site-2")
        parts.restart()


async def test_tombstone_wins_over_a_newer_kit_until_the_site_is_added_again(parts):
    await parts.connects("site-2")
    await parts.change(m.REMOVE_SITE, "site-2")
    entries = (*parts.kit.registry, RegistryEntry(name="site-9", org="org-a"))
    parts.kit = replace(parts.kit, registry=entries)
    parts.restart()
    assert "site-2" not in parts.registry.sites
    assert "site-9" in parts.registry.sites
    parts.clock.advance(10)
    await parts.change(m.ADD_SITE, "site-2", org="org-b")
    with pytest.raises(IdentityRefused, match="was revoked"):  # its old kit stays so
        parts.admit(parts.leaf("site-2"))
    parts.admit(await parts.renew(site("site-2"), "join"))
    assert parts.registry.find("site-2").host == "site-2.example"  # what was remembered is back


async def test_open_invites_of_a_removed_site_are_void_and_stay_so(parts):
    made = await parts.call(
        m.CREATE_INVITE,
        doc.InviteIssueDocument,
        site="site-2",
        lifetime_seconds=86400.0,
        request=create_request(create_key()),
    )
    invite = describe_leaf(made.certificate.encode())
    parts.admit(invite)
    await parts.change(m.LOCK_SITE, "site-2")
    with pytest.raises(SiteLocked):
        parts.admit(invite)
    await parts.change(m.UNLOCK_SITE, "site-2")
    await parts.change(m.REMOVE_SITE, "site-2")
    with pytest.raises(IdentityRefused, match="was removed"):
        parts.admit(invite)
    await parts.change(m.ADD_SITE, "site-2", org="org-b")
    with pytest.raises(IdentityRefused, match="invite site-2 was revoked"):
        parts.admit(invite)


async def test_site_that_goes_while_it_is_removed_leaves_a_row_and_no_trouble(parts):
    session = await parts.connects("site-2")
    await parts.change(m.REMOVE_SITE, "site-2", reason="gone")
    await parts.registry.lost(session, parts.clock.now())
    assert "gone" in parts.store.told("site.disconnect")[-1].reason
    with pytest.raises(NotFound):
        await parts.registry.saw(Session(site("site-2"), hello("site-2"), since=parts.clock.now()), None)


# ---- who may, and when -------------------------------------------------------------------------

CHANGES = {
    "add": (m.ADD_SITE, {"org": "org-a"}),
    "remove": (m.REMOVE_SITE, {}),
    "lock": (m.LOCK_SITE, {}),
    "unlock": (m.UNLOCK_SITE, {}),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_org_admin_changes_sites_of_the_own_organisation_alone(parts, change):
    method, fields = CHANGES[change]
    name = "site-9" if change == "add" else "site-1"
    with pytest.raises(PermissionRefused, match="org-b, and this belongs to org-a"):
        await parts.change(method, name, by="olga", **fields)
    own = {"org": "org-b"} if change == "add" else {}
    await parts.change(method, "site-9" if change == "add" else "site-2", by="olga", **own)
    assert {row.who for row in parts.store.told(f"site.{change}")} <= {OLGA.uri}


@pytest.mark.parametrize("change", ["remove", "lock", "unlock"])
async def test_unknown_site_is_not_found(parts, change):
    with pytest.raises(NotFound):
        await parts.change(CHANGES[change][0], "site-77")


async def test_command_that_is_late_is_refused_and_one_that_is_repeated_has_no_second_effect(parts):
    late = parts.soon(-1)
    with pytest.raises(Misuse, match="not_after"):
        await parts.change(m.LOCK_SITE, "site-2", key="k1", not_after=late)
    await parts.change(m.LOCK_SITE, "site-2", key="k2", not_after=parts.soon())
    await parts.change(m.UNLOCK_SITE, "site-2", key="k3", not_after=parts.soon())
    for _ in range(2):
        again = await parts.change(m.LOCK_SITE, "site-2", key="k2", not_after=parts.soon())
        assert not again.changed
        parts.admit(parts.leaf("site-2"))
        parts.restart()  # also the next server knows


@pytest.mark.parametrize("not_after", ["yesterday", "2026-01-01", "9" * 40, "2027-01-01T00:00:00Z"])
async def test_not_after_that_is_none_is_misuse(parts, not_after):
    with pytest.raises(Misuse):
        await parts.change(m.LOCK_SITE, "site-2", not_after=not_after)


async def test_reason_is_one_bounded_line_without_control_characters(parts):
    await parts.change(m.LOCK_SITE, "site-2", reason="a\x1b[31m\nb" + "c" * 5000)
    with pytest.raises(SiteLocked) as refused:
        parts.admit(parts.leaf("site-2"))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


async def test_status_says_that_a_site_is_locked_or_refused_and_why(parts):
    await parts.connects("site-1")
    await parts.change(m.LOCK_SITE, "site-2", reason="look")
    await parts.revoke("site-1", reason="key-compromise", comment="stolen")
    locked, refused = parts.registry.barred("site-2"), parts.registry.barred("site-1")
    assert locked is not None
    assert refused is not None
    assert (locked.state, refused.state) == ("locked", "refused")
    assert "by ada: look" in locked.reason
    assert "stolen" in refused.reason
    assert parts.registry.barred("site-3") is None
