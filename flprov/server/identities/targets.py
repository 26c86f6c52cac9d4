# SPDX-License-Identifier: Apache-2.0
"""What an admin means by the TARGET of `cert revoke`: a party's name, its SPIFFE URI, or a serial number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flprov.errors import FlprovError, IdentityRefused, Misuse, NotFound, Refused
from flprov.pki import Identity, Kind, Reason, parse_identity, serial_number
from flprov.server.identities.book import CertificateRecord
from flprov.server.identities.people import find_people, known_people
from flprov.server.identities.surroundings import Surroundings

_SERIAL = re.compile(r"[0-9a-f]{4,40}")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whose certificates; or one certificate."""

    name: str
    kind: Kind
    identities: tuple[Identity, ...]
    record: CertificateRecord | None = None  # given: this one alone


def parse_reason(text: str) -> Reason:
    """One of X.509's reasons: `keyCompromise`, or as people type it, `key-compromise`.

    Raises:
        Misuse: it is none that we give.
    """
    if not text:
        return Reason.UNSPECIFIED
    first, *rest = text.split("-")
    spelled = first + "".join(part.capitalize() for part in rest)
    try:
        return Reason(spelled)
    except ValueError:
        names = ", ".join(re.sub("([A-Z])", r"-\1", reason.value).lower() for reason in Reason)
        raise Misuse(f"{text[:40]!r} is no reason to revoke a certificate", hint=f"one of: {names}") from None


def find_target(around: Surroundings, text: str) -> Target:
    """What `text` names.

    Raises:
        NotFound: nothing that is known.
        Misuse: several things.
        Refused: the server or a CA, about which something else has to be done.
    """
    if text.startswith("spiffe://"):
        return _by_identity(around, text)
    if text == around.kit.name:
        raise _server_refusal(around.kit.name)
    if any(record.serial == text for record in around.book):  # before names, which may look like one
        return _by_serial(around, text)
    sites = _sites(around, text)
    people = tuple(find_people(around, text))
    if sites and people:
        shown = ", ".join(identity.uri for identity in (*sites, *people))
        raise Misuse(f"{text} is the name of a site and of a person", hint=f"give one of: {shown}")
    if sites or people:
        return Target(name=text, kind=(sites or people)[0].kind, identities=sites or people)
    if text in around.registry.removed:
        around.registry.find(text)  # says when, by whom and why
    return _by_serial(around, text)


def _sites(around: Surroundings, name: str) -> tuple[Identity, ...]:
    site = around.registry.sites.get(name)
    return (around.registry.identity(site),) if site is not None else ()


def _by_identity(around: Surroundings, uri: str) -> Target:
    """Also somebody who was never here: a kit that was made but has not called yet."""
    try:
        identity = parse_identity(uri)
    except IdentityRefused as error:
        raise Misuse(str(error), hint=error.hint) from error
    if identity.kind is Kind.SERVER:
        raise _server_refusal(identity.name)
    if identity.trust_domain != around.kit.trust_domain:
        raise NotFound(f"{identity} belongs to another project; this one is {around.kit.trust_domain}")
    return Target(name=identity.name, kind=identity.kind, identities=(identity,))


def _by_serial(around: Surroundings, text: str) -> Target:
    serial = text.replace(":", "").lower().lstrip("0")
    if not _SERIAL.fullmatch(serial):
        raise _not_found(text)
    if any(number.startswith(serial) for number in _ca_serials(around)):
        raise Refused(
            f"{text} is the certificate of a CA, which cannot be revoked alone",
            hint="replace it: flprov ca rotate prepare, where the project is provisioned",
        )
    given = [known.given for known in known_people(around).values() if known.given is not None]
    found = [record for record in (*around.book, *given) if record.serial.startswith(serial)]
    if not found:
        raise _not_found(text)
    if len(found) > 1:
        raise Misuse(
            f"{len(found)} certificates have a serial number that begins with {text}",
            hint="give more of its digits: flprov cert ls --all",
        )
    identity = parse_identity(found[0].identity)
    if identity.kind is Kind.SERVER:
        raise _server_refusal(identity.name)
    return Target(name=found[0].serial, kind=identity.kind, identities=(identity,), record=found[0])


def _ca_serials(around: Surroundings) -> list[str]:
    says = around.trust.current.says
    texts = (*says.roots, *says.servers, *says.sites, *says.people)
    return [serial_number(text.encode()) for text in texts]


def _not_found(text: str) -> FlprovError:
    return NotFound(
        f"no site, person or certificate {text[:80]!r} is known here",
        hint="flprov cert ls shows names and serial numbers; who has never called can be given as SPIFFE URI",
    )


def _server_refusal(name: str) -> FlprovError:
    return Refused(
        f"the certificate of the server {name} cannot be revoked here: sites and people would learn of it"
        " only from the server itself",
        hint=f"renew it: flprov cert renew {name}; if its key was stolen, replace the servers CA"
        " (flprov ca rotate prepare, where the project is provisioned), which ends every older certificate",
    )
