# SPDX-License-Identifier: Apache-2.0
"""Invites at the server: one certificate each, whatever happens; and who may do what with them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from identity_parts import Parts, make_kits
from invite_parties import DAY, book_of, decide, invite, joined, listed
from server_fakes import PATIENCE
from server_parties import ADA, site

from flprov.errors import (
    Conflict,
    FlprovError,
    IdentityRefused,
    LocalError,
    Misuse,
    NotFound,
    PermissionRefused,
    Refused,
    SiteLocked,
)
from flprov.pki import (
    Kind,
    certificate_identity,
    create_key,
    create_request,
    describe_leaf,
    parse_identity,
    sign,
    verify_key_matches,
    verify_peer,
)
from flprov.rpc import methods as m

SITE = site("site-1")


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("invites"))


@pytest.fixture
async def parts(kits, tmp_path):
    made = Parts(kits, tmp_path)
    yield made
    await made.identities.close()


def why(caught: pytest.ExceptionInfo[FlprovError]) -> str:
    return str(caught.value)


# ---- created --------------------------------------------------------------------------------------


async def test_an_invite_is_a_certificate_that_may_only_join_and_ends_with_it(parts):
    made = await invite(parts, lifetime_seconds=3600.0)
    assert made.identity.kind is Kind.INVITE
    assert (made.identity.name, made.identity.org) == ("site-1", "org-a")
    found = made.issued.invite
    assert found.not_after == describe_leaf(made.certificate).not_after
    assert (found.not_after - parts.clock.now()).total_seconds() == pytest.approx(3600, abs=1)
    assert await listed(parts) == {made.id: "open"}
    assert m.JOIN.allows(made.identity)
    assert [method for method in m.METHODS if method.allows(made.identity)] == [m.JOIN]


async def test_the_log_and_the_store_hold_no_key(parts):
    made = await invite(parts)
    await made.join()
    everything = repr([entry.row for entry in parts.store.rows(limit=1000)]) + repr(
        parts.store.load("invite")
    )
    assert "PRIVATE KEY" not in everything
    assert made.id in everything


async def test_an_unknown_site_is_added_when_its_organisation_is_given(parts):
    with pytest.raises(NotFound, match="no site 'clinic'"):
        await invite(parts, "clinic")
    made = await invite(parts, "clinic", org="org-b")
    assert made.issued.site_added
    assert parts.registry.find("clinic").org == "org-b"
    parts.restart()
    assert parts.registry.find("clinic").org == "org-b"
    again = await invite(parts, "clinic")
    assert not again.issued.site_added


@pytest.mark.parametrize(
    ("name", "org", "kind", "says"),
    [
        ("site-1", "org-b", Conflict, "belongs to org-a"),
        ("Clinic", "org-a", Misuse, "is not a name"),
        ("a/../b", "org-a", Misuse, "is not a name"),
        ("clinic", "Org A", Misuse, "is not a name"),
        ("server", "org-a", Conflict, "another party"),
        ("leo", "org-a", Conflict, "another party"),
        ("", "", NotFound, "no site"),
    ],
)
async def test_what_cannot_be_invited_is_refused_and_leaves_nothing(parts, name, org, kind, says):
    with pytest.raises(kind, match=says):
        await invite(parts, name, org=org)
    assert await listed(parts) == {}
    assert set(parts.registry.sites) == {"site-1", "site-2", "site-3"}


@pytest.mark.parametrize("seconds", [0.0, 59.0, -1.0, 30 * DAY + 1, float("inf"), float("nan")])
async def test_a_time_that_no_invite_lasts_is_refused(parts, seconds):
    with pytest.raises(Misuse, match="from a minute to 30 days"):
        await invite(parts, lifetime_seconds=seconds)


async def test_a_locked_site_is_not_invited(parts):
    await parts.change(m.LOCK_SITE, "site-1", reason="audit")
    with pytest.raises(Conflict, match="was locked"):
        await invite(parts)


async def test_a_newer_invite_takes_the_place_of_an_older_one(parts):
    old = await invite(parts)
    new = await invite(parts)
    assert new.issued.replaced == (old.id,)
    assert await listed(parts) == {old.id: "revoked", new.id: "open"}
    with pytest.raises(IdentityRefused, match=f"taken back .* replaced by invite {new.id}"):
        await old.join()
    await new.join()


async def test_the_same_command_again_gives_the_same_invite(parts):
    one = await invite(parts, key="k1")
    two = await invite(parts, key="k1")
    assert (two.id, two.certificate) == (one.id, one.certificate)
    assert (await invite(parts, key="k1", by="olga", site="site-2")).id != one.id


async def test_a_command_that_came_late_is_not_carried_out(parts):
    late = parts.soon(-1)
    with pytest.raises(Misuse, match="came after its not_after"):
        await invite(parts, not_after=late)
    with pytest.raises(Misuse, match="came after its not_after"):
        await decide(parts, "x", not_after=late)
    made = await invite(parts)
    with pytest.raises(Misuse, match="came after its not_after"):
        await made.relay(not_after=late)


async def test_a_request_that_is_none_is_refused(parts):
    with pytest.raises(IdentityRefused, match="cannot be read"):
        await invite(parts, request=b"x")


async def test_an_org_admin_invites_and_sees_the_own_organisation_alone(parts):
    with pytest.raises(PermissionRefused):
        await invite(parts, "site-1", by="olga")
    with pytest.raises(PermissionRefused):
        await invite(parts, "clinic", by="olga", org="org-a")
    foreign = await invite(parts, "site-1")
    own = await invite(parts, "site-2", by="olga")
    added = await invite(parts, "clinic", by="olga", org="org-b")
    assert set(await listed(parts, by="olga")) == {own.id, added.id}
    with pytest.raises(NotFound):
        await decide(parts, foreign.id, by="olga")
    with pytest.raises(PermissionRefused):
        await foreign.relay(by="olga")


async def test_ended_invites_are_forgotten_in_the_end(parts):
    old = await invite(parts)
    parts.clock.advance(40 * DAY)
    assert await listed(parts) == {old.id: "expired"}
    parts.clock.advance(60 * DAY)
    new = await invite(parts, "site-2")
    assert await listed(parts) == {new.id: "open"}
    parts.restart()
    assert await listed(parts) == {new.id: "open"}


# ---- used -----------------------------------------------------------------------------------------


async def test_a_site_gets_a_certificate_for_its_own_key(parts):
    made = await invite(parts)
    issued = await made.join()
    anchors = parts.around.trust.current.anchors["sites"]
    assert verify_peer(issued.chain, anchors, now=parts.clock.now(), kinds=[Kind.SITE]) == SITE
    verify_key_matches(issued.chain, made.key)
    assert issued.trust.document == parts.around.trust.current.signed.document
    assert await listed(parts) == {made.id: "used"}
    parts.admit(describe_leaf(issued.chain))
    [row] = parts.store.told("site.join")
    assert (row.who, row.object, row.data["fingerprint"]) == (made.identity.uri, "site-1", made.mark())


async def test_the_same_key_gets_the_same_certificate_again_also_after_a_crash(parts):
    made = await invite(parts)
    first = await made.join()
    assert (await made.join()).chain == first.chain
    parts.restart()
    assert (await made.join()).chain == first.chain
    assert len(joined(parts, SITE)) == 1
    assert len(parts.store.told("site.join")) == 1


async def test_another_key_is_refused_by_name(parts):
    made = await invite(parts)
    await made.join()
    for _ in range(2):
        with pytest.raises(IdentityRefused) as caught:
            await made.join(create_key())
        assert f"was used on {parts.clock.now():%Y-%m-%d %H:%M}" in why(caught)
        assert f"by another key, fingerprint {made.mark()}" in why(caught)
        assert "flprov cert revoke site-1" in str(caught.value.hint)
        parts.restart()


async def test_an_expired_invite_is_refused_also_to_whoever_used_it(parts):
    used, unused = await invite(parts), await invite(parts, "site-2")
    await used.join()
    parts.clock.advance(DAY + 1)
    with pytest.raises(IdentityRefused, match=r"expired on .*; it was used on"):
        await used.join()
    with pytest.raises(IdentityRefused, match="expired on") as caught:
        await unused.join()
    assert "flprov invite create site-2" in str(caught.value.hint)


async def test_an_invite_that_the_server_does_not_know_is_refused(parts):
    made = await invite(parts)
    book_of(parts).remove([book_of(parts).get(made.id)])
    with pytest.raises(IdentityRefused, match=f"knows no invite {made.id}"):
        await made.join()


async def test_another_certificate_with_an_invites_id_is_refused(parts):
    made = await invite(parts)
    other = parts.issue(made.identity, days=1)
    made.certificate = other.certificate_pem
    with pytest.raises(IdentityRefused, match="is not the certificate of invite"):
        await made.join()


async def test_a_revoked_invite_is_refused(parts):
    made = await invite(parts)
    decided = await decide(parts, "site-1", approve=False, reason="wrong address")
    assert (decided.id, decided.state, decided.reason) == (made.id, "revoked", "wrong address")
    with pytest.raises(IdentityRefused, match=r"taken back .*: wrong address"):
        await made.join()
    parts.restart()
    with pytest.raises(IdentityRefused, match="taken back"):
        await made.join()
    assert (await decide(parts, made.id, approve=False)).reason == "wrong address"  # twice is once


async def test_an_invite_to_a_removed_or_locked_site_is_refused(parts):
    locked, removed = await invite(parts, "site-1"), await invite(parts, "site-2")
    await parts.change(m.LOCK_SITE, "site-1", reason="audit")
    await parts.change(m.REMOVE_SITE, "site-2", reason="left")
    with pytest.raises(SiteLocked, match="audit"):
        await locked.join()
    with pytest.raises(IdentityRefused, match="was removed"):
        await removed.join()
    await parts.change(m.UNLOCK_SITE, "site-1")
    await locked.join()


async def test_an_invite_from_before_a_site_was_removed_stays_dead_when_it_is_added_again(parts):
    made = await invite(parts, "site-2")
    parts.clock.advance(2)
    await parts.change(m.REMOVE_SITE, "site-2", reason="left")
    await parts.change(m.ADD_SITE, "site-2", org="org-b")
    with pytest.raises(IdentityRefused):
        await made.join()
    again = await invite(parts, "site-2")
    parts.admit(describe_leaf((await again.join()).chain))


async def test_a_join_ends_the_sites_older_certificates_and_its_streams(parts):
    session = await parts.connects("site-1")
    old = parts.leaf("site-1")
    parts.clock.advance(1)
    made = await invite(parts)
    new = describe_leaf((await made.join()).chain)
    parts.admit(new)
    with pytest.raises(IdentityRefused, match="a newer one has taken its place"):
        parts.admit(old)
    assert f"the site joined again with invite {made.id}" in str(parts.dropped.why(SITE))
    assert "joined again" in session.closed_because
    parts.restart()
    parts.admit(new)
    with pytest.raises(IdentityRefused, match="a newer one has taken its place"):
        parts.admit(old)


async def test_whoever_comes_again_after_a_newer_join_is_told_that_its_certificate_was_revoked(parts):
    first = await invite(parts)
    await first.join()
    parts.clock.advance(1)
    second = await invite(parts)
    await second.join()
    with pytest.raises(IdentityRefused, match="the certificate that it brought was revoked"):
        await first.join()
    await second.join()


# ---- races and accidents --------------------------------------------------------------------------


async def outcomes(calls) -> tuple[list[bytes], list[FlprovError]]:
    found = await asyncio.gather(*calls, return_exceptions=True)
    errors = [one for one in found if isinstance(one, FlprovError)]
    assert len(errors) == sum(isinstance(one, BaseException) for one in found)
    return [one.chain for one in found if not isinstance(one, BaseException)], errors


async def test_fifty_keys_at_once_get_one_certificate(parts):
    made = await invite(parts)
    chains, errors = await outcomes(made.join(create_key()) for _ in range(50))
    assert (len(chains), len(errors)) == (1, 49)
    assert all("by another key" in str(error) for error in errors)
    assert len(joined(parts, SITE)) == 1


async def test_one_key_fifty_times_at_once_gets_one_certificate(parts):
    made = await invite(parts)
    chains, errors = await outcomes(made.join() for _ in range(50))
    assert (len(set(chains)), errors) == (1, [])
    assert len(joined(parts, SITE)) == 1


async def test_a_caller_that_goes_away_in_the_middle_leaves_no_room_for_another_key(parts):
    made = await invite(parts)
    for steps in range(12):
        task = asyncio.ensure_future(made.join())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    chain = (await made.join()).chain
    with pytest.raises(IdentityRefused, match="by another key"):
        await made.join(create_key())
    assert joined(parts, SITE) == [f"{describe_leaf(chain).serial:x}"]
    assert len(parts.store.load("certificate")) == 1


async def test_a_disk_that_is_full_leaves_the_invite_open(parts):
    made = await invite(parts)
    parts.store.full = True
    with pytest.raises(LocalError, match="disk is full"):
        await made.join()
    parts.store.full = False
    assert await listed(parts) == {made.id: "open"}
    await made.join(create_key())  # nobody has got anything yet
    assert len(joined(parts, SITE)) == 1


async def test_a_site_that_is_removed_while_it_joins_gets_nothing_that_counts(parts):
    made = await invite(parts)
    results = await asyncio.gather(
        made.join(), parts.change(m.REMOVE_SITE, "site-1", reason="left"), return_exceptions=True
    )
    if not isinstance(results[0], BaseException):
        with pytest.raises(IdentityRefused):
            parts.admit(describe_leaf(results[0].chain))
    await parts.change(m.ADD_SITE, "site-1", org="org-a")
    for record in parts.around.book.of(SITE.uri):
        assert parts.registry.revocations.find(SITE.uri, record.serial, record.issued_at) is not None


# ---- approval -------------------------------------------------------------------------------------


async def pending(stream) -> str:
    async with asyncio.timeout(PATIENCE):
        reply = await anext(stream)
    assert reply.WhichOneof("body") == "pending"
    return reply.pending.fingerprint


async def test_a_key_waits_until_an_admin_has_compared_it(parts):
    made = await invite(parts, approval=True)
    stream = made.stream()
    mark = await pending(stream)
    assert mark == made.mark()
    assert await listed(parts) == {made.id: "waiting"}
    assert joined(parts, SITE) == []
    waiting = asyncio.ensure_future(anext(stream))
    with pytest.raises(Refused, match="has another fingerprint") as caught:
        await decide(parts, "site-1", approve=True, fingerprint="SHA256:00")
    assert f"flprov invite revoke {made.id}" in str(caught.value.hint)
    with pytest.raises(Refused, match="has another fingerprint"):
        await decide(parts, "site-1", approve=True)
    assert not waiting.done()
    await decide(parts, "site-1", approve=True, fingerprint=mark.lower().replace(":", " "))
    async with asyncio.timeout(PATIENCE):
        reply = await waiting
    assert certificate_identity(reply.issued.chain) == SITE
    assert [row.who for row in parts.store.told("invite.approve")] == [ADA.uri]


async def test_the_first_key_that_waits_is_the_only_one(parts):
    made = await invite(parts, approval=True)
    mark = await pending(made.stream())
    parts.restart()
    with pytest.raises(IdentityRefused, match=f"is held on .* by another key, fingerprint {mark}"):
        await made.join(create_key())
    assert await pending(made.stream()) == mark
    assert len(parts.store.told("invite.use")) == 1


async def test_what_was_approved_while_the_site_was_away_is_there_when_it_comes_back(parts):
    made = await invite(parts, approval=True)
    mark = await pending(made.stream())
    parts.restart()
    await decide(parts, made.id[:6], approve=True, fingerprint=mark)
    assert await listed(parts) == {made.id: "approved"}
    parts.restart()
    assert certificate_identity((await made.join()).chain) == SITE


async def test_whoever_waits_hears_that_the_invite_was_taken_back(parts):
    made = await invite(parts, approval=True)
    stream = made.stream()
    await pending(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await decide(parts, made.id, approve=False, reason="a stranger")
    with pytest.raises(IdentityRefused, match="a stranger"):
        await waiting


async def test_whoever_waits_hears_that_the_time_is_over(parts):
    made = await invite(parts, approval=True, lifetime_seconds=600.0)
    stream = made.stream()
    await pending(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await parts.clock.elapse(601)
    with pytest.raises(IdentityRefused, match="expired on"):
        await waiting


async def test_whoever_waits_is_told_when_the_site_was_removed_meanwhile(parts):
    made = await invite(parts, approval=True)
    stream = made.stream()
    mark = await pending(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await parts.change(m.REMOVE_SITE, "site-1", reason="left")
    await decide(parts, made.id, approve=True, fingerprint=mark)
    with pytest.raises(IdentityRefused, match="was removed"):
        await waiting


async def test_there_is_nothing_to_approve_before_a_key_has_come_or_after_the_end(parts):
    made = await invite(parts)
    with pytest.raises(Conflict, match="nobody has come"):
        await decide(parts, "site-1", approve=True, fingerprint="x")
    await decide(parts, "site-1", approve=False)
    with pytest.raises(Conflict, match="is revoked"):
        await decide(parts, made.id, approve=True, fingerprint="x")
    late = await invite(parts)
    parts.clock.advance(DAY + 1)
    with pytest.raises(Conflict, match="is expired"):
        await decide(parts, late.id, approve=True, fingerprint="x")


async def test_an_invite_that_was_used_cannot_be_taken_back(parts):
    made = await invite(parts)
    await made.join()
    with pytest.raises(Conflict, match=r"was used on .*: it is too late") as caught:
        await decide(parts, "site-1", approve=False)
    assert "flprov cert revoke site-1" in str(caught.value.hint)


async def test_an_invite_is_found_by_site_id_or_prefix(parts):
    one, two = await invite(parts, "site-1"), await invite(parts, "site-2")
    await one.join()
    newer = await invite(parts, "site-1")
    assert (await decide(parts, "site-1")).id == newer.id
    assert (await decide(parts, two.id[:10])).id == two.id
    for text in ("", "nobody", "zz"):
        with pytest.raises(NotFound):
            await decide(parts, text)


# ---- through files --------------------------------------------------------------------------------


async def test_an_admin_hands_in_what_came_as_a_file(parts):
    made = await invite(parts)
    issued = await made.relay()
    verify_key_matches(issued.chain, made.key)
    assert (await made.join()).chain == issued.chain  # over the network the same key gets the same
    assert len(joined(parts, SITE)) == 1
    [row] = parts.store.told("site.join")
    assert row.data["by"] == ADA.uri


async def test_handing_in_is_the_approval(parts):
    made = await invite(parts, approval=True)
    await made.relay()
    [record] = book_of(parts)
    assert record.approved_by == ADA.uri


async def test_a_request_that_the_invite_did_not_sign_is_refused(parts):
    made = await invite(parts)
    other = create_request(create_key())
    with pytest.raises(IdentityRefused, match="the signature is not by"):
        await made.relay(request=other)
    with pytest.raises(IdentityRefused, match="the signature is not by"):
        await made.relay(signature=sign(create_key(), create_request(made.key)))
    kit = parts.load_kit("site-2")
    request = create_request(made.key)
    with pytest.raises(IdentityRefused, match="where an invite is expected"):
        await made.relay(request=request, signature=sign(kit.private_pem, request), chain=kit.chain_pem)
    with pytest.raises(IdentityRefused):
        await made.relay(chain=b"x")
    assert await listed(parts) == {made.id: "open"}


async def test_files_and_network_together_give_one_certificate(parts):
    made = await invite(parts)
    other = create_key()
    chains, errors = await outcomes([made.relay(), made.join(other), made.relay(), made.join(other)])
    assert len(set(chains)) == 1
    assert len(errors) == 2
    assert len(joined(parts, SITE)) == 1


async def test_a_revoked_or_expired_invite_does_nothing_through_files_either(parts):
    revoked, expired = await invite(parts, "site-1"), await invite(parts, "site-2")
    await decide(parts, revoked.id, approve=False)
    with pytest.raises(IdentityRefused, match="taken back"):
        await revoked.relay()
    parts.clock.advance(DAY + 1)
    with pytest.raises(IdentityRefused, match="expired"):
        await expired.relay()
    assert parse_identity(expired.identity.uri).kind is Kind.INVITE
