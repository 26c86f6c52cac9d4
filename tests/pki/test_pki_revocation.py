# SPDX-License-Identifier: Apache-2.0
"""Revocation lists: made, read, believed or not; and OpenSSL's own verdict on them."""

import dataclasses
import subprocess
import time
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from villains import (
    NOW,
    PERSON,
    SHA256_OID,
    SITE,
    children,
    forge,
    refuse,
    resign_crl,
    tlv,
    to_pem,
)

from flprov.errors import IdentityRefused, Misuse
from flprov.pki import (
    CRL,
    Kind,
    Reason,
    Revoked,
    create_crl,
    describe_leaf,
    issue_identity,
    join_anchors,
    read_crl,
    sign,
    verify_peer,
    verify_signed,
)

SECOND = timedelta(seconds=1)
ENTRIES = [Revoked(serial=9 - at, at=NOW - at * SECOND, reason=reason) for at, reason in enumerate(Reason)]


def crl(world, *entries, kind=Kind.PERSON, number=1, days=30.0, now=NOW) -> bytes:
    return create_crl(world.of(kind), entries, number=number, now=now, days=days)


def parse(pem: bytes) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(pem)


# ---- what ours say ----


@pytest.mark.parametrize("kind", [Kind.SERVER, Kind.SITE, Kind.PERSON])
def test_a_list_survives_the_round_trip(world, kind):
    pem = crl(world, *ENTRIES, kind=kind, number=7)
    expected = CRL(
        kind=kind,
        number=7,
        this_update=NOW,
        next_update=NOW + timedelta(days=30),
        revoked={entry.serial: entry for entry in ENTRIES},
    )
    assert read_crl(pem, world.of(kind).anchors) == expected
    assert read_crl(pem, world.everyone) == expected


def test_an_empty_list_has_no_entries_at_all(world):
    pem = crl(world, number=0)
    assert read_crl(pem, world.people.anchors).revoked == {}
    fields = children(children(parse(pem).public_bytes(serialization.Encoding.DER))[0])
    assert len(fields) == 6  # RFC 5280 section 5.1.2.6: revokedCertificates must then be absent


def test_a_list_is_of_version_2_with_two_extensions_and_sorted_entries(world):
    source = parse(crl(world, *ENTRIES, number=300))
    assert source.issuer == world.people.anchor.certificate.subject
    assert isinstance(source.signature_hash_algorithm, hashes.SHA256)
    assert [(type(found.value), found.critical) for found in source.extensions] == [
        (x509.AuthorityKeyIdentifier, False),
        (x509.CRLNumber, False),
    ]
    assert [entry.serial_number for entry in source] == sorted(entry.serial for entry in ENTRIES)
    found = {entry.serial_number: list(entry.extensions) for entry in source}
    assert found[ENTRIES[0].serial] == []  # unspecified is left out
    assert all(len(found[entry.serial]) == 1 and not found[entry.serial][0].critical for entry in ENTRIES[1:])


def test_of_two_entries_the_earlier_counts(world):
    early = Revoked(serial=5, at=NOW - timedelta(days=2), reason=Reason.SUPERSEDED)
    late = Revoked(serial=5, at=NOW, reason=Reason.KEY_COMPROMISE)
    for entries in ((early, late), (late, early), (early, late, early)):
        assert read_crl(crl(world, *entries), world.people.anchors).revoked == {5: early}


def test_times_are_whole_seconds(world):
    now = NOW + timedelta(microseconds=999_999)
    found = read_crl(crl(world, Revoked(serial=1, at=now), now=now), world.people.anchors)
    assert (found.this_update, found.revoked[1].at) == (NOW, NOW)


def test_a_list_ends_no_later_than_its_ca(world):
    found = read_crl(crl(world, days=36_000), world.people.anchors)
    assert found.next_update == world.people.not_after


def test_times_after_2050_are_written_and_read(world):
    late = NOW.replace(year=2051)
    found = read_crl(crl(world, Revoked(serial=1, at=late)), world.people.anchors)
    assert found.revoked[1].at == late


@pytest.mark.parametrize("days", [0, -1, 40_000])
def test_impossible_days_are_refused(world, days):
    with pytest.raises(Misuse, match="days"):
        crl(world, days=days)


