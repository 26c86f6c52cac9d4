# SPDX-License-Identifier: Apache-2.0
"""Certificates revoked: by party, by serial number; people thrown out; who must never be locked out."""

from __future__ import annotations

import asyncio

import pytest
from identity_parts import Parts, make_kits
from server_parties import ADA, DOMAIN, LEO, site

from flprov.errors import (
    FlprovError,
    IdentityRefused,
    LocalError,
    Misuse,
    NotFound,
    PermissionRefused,
    Refused,
)
from flprov.pki import Identity, Kind, Leaf, Reason, Role, describe_leaf
from flprov.rpc import methods as m
from flprov.server.identities.revocations import withdraw_identity
from flprov.wire import documents as doc


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("revocation"))


@pytest.fixture
def parts(kits, tmp_path) -> Parts:
    return Parts(kits, tmp_path)


def refused(parts: Parts, leaf: Leaf) -> FlprovError:
    with pytest.raises(IdentityRefused) as error:
        parts.admit(leaf)
    return error.value


def later(leaf: Leaf, parts: Parts, serial: int = 77) -> Leaf:
    """A certificate as the provisioner might make it now for the same identity."""
    made = parts.clock.now().replace(microsecond=0)
    return Leaf(**(vars(leaf) | {"serial": serial, "issued_at": made, "not_before": made}))


# ---- by name -----------------------------------------------------------------------------------


async def test_revoked_site_reads_why_and_the_way_back_also_after_a_restart(parts):
    await parts.connects("site-2")
    done = await parts.revoke("site-2", reason="key-compromise", comment="laptop stolen")
    leaf = parts.leaf("site-2")
    assert (done.name, done.kind, done.ended) == ("site-2", "site", 1)
    assert done.serials == (f"{leaf.serial:x}",)
    said = (
        "the certificate of site site-2 was revoked on 2026-01-02 01:00:00 UTC by ada:"
        " somebody else may have its key (laptop stolen)"
    )
    assert str(parts.dropped.why(site("site-2"))) == said
    for _ in range(2):
        error = refused(parts, leaf)
        assert str(error) == said
        assert "flprov invite create site-2" in (error.hint or "")
        parts.restart()


async def test_kit_that_the_server_has_never_seen_is_caught_by_the_moment(parts):
    done = await parts.revoke("site-2")
    assert done.serials == ()
    refused(parts, parts.leaf("site-2"))


async def test_newer_certificate_of_the_same_site_counts(parts):
    await parts.comes("site-2")
    await parts.revoke("site-2")
    newer = await parts.renew(site("site-2"), "join")  # in the same second
    parts.admit(newer)
    parts.restart()
    parts.admit(newer)
    await parts.revoke("site-2")
    refused(parts, newer)


async def test_renewal_that_is_answered_while_the_revocation_is_written_is_revoked_too(parts):
    await parts.comes("site-2")
    commit, raced = parts.store.commit, []

    async def race(changes, row, *, urgent=False):
        index = await commit(changes, row, urgent=urgent)
        if urgent and not raced:
            raced.append(None)
            raced[0] = await parts.renew(site("site-2"))  # its answer has gone out
        return index

    parts.store.commit = race
    await parts.revoke("site-2")
    refused(parts, raced[0])
    parts.restart()
    refused(parts, raced[0])


async def test_other_parties_go_on(parts):
    await parts.revoke("site-2")
    for name in ("site-1", "site-3", "ada", "leo"):
        parts.admit(parts.leaf(name))


async def test_revocation_that_cannot_be_written_has_not_happened(parts):
    await parts.comes("site-2")
    parts.store.full = parts.store.no_reserve = True
    with pytest.raises(LocalError):
        await parts.revoke("site-2")
    parts.admit(parts.leaf("site-2"))
    assert parts.dropped.calls == []


# ---- by serial number --------------------------------------------------------------------------


