# SPDX-License-Identifier: Apache-2.0
"""Revocation lists (CRLs, RFC 5280 section 5): who is refused although the certificate has not expired.

Each issuing CA signs its own list, of certificates that it issued. Ours are whole lists of version 2 with
a number; a site takes a newer one for an older one, never the reverse. Who keeps which number is for the
callers: nothing here remembers.

A list's `nextUpdate` is for other software. Ours never refuses a list because that moment has passed:
a revoked certificate stays revoked, and a site that was cut off for a month must not be locked out, or
let somebody in, because nobody brought it a newer list.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from flprov._base import dataclass
from flprov.errors import IdentityRefused, Misuse
from flprov.pki.anchors import Anchor, Anchors
from flprov.pki.authority import Authority
from flprov.pki.certificates import UNREADABLE
from flprov.pki.identity import Kind
from flprov.pki.keys import HASHES, verify_public_key

_LARGEST = 16 * 1024 * 1024  # some 240,000 entries
_MOST_BITS = 159  # 20 octets with the sign (RFC 5280 sections 4.1.2.2 and 5.2.3)
_BLOCK = re.compile(
    rb"\s*-----BEGIN X509 CRL-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END X509 CRL-----[ \t]*\r?\n?\s*"
)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class Reason(enum.Enum):
    """Why a certificate was revoked (RFC 5280 section 5.3.1): those reasons that we give."""

    UNSPECIFIED = "unspecified"  # nobody said
    KEY_COMPROMISE = "keyCompromise"  # somebody else has the key, or may: a laptop was stolen
    AFFILIATION_CHANGED = "affiliationChanged"  # works for somebody else now
    SUPERSEDED = "superseded"  # has a newer certificate
    CESSATION_OF_OPERATION = "cessationOfOperation"  # the site has left, the machine is gone
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"  # thrown out


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """One entry: a certificate of the CA whose list this is."""

    serial: int
    at: datetime  # aware; in whole seconds once it stands on a list
    reason: Reason = Reason.UNSPECIFIED


@dataclass(frozen=True, kw_only=True)
class CRL:
    """A list that one of the anchors signed. `revoked` is what `verify_peer(revoked=...)` takes."""

    kind: Kind  # whose list it is: that of the servers, the sites or the people CA
    number: int  # a newer list of the same CA has a greater one
    this_update: datetime
    next_update: datetime  # for other software; see above
    revoked: Mapping[int, Revoked] = field(repr=False)  # by serial number


def create_crl(
    ca: Authority, revoked: Iterable[Revoked], *, number: int, now: datetime, days: float
) -> bytes:
    """The list of an issuing CA, signed; PEM.

    Args:
        ca: the CA that issued what is revoked.
        revoked: in any order; of two entries with one serial number the earlier counts.
        number: greater than that of every list of this CA before.
        now: the time, which becomes thisUpdate.
        days: how long other software takes the list for new; at most as long as the CA is valid.

    Raises:
        IdentityRefused: `ca` is the root, or has expired.
        Misuse: `days`, `number` or a serial number is not one that a list can hold.
    """
    if ca.kind is None:
        raise IdentityRefused("the root CA signs no revocation list: only the CAs under it have one")
    _require_number(number, "a revocation list's number", fewest=0)
    unique = {entry.serial: entry for entry in sorted(revoked, key=_latest_first)}
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=ca.anchor.certificate.subject,
        # Added one by one, the builder would copy the list each time: minutes for 100,000 entries.
        revoked_certificates=[_build_entry(unique[serial]) for serial in sorted(unique)],
    )
    builder = builder.last_update(now.replace(microsecond=0))
    builder = builder.next_update(ca.end(days, now).replace(microsecond=0))
    builder = builder.add_extension(ca.key_identifier, critical=False)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _latest_first(entry: Revoked) -> float:
    return -entry.at.timestamp()


def _build_entry(entry: Revoked) -> x509.RevokedCertificate:
    _require_number(entry.serial, "a revoked certificate's serial number", fewest=1)
    builder = x509.RevokedCertificateBuilder(entry.serial).revocation_date(entry.at.replace(microsecond=0))
    if entry.reason is not Reason.UNSPECIFIED:  # RFC 5280 section 5.3.1: leave it out instead
        flag = x509.ReasonFlags(entry.reason.value)
        builder = builder.add_extension(x509.CRLReason(flag), critical=False)
    return builder.build()


def _require_number(number: int, what: str, *, fewest: int) -> None:
    if number < fewest or number.bit_length() > _MOST_BITS:
        raise Misuse(f"{what} is from {fewest} to 2**{_MOST_BITS} - 1, not {number}")


def read_crl(pem: bytes, anchors: Anchors) -> CRL:
    """The list in `pem`, if one of the anchors signed it and it says nothing that we do not act on.

    A list whose `nextUpdate` has passed is accepted: what it revokes is still revoked.

    Raises:
        IdentityRefused: naming what is wrong.
    """
    source = _parse(pem)
    try:
        anchor = _verify_list(source, anchors)
        assert anchor.kind is not None
        assert source.next_update_utc is not None
        return CRL(
            kind=anchor.kind,
            number=_read_extension(source.extensions, x509.CRLNumber).crl_number,
            this_update=source.last_update_utc,
            next_update=source.next_update_utc,
            revoked=_read_entries(source),
        )
    except UNREADABLE as error:
        raise IdentityRefused("the revocation list cannot be read: it is not a well-formed CRL") from error


def _parse(pem: bytes) -> x509.CertificateRevocationList:
    if len(pem) > _LARGEST:
        raise IdentityRefused(
            f"a revocation list of {len(pem)} bytes is too large; at most {_LARGEST} are read"
        )
    block = _BLOCK.fullmatch(pem)
    if block is None:
        raise IdentityRefused("the revocation list cannot be read: it is not exactly one PEM block of a CRL")
    try:
        der = base64.b64decode(block[1].translate(None, b"\r\n"), validate=True)
        return x509.load_der_x509_crl(der)
    except x509.InvalidVersion as error:
        raise IdentityRefused("the revocation list is not of version 2") from error
    except UNREADABLE as error:
        raise IdentityRefused("the revocation list cannot be read: it is not a well-formed CRL") from error


def _verify_list(source: x509.CertificateRevocationList, anchors: Anchors) -> Anchor:
    """Everything but the entries; whose list it is."""
    if not _has_version(source.tbs_certlist_bytes):
        raise IdentityRefused("the revocation list is of version 1, not 2")
    anchor = _find_issuer(source, anchors)
    _verify_signature(source, anchor)
    _verify_extensions(source.extensions)
    number = _read_extension(source.extensions, x509.CRLNumber).crl_number
    if number < 0 or number.bit_length() > _MOST_BITS:
        raise IdentityRefused(f"the revocation list of {anchor.name} has the number {number:x} (hex)")
    if source.next_update_utc is None or source.next_update_utc < source.last_update_utc:
        raise IdentityRefused(f"the revocation list of {anchor.name} has no nextUpdate after its thisUpdate")
    return anchor


def _has_version(tbs: bytes) -> bool:
    """Whether the first field is `version 2`. The parser takes a list without one for version 2."""
    start = 2 if tbs[1] < 0x80 else 2 + (tbs[1] & 0x7F)
    return tbs[start : start + 3] == b"\x02\x01\x01"


def _find_issuer(source: x509.CertificateRevocationList, anchors: Anchors) -> Anchor:
    key_id = _read_extension(source.extensions, x509.AuthorityKeyIdentifier).key_identifier
    anchor = next((anchor for anchor in anchors.members if anchor.key_id == key_id), None)
    if anchor is None:
        raise IdentityRefused(
            f"the revocation list is signed by a CA that is not {anchors.names} that is trusted here",
            hint="it belongs to another project or to another CA of this one",
        )
    if anchor.kind is None:
        raise IdentityRefused("the revocation list is of the root CA, which has none")
    if source.issuer != anchor.certificate.subject:
        raise IdentityRefused(f"the revocation list names another issuer than {anchor.name}")
    return anchor


def _verify_signature(source: x509.CertificateRevocationList, anchor: Anchor) -> None:
    algorithm = source.signature_hash_algorithm
    if algorithm is None or algorithm.name not in HASHES:
        name = algorithm.name if algorithm else "an unknown hash"
        raise IdentityRefused(
            f"the revocation list of {anchor.name} is signed with {name}; allowed are {', '.join(HASHES)}"
        )
    if not source.is_signature_valid(verify_public_key(anchor.certificate.key)):
        raise IdentityRefused(
            f"the revocation list does not carry a valid signature of {anchor.name}",
            hint="it was changed after it was signed",
        )


def _verify_extensions(extensions: x509.Extensions) -> None:
    if any(extension.oid == ExtensionOID.DELTA_CRL_INDICATOR for extension in extensions):
        raise IdentityRefused("the revocation list is a delta list; only whole ones are used here")
    for extension in extensions:
        if extension.critical:
            raise IdentityRefused(
                f"the revocation list has the critical extension {extension.oid.dotted_string},"
                " which is not known"
            )


def _read_extension(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound as error:
        raise IdentityRefused(f"the revocation list has no extension {kind.oid.dotted_string}") from error


def _read_entries(source: x509.CertificateRevocationList) -> dict[int, Revoked]:
    found: dict[int, Revoked] = {}
    for entry in source:
        serial = entry.serial_number
        if serial < 1 or serial.bit_length() > _MOST_BITS:
            raise IdentityRefused("the revocation list has an entry whose serial number no certificate has")
        if serial in found:
            raise IdentityRefused(f"the revocation list names the serial number {serial:x} twice")
        found[serial] = Revoked(serial=serial, at=entry.revocation_date_utc, reason=_read_reason(entry))
    return found


def _read_reason(entry: x509.RevokedCertificate) -> Reason:
    reason = Reason.UNSPECIFIED
    for extension in entry.extensions:
        if extension.critical:
            raise IdentityRefused(
                f"the revocation list has an entry with the critical extension"
                f" {extension.oid.dotted_string}, which is not known"
            )
        if extension.oid == CRLEntryExtensionOID.CRL_REASON:
            reason = _name_reason(extension.value)
    return reason


def _name_reason(value: x509.CRLReason) -> Reason:
    try:
        return Reason(value.reason.value)
    except ValueError:
        raise IdentityRefused(
            f"the revocation list has an entry with the reason {value.reason.value}, which is not used here"
        ) from None
