# SPDX-License-Identifier: Apache-2.0
"""Revocation lists: numbered, signed by the server's CAs, and read by openssl."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace

import pytest
from identity_parts import Parts, make_kits
from server_parties import site

from flprov.errors import LocalError
from flprov.pki import Kind, Reason, Revoked, create_crl, load_authority, read_crl
from flprov.rpc import methods as m
from flprov.wire import documents as doc


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("crls"))


@pytest.fixture
def parts(kits, tmp_path) -> Parts:
    return Parts(kits, tmp_path)


async def export(parts: Parts) -> dict[str, doc.CRLDocument]:
    found = await parts.call(m.EXPORT_CRLS, doc.CRLListDocument, by="obi")
    return {entry.name: entry for entry in found.lists}


async def test_revoked_site_is_on_the_list_of_its_ca_with_its_reason(parts):
    await parts.comes("site-2", "leo")
    await parts.revoke("site-2", reason="key-compromise")
    await parts.revoke("leo")
    lists = await export(parts)
    found = read_crl(lists["sites"].pem.encode(), parts.kit.anchors["sites"])
    leaf = parts.leaf("site-2")
    assert found.kind is Kind.SITE
    assert {serial: entry.reason for serial, entry in found.revoked.items()} == {
        leaf.serial: Reason.KEY_COMPROMISE
    }
    assert (found.next_update - found.this_update).days == 7
    assert {name: entry.revoked for name, entry in lists.items()} == {"servers": 0, "sites": 1, "people": 0}
    assert lists["people"].pem == ""  # the provisioner has signed none


async def test_number_grows_with_each_list_also_over_a_restart_and_at_once(parts):
    commit, numbers = parts.store.commit, []

    async def as_a_disk(*args, **kwargs):
        await asyncio.sleep(0)
        return await commit(*args, **kwargs)

    parts.store.commit = as_a_disk
    for _ in range(2):
        several = await asyncio.gather(*(export(parts) for _ in range(5)))
        pems = [lists["sites"].pem.encode() for lists in several]
        numbers += sorted(read_crl(pem, parts.kit.anchors["sites"]).number for pem in pems)
        parts.restart()
    assert numbers == list(range(1, 11))


async def test_list_whose_number_cannot_be_written_is_not_signed(parts):
    parts.store.full = True
    with pytest.raises(LocalError):
        await export(parts)


async def test_certificate_that_ended_long_ago_leaves_the_list(parts):
    await parts.renew(site("site-2"), days=1)
    await parts.revoke("site-2")
    assert (await export(parts))["sites"].revoked == 1
    parts.clock.advance(9 * 86400)
    assert (await export(parts))["sites"].revoked == 0


async def test_openssl_refuses_the_revoked_certificate_and_takes_the_other(parts, tmp_path):
    await parts.comes("site-1", "site-2")
    await parts.revoke("site-2")
    lists = await export(parts)
    anchors, leaf = tmp_path / "ca.pem", tmp_path / "leaf.pem"
    kit = parts.load_kit("site-1")
    issuer = kit.chain_pem.partition(b"-----END CERTIFICATE-----\n")[2]
    root = (parts.kits / "server" / "anchors" / "root.pem").read_bytes()
    anchors.write_bytes(issuer + root)
    (tmp_path / "crl.pem").write_text(lists["sites"].pem)
    at = str(int(parts.clock.now().timestamp()))
    words = ["openssl", "verify", "-attime", at, "-crl_check", "-CRLfile", str(tmp_path / "crl.pem")]
    for name, code, said in (("site-1", 0, "OK"), ("site-2", 2, "certificate revoked")):
        leaf.write_bytes(parts.load_kit(name).chain_pem)
        done = subprocess.run([*words, "-CAfile", str(anchors), str(leaf)], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert said in done.stdout + done.stderr


async def test_person_on_the_provisioners_list_is_shown_as_revoked_and_the_list_is_handed_on(parts):
    await parts.comes("leo", "mia")
    ca = parts.kits.parent / "ca"
    people = load_authority((ca / "people.pem").read_bytes(), (ca / "people.key.pem").read_bytes())
    entry = Revoked(serial=parts.leaf("leo").serial, at=parts.clock.now())
    crl = create_crl(people, [entry], number=3, now=parts.clock.now(), days=30)
    trust = parts.around.trust.current
    parts.around.trust.current = replace(trust, says=replace(trust.says, people_crl=crl.decode()))
    found = (await export(parts))["people"]
    assert (found.pem, found.revoked) == (crl.decode(), 1)
    lines = await parts.certificates()
    assert lines["person leo"].state == "revoked"
    assert "people CRL" in lines["person leo"].reason
    assert lines["person mia"].state == "valid"