@pytest.mark.parametrize("number", [-1, 1 << 159])
def test_impossible_numbers_are_refused(world, number):
    with pytest.raises(Misuse, match="list's number is from 0 to"):
        crl(world, number=number)


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_impossible_serials_are_refused(world, serial):
    with pytest.raises(Misuse, match="serial number is from 1 to"):
        crl(world, Revoked(serial=serial, at=NOW))


def test_the_largest_number_and_serial_are_good(world):
    most = (1 << 159) - 1
    found = read_crl(crl(world, Revoked(serial=most, at=NOW), number=most), world.people.anchors)
    assert (found.number, list(found.revoked)) == (most, [most])


def test_the_root_has_no_list(world):
    with pytest.raises(IdentityRefused, match="the root CA signs no revocation list"):
        create_crl(world.root, [], number=1, now=NOW, days=9)


def test_an_expired_ca_signs_no_list(world):
    with pytest.raises(IdentityRefused, match="the people CA expired on"):
        crl(world, now=NOW + timedelta(days=1900))


def test_100000_entries_are_written_and_read_quickly(world):
    entries = [Revoked(serial=(1 << 158) + n, at=NOW, reason=Reason.SUPERSEDED) for n in range(100_000)]
    started = time.perf_counter()
    pem = crl(world, *entries)
    found = read_crl(pem, world.people.anchors)
    assert time.perf_counter() - started < 15  # two seconds; a step that is quadratic takes minutes
    assert len(found.revoked) == 100_000


# ---- what is believed ----


def test_a_list_that_is_out_of_date_still_revokes(world):
    """nextUpdate is for others: a site without news for a year must not let a thief in, or stand still."""
    pem = crl(world, Revoked(serial=7, at=NOW), now=NOW, days=1 / 86_400)
    found = read_crl(pem, world.people.anchors)
    assert found.next_update == NOW + SECOND
    assert 7 in found.revoked


