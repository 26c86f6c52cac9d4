# SPDX-License-Identifier: Apache-2.0
"""CAs made, locked away and loaded again; what they issue, and what they will not."""

import time
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from villains import DOMAIN, NOW, PERSON, SERVER, SITE, SITE_URI, forge, make_world, refuse, uris

from flprov.errors import IdentityRefused, Misuse
from flprov.pki import (
    Identity,
    Kind,
    certificate_identity,
    create_issuing,
    create_key,
    create_request,
    create_root,
    create_signer,
    issue_identity,
    load_authority,
    not_after,
    not_before,
    public_key_pem,
    verify_key_matches,
    verify_peer,
    verify_request,
    verify_signer,
)


def public(key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize("identity", [SERVER, SITE, PERSON], ids=["server", "site", "person"])
def test_what_is_issued_is_what_is_verified(world, identity):
    ca = world.of(identity.kind)
    names = ["localhost"] if identity.kind is Kind.SERVER else []
    made = issue_identity(ca, identity, names=names, days=90, now=NOW)
    assert verify_peer(made.chain_pem, ca.anchors, now=NOW) == identity
    assert verify_peer(made.certificate_pem, ca.anchors, now=NOW) == identity
    assert made.chain_pem == made.certificate_pem + ca.certificate_pem
    assert certificate_identity(made.chain_pem) == identity
    verify_key_matches(made.certificate_pem, made.private_pem)


def test_a_provisioner_is_verified_under_its_root(world, other_world):
    made = create_signer(world.root, project="heart", days=90, now=NOW)
    assert (
        verify_signer(made.chain_pem, world.root.anchors, now=NOW) == f"spiffe://{DOMAIN}/provisioner/heart"
    )
    assert verify_signer(made.certificate_pem, world.root.anchors, now=NOW)
    with pytest.raises(IdentityRefused, match="which is not the root CA"):
        verify_signer(made.chain_pem, other_world.root.anchors, now=NOW)
    with pytest.raises(IdentityRefused, match="expired"):
        verify_signer(made.chain_pem, world.root.anchors, now=NOW + timedelta(days=91))


@pytest.mark.parametrize(
    ("ca", "identity", "names", "words"),
    [
        ("sites", PERSON, [], "sites CA, which may not issue a person"),
        ("people", SITE, [], "people CA, which may not issue a site"),
        ("servers", SITE, [], "servers CA, which may not issue a site"),
        ("sites", SERVER, ["a.b"], "sites CA, which may not issue a server"),
        ("root", SITE, [], "root CA, which may not issue a site"),
        ("sites", SITE, ["a.b"], "host name 'a.b'"),
        ("servers", SERVER, [], "needs a DNS name or IP address"),
        (
            "sites",
            Identity(trust_domain="evil.example", kind=Kind.SITE, org="o", name="a"),
            [],
            "trust domain evil.example",
        ),
    ],
)
def test_a_ca_refuses_what_is_not_its_own_to_issue(world, ca, identity, names, words):
    with pytest.raises(IdentityRefused, match=words):
        issue_identity(getattr(world, ca), identity, names=names, days=9, now=NOW)


def test_only_a_root_makes_cas_and_provisioners(world):
    with pytest.raises(IdentityRefused, match="the sites CA cannot make another CA"):
        create_issuing(world.sites, kind=Kind.PERSON, days=9, now=NOW)
    with pytest.raises(IdentityRefused, match="only the root CA issues a provisioner"):
        create_signer(world.sites, project="heart", days=9, now=NOW)


@pytest.mark.parametrize("name", ["", "Heart", "../x", "heart study", "h" * 64, "hеart"])
def test_a_project_or_trust_domain_that_is_no_name_gets_no_root(name):
    with pytest.raises(IdentityRefused, match="project"):
        create_root(project=name, trust_domain=DOMAIN, days=9, now=NOW)
    with pytest.raises(IdentityRefused, match="trust domain"):
        create_root(project="heart", trust_domain=name if len(name) < 64 else name * 4, days=9, now=NOW)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*.example.org",
        "fl.example.org:8443",
        "https://fl.example.org",
        "fl example",
        "fl..example",
        ".example",
        "example.",
        "-a.example",
        "a-.example",
        "1.2.3",
        "256.1.1.1",
        "1.2.3.4/24",
        "fe80::1%eth0",
        "[::1]",
        "bücher.example",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "a\x00.example",
        "a\n",
    ],
)
def test_what_is_no_host_name_gets_no_certificate(world, name):
    with pytest.raises(IdentityRefused, match="host name"):
        issue_identity(world.servers, SERVER, names=["ok.example", name], days=9, now=NOW)