async def test_one_certificate_is_revoked_by_a_prefix_of_its_serial_number_alone(parts):
    await parts.comes("site-2")
    newer = await parts.renew(site("site-2"))
    serial = f"{parts.leaf('site-2').serial:x}"
    done = await parts.revoke(serial[:12])
    assert done.serials == (serial,)
    refused(parts, parts.leaf("site-2"))
    parts.admit(newer)
    parts.restart()
    refused(parts, parts.leaf("site-2"))
    again = await parts.revoke(serial)
    assert not again.changed
    assert "by ada" in again.notes[0]


async def test_serial_number_may_be_written_as_openssl_does(parts):
    await parts.comes("site-2")
    digits = f"{parts.leaf('site-2').serial:040X}"
    spelled = ":".join(digits[n : n + 2] for n in range(0, 40, 2))
    assert (await parts.revoke(spelled)).changed


@pytest.mark.parametrize("target", ["nobody", "0", "", "f" * 40, "../site-1", "f" * 10_000, "\x1b[2J", "abc"])
async def test_target_that_is_nothing_known_is_not_found(parts, target):
    with pytest.raises(NotFound) as error:
        await parts.revoke(target)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "target",
    ["spiffe://", "spiffe://x/site/a", f"spiffe://{DOMAIN}/person/org-a/king/ada", "spiffe://" + "a" * 9999],
)
async def test_identity_that_is_none_is_misuse(parts, target):
    with pytest.raises(Misuse):
        await parts.revoke(target)


async def test_identity_of_another_project_is_not_found(parts):
    with pytest.raises(NotFound, match="another project"):
        await parts.revoke("spiffe://lung.example/site/org-a/site-1")


@pytest.mark.parametrize(
    "reason", ["certificateHold", "removeFromCRL", "because", "KEY-COMPROMISE", "-", "key-"]
)
async def test_reason_that_we_do_not_give_is_misuse(parts, reason):
    with pytest.raises(Misuse, match="no reason"):
        await parts.revoke("site-2", reason=reason)


async def test_servers_certificate_is_not_revoked_but_it_is_said_what_to_do(parts):
    for target in ("server", parts.kit.identity.uri):
        with pytest.raises(Refused, match="cannot be revoked here") as error:
            await parts.revoke(target)
        assert "flprov cert renew server" in (error.value.hint or "")


async def test_certificate_of_a_ca_is_not_revoked_but_it_is_said_what_to_do(parts):
    lines = await parts.certificates()
    for name in ("root root", "ca sites CA", "ca people CA"):
        with pytest.raises(Refused, match="of a CA") as error:
            await parts.revoke(lines[name].serial)
        assert "flprov ca rotate" in (error.value.hint or "")


async def test_name_of_a_site_and_of_a_person_is_ambiguous(parts):
    twin = Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="org-a", role=Role.LEAD, name="site-1")
    await parts.note(later(Leaf(**(vars(parts.leaf("leo")) | {"identity": twin})), parts))
    with pytest.raises(Misuse, match="a site and of a person") as error:
        await parts.revoke("site-1")
    assert twin.uri in (error.value.hint or "")
    assert (await parts.revoke(twin.uri)).identities == (twin.uri,)
    parts.admit(parts.leaf("site-1"))


async def test_site_that_was_removed_is_named_as_such(parts):
    await parts.change(m.REMOVE_SITE, "site-2", reason="the study is over")
    with pytest.raises(NotFound, match=r"site site-2 was removed on .* the study is over"):
        await parts.revoke("site-2")


# ---- people ------------------------------------------------------------------------------------


async def test_removed_person_is_ended_and_refused_and_a_new_kit_counts(parts):
    await parts.comes("leo")
    done = await parts.change(m.REMOVE_PERSON, "leo", reason="has left")
    assert (done.change, done.kind, done.ended) == ("removed", "person", 1)
    assert any("project.yml" in note for note in done.notes)
    assert any("flprov ca publish" in note for note in done.notes)
    error = refused(parts, parts.leaf("leo"))
    assert "its holder has left (has left)" in str(error)
    assert "new kit" in (error.hint or "")
    parts.clock.advance(2)
    parts.admit(later(parts.leaf("leo"), parts))


