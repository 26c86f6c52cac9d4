# SPDX-License-Identifier: Apache-2.0
"""Trust bundles at the server: who may publish what, what it does to whom, and what survives."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from identity_parts import MADE, Parts, make_kits
from server_parties import PROJECT, person, site

from flprov.errors import Conflict, IdentityRefused, LocalError, Misuse, StateDamaged
from flprov.kits import (
    activate_rotation,
    finish_rotation,
    load_kit,
    prepare_rotation,
    provision,
    read_publication,
)
from flprov.pki import Kind, describe_leaf
from flprov.rpc import Call
from flprov.rpc import methods as m
from flprov.wire import pb
from flprov.wire.documents import TrustStatusDocument

LATER = MADE + timedelta(hours=1)
WITHOUT_LEO = replace(PROJECT, people=tuple(one for one in PROJECT.people if one.name != "leo"))


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory) -> Path:
    return make_kits(tmp_path_factory.mktemp("trust")).parent


@pytest.fixture
def workspace(provisioned, tmp_path) -> Path:
    return shutil.copytree(provisioned, tmp_path / "ws")


@pytest.fixture
def parts(workspace, tmp_path) -> Parts:
    """A server with the kit of the first day; what is provisioned later does not reach its folder."""
    kits = shutil.copytree(workspace / "kits", tmp_path / "delivered")
    folder = tmp_path / "state"
    folder.mkdir()
    return Parts(kits, folder)


def request(workspace: Path, **changes) -> pb.PublishTrust:
    found = read_publication(PROJECT, workspace)
    signed = found.signed
    fields = {
        "trust": pb.TrustBundle(document=signed.document, signature=signed.signature, signer=signed.signer),
        "keys": [pb.IssuingKey(certificate=ca.certificate_pem, private=ca.private_pem) for ca in found.keys],
    }
    return pb.PublishTrust(**(fields | changes))


async def publish(parts: Parts, workspace: Path, **changes) -> TrustStatusDocument:
    fields = {name.name: value for name, value in request(workspace, **changes).ListFields()}
    return await parts.call(m.PUBLISH_TRUST, TrustStatusDocument, **fields)


async def show(parts: Parts) -> TrustStatusDocument:
    return await parts.call(m.SHOW_TRUST, TrustStatusDocument, by="obi")


def rows(parts: Parts, what: str):
    return [row for row in parts.store.rows() if row.row.what == what]


async def test_a_newer_bundle_is_in_force_logged_once_and_found_again_after_a_crash(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER, root=True)
    shown = []
    parts.around.show = lambda chain, key, anchors: shown.append(anchors)
    found = await publish(parts, workspace)
    assert (found.version, found.phase) == (2, "prepared")
    assert len(shown[0].members) == 4  # sites and people, old and new: for the next call of everybody
    assert (await publish(parts, workspace)).version == 2
    assert [row.row.object for row in rows(parts, "trust.publish")] == ["2"]
    parts.restart()
    assert parts.around.trust.current.version == 2
    assert parts.around.issuer.has(parts.around.trust.current.anchors["sites"].members[1].key_id.hex())


async def test_a_bundle_that_the_log_has_is_in_force_although_its_caller_hung_up(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    commit, reached, goes_on = parts.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(*args, **kwargs):
        index = await commit(*args, **kwargs)  # it goes on although nobody waits for it
        reached.set()
        await goes_on.wait()
        return index

    parts.store.commit = slow
    publishing = asyncio.ensure_future(publish(parts, workspace))
    await reached.wait()
    publishing.cancel()
    goes_on.set()
    await asyncio.wait([publishing])
    await asyncio.sleep(0)
    assert [row.row.object for row in rows(parts, "trust.publish")] == ["2"]
    assert parts.around.trust.current.version == 2


async def test_a_bundle_that_is_older_forged_or_without_its_keys_changes_nothing(parts, workspace):
    first = request(workspace)
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    with pytest.raises(IdentityRefused, match="older than the one that is held here"):
        await publish(parts, workspace, trust=first.trust)
    activate_rotation(PROJECT, workspace, now=LATER)
    good = request(workspace)
    forged = pb.TrustBundle(
        document=good.trust.document.replace(b"activated", b"activates"),
        signature=good.trust.signature,
        signer=good.trust.signer,
    )
    with pytest.raises(IdentityRefused, match="the signature is not by"):
        await publish(parts, workspace, trust=forged)
    assert (await show(parts)).version == 2


async def test_a_bundle_under_which_the_server_could_issue_nothing_is_not_taken(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    activate_rotation(PROJECT, workspace, now=LATER)
    with pytest.raises(Conflict, match="does not have the key of the servers CA"):
        await publish(parts, workspace, keys=[])
    assert (await show(parts)).version == 1
    assert (await publish(parts, workspace)).version == 3


async def test_keys_of_another_ca_and_of_the_people_ca_are_not_taken(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    people = pb.IssuingKey(
        certificate=(workspace / "ca/people.pem").read_bytes(),
        private=(workspace / "ca/people.key.pem").read_bytes(),
    )
    with pytest.raises(IdentityRefused, match="does not name for the server"):
        await publish(parts, workspace, keys=[people])
    crossed = pb.IssuingKey(
        certificate=(workspace / "ca/next/sites.pem").read_bytes(),
        private=(workspace / "ca/sites.key.pem").read_bytes(),
    )
    with pytest.raises(IdentityRefused, match="not the key of"):
        await publish(parts, workspace, keys=[crossed])
    assert (await show(parts)).version == 1


async def test_whoever_publishes_cannot_lock_himself_or_the_server_out(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    activate_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    finish_rotation(PROJECT, workspace, now=LATER)
    with pytest.raises(Conflict, match="the server still shows a certificate of a servers CA"):
        await publish(parts, workspace)
    call = Call(caller=person("ada"), method=m.PUBLISH_TRUST, peer="test", leaf=parts.leaf("ada"))
    with pytest.raises(Conflict, match="your own certificate would count no more"):
        await parts.identities.trust.publish(call, request(workspace))
    assert (await show(parts)).version == 3


async def test_a_disk_that_takes_no_row_takes_no_bundle(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    parts.store.full = parts.store.no_reserve = True
    with pytest.raises(LocalError):
        await publish(parts, workspace)
    parts.store.full = False
    (parts.folder / "trust.json").mkdir()  # nothing can be renamed to there
    with pytest.raises(LocalError, match="the trust bundle cannot be kept"):
        await publish(parts, workspace)
    assert (await show(parts)).version == 1


async def test_a_publication_that_comes_too_late_is_not_carried_out(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    with pytest.raises(Misuse, match="after its not_after"):
        await publish(parts, workspace, not_after=parts.soon(-1))


async def test_a_bundle_goes_to_every_site_and_who_holds_it_is_remembered(parts, workspace):
    session = await parts.connects("site-1")
    first = await session.outgoing()
    assert first.trust.document  # the bundle of the kit, which the site does not have
    parts.identities.trust.note_held(session, 1)
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    assert b'"version":2' in (await session.outgoing()).trust.document
    parts.identities.trust.note_held(session, 2)
    await parts.identities.trust.close()
    held = {one.name: one.version for one in (await show(parts)).holders}
    assert (held["site-1"], held["site-2"]) == (2, 0)
    parts.restart()
    held = {one.name: one.version for one in (await show(parts)).holders}
    assert (held["site-1"], held["site-2"]) == (2, 0)


async def test_a_site_that_boasts_of_a_bundle_to_come_gets_no_more_than_the_newest(parts):
    session = await parts.connects("site-1")
    parts.identities.trust.note_held(session, 99)
    await parts.identities.trust.close()
    assert {one.version for one in (await show(parts)).holders if one.name == "site-1"} == {1}


async def test_activated_a_site_is_asked_to_renew_once_it_holds_the_bundle(parts, workspace):
    session = await parts.connects("site-1")
    parts.identities.trust.note_held(session, 1)
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    parts.identities.trust.note_held(session, 2)
    activate_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    kinds = [(await session.outgoing()).WhichOneof("body") for _ in range(session.waiting)]
    assert kinds == ["trust", "trust", "trust"]
    parts.identities.trust.note_held(session, 3)
    assert "another CA" in (await session.outgoing()).renew.reason
    await parts.renew(site("site-1"))
    parts.identities.trust.note_held(session, 3)
    assert session.waiting == 0


async def test_whoever_is_on_the_list_is_ended_and_refused_and_others_are_not(parts, workspace):
    await parts.comes("leo", "lea")
    provision(WITHOUT_LEO, workspace, now=LATER)
    await publish(parts, workspace)
    assert [uri for uri, _ in parts.dropped.calls] == [person("leo").uri]
    for _ in range(2):
        with pytest.raises(IdentityRefused, match="person leo was revoked by whoever provisions"):
            parts.admit(parts.leaf("leo"))
        parts.admit(parts.leaf("lea"))
        parts.restart()
    found = {one.name: one.barred for one in (await show(parts)).holders}
    assert (found["leo"], found["lea"]) == ("refused", "")


async def test_people_get_the_bundle_only_if_theirs_is_older(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    handler = parts.identities.table()[m.FETCH_TRUST]
    call = Call(caller=person("leo"), method=m.FETCH_TRUST, peer="test")
    for said, full in (("", True), ("1", True), ("2", False), ("99", False), ("x", True), ("-1", True)):
        assert bool((await handler(call, pb.Query(id=said))).document) is full


async def test_whom_the_network_has_thrown_out_is_told_to_the_provisioner(parts):
    await parts.comes("leo", "site-2")
    await parts.revoke("leo", reason="key-compromise")
    await parts.revoke("site-2", reason="key-compromise")
    found = (await show(parts)).withdrawn
    assert {one.identity for one in found} == {person("leo").uri}
    assert {one.reason for one in found} == {"keyCompromise"}


async def test_a_file_of_trust_that_was_damaged_stops_the_server_by_name(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    (parts.folder / "trust.json").write_text("{}")
    with pytest.raises(StateDamaged, match="it is not a trust"):
        parts.restart()
    (parts.folder / "trust.json").write_bytes(b'{"document":"{\\"version\\":7}","signature":"","signer":""}')
    with pytest.raises(StateDamaged, match=r"trust\.json cannot be used"):
        parts.restart()


async def test_a_newer_kit_counts_more_than_an_older_bundle(parts, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    await publish(parts, workspace)
    activate_rotation(PROJECT, workspace, now=LATER)
    provision(PROJECT, workspace, now=LATER)
    parts.kit = load_kit(workspace / "kits/server", now=LATER)
    parts.restart()
    assert parts.around.trust.current.version == 3
    made = parts.issue(site("site-1"))
    assert describe_leaf(made.chain_pem).issuer_key_id == parts.around.trust.current.active(Kind.SITE)
