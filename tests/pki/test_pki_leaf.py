# SPDX-License-Identifier: Apache-2.0
"""What a certificate's description says, and documents that a provisioner signed."""

import subprocess
from datetime import timedelta

import pytest
from villains import NOW, SERVER, SITE, forge, uris

from flprov.errors import IdentityRefused
from flprov.pki import (
    authority_key_id,
    create_signer,
    describe_leaf,
    fingerprint,
    issue_identity,
    issued_at,
    join_anchors,
    not_after,
    not_before,
    serial_number,
    sign,
    verify_provisioned,
)


def test_a_leaf_is_described_as_its_parts_are(world):
    made = issue_identity(world.sites, SITE, days=90, now=NOW)
    leaf = describe_leaf(made.chain_pem)
    assert leaf.identity == SITE
    assert f"{leaf.serial:x}" == serial_number(made.certificate_pem)
    assert leaf.issued_at == issued_at(made.certificate_pem) == NOW
    assert leaf.not_before == not_before(made.certificate_pem) == NOW - timedelta(minutes=5)
    assert leaf.not_after == not_after(made.certificate_pem) == NOW + timedelta(days=90)
    assert leaf.fingerprint == fingerprint(made.certificate_pem)
    assert leaf.issuer_key_id == authority_key_id(world.sites.certificate_pem)
    assert leaf.issuer_key_id != authority_key_id(world.people.certificate_pem)


def test_issued_at_is_the_second_in_which_it_was_made(world):
    now = NOW + timedelta(seconds=7, microseconds=999_999)
    made = issue_identity(world.servers, SERVER, names=["localhost"], days=1, now=now)
    assert issued_at(made.certificate_pem) == NOW + timedelta(seconds=7)


def test_the_authority_key_id_is_the_one_that_openssl_shows(world, tmp_path):
    (tmp_path / "ca.pem").write_bytes(world.sites.certificate_pem)
    command = ["openssl", "x509", "-in", "ca.pem", "-noout", "-ext", "subjectKeyIdentifier"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.split()[-1].replace(":", "").lower() == authority_key_id(world.sites.certificate_pem)


UNDESCRIBED = {
    "nothing": (lambda w: b"", "no PEM certificate"),
    "a CA": (lambda w: w.sites.certificate_pem, "is not server/<name>"),
    "a provisioner": (
        lambda w: create_signer(w.root, project="heart", days=9, now=NOW).certificate_pem,
        "is not server/<name>",
    ),
    "two identities": (lambda w: forge(w.sites, names=uris(SITE.uri, SITE.uri)), "2 SPIFFE URIs"),
    "no issuer": (lambda w: forge(w.sites, no_identifier=True), "no authorityKeyIdentifier"),
}


@pytest.mark.parametrize(("make", "words"), UNDESCRIBED.values(), ids=UNDESCRIBED)
def test_what_is_no_leaf_is_not_described(world, make, words):
    with pytest.raises(IdentityRefused, match=words):
        describe_leaf(make(world))


@pytest.fixture
def signer(world):
    return create_signer(world.root, project="heart", days=365, now=NOW)


def test_what_a_provisioner_signed_is_known_by_its_uri(world, signer):
    signature = sign(signer.private_pem, b"a bundle")
    for chain in (signer.certificate_pem, signer.chain_pem):
        uri = verify_provisioned(b"a bundle", signature, chain, world.root.anchors, now=NOW)
        assert uri == "spiffe://heart.example/provisioner/heart"


def test_during_a_rotation_both_roots_vouch_for_their_provisioners(world, other_world, signer):
    roots = join_anchors(world.root.anchors, other_world.root.anchors)
    later = create_signer(other_world.root, project="heart", days=365, now=NOW)
    for made in (signer, later):
        signature = sign(made.private_pem, b"a bundle")
        assert verify_provisioned(b"a bundle", signature, made.chain_pem, roots, now=NOW)


def test_a_changed_document_is_refused(world, signer):
    signature = sign(signer.private_pem, b"a bundle")
    for payload, given in ((b"a bundlE", signature), (b"a bundle", signature[:-1]), (b"a bundle", b"")):
        with pytest.raises(IdentityRefused, match="the signature is not by"):
            verify_provisioned(payload, given, signer.chain_pem, world.root.anchors, now=NOW)


def test_only_a_provisioner_under_the_root_that_is_held_signs(world, other_world, signer):
    def refused(made, words, now=NOW):
        signature = sign(made.private_pem, b"a bundle")
        with pytest.raises(IdentityRefused, match=words):
            verify_provisioned(b"a bundle", signature, made.chain_pem, world.root.anchors, now=now)

    refused(create_signer(other_world.root, project="heart", days=9, now=NOW), "which is not the root CA")
    refused(issue_identity(world.sites, SITE, days=9, now=NOW), "is issued by 'sites CA")
    refused(signer, "expired on", now=NOW + timedelta(days=366))


def test_a_signature_by_another_key_than_the_certificates_is_refused(world, signer):
    other = create_signer(world.root, project="heart", days=9, now=NOW)
    signature = sign(other.private_pem, b"a bundle")
    with pytest.raises(IdentityRefused, match="the signature is not by"):
        verify_provisioned(b"a bundle", signature, signer.chain_pem, world.root.anchors, now=NOW)