async def test_removing_a_person_again_does_not_forget_why(parts):
    await parts.change(m.REMOVE_PERSON, "leo", reason="has left")
    parts.clock.advance(2)
    await parts.change(m.REMOVE_PERSON, "leo")
    assert "(has left)" in str(refused(parts, parts.leaf("leo")))


async def test_every_role_that_a_name_has_had_is_revoked(parts):
    member = Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="org-b", role=Role.MEMBER, name="leo")
    before = later(Leaf(**(vars(parts.leaf("leo")) | {"identity": member})), parts)
    await parts.note(before)
    done = await parts.change(m.REMOVE_PERSON, "leo")
    assert set(done.identities) == {LEO.uri, member.uri}
    refused(parts, before)
    refused(parts, parts.leaf("leo"))


async def test_person_who_is_not_known_is_not_found(parts):
    with pytest.raises(NotFound, match="nobody of the name"):
        await parts.change(m.REMOVE_PERSON, "site-1")


async def test_org_admin_removes_people_of_the_own_organisation_but_no_project_admin(parts):
    assert (await parts.change(m.REMOVE_PERSON, "lea", by="olga")).changed
    with pytest.raises(PermissionRefused):
        await parts.change(m.REMOVE_PERSON, "leo", by="olga")
    boss = Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="org-b", role=Role.PROJECT_ADMIN, name="bob")
    await parts.note(later(Leaf(**(vars(parts.leaf("ada")) | {"identity": boss})), parts))
    with pytest.raises(PermissionRefused, match="only a project_admin"):
        await parts.revoke("bob", by="olga")


async def test_last_project_admin_cannot_be_removed_not_even_by_serial_number(parts):
    await parts.comes("ada")
    serial = f"{parts.leaf('ada').serial:x}"
    for target in ("ada", ADA.uri, serial):
        with pytest.raises(Refused, match="last project_admin") as error:
            await parts.revoke(target)
        assert "flprov provision" in (error.value.hint or "")
    with pytest.raises(Refused, match="last project_admin"):
        await parts.change(m.REMOVE_PERSON, "ada")
    parts.admit(parts.leaf("ada"))


async def test_stolen_kit_of_the_last_project_admin_is_revoked_once_there_is_a_new_one(parts):
    await parts.comes("ada")
    fresh = later(parts.leaf("ada"), parts)
    parts.admit(fresh)  # the new kit calls
    await parts.revoke(f"{parts.leaf('ada').serial:x}", reason="key-compromise")
    refused(parts, parts.leaf("ada"))
    parts.admit(fresh)


async def test_of_two_project_admins_who_remove_each_other_at_once_one_remains(parts):
    bob = Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="org-b", role=Role.PROJECT_ADMIN, name="bob")
    leaf = later(Leaf(**(vars(parts.leaf("ada")) | {"identity": bob})), parts)
    await parts.comes("ada")
    await parts.note(leaf)
    found = await asyncio.gather(parts.revoke("ada"), parts.revoke("bob"), return_exceptions=True)
    assert sorted(isinstance(one, Refused) for one in found) == [False, True]
    still = 0
    for one in (leaf, parts.leaf("ada")):
        try:
            parts.admit(one)
            still += 1
        except IdentityRefused:
            pass
    assert still == 1


async def test_own_certificate_may_go_while_another_project_admin_remains_and_that_is_said(parts):
    bob = Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="org-b", role=Role.PROJECT_ADMIN, name="bob")
    await parts.note(later(Leaf(**(vars(parts.leaf("ada")) | {"identity": bob})), parts))
    done = await parts.revoke("ada")
    assert any("your own certificate" in note for note in done.notes)


