# SPDX-License-Identifier: Apache-2.0
"""Leaf certificates that must not pass, each wrong in one thing, and the words that say which."""

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from villains import (
    ANY,
    CLIENT,
    CODE,
    DOMAIN,
    NOW,
    PERSON,
    SERVE,
    SERVER,
    SITE,
    SITE_URI,
    basic,
    forge,
    refuse,
    uris,
    usage,
)

from flprov.errors import IdentityRefused
from flprov.pki import (
    Kind,
    create_signer,
    verify_peer,
    verify_signer,
)

PERSON_URI = str(PERSON)
SERVER_URI = str(SERVER)


def test_a_forged_certificate_without_changes_is_good(world):
    assert verify_peer(forge(world.sites), world.clients, now=NOW) == SITE


# What is wrong, and the words that must be in the refusal.
ONE_THING_WRONG = {
    "expired": (
        {"starts": NOW - timedelta(9), "ends": NOW - timedelta(3)},
        "expired on 2026-01-28 .* 3 days",
    ),
    "expired a second ago": ({"ends": NOW - timedelta(seconds=1)}, "expired on 2026-01-31 11:59:59 UTC"),
    "not yet valid": ({"starts": NOW + timedelta(seconds=1)}, "is not valid before 2026-01-31 12:00:01 UTC"),
    "wrong EKU": ({"eku": [SERVE]}, "has the extendedKeyUsage serverAuth; a site has clientAuth"),
    "code signing": ({"eku": [CODE]}, "has the extendedKeyUsage codeSigning"),
    "two EKUs": ({"eku": [CLIENT, SERVE]}, "has the extendedKeyUsage clientAuth, serverAuth"),
    "any EKU": ({"eku": [ANY]}, "has the extendedKeyUsage anyExtendedKeyUsage"),
    "any EKU beside": ({"eku": [CLIENT, ANY]}, "has the extendedKeyUsage clientAuth, anyExt"),
    "no EKU": ({"eku": []}, "has no extendedKeyUsage"),
    "CN only": ({"names": [], "subject": SITE_URI[:64]}, "has no SPIFFE URI .* CN is never used"),
    "DNS only": ({"names": [x509.DNSName("hospital-a")]}, "has no SPIFFE URI"),
    "two identities": ({"names": uris(SITE_URI, SITE_URI + "2")}, "has 2 URIs in its subjectAltName"),
    "identity twice": ({"names": uris(SITE_URI, SITE_URI)}, "has 2 URIs"),
    "URI beside": ({"names": uris(SITE_URI, "https://x")}, "has 2 URIs"),
    "host name": ({"names": [*uris(SITE_URI), x509.DNSName("fl.example")]}, "has the host name 'fl.example'"),
    "address": (
        {"names": [*uris(SITE_URI), x509.IPAddress(ipaddress.ip_address("::1"))]},
        "has the host name '::1'",
    ),
    "e-mail": ({"names": [*uris(SITE_URI), x509.RFC822Name("a@b.c")]}, "neither a URI, a DNS name nor an IP"),
    "CA leaf": ({"constraints": basic(ca=True, path_length=0)}, "has the CA bit"),
    "CA leaf in full": (
        {
            "constraints": basic(ca=True, path_length=0),
            "key_usage": usage("digital_signature", "key_cert_sign"),
        },
        "has the CA bit",
    ),
    "no basicConstraints": ({"constraints": None}, "has no basicConstraints"),
    "loose basicConstraints": ({"constraints_critical": False}, "basicConstraints that is not critical"),
    "no keyUsage": ({"key_usage": None}, "has no keyUsage"),
    "loose keyUsage": ({"key_usage_critical": False}, "keyUsage that is not critical"),
    "signs certificates": (
        {"key_usage": usage("digital_signature", "key_cert_sign")},
        "has a keyUsage other than digitalSignature",
    ),
    "enciphers": ({"key_usage": usage("key_encipherment")}, "has a keyUsage other than"),
    "name constraints": (
        {"extra": [(x509.NameConstraints([x509.DNSName("a.b")], None), False)]},
        "has nameConstraints",
    ),
    "critical name constraints": (
        {"extra": [(x509.NameConstraints([x509.DNSName("a.b")], None), True)]},
        "has the critical extension 2.5.29.30",
    ),
    "unknown critical": (
        {"extra": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]},
        "has the critical extension 1.2.3.4",
    ),
    "no authority key": ({"no_identifier": True}, "has no authorityKeyIdentifier"),
    "trust domain": (
        {"names": uris("spiffe://evil.example/site/uni-a/hospital-a")},
        "trust domain evil.example",
    ),
    "longer trust domain": (
        {"names": uris(f"spiffe://{DOMAIN}.evil/site/o/a")},
        "trust domain heart.example.evil",
    ),
    "no kind": ({"names": uris(f"spiffe://{DOMAIN}")}, "is not server/<name>"),
    "https": ({"names": uris("https://heart.example/site/o/a")}, "does not start with spiffe"),
    "SHA-224": ({"algorithm": hashes.SHA224()}, "is signed with sha224"),
    "another issuer": ({"issuer": x509.Name([])}, "as its issuer, which is not the sites CA"),
}