def forge_crl(ca, *extensions, entry=None, issuer=None, number=1, key_id=None, update=NOW, then=NOW):
    """A list with one entry, with the named things changed; extensions are (value, critical)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.anchor.certificate.subject if issuer is None else issuer)
        .last_update(update)
        .next_update(then + timedelta(days=1))
    )
    found = [(key_id or ca.key_identifier, False), (x509.CRLNumber(number), False), *extensions]
    for value, critical in found:
        builder = builder.add_extension(value, critical=critical)
    line = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(NOW)
    for value, critical in entry or ():
        line = line.add_extension(value, critical=critical)
    builder = builder.add_revoked_certificate(line.build())
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def refuse_list(pem, anchors, words):
    with pytest.raises(IdentityRefused, match=words) as caught:
        read_crl(pem, anchors)
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 300


def test_the_forged_list_without_changes_is_good(world):
    assert list(read_crl(forge_crl(world.people), world.people.anchors).revoked) == [5]
    assert list(read_crl(resign_crl(forge_crl(world.people), world.people), world.everyone).revoked) == [5]


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
POINT = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=True,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)


def reason(name: str) -> x509.CRLReason:
    return x509.CRLReason(x509.ReasonFlags(name))


FALSE_LISTS = {
    "unknown critical": ([(UNKNOWN, True)], [], "critical extension 1.2.3.4, which is not known"),
    "delta": ([(x509.DeltaCRLIndicator(1), True)], [], "is a delta list"),
    "loose delta": ([(x509.DeltaCRLIndicator(1), False)], [], "is a delta list"),
    "partial": ([(POINT, True)], [], "critical extension 2.5.29.28"),
    "unknown critical entry": ([], [(UNKNOWN, True)], "entry with the critical extension 1.2.3.4"),
    "indirect": (
        [],
        [(x509.CertificateIssuer([x509.DNSName("a.b")]), True)],
        "entry with the critical extension 2.5.29.29",
    ),
    "critical reason": ([], [(reason("superseded"), True)], "entry with the critical extension 2.5.29.21"),
    "on hold": ([], [(reason("certificateHold"), False)], "reason certificateHold, which is not used"),
    "taken off": ([], [(reason("removeFromCRL"), False)], "reason removeFromCRL, which is not used"),
}


@pytest.mark.parametrize(("more", "entry", "words"), FALSE_LISTS.values(), ids=FALSE_LISTS)
def test_what_we_do_not_act_on_is_refused(world, more, entry, words):
    refuse_list(forge_crl(world.people, *more, entry=entry), world.people.anchors, words)


def test_extensions_that_may_be_passed_over_are(world):
    pem = forge_crl(world.people, (UNKNOWN, False), entry=[(UNKNOWN, False)])
    assert 5 in read_crl(pem, world.people.anchors).revoked


def test_another_cas_list_is_refused(world, other_world):
    ours, theirs = world.people, other_world.people
    words = "signed by a CA that is not the people CA that is trusted here"
    refuse_list(forge_crl(theirs), ours.anchors, words)
    refuse_list(forge_crl(world.sites), ours.anchors, words)
    named = forge_crl(theirs, issuer=ours.anchor.certificate.subject)
    refuse_list(named, ours.anchors, words)
    claimed = forge_crl(theirs, issuer=ours.anchor.certificate.subject, key_id=ours.key_identifier)
    refuse_list(claimed, ours.anchors, "does not carry a valid signature of the people CA")


def test_a_list_of_another_issuer_name_is_refused(world):
    pem = forge_crl(world.people, issuer=world.sites.anchor.certificate.subject)
    refuse_list(pem, world.everyone, "names another issuer than the people CA")


def test_a_list_of_the_root_is_refused(world):
    refuse_list(forge_crl(world.root), world.root.anchors, "is of the root CA, which has none")


def test_a_list_signed_by_a_leaf_is_refused(world):
    made = issue_identity(world.people, PERSON, days=9, now=NOW)
    key = serialization.load_pem_private_key(made.private_pem, None)
    false = dataclasses.replace(world.people, key=key)
    refuse_list(forge_crl(false), world.people.anchors, "does not carry a valid signature")


def keep(*positions):
    return lambda fields: [fields[position] for position in positions]


def replaced(position, element):
    return lambda fields: [*fields[:position], element, *fields[position + 1 :]]


def wrap(extensions):
    return tlv(0xA0, tlv(0x30, b"".join(extensions)))


def edit_extensions(edit):
    return lambda fields: [*fields[:6], wrap(edit(children(children(fields[6])[0])))]


def edit_entries(edit):
    return lambda fields: [*fields[:5], tlv(0x30, b"".join(edit(children(fields[5])))), *fields[6:]]


def set_serial(octets):
    def edit(entries):
        first = children(entries[0])
        return [tlv(0x30, tlv(0x02, octets) + b"".join(first[1:]))]

    return edit_entries(edit)


FALSE_FORMS = {
    "version 1": (keep(1, 2, 3, 4, 5), "version 1|extension"),
    "version 1 with extensions": (keep(1, 2, 3, 4, 5, 6), "of version 1, not 2"),
    "version 3": (replaced(0, b"\x02\x01\x02"), "not of version 2"),
    "another algorithm inside": (replaced(1, tlv(0x30, SHA256_OID[:-1] + b"\x03")), "valid sig|cannot be re"),
    "no nextUpdate": (keep(0, 1, 2, 3, 5, 6), "has no nextUpdate"),
    "nextUpdate before thisUpdate": (replaced(4, tlv(0x17, b"200101000000Z")), "no nextUpdate after its"),
    "no extensions": (keep(0, 1, 2, 3, 4, 5), "has no extension 2.5.29.35"),
    "no authority key": (edit_extensions(lambda found: found[1:]), "has no extension 2.5.29.35"),
    "no number": (edit_extensions(lambda found: found[:1]), "has no extension 2.5.29.20"),
    "number twice": (edit_extensions(lambda found: [*found, found[1]]), "cannot be read"),
    "duplicate entry": (edit_entries(lambda found: found * 2), "names the serial number 5 twice"),
    "serial 0": (set_serial(b"\x00"), "serial number no certificate has|cannot be read"),
    "negative serial": (set_serial(b"\x85"), "serial number no certificate has|cannot be read"),
    "long serial": (set_serial(b"\x01" * 21), "serial number no certificate has|cannot be read"),
    "entry without a date": (edit_entries(lambda found: [tlv(0x30, b"\x02\x01\x05")]), "cannot be read"),
    "entry with a false date": (
        edit_entries(lambda found: [tlv(0x30, b"\x02\x01\x05" + tlv(0x17, b"261399000000Z"))]),
        "cannot be read",
    ),
    "more fields": (lambda fields: [*fields, b"\x05\x00"], "cannot be read"),
}


@pytest.mark.parametrize(("edit", "words"), FALSE_FORMS.values(), ids=FALSE_FORMS)
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_list_of_another_form_is_refused(world, edit, words):
    refuse_list(resign_crl(forge_crl(world.people), world.people, edit), world.people.anchors, words)


def test_a_number_of_more_than_20_octets_or_below_0_is_refused(world):
    number = children(children(children(_tbs(forge_crl(world.people))[6])[0])[1])
    for octets in (b"\x01" * 21, b"\x85"):
        value = tlv(0x04, tlv(0x02, octets))
        entry = tlv(0x30, number[0] + value)
        edit = edit_extensions(lambda found, entry=entry: [found[0], entry])
        pem = resign_crl(forge_crl(world.people), world.people, edit)
        refuse_list(pem, world.people.anchors, "has the number|cannot be read")


def _tbs(pem):
    return children(children(parse(pem).public_bytes(serialization.Encoding.DER))[0])


def test_a_list_signed_over_sha1_is_refused(world):
    pem = resign_crl(forge_crl(world.people), world.people, algorithm=hashes.SHA1())
    refuse_list(pem, world.people.anchors, "is signed with sha1")


def test_a_changed_byte_anywhere_is_refused(world):
    pem = crl(world, *ENTRIES)
    source = parse(pem)
    der = source.public_bytes(serialization.Encoding.DER)
    unused_bits = der.rindex(source.signature) - 1  # of the signature; not signed, and says nothing
    for position in range(len(der)):
        changed = bytearray(der)
        changed[position] ^= 0x01
        false = to_pem(bytes(changed), b"X509 CRL")
        if position != unused_bits:
            refuse_list(false, world.people.anchors, "revocation list")


def test_a_list_that_was_cut_is_refused(world):
    pem = crl(world, *ENTRIES)
    der = parse(pem).public_bytes(serialization.Encoding.DER)
    for end in range(0, len(der), 7):
        refuse_list(to_pem(der[:end], b"X509 CRL"), world.people.anchors, "cannot be read")
    for end in range(0, len(pem) - 2, 11):
        refuse_list(pem[:end], world.people.anchors, "not exactly one PEM block")


NO_LISTS = {
    "nothing": lambda w: b"",
    "a certificate": lambda w: w.people.certificate_pem,
    "two lists": lambda w: crl(w) * 2,
    "a certificate beside": lambda w: crl(w) + w.people.certificate_pem,
    "words before": lambda w: b"a list:\n" + crl(w),
    "DER": lambda w: parse(crl(w)).public_bytes(serialization.Encoding.DER),
    "trailing bytes": lambda w: to_pem(
        parse(crl(w)).public_bytes(serialization.Encoding.DER) + b"\x00", b"X509 CRL"
    ),
    "no base64": lambda w: b"-----BEGIN X509 CRL-----\nA=A\n-----END X509 CRL-----\n",
    "a certificate inside": lambda w: w.people.certificate_pem.replace(b"CERTIFICATE", b"X509 CRL"),
}


@pytest.mark.parametrize("make", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_is_refused(world, make):
    refuse_list(make(world), world.people.anchors, "the revocation list cannot be read")


def test_white_space_around_a_list_is_nothing(world):
    pem = b"\n " + crl(world).replace(b"\n", b"\r\n") + b"\n\n"
    assert read_crl(pem, world.people.anchors).number == 1


def test_a_huge_list_is_refused_before_it_is_read(world):
    started = time.perf_counter()
    refuse_list(b"A" * (17 << 20), world.people.anchors, "of 17825792 bytes is too large")
    assert time.perf_counter() - started < 2


def test_an_rsa_key_of_a_ca_that_we_did_not_make_is_no_shortcut(world):
    false = dataclasses.replace(world.people, key=rsa.generate_private_key(65537, 3072))
    refuse_list(forge_crl(false), world.people.anchors, "valid signature|cannot be read")


# ---- who is refused then ----


def test_a_revoked_peer_is_refused(world):
    made, other = (issue_identity(world.sites, SITE, days=9, now=NOW) for _ in range(2))
    serial = describe_leaf(made.certificate_pem).serial
    listed = read_crl(crl(world, Revoked(serial=serial, at=NOW), kind=Kind.SITE), world.sites.anchors)
    for revoked in (listed.revoked, {serial}, [serial]):
        with pytest.raises(IdentityRefused, match=f"^the certificate of {SITE} was revoked$"):
            verify_peer(made.chain_pem, world.clients, now=NOW, revoked=revoked)
        assert verify_peer(other.chain_pem, world.clients, now=NOW, revoked=revoked) == SITE
    assert verify_peer(made.chain_pem, world.clients, now=NOW) == SITE


def test_a_document_of_a_revoked_signer_is_refused(world):
    made = issue_identity(world.people, PERSON, days=9, now=NOW)
    signature = sign(made.private_pem, b"a job")
    revoked = {describe_leaf(made.certificate_pem).serial}
    with pytest.raises(IdentityRefused, match=f"the certificate of {PERSON} was revoked"):
        verify_signed(b"a job", signature, made.chain_pem, world.clients, now=NOW, revoked=revoked)
    assert verify_signed(b"a job", signature, made.chain_pem, world.clients, now=NOW, revoked={5}) == PERSON


class Everything:
    """Contains every serial number."""

    def __contains__(self, serial: object) -> bool:
        return True


def test_what_else_is_wrong_is_said_first(world):
    expired = forge(world.sites, ends=NOW - SECOND)
    with pytest.raises(IdentityRefused, match="expired on"):
        verify_peer(expired, world.clients, now=NOW, revoked=Everything())
    with pytest.raises(IdentityRefused, match="where a person is expected"):
        verify_peer(forge(world.sites), world.clients, now=NOW, kinds={Kind.PERSON}, revoked=Everything())
    refuse(forge(world.sites), world.people.anchors, "which is not the people CA")


# ---- OpenSSL's own verdict ----


def openssl(folder, *arguments):
    result = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def exported(world, tmp_path):
    """A sites CA, its list, and two leaves of which one is on the list."""
    good, bad = (issue_identity(world.sites, SITE, days=9, now=NOW).certificate_pem for _ in range(2))
    entry = Revoked(serial=describe_leaf(bad).serial, at=NOW - SECOND, reason=Reason.KEY_COMPROMISE)
    pems = {
        "root": world.root.certificate_pem,
        "ca": world.sites.certificate_pem,
        "people": world.people.certificate_pem,
        "good": good,
        "bad": bad,
        "list": crl(world, entry, kind=Kind.SITE, number=300),
    }
    for name, pem in pems.items():
        (tmp_path / f"{name}.pem").write_bytes(pem)
    return tmp_path


def test_openssl_lets_the_good_leaf_in_and_keeps_the_revoked_one_out(exported):
    common = ["verify", "-x509_strict", "-crl_check", "-CRLfile", "list.pem"]
    common += ["-attime", str(int(NOW.timestamp())), "-purpose", "sslclient"]
    whole = [*common, "-CAfile", "root.pem", "-untrusted", "ca.pem"]
    partial = [*common, "-partial_chain", "-CAfile", "ca.pem"]
    for arguments in (whole, partial):
        assert openssl(exported, *arguments, "good.pem") == (0, "good.pem: OK\n")
        code, text = openssl(exported, *arguments, "bad.pem")
        assert code != 0
        assert "certificate revoked" in text


def test_openssl_verifies_the_list_with_its_ca_only(exported):
    assert openssl(exported, "crl", "-in", "list.pem", "-CAfile", "ca.pem", "-noout") == (0, "verify OK\n")
    code, text = openssl(exported, "crl", "-in", "list.pem", "-CAfile", "people.pem", "-noout")
    assert "verify OK" not in text
    assert code != 0 or "error" in text.lower() or "fail" in text.lower()


def test_openssl_shows_number_and_reason(exported):
    _, text = openssl(exported, "crl", "-in", "list.pem", "-noout", "-text")
    assert "Version 2" in text
    assert "X509v3 CRL Number: \n                300" in text
    assert "Key Compromise" in text


def test_two_anchors_of_one_kind_have_a_list_each(world, other_world):
    both = join_anchors(world.people.anchors, other_world.people.anchors)
    assert read_crl(crl(world, number=4), both).number == 4
    assert read_crl(crl(other_world, number=5), both).number == 5
