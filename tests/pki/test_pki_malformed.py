# SPDX-License-Identifier: Apache-2.0
"""Bytes that are no certificate, or one that no library builds: refused in our words, at once."""

import random
import warnings

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from villains import (
    NOW,
    PERSON,
    SERVER,
    SITE,
    children,
    forge,
    refuse,
    resign,
    tlv,
    to_der,
    to_pem,
)

from flprov.errors import IdentityRefused
from flprov.pki import (
    create_key,
    fingerprint,
    serial_number,
    verify_peer,
)

PERSON_URI = str(PERSON)
SERVER_URI = str(SERVER)


@pytest.mark.parametrize("name", ["hоspital".encode(), "a\u202eb".encode(), b"\xff\xfe", b"caf\xe9"])
def test_a_uri_that_is_not_ascii_is_refused(world, name):
    """No library builds it; RFC 5280 wants an IA5String."""

    def swap(fields):
        return [
            field.replace(b"hospital-a", name.ljust(10, b"x")) if field[0] == 0xA3 else field
            for field in fields
        ]

    refuse(resign(forge(world.sites), world.sites, swap), world.clients, "cannot be read|is not a name")


def test_sha1_is_refused_although_the_signature_is_right(world):
    pem = resign(forge(world.sites), world.sites, lambda fields: fields, algorithm=hashes.SHA1())
    refuse(pem, world.clients, "is signed with sha1")


def drop(*tags):
    return lambda fields: [field for field in fields if field[0] not in tags]


def set_version(number):
    return lambda fields: [tlv(0xA0, tlv(0x02, bytes([number]))), *fields[1:]]


def set_serial(octets):
    return lambda fields: [fields[0], tlv(0x02, octets), *fields[2:]]


def double_extension(fields):
    extensions = children(children(fields[-1])[0])
    return [*fields[:-1], tlv(0xA3, tlv(0x30, b"".join([*extensions, extensions[0]])))]


def second_san(fields):
    """A second subjectAltName with another identity: the parser differential of old."""
    extensions = children(children(fields[-1])[0])
    names = [e.replace(b"hospital-a", b"hospital-b") for e in extensions if b"hospital-a" in e]
    return [*fields[:-1], tlv(0xA3, tlv(0x30, b"".join([*extensions, *names])))]


def trailing_in_extensions(fields):
    return [*fields[:-1], tlv(0xA3, children(fields[-1])[0] + b"\x05\x00")]


SURGERY = {
    "v1": (drop(0xA0, 0xA3), "version 1, not 3"),
    "v1 with extensions": (drop(0xA0), "version 1, not 3|cannot be read"),
    "v2": (set_version(1), "version 2, not 3|cannot be read"),
    "v4": (set_version(3), "its version is 4, not 3"),
    "v100": (set_version(99), "cannot be read"),
    "extension twice": (double_extension, "stands in it twice"),
    "two subjectAltNames": (second_san, "2.5.29.17 stands in it twice"),
    "negative serial": (set_serial(b"\x87"), "serial number"),
    "zero serial": (set_serial(b"\x00"), "serial number"),
    "long serial": (set_serial(b"\x01" * 21), "serial number|cannot be read"),
    "serial of 160 bits": (set_serial(b"\x00" + b"\xff" * 20), "serial number|cannot be read"),
    "serial not minimal": (set_serial(b"\x00\x01"), "cannot be read"),
    "trailing bytes in the body": (lambda fields: [*fields, b"\x05\x00"], "cannot be read"),
    "trailing bytes in the extensions": (trailing_in_extensions, "cannot be read"),
    "no key": (lambda fields: [*fields[:6], *fields[7:]], "cannot be read"),
}


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize(("edit", "words"), SURGERY.values(), ids=SURGERY)
def test_certificates_that_no_library_builds_are_refused(world, edit, words):
    refuse(resign(forge(world.sites), world.sites, edit), world.clients, words)


