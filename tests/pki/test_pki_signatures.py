# SPDX-License-Identifier: Apache-2.0
"""Documents signed by people and provisioners: by whom, over what, and nothing else."""

import subprocess
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from villains import NOW, PERSON, SITE, forge

from flprov.errors import IdentityRefused, Misuse
from flprov.pki import (
    Kind,
    create_key,
    create_signer,
    issue_identity,
    load_anchors,
    public_key_pem,
    sign,
    verify_key_matches,
    verify_signature,
    verify_signed,
)

PAYLOAD = b'{"app":"heart","sites":["hospital-a"]}'


@pytest.fixture(scope="module")
def ada(world):
    return issue_identity(world.people, PERSON, days=90, now=NOW)


def test_a_signature_names_its_signer(world, ada):
    signature = sign(ada.private_pem, PAYLOAD)
    people = world.people.anchors
    assert verify_signed(PAYLOAD, signature, ada.chain_pem, people, now=NOW, kinds={Kind.PERSON}) == PERSON
    assert verify_signed(PAYLOAD, signature, ada.certificate_pem, people, now=NOW) == PERSON


@pytest.mark.parametrize("payload", [PAYLOAD + b" ", PAYLOAD[:-1], b"", PAYLOAD.replace(b"-a", b"-b")])
def test_another_document_is_refused(world, ada, payload):
    signature = sign(ada.private_pem, PAYLOAD)
    with pytest.raises(IdentityRefused, match=f"the signature is not by {PERSON} over this document"):
        verify_signed(payload, signature, ada.chain_pem, world.people.anchors, now=NOW)
    with pytest.raises(IdentityRefused, match="over this document"):
        verify_signature(payload, signature, ada.certificate_pem)


def test_changed_signatures_are_refused(ada):
    good = sign(ada.private_pem, PAYLOAD)
    bad = [b"", b"\x00" * 70, good + b"\x00", good[:-1], b"\x30\x06\x02\x01\x00\x02\x01\x00", good * 1000]
    bad += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    for signature in bad:
        with pytest.raises(IdentityRefused):
            verify_signature(PAYLOAD, signature, ada.certificate_pem)


def test_somebody_elses_certificate_is_refused(world, ada):
    other = issue_identity(world.people, PERSON, days=90, now=NOW)
    with pytest.raises(IdentityRefused, match="the signature is not by"):
        verify_signed(PAYLOAD, sign(ada.private_pem, PAYLOAD), other.chain_pem, world.people.anchors, now=NOW)


def test_a_site_cannot_sign_as_a_person(world):
    site = issue_identity(world.sites, SITE, days=90, now=NOW)
    signature = sign(site.private_pem, PAYLOAD)
    with pytest.raises(IdentityRefused, match="which is not the people CA"):
        verify_signed(PAYLOAD, signature, site.chain_pem, world.people.anchors, now=NOW)
    with pytest.raises(IdentityRefused, match="is a site's, where a person is expected"):
        verify_signed(PAYLOAD, signature, site.chain_pem, world.clients, now=NOW, kinds={Kind.PERSON})


def test_a_signer_whose_certificate_expired_is_refused(world, ada):
    signature, later = sign(ada.private_pem, PAYLOAD), NOW + timedelta(days=91)
    with pytest.raises(IdentityRefused, match=f"the certificate of {PERSON} expired on 2026-05-01") as caught:
        verify_signed(PAYLOAD, signature, ada.chain_pem, world.people.anchors, now=later)
    assert "flprov provision" in caught.value.hint


def test_a_manifest_is_verified_against_the_provisioner(world):
    signer = create_signer(world.root, project="heart", days=90, now=NOW)
    verify_signature(PAYLOAD, sign(signer.private_pem, PAYLOAD), signer.certificate_pem)
    with pytest.raises(IdentityRefused, match="the signature is not by serial"):
        verify_signature(PAYLOAD, sign(create_key(), PAYLOAD), signer.certificate_pem)


def test_openssl_verifies_our_signatures(ada, tmp_path):
    (tmp_path / "public.pem").write_bytes(public_key_pem(ada.private_pem))
    (tmp_path / "document").write_bytes(PAYLOAD)
    (tmp_path / "signature").write_bytes(sign(ada.private_pem, PAYLOAD))
    command = ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "document"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "Verified OK")


def test_an_rsa_key_signs_no_documents(world):
    key = rsa.generate_private_key(65537, 3072)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(Misuse, match="ECDSA key"):
        sign(pem, PAYLOAD)
    with pytest.raises(IdentityRefused, match="has no ECDSA key"):
        verify_signature(PAYLOAD, b"x", forge(world.sites, key=key))


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_junk_signs_nothing(junk):
    with pytest.raises(IdentityRefused, match="the private key cannot be read"):
        sign(junk, PAYLOAD)


def test_a_key_and_a_certificate_that_differ_are_told_apart(world, ada):
    verify_key_matches(ada.chain_pem, ada.private_pem)
    with pytest.raises(IdentityRefused, match=f"not the key of the certificate of {PERSON}"):
        verify_key_matches(ada.certificate_pem, create_key())
    with pytest.raises(IdentityRefused, match="not the key of the certificate"):
        verify_key_matches(ada.certificate_pem, world.people.private_pem())
    strong = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(IdentityRefused, match="not the key of the certificate"):
        verify_key_matches(ada.certificate_pem, strong)


def test_anchors_survive_the_round_trip_through_pem(world):
    anchors = world.clients
    assert load_anchors(anchors.pem) == anchors
    assert hash(load_anchors(anchors.pem)) == hash(anchors)
    assert load_anchors(anchors.pem * 3) == anchors
    assert anchors.kinds == {Kind.SITE, Kind.INVITE, Kind.PERSON}