def test_too_many_host_names_get_no_certificate(world):
    with pytest.raises(IdentityRefused, match="101 host names are too many"):
        issue_identity(world.servers, SERVER, names=[f"h{n}.example" for n in range(101)], days=9, now=NOW)


@pytest.mark.parametrize("days", [0, -1, 1e9, float("nan"), float("inf")])
def test_days_that_are_no_time_are_refused(world, days):
    with pytest.raises(Misuse, match="cannot be valid for"):
        issue_identity(world.sites, SITE, days=days, now=NOW)


def test_a_part_of_a_day_is_a_time(world):
    made = issue_identity(world.sites, SITE, days=1 / 24, now=NOW)
    assert not_after(made.certificate_pem) == NOW + timedelta(hours=1)
    assert not_before(made.certificate_pem) == NOW - timedelta(minutes=5)
    edge = NOW + timedelta(hours=1)
    assert verify_peer(made.chain_pem, world.clients, now=edge) == SITE
    refuse(made.chain_pem, world.clients, "expired on .* 0 h 1 min ago", now=edge + timedelta(seconds=90))
    refuse(made.chain_pem, world.clients, "is not valid before", now=NOW - timedelta(minutes=6))


def test_nothing_outlives_the_ca_behind_it(world):
    late = NOW + timedelta(days=1820)
    made = issue_identity(world.sites, SITE, days=90, now=late)
    assert not_after(made.certificate_pem) == world.sites.not_after == NOW + timedelta(days=1825)
    short = create_root(project="heart", trust_domain=DOMAIN, days=10, now=NOW)
    assert create_issuing(short, kind=Kind.SITE, days=99, now=NOW).not_after == short.not_after


def test_an_expired_ca_issues_nothing(world):
    later = NOW + timedelta(days=1826)
    with pytest.raises(IdentityRefused, match=r"the sites CA expired on 2031-01-30T12:00:00\.000Z") as caught:
        issue_identity(world.sites, SITE, days=9, now=later)
    assert "a new project" in caught.value.hint


def test_a_ca_of_tomorrow_issues_nothing_today(world):
    with pytest.raises(IdentityRefused, match=r"not valid before|which is valid from"):
        issue_identity(world.sites, SITE, days=9, now=NOW - timedelta(days=1))


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_ca_is_the_same_after_loading(world, passphrase):
    again = load_authority(world.sites.certificate_pem, world.sites.private_pem(passphrase), passphrase)
    assert (again.kind, again.project, again.trust_domain) == (Kind.SITE, "heart", DOMAIN)
    assert again.anchor == world.sites.anchor
    made = issue_identity(again, SITE, days=9, now=NOW)
    assert verify_peer(made.chain_pem, world.clients, now=NOW) == SITE


def test_a_locked_key_says_so_and_opens_with_its_passphrase_only(world):
    locked = world.people.private_pem(b"correct horse")
    assert locked.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(Misuse, match="the passphrase does not open the private key"):
        load_authority(world.people.certificate_pem, locked, b"wrong horse")
    with pytest.raises(Misuse, match="encrypted and no passphrase was given"):
        load_authority(world.people.certificate_pem, locked)
    with pytest.raises(Misuse, match="encrypted and no passphrase was given"):
        load_authority(world.people.certificate_pem, locked, b"")
    with pytest.raises(Misuse, match="not encrypted"):
        load_authority(world.people.certificate_pem, world.people.private_pem(), b"correct horse")


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_a_passphrase_that_cannot_be_is_refused(world, passphrase):
    with pytest.raises(Misuse, match="a passphrase has 1 to 1023 bytes"):
        world.people.private_pem(passphrase)