@pytest.mark.parametrize(("change", "words"), ONE_THING_WRONG.values(), ids=ONE_THING_WRONG)
def test_one_thing_wrong_is_refused_by_name(world, change, words):
    refuse(forge(world.sites, **change), world.clients, words)


CONFUSABLE = [
    "../x",
    "..",
    "",
    "Hospital-a",
    "hospital-a\x00.evil",
    "hospital-a\n",
    "hospital a",
    "hospital%2da",
    "-rf",
    "a" * 64,
    "a" * 4000,
    "hospital-a/",
    "a/b",
    "hospital-a?",
]


@pytest.mark.parametrize("name", CONFUSABLE)
@pytest.mark.parametrize("form", ["spiffe://heart.example/site/{}/x", "spiffe://heart.example/site/uni-a/{}"])
def test_confusable_names_are_refused(world, form, name):
    refuse(forge(world.sites, names=uris(form.format(name))), world.clients, "identity|is not a name")


def test_strong_keys_that_a_party_brings_are_good(world):
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 3072)):
        assert verify_peer(forge(world.sites, key=key), world.clients, now=NOW) == SITE


WEAK = {
    "P-224": (lambda: ec.generate_private_key(ec.SECP224R1()), "curve secp224r1"),
    "secp256k1": (lambda: ec.generate_private_key(ec.SECP256K1()), "curve secp256k1"),
    "P-521": (lambda: ec.generate_private_key(ec.SECP521R1()), "curve secp521r1"),
    "RSA 2048": (lambda: rsa.generate_private_key(65537, 2048), "RSA key has 2048 bits"),
    "RSA 1024": (lambda: rsa.generate_private_key(65537, 1024), "RSA key has 1024 bits"),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, "type that is not used here"),
    "DSA": (lambda: dsa.generate_private_key(1024), "type that is not used here"),
}


@pytest.mark.parametrize(("make", "words"), WEAK.values(), ids=WEAK)
def test_weak_and_foreign_keys_are_refused(world, make, words):
    error = refuse(forge(world.sites, key=make()), world.clients, words)
    assert "P-256" in error.hint


def test_self_signed_is_refused(world):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hospital-a")])
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    pem = forge(world.sites, key=key, signer=key, issuer=name, identifier=own)
    refuse(pem, world.clients, "is signed by itself")


def test_self_signed_under_the_cas_name_is_refused(world):
    key = ec.generate_private_key(ec.SECP256R1())
    refuse(
        forge(world.sites, key=key, signer=key),
        world.clients,
        "does not carry a valid signature of the sites",
    )


def test_a_ca_of_another_project_is_refused(world, other_world):
    error = refuse(
        forge(other_world.sites), world.clients, "'sites CA .{8}', which is not the sites CA or the peo"
    )
    assert "another project" in error.hint


def test_a_ca_of_the_same_name_is_refused(world, other_world):
    pem = forge(other_world.sites, issuer=world.sites.anchor.certificate.subject)
    refuse(pem, world.clients, "a CA with the name of .* but another key")


def test_a_ca_of_the_same_name_that_claims_our_key_is_refused(world, other_world):
    ours = world.sites
    pem = forge(other_world.sites, issuer=ours.anchor.certificate.subject, identifier=ours.key_identifier)
    refuse(pem, world.clients, "does not carry a valid signature of the sites CA")


def test_a_leaf_that_signs_a_leaf_is_refused(world):
    key = ec.generate_private_key(ec.SECP256R1())
    good = forge(world.sites, key=key)
    issuer = x509.load_pem_x509_certificate(good).subject
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    child = forge(world.sites, signer=key, issuer=issuer, identifier=own, subject="child")
    refuse(child, world.clients, "is issued by 'hospital-a', which is not")
    refuse(child + good, world.clients, "is issued by 'hospital-a', which is not")
    refuse(child + good + world.sites.certificate_pem, world.clients, "more than 2 certificates")


def test_a_leaf_straight_from_the_root_is_refused(world):
    pem = forge(world.root)
    refuse(pem, world.clients, "is issued by 'root CA")
    refuse(pem, world.root.anchors, "is issued by the root CA, which may not issue a site")


def test_two_leaves_in_one_chain_are_refused(world):
    pem = forge(world.sites) + forge(world.sites)
    refuse(pem, world.clients, "second certificate that is not the CA that issued it")


def test_a_chain_with_another_ca_is_refused(world, other_world):
    refuse(forge(world.sites) + world.people.certificate_pem, world.clients, "second certificate that is not")
    refuse(
        forge(world.sites) + other_world.sites.certificate_pem, world.clients, "second certificate that is"
    )


