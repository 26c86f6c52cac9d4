# SPDX-License-Identifier: Apache-2.0
"""What our certificates say, extension by extension; and OpenSSL's own verdict on the chains."""

import ipaddress
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID
from villains import CLIENT, CODE, DOMAIN, INVITE, NOW, PERSON, SERVE, SERVER, SITE, basic, usage

from flprov.pki import Kind, create_signer, fingerprint, issue_identity

HOSTS = ("fl.example.org", "LOCALHOST", "127.0.0.1", "::1")


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def value(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind).value


def issue(world, identity, **options):
    names = HOSTS if identity.kind is Kind.SERVER else ()
    return issue_identity(world.of(identity.kind), identity, names=names, days=90, now=NOW, **options)


def assert_is_ours(certificate, issuer):
    assert certificate.version is x509.Version.v3
    assert 0 < certificate.serial_number < 1 << 159
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.public_key().curve.name == "secp256r1"
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    certificate.verify_directly_issued_by(issuer)
    own = value(certificate, x509.SubjectKeyIdentifier)
    assert own == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    issuers = value(certificate, x509.AuthorityKeyIdentifier)
    assert issuers.key_identifier == value(issuer, x509.SubjectKeyIdentifier).digest
    critical = {extension.oid for extension in certificate.extensions if extension.critical}
    assert critical == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
    assert not any(isinstance(e.value, x509.NameConstraints) for e in certificate.extensions)


def assert_is_ca(certificate, issuer, *, path_length, unit):
    assert_is_ours(certificate, issuer)
    assert value(certificate, x509.BasicConstraints) == basic(ca=True, path_length=path_length)
    assert value(certificate, x509.KeyUsage) == usage("key_cert_sign", "crl_sign")
    assert list(value(certificate, x509.SubjectAlternativeName)) == [
        x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}")
    ]
    assert f"OU={unit}" in certificate.subject.rfc4514_string()


def assert_is_leaf(certificate, issuer, *, eku, uri, hosts=()):
    assert_is_ours(certificate, issuer)
    assert value(certificate, x509.BasicConstraints) == basic(ca=False)
    assert value(certificate, x509.KeyUsage) == usage("digital_signature")
    assert list(value(certificate, x509.ExtendedKeyUsage)) == [eku]
    names = list(value(certificate, x509.SubjectAlternativeName))
    assert names == [x509.UniformResourceIdentifier(uri), *hosts]


def test_root_is_a_ca_above_issuing_cas_only(world):
    root = read(world.root.certificate_pem)
    assert_is_ca(root, root, path_length=1, unit="root")
    assert len(root.extensions) == 5


@pytest.mark.parametrize(
    ("kind", "unit", "eku"),
    [(Kind.SERVER, "servers", SERVE), (Kind.SITE, "sites", CLIENT), (Kind.PERSON, "people", CLIENT)],
)
def test_issuing_cas_make_leaves_of_one_kind(world, kind, unit, eku):
    certificate = read(world.of(kind).certificate_pem)
    assert_is_ca(certificate, read(world.root.certificate_pem), path_length=0, unit=unit)
    assert list(value(certificate, x509.ExtendedKeyUsage)) == [eku]
    assert len(certificate.extensions) == 6


def test_server_has_its_host_names(world):
    certificate = read(issue(world, SERVER).certificate_pem)
    hosts = [
        x509.DNSName("fl.example.org"),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    issuer = read(world.servers.certificate_pem)
    assert_is_leaf(certificate, issuer, eku=SERVE, uri=str(SERVER), hosts=hosts)
    assert len(certificate.extensions) == 6


@pytest.mark.parametrize("identity", [SITE, PERSON, INVITE], ids=["site", "person", "invite"])
def test_clients_have_their_uri_and_no_other_name(world, identity):
    certificate = read(issue(world, identity).certificate_pem)
    issuer = read(world.of(identity.kind).certificate_pem)
    assert_is_leaf(certificate, issuer, eku=CLIENT, uri=str(identity))
    assert len(certificate.extensions) == 6


def test_provisioner_signs_kits_and_is_nobody_on_the_wire(world):
    signer = create_signer(world.root, project="heart", days=365, now=NOW)
    root = read(world.root.certificate_pem)
    uri = f"spiffe://{DOMAIN}/provisioner/heart"
    assert_is_leaf(read(signer.certificate_pem), root, eku=CODE, uri=uri)


def test_validity_starts_five_minutes_before_and_lasts_the_days(world):
    certificate = read(issue(world, SITE).certificate_pem)
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)


def test_serials_and_keys_are_new_every_time(world):
    issued = [read(issue(world, SITE).certificate_pem) for _ in range(20)]
    assert len({certificate.serial_number for certificate in issued}) == 20
    assert len({certificate.public_key().public_numbers().x for certificate in issued}) == 20
    assert max(certificate.serial_number.bit_length() for certificate in issued) > 150


def test_two_cas_of_one_kind_have_two_names(world, other_world):
    ours, theirs = read(world.sites.certificate_pem), read(other_world.sites.certificate_pem)
    assert ours.subject != theirs.subject


def openssl(*arguments, cwd):
    result = subprocess.run(["openssl", *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    return result.returncode, result.stdout + result.stderr


def put(folder, **files):
    for name, data in files.items():
        (folder / f"{name}.pem").write_bytes(data)


@pytest.mark.parametrize(
    ("identity", "purpose", "wrong"),
    [
        (SERVER, "sslserver", "sslclient"),
        (SITE, "sslclient", "sslserver"),
        (PERSON, "sslclient", "sslserver"),
        (INVITE, "sslclient", "sslserver"),
    ],
    ids=["server", "site", "person", "invite"],
)
def test_openssl_accepts_the_chain_for_its_purpose_only(world, tmp_path, identity, purpose, wrong):
    ca, leaf = world.of(identity.kind), issue(world, identity)
    put(tmp_path, root=world.root.certificate_pem, ca=ca.certificate_pem, leaf=leaf.certificate_pem)
    common = ["verify", "-x509_strict", "-attime", str(int(NOW.timestamp()))]
    whole = [*common, "-CAfile", "root.pem", "-untrusted", "ca.pem", "-purpose"]
    partial = [*common, "-partial_chain", "-CAfile", "ca.pem", "-purpose"]
    for arguments in (whole, partial):
        code, text = openssl(*arguments, purpose, "leaf.pem", cwd=tmp_path)
        assert (code, text.strip()) == (0, "leaf.pem: OK")
        code, text = openssl(*arguments, wrong, "leaf.pem", cwd=tmp_path)
        assert code != 0
        assert "purpose" in text


def test_openssl_refuses_the_chain_under_another_root(world, other_world, tmp_path):
    put(
        tmp_path,
        root=other_world.root.certificate_pem,
        ca=world.sites.certificate_pem,
        leaf=issue(world, SITE).certificate_pem,
    )
    at = ["-attime", str(int(NOW.timestamp()))]
    code, _ = openssl("verify", *at, "-CAfile", "root.pem", "-untrusted", "ca.pem", "leaf.pem", cwd=tmp_path)
    assert code != 0


def test_fingerprint_is_spelled_as_openssl_spells_it(world, tmp_path):
    put(tmp_path, root=world.root.certificate_pem)
    _, text = openssl("x509", "-in", "root.pem", "-noout", "-fingerprint", "-sha256", cwd=tmp_path)
    assert fingerprint(world.root.certificate_pem) == "SHA256:" + text.strip().partition("=")[2]
