# SPDX-License-Identifier: Apache-2.0
"""Which CAs may be trust anchors; several of a kind during a rotation."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from villains import (
    DOMAIN,
    NOW,
    PERSON,
    SERVE,
    SERVER,
    SITE,
    SITE_URI,
    basic,
    forge,
    resign,
    tlv,
    to_der,
    uris,
    usage,
)

from flprov.errors import IdentityRefused
from flprov.pki import (
    Kind,
    create_issuing,
    issue_identity,
    load_anchors,
    verify_peer,
)

PERSON_URI = str(PERSON)
SERVER_URI = str(SERVER)


NOT_ANCHORS = {
    "a leaf": (lambda w: forge(w.sites), "organizational unit is ''"),
    "nothing": (lambda w: b"", "no PEM certificate"),
    "the root beside": (
        lambda w: w.root.certificate_pem + w.sites.certificate_pem,
        "the root CA beside issuing CAs",
    ),
    "a key beside": (lambda w: w.sites.certificate_pem + w.sites.private_pem(), "bytes beside"),
}


@pytest.mark.parametrize(("make", "words"), NOT_ANCHORS.values(), ids=NOT_ANCHORS)
def test_what_is_no_anchor_is_refused(world, make, words):
    with pytest.raises(IdentityRefused, match=words):
        load_anchors(make(world))


def false_ca(world, **changes):
    """A sites CA that the root signed, with the named things changed."""
    subject = changes.pop("name", world.sites.anchor.certificate.subject)
    options = {
        "constraints": basic(ca=True, path_length=0),
        "key_usage": usage("key_cert_sign", "crl_sign"),
        "names": uris(f"spiffe://{DOMAIN}"),
    } | changes
    pem = forge(world.root, **options)

    def rename(fields):
        return [*fields[:5], subject.public_bytes(), *fields[6:]]

    return resign(pem, world.root, rename)


def unit(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, name)])


FALSE_CAS = {
    "no CA bit": (
        {"constraints": basic(ca=False)},
        "basicConstraints is not that of a sites CA",
    ),
    "path length": ({"constraints": basic(ca=True, path_length=1)}, "basicConstraints is not that"),
    "no path length": ({"constraints": basic(ca=True, path_length=None)}, "basicConstraints is not that"),
    "loose": ({"constraints_critical": False}, "is not critical"),
    "usage": (
        {"key_usage": usage("key_cert_sign", "crl_sign", "digital_signature")},
        "keyUsage is not that",
    ),
    "no cRLSign": ({"key_usage": usage("key_cert_sign")}, "keyUsage is not that of a sites CA"),
    "EKU of servers": ({"eku": [SERVE]}, "extendedKeyUsage is not that of a sites CA"),
    "no EKU": ({"eku": []}, "extendedKeyUsage is not that"),
    "an identity": ({"names": uris(SITE_URI)}, "trust domain 'heart.example/site"),
    "no trust domain": ({"names": []}, "not exactly one trust domain"),
    "two trust domains": ({"names": uris("spiffe://a", "spiffe://b")}, "not exactly one trust domain"),
    "https": ({"names": uris("https://a")}, "is not a trust domain"),
    "weak": ({"key": rsa.generate_private_key(65537, 2048)}, "RSA key has 2048 bits"),
    "unit": ({"name": unit("Sites")}, "organizational unit is 'Sites'"),
    "two units": ({"name": x509.Name([*unit("sites"), *unit("people")])}, "organizational unit is ''"),
    "root": ({"name": unit("root"), "eku": []}, "basicConstraints is not that of a root CA"),
    "root in full": (
        {"name": unit("root"), "eku": [], "constraints": basic(ca=True, path_length=1)},
        "not signed by itself",
    ),
    "critical": (
        {"extra": [(x509.NameConstraints([x509.DNSName("a.b")], None), True)]},
        "critical extension 2.5.29.30 is not known",
    ),
}


def test_the_false_ca_without_changes_is_good(world):
    assert load_anchors(false_ca(world)).kinds == {Kind.SITE, Kind.INVITE}


@pytest.mark.parametrize(("change", "words"), FALSE_CAS.values(), ids=FALSE_CAS)
def test_cas_that_break_their_profile_are_no_anchors(world, change, words):
    with pytest.raises(IdentityRefused, match=words):
        load_anchors(false_ca(world, **change))


def test_a_ca_signed_with_sha1_is_no_anchor(world):
    pem = resign(world.sites.certificate_pem, world.root, lambda f: f, algorithm=hashes.SHA1())
    with pytest.raises(IdentityRefused, match="signed with a hash that is not used here"):
        load_anchors(pem)


def test_during_a_rotation_both_cas_vouch(world):
    new = create_issuing(world.root, kind=Kind.SITE, days=900, now=NOW)
    anchors = load_anchors(world.sites.certificate_pem + new.certificate_pem + world.people.certificate_pem)
    for ca in (world.sites, new):
        leaf = issue_identity(ca, SITE, days=9, now=NOW)
        assert verify_peer(leaf.chain_pem, anchors, now=NOW) == SITE
    with pytest.raises(IdentityRefused, match="second certificate"):
        verify_peer(forge(new) + world.sites.certificate_pem, anchors, now=NOW)


def test_a_ca_with_new_dates_and_the_old_key_is_the_same_ca(world):
    """A peer may still send the older certificate of an issuing CA that was only prolonged."""

    def redate(fields):
        return [
            fields[0],
            tlv(0x02, b"\x07"),
            *fields[2:4],
            fields[4].replace(b"26013", b"26012"),
            *fields[5:],
        ]

    twin = resign(world.sites.certificate_pem, world.root, redate)
    assert to_der(twin) != to_der(world.sites.certificate_pem)
    assert verify_peer(forge(world.sites) + twin, world.clients, now=NOW) == SITE