@pytest.mark.parametrize(
    "junk", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_junk_is_no_private_key(world, junk, passphrase):
    with pytest.raises(IdentityRefused, match="the private key cannot be read"):
        load_authority(world.sites.certificate_pem, junk, passphrase)


def test_a_certificate_and_a_key_that_differ_make_no_ca(world):
    with pytest.raises(IdentityRefused, match="the private key is not the key of the sites CA"):
        load_authority(world.sites.certificate_pem, world.people.private_pem())


def test_a_leaf_makes_no_ca(world):
    made = issue_identity(world.sites, SITE, days=9, now=NOW)
    with pytest.raises(IdentityRefused, match="cannot be a trust anchor"):
        load_authority(made.certificate_pem, made.private_pem)


def test_repr_and_errors_show_no_key(world):
    made = issue_identity(world.sites, SITE, days=9, now=NOW)
    for value in (world, world.root, world.sites, made):
        assert "PRIVATE" not in repr(value)
        assert "private_key" not in repr(value).lower()
    with pytest.raises(Misuse) as caught:
        load_authority(world.people.certificate_pem, world.people.private_pem(b"right"), b"s3cret")
    assert "s3cret" not in str(caught.value) + str(caught.value.hint)


def test_a_party_may_make_its_own_key(world):
    key = create_key()
    public_pem = verify_request(create_request(key))
    assert public_pem == public_key_pem(key)
    made = issue_identity(world.sites, SITE, days=9, now=NOW, public_pem=public_pem)
    assert made.private_pem == b""
    assert verify_peer(made.chain_pem, world.clients, now=NOW) == SITE
    verify_key_matches(made.certificate_pem, key)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: public(rsa.generate_private_key(65537, 2048)), "RSA key has 2048 bits"),
        (lambda: public(ec.generate_private_key(ec.SECP224R1())), "curve secp224r1"),
        (lambda: public(ed25519.Ed25519PrivateKey.generate()), "type that is not used here"),
        (lambda: b"", "cannot be read"),
        (lambda: b"junk", "cannot be read"),
        (create_key, "cannot be read"),
    ],
)
def test_a_public_key_that_is_weak_or_none_gets_no_certificate(world, make, words):
    with pytest.raises(IdentityRefused, match=words):
        issue_identity(world.sites, SITE, days=9, now=NOW, public_pem=make())


def test_a_request_that_proves_nothing_is_refused():
    request = create_request(create_key())
    der = serialization.Encoding.DER
    from cryptography import x509

    raw = bytearray(x509.load_pem_x509_csr(request).public_bytes(der))
    raw[-1] ^= 1
    changed = x509.load_der_x509_csr(bytes(raw)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityRefused, match="not signed by the key that it holds"):
        verify_request(changed)
    for junk in (b"", b"x", create_key(), request[:100]):
        with pytest.raises(IdentityRefused, match="cannot be read"):
            verify_request(junk)
    weak = private(ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(IdentityRefused, match="curve secp521r1"):
        create_request(weak)


def test_two_projects_of_one_name_do_not_mix(world):
    theirs = make_world(domain="other.example")
    leaf = forge(theirs.sites, names=uris(SITE_URI))
    refuse(leaf, theirs.clients, "trust domain heart.example, but the sites CA")
    refuse(leaf, world.clients, "which is not")


def test_a_thousand_sites_take_less_than_a_second(world):
    """Processor time, so that a busy machine is no failure; 200 are enough to tell."""
    start = time.process_time()
    for number in range(200):
        site = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="o", name=f"site-{number}")
        issue_identity(world.sites, site, days=90, now=NOW)
    assert (time.process_time() - start) * 5 < 1.0


def test_a_peer_is_verified_in_half_a_millisecond(world):
    chain, anchors = issue_identity(world.sites, SITE, days=90, now=NOW).chain_pem, world.clients
    start = time.process_time()
    for _ in range(200):
        verify_peer(chain, anchors, now=NOW)
    assert (time.process_time() - start) / 200 < 0.0005
