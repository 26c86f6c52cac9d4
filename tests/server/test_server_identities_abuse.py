# SPDX-License-Identifier: Apache-2.0
"""Rights that somebody has, used for what they are not meant for: by a thief, an admin elsewhere, a site."""

from __future__ import annotations

import pytest
from identity_parts import Parts, make_kits
from invite_parties import decide, invite, joined, listed
from server_parties import ADA, DOMAIN, site
from server_world import hello

from flprov.errors import Conflict, FlprovError, IdentityRefused, Misuse, PermissionRefused
from flprov.pki import Identity, Kind, create_key, create_request
from flprov.rpc import Call
from flprov.rpc import methods as m
from flprov.server.sessions import Session
from flprov.wire import documents as doc
from flprov.wire import pb


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("abuse"))


@pytest.fixture
async def parts(kits, tmp_path):
    made = Parts(kits, tmp_path)
    yield made
    await made.identities.close()
    await made.identities.trust.close()


# ---- invites of somebody who was thrown out ------------------------------------------------------


async def test_invites_that_a_thief_made_with_a_stolen_kit_end_with_it(parts):
    stolen = await invite(parts, "site-2", by="olga")
    await parts.revoke("olga", reason="key-compromise")
    for _ in range(2):
        with pytest.raises(
            IdentityRefused, match=r"was made by olga, whose certificate was revoked"
        ) as caught:
            await stolen.join()
        assert "flprov invite create site-2" in (caught.value.hint or "")
        parts.restart()
    assert await parts.change(m.LOCK_SITE, "site-2", by="ada")  # the others go on
    assert parts.around.book.of(site("site-2").uri) == ()


async def test_invites_end_also_when_the_stolen_certificate_is_revoked_by_its_number_alone(parts):
    await parts.comes("olga")
    leaf = parts.leaf("olga")
    stolen = await invite(parts, "site-2", by="olga", leaf=leaf)
    await parts.revoke(f"{leaf.serial:x}", reason="key-compromise")
    with pytest.raises(IdentityRefused, match="was made by olga, whose certificate was revoked"):
        await stolen.join()


async def test_what_a_thief_has_approved_does_not_count(parts):
    waiting = await invite(parts, "site-2", by="ada", approval=True)
    assert (await anext(waiting.stream())).WhichOneof("body") == "pending"
    await decide(parts, waiting.id, by="olga", approve=True, fingerprint=waiting.mark())
    await parts.revoke("olga", reason="key-compromise")
    with pytest.raises(IdentityRefused, match="was approved by olga, whose certificate was revoked"):
        await waiting.join()


async def test_invites_of_others_and_what_was_used_before_stay(parts):
    used = await invite(parts, "site-2", by="olga")
    issued = await used.join()
    mine = await invite(parts, "site-1", by="ada")
    await parts.revoke("olga", reason="key-compromise")
    assert (await used.join()).chain == issued.chain
    await mine.join()


@pytest.mark.parametrize("how", ["cert revoke", "site rm"])
async def test_a_join_that_was_let_in_before_the_revocation_gets_nothing_after_it(parts, how):
    """It may stand in line behind others, and who stands there is not ended by ending the call."""
    stolen = await invite(parts, "site-2")
    begun = stolen.stream()  # past the gate
    if how == "cert revoke":
        await parts.revoke("site-2", reason="key-compromise")
    else:
        await parts.change(m.REMOVE_SITE, "site-2")
        await added(parts, "site-2", "org-b")
    with pytest.raises(IdentityRefused, match="revoked"):
        await anext(begun)
    assert joined(parts, site("site-2")) == []


# ---- an org_admin beyond the own organisation ----------------------------------------------------


async def added(parts: Parts, name: str, org: str, *, by: str = "ada") -> doc.PartyChangeDocument:
    return await parts.change(m.ADD_SITE, name, org=org, by=by)


@pytest.mark.parametrize("way", ["add", "invite"])
async def test_name_of_a_removed_site_does_not_pass_to_another_organisation(parts, way):
    """Whoever had it would read the results of every job in which the removed site took part."""
    await added(parts, "site-9", "org-a")
    await parts.change(m.REMOVE_SITE, "site-9")
    take = {"add": lambda: added(parts, "site-9", "org-b", by="olga")}
    take["invite"] = lambda: invite(parts, "site-9", by="olga", org="org-b")
    with pytest.raises(Conflict, match="site-9 belonged to org-a"):
        await take[way]()
    assert "site-9" not in parts.registry.sites
    assert parts.registry.enrolment("site-9").org == "org-a"
    await added(parts, "site-9", "org-a")


async def test_an_org_admin_cannot_get_ahead_of_a_project_admins_lock(parts):
    await parts.change(m.LOCK_SITE, "site-2", by="olga", reason="maintenance")
    done = await parts.change(m.LOCK_SITE, "site-2", reason="poisons the model")
    assert done.changed
    with pytest.raises(PermissionRefused, match="poisons the model"):
        await parts.change(m.UNLOCK_SITE, "site-2", by="olga")
    await parts.change(m.UNLOCK_SITE, "site-2")