def test_a_chain_with_the_root_is_refused(world):
    chain = forge(world.sites) + world.sites.certificate_pem + world.root.certificate_pem
    refuse(chain, world.clients, "more than 2 certificates")


def test_a_ca_as_the_peer_is_refused(world):
    refuse(world.sites.certificate_pem, world.clients, "is issued by 'root CA")
    refuse(world.sites.certificate_pem, world.root.anchors, "has the CA bit")
    refuse(world.root.certificate_pem, world.root.anchors, "has the CA bit|signed by itself")


CONFUSED = {
    "sites CA, person": ("sites", PERSON_URI, [CLIENT], "sites CA, which may not issue a person"),
    "sites CA, server": ("sites", SERVER_URI, [SERVE], "sites CA, which may not issue a server"),
    "people CA, site": ("people", SITE_URI, [CLIENT], "people CA, which may not issue a site"),
    "servers CA, site": ("servers", SITE_URI, [CLIENT], "servers CA, which may not issue a site"),
    "servers CA, person": ("servers", PERSON_URI, [CLIENT], "servers CA, which may not issue a person"),
    "people CA, person as server": ("people", PERSON_URI, [SERVE], "serverAuth; a person has clientAuth"),
    "servers CA, server as client": ("servers", SERVER_URI, [CLIENT], "clientAuth; a server has serverAuth"),
    "servers CA, no host": ("servers", SERVER_URI, [SERVE], "has no DNS name or IP address"),
    "sites CA, provisioner": (
        "sites",
        f"spiffe://{DOMAIN}/provisioner/heart",
        [CODE],
        "is not server/<name>",
    ),
}


@pytest.mark.parametrize(("ca", "uri", "eku", "words"), CONFUSED.values(), ids=CONFUSED)
def test_a_ca_that_is_broken_into_cannot_make_another_kind(world, ca, uri, eku, words):
    refuse(forge(getattr(world, ca), names=uris(uri), eku=eku), world.everyone, words)


def test_a_kind_that_is_not_welcome_is_refused(world):
    words = "is a site's, where a person is expected"
    refuse(forge(world.sites), world.clients, words, kinds={Kind.PERSON})
    assert verify_peer(forge(world.sites), world.clients, now=NOW, kinds=[Kind.SITE, Kind.PERSON]) == SITE


def test_a_sites_certificate_is_nothing_to_those_who_trust_only_servers(world):
    refuse(
        forge(world.sites), world.servers.anchors, "is issued by 'sites CA .{8}', which is not the servers CA"
    )


def test_a_provisioner_is_no_peer(world):
    signer = create_signer(world.root, project="heart", days=9, now=NOW)
    refuse(signer.chain_pem, world.clients, "is issued by 'root CA")
    refuse(signer.certificate_pem, world.root.anchors, "is not server/<name>")


PROVISIONER_URI = f"spiffe://{DOMAIN}/provisioner/heart"
FALSE_SIGNERS = {
    "a site": ("root", [SITE_URI], [CODE], [], "not for a provisioner of heart.example"),
    "another trust domain": ("root", ["spiffe://x/provisioner/heart"], [CODE], [], "not for a provisioner"),
    "longer path": ("root", [PROVISIONER_URI + "/x"], [CODE], [], "'heart/x' is not a name"),
    "wrong EKU": ("root", [PROVISIONER_URI], [CLIENT], [], "clientAuth; a provisioner has codeSigning"),
    "no EKU": ("root", [PROVISIONER_URI], [], [], "has no extendedKeyUsage"),
    "host name": ("root", [PROVISIONER_URI], [CODE], [x509.DNSName("a.b")], "may not have"),
    "two": ("root", [PROVISIONER_URI, PROVISIONER_URI], [CODE], [], "has 2 URIs"),
    "by the sites CA": ("sites", [PROVISIONER_URI], [CODE], [], "is issued by 'sites CA"),
}


@pytest.mark.parametrize(("ca", "names", "eku", "more", "words"), FALSE_SIGNERS.values(), ids=FALSE_SIGNERS)
def test_only_the_root_makes_a_provisioner(world, ca, names, eku, more, words):
    pem = forge(getattr(world, ca), names=[*uris(*names), *more], eku=eku)
    with pytest.raises(IdentityRefused, match=words):
        verify_signer(pem, world.root.anchors, now=NOW)


def test_an_issuing_ca_as_anchor_makes_no_provisioner(world):
    pem = forge(world.sites, names=uris(PROVISIONER_URI), eku=[CODE])
    with pytest.raises(IdentityRefused, match="only the root CA issues a provisioner"):
        verify_signer(pem, world.sites.anchors, now=NOW)


def test_an_expired_ca_vouches_for_nobody(world):
    later = NOW + timedelta(days=1900)
    pem = forge(world.sites, starts=later - timedelta(1), ends=later + timedelta(1))
    refuse(pem, world.clients, "is issued by the sites CA, which is valid from .* to 2031", now=later)