def test_surgery_without_changes_is_good(world):
    pem = resign(forge(world.sites), world.sites, lambda fields: fields)
    assert verify_peer(pem, world.clients, now=NOW) == SITE


def test_two_different_algorithm_fields_are_refused(world):
    tbs, outer, signature = children(to_der(forge(world.sites)))
    changed = outer.replace(b"\x04\x03\x02", b"\x04\x03\x03")
    refuse(to_pem(tlv(0x30, tbs + changed + signature)), world.clients, "valid signature|cannot be read")


def test_bytes_beside_the_certificate_are_refused(world):
    pem, der = forge(world.sites), to_der(forge(world.sites))
    refuse(to_pem(der + b"\x00"), world.clients, "trailing bytes")
    refuse(to_pem(b"\x00" + der), world.clients, "cannot be read")
    refuse(pem + b"x", world.clients, "bytes beside")
    refuse(b"x" + pem, world.clients, "no PEM certificate")
    refuse(b"Bag Attributes\n" + pem, world.clients, "no PEM certificate")
    refuse(pem + create_key(), world.clients, "bytes beside")
    refuse(pem + b"\x00", world.clients, "bytes beside")
    refuse(pem.replace(b"\n-----END", b"\n=-----END"), world.clients, "no PEM certificate|base64")
    refuse(pem[:-30], world.clients, "no PEM certificate")
    refuse(to_pem(der)[:200] + b"!" + to_pem(der)[201:], world.clients, "no PEM certificate")


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\n",
        b"\x00" * 100,
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n" * 4000,
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 100_000,
        b"-----BEGIN CERTIFICATE-----\n" + b"A\n" * 50_000,
        b" " * 100_000,
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 10_000_000 + b"\n-----END CERTIFICATE-----\n",
        to_pem(b"\x30\x84\xff\xff\xff\xff"),
        to_pem(b"\x30\x80" * 20_000),
    ],
    ids=range(13),
)
def test_junk_is_refused_at_once(world, junk):
    refuse(junk, world.clients, "PEM|cannot be read|too large")


def test_windows_line_ends_are_no_junk(world):
    pem = forge(world.sites).replace(b"\n", b"\r\n")
    assert verify_peer(pem, world.clients, now=NOW) == SITE


def test_a_changed_byte_never_gives_another_verdict_than_refused(world):
    """Every byte of a certificate, changed at random: refused, in our own words, with no other error."""
    der, chance = to_der(forge(world.sites)), random.Random(7)
    for position in range(len(der)):
        changed = bytearray(der)
        changed[position] ^= chance.randrange(1, 256)
        with pytest.raises(IdentityRefused):
            verify_peer(to_pem(bytes(changed)), world.clients, now=NOW)


def test_a_shortened_certificate_is_refused(world):
    der = to_der(forge(world.sites))
    for length in range(0, len(der), 7):
        with pytest.raises(IdentityRefused):
            verify_peer(to_pem(der[:length]), world.clients, now=NOW)


def test_the_serial_survives_the_other_half_of_the_signature_and_the_fingerprint_does_not(world):
    """(r, -s) signs what (r, s) signs. A revocation by fingerprint would be undone by anybody."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    pem = forge(world.sites)
    tbs, outer, signature = children(to_der(pem))
    r, s = decode_dss_signature(signature[3:])
    twin = to_pem(tlv(0x30, tbs + outer + tlv(0x03, b"\x00" + encode_dss_signature(r, order - s))))
    assert verify_peer(twin, world.clients, now=NOW) == SITE
    assert fingerprint(twin) != fingerprint(pem)
    assert serial_number(twin) == serial_number(pem)


@pytest.mark.parametrize("octets", [b"\x87", b"\x00"], ids=["negative", "zero"])
def test_a_serial_that_is_not_positive_is_refused_where_warnings_are_errors_too(world, octets):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pem = resign(forge(world.sites), world.sites, set_serial(octets))
        refuse(pem, world.clients, "its serial number is not positive")