async def test_people_are_listed_with_what_is_known_of_them(parts):
    await parts.comes("ada", "leo")
    await parts.change(m.REMOVE_PERSON, "leo", reason="left")
    await parts.change(m.REMOVE_PERSON, "mia")
    found = await parts.call(m.LIST_PEOPLE, doc.PersonListDocument)
    by_name = {one.name: one for one in found.people}
    assert list(by_name) == sorted(by_name)
    assert {name: one.state for name, one in by_name.items()} == {
        "ada": "active",
        "lea": "unseen",
        "leo": "revoked",
        "mia": "revoked",
        "milo": "unseen",
        "obi": "unseen",
        "olga": "unseen",
    }
    assert by_name["ada"].last_seen == parts.clock.now()
    assert by_name["ada"].cert_not_after == parts.leaf("ada").not_after
    assert "left" in by_name["leo"].reason
    assert all(one.provisioned for one in found.people)


# ---- the book ----------------------------------------------------------------------------------


async def test_certificate_is_noted_once_and_not_while_the_call_waits(parts):
    leaf = parts.leaf("leo")
    for _ in range(5):
        parts.admit(leaf)
    assert not parts.around.book.knows(f"{leaf.serial:x}")
    await parts.around.settled()
    assert [row.who for row in parts.store.told("cert.seen")] == [LEO.uri]
    record = parts.around.book.of(LEO.uri)[0]
    assert (record.how, record.not_after) == ("kit", leaf.not_after)
    parts.restart()
    parts.admit(leaf)
    await parts.around.settled()
    assert len(parts.store.told("cert.seen")) == 1


async def test_certificate_that_could_not_be_noted_is_let_in_and_noted_later(parts):
    parts.store.full = True
    parts.admit(parts.leaf("leo"))
    await parts.around.settled()
    assert not parts.around.book.of(LEO.uri)
    parts.store.full = False
    await parts.comes("leo")
    assert parts.around.book.of(LEO.uri)


async def test_refused_certificate_is_not_noted(parts):
    await parts.revoke("site-2")
    refused(parts, parts.leaf("site-2"))
    await parts.around.settled()
    assert not parts.around.book.of(site("site-2").uri)


async def test_gate_takes_no_longer_with_a_thousand_revocations(parts):
    for n in range(1000):
        await parts.revoke(f"spiffe://{DOMAIN}/person/org-a/lead/p{n}")
    looked = 0

    class Counting(dict):
        def get(self, *args):
            nonlocal looked
            looked += 1
            return super().get(*args)

    revocations = parts.registry.revocations
    revocations._cutoffs = Counting(revocations._cutoffs)
    parts.admit(parts.leaf("site-1"))
    assert looked == 1


async def test_invite_certificate_comes_in_for_a_site_that_is_there_alone(parts):
    for name, org in (("site-2", "org-b"), ("site-77", "org-b"), ("site-2", "org-a")):
        invited = Identity(trust_domain=DOMAIN, kind=Kind.INVITE, org=org, name=name, invite="cd" * 8)
        leaf = describe_leaf(parts.issue(invited, days=1).chain_pem)
        if (name, org) == ("site-2", "org-b"):
            parts.admit(leaf)
        else:
            with pytest.raises(IdentityRefused, match="not enrolled"):
                parts.admit(leaf)


async def test_clock_that_was_set_back_lets_nobody_in_again(parts):
    leaf = later(parts.leaf("leo"), parts)
    parts.clock.advance(60)
    await parts.revoke("leo")
    parts.clock.jump(-3600)
    await parts.revoke("leo")
    refused(parts, leaf)


async def test_site_that_joins_anew_is_awaited_and_not_shown_as_refused(parts):
    await parts.connects("site-2")
    await parts.revoke("site-2", reason="key-compromise")
    assert parts.registry.barred("site-2") is not None
    parts.clock.advance(60)
    joined = await parts.renew(site("site-2"), "join")
    withdrawal = withdraw_identity(
        parts.around,
        site("site-2").uri,
        reason=Reason.SUPERSEDED,
        by=ADA.uri,
        keep={f"{joined.serial:x}"},
    )
    await parts.store.commit(withdrawal.changes, None)
    parts.registry.revocations.add(withdrawal)
    assert parts.registry.barred("site-2") is None
    parts.admit(joined)
    await parts.revoke(f"{joined.serial:x}")
    refused(parts, joined)