async def test_a_site_named_like_a_serial_number_or_an_invite_hides_neither(parts):
    await parts.comes("leo")
    serial = f"{parts.leaf('leo').serial:x}"
    await added(parts, serial, "org-b", by="olga")
    assert (await parts.revoke(serial, reason="key-compromise")).serials == (serial,)
    with pytest.raises(IdentityRefused, match="revoked"):
        parts.admit(parts.leaf("leo"))
    real = await invite(parts, "site-1")
    decoy = await invite(parts, real.id, by="olga", org="org-b")
    await decide(parts, real.id)
    assert await listed(parts) == {real.id: "revoked", decoy.id: "open"}


# ---- keys of commands ----------------------------------------------------------------------------


async def test_a_commands_key_counts_for_that_command_alone(parts):
    first = {"key": "k1", "by": "ada"}
    await parts.change(m.LOCK_SITE, "site-1", **first)
    assert not (await parts.change(m.LOCK_SITE, "site-1", **first)).changed
    with pytest.raises(Misuse, match="key of this command was used for another"):
        await parts.change(m.LOCK_SITE, "site-2", **first)
    with pytest.raises(Misuse, match="key of this command was used for another"):
        await parts.change(m.UNLOCK_SITE, "site-1", **first)
    parts.restart()
    with pytest.raises(Misuse, match="key of this command was used for another"):
        await parts.revoke("site-2", key="k1")
    parts.admit(parts.leaf("site-2"))


async def test_an_invites_key_counts_for_that_site_alone_and_has_an_end(parts):
    await invite(parts, "site-1", key="k1")
    with pytest.raises(Misuse, match="key of this command was used for another"):
        await invite(parts, "site-2", key="k1")
    with pytest.raises(Misuse, match="at most 64"):
        await invite(parts, "site-2", key="k" * 65)
    assert len(await listed(parts)) == 1


# ---- numbers and floods --------------------------------------------------------------------------


async def test_a_version_of_a_million_digits_is_no_internal_error(parts):
    call = Call(caller=ADA, method=m.FETCH_TRUST, peer="test")
    found = await parts.identities.trust.fetch(call, pb.Query(id="9" * 1_000_000))
    assert found.document == parts.around.trust.current.signed.document  # no version that anybody holds


async def test_two_certificates_in_the_place_of_one_are_refused(parts):
    trust = parts.around.trust.current
    pair = "".join(trust.says.servers + trust.says.sites).encode()
    signed = trust.signed
    request = pb.PublishTrust(
        trust=pb.TrustBundle(document=signed.document, signature=signed.signature, signer=signed.signer),
        keys=[pb.IssuingKey(certificate=pair, private=b"")],
    )
    with pytest.raises(FlprovError, match="a CA came along"):
        await parts.identities.trust.publish(Call(caller=ADA, method=m.PUBLISH_TRUST, peer="test"), request)


async def test_a_site_that_says_now_this_and_now_that_costs_one_record(parts):
    session = Session(site("site-1"), hello("site-1"), since=parts.clock.now())
    before = len(parts.store.load("trust-held"))
    written = []
    commit = parts.store.commit

    async def count(changes, row, *, urgent=False):
        written.append(changes)
        return await commit(changes, row, urgent=urgent)

    parts.store.commit = count
    for turn in range(200):
        parts.identities.trust.note_held(session, turn % 2)
    await parts.identities.trust.close()
    assert len(written) <= 1
    assert len(parts.store.load("trust-held")) == before + 1


async def test_asking_a_site_to_renew_again_and_again_leaves_it_room_to_renew_by_itself(parts):
    for _ in range(8):
        await parts.renew(site("site-2"))
    with pytest.raises(Conflict, match="8 certificates that are still valid"):
        await parts.call(m.RENEW_CERTIFICATE, doc.RenewalDocument, name="site-2", by="olga")
    call = Call(caller=site("site-2"), method=m.RENEW, peer="test")
    request = pb.RenewRequest(request=create_request(create_key()))
    assert (await parts.identities.renewals.renew(call, request)).chain


async def test_invites_made_by_the_hundred_do_not_pile_up(parts):
    """Or the list of all of them would be more than one message holds, and nobody could read it."""
    used = await invite(parts, "site-2", by="olga")
    await used.join()
    for _ in range(30):
        parts.clock.advance(1.0)
        await invite(parts, "site-2", by="olga")
    assert len(await listed(parts)) <= 22
    assert len(parts.store.load("invite")) <= 22
    with pytest.raises(IdentityRefused, match="knows no invite"):
        await used.join(create_key())


def test_identity_of_a_site_may_look_like_a_number():
    """What the decoys above rest on."""
    assert Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="org-b", name="ab" * 8).name == "ab" * 8
