# SPDX-License-Identifier: Apache-2.0
"""Random projects, as project.yml texts: whatever the loader takes, not only what people would write.

The same seed gives the same project, on every machine.
"""

from __future__ import annotations

import ipaddress
import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ROLES = ("project_admin", "org_admin", "lead", "member", "observer")
LONGEST_NAME = 63  # of parties, organisations, projects
_INNER = string.ascii_lowercase + string.digits + "-"
_OUTER = string.ascii_lowercase + string.digits
_WORDS = ("hospital", "klinik", "uni", "lab", "heart", "xn", "a", "0", "site", "charite", "ward-7", "st-jo")
_DEVICES = {"con", "prn", "aux", "nul"}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One random project, and how it is to be provisioned."""

    number: int
    text: bytes  # project.yml; JSON is YAML
    sites: int
    people: int
    now: datetime
    passphrase: bytes | None  # of the CAs' keys
    people_passphrase: bytes | None


def draft_project(seed: int, number: int) -> Draft:
    """The project of this number in the campaign of this seed."""
    chance = random.Random(f"{seed}/{number}")
    names = _Names(chance)
    organisations = [names.new() for _ in range(chance.randint(1, 6))]
    people = [
        {"name": names.new(), "org": chance.choice(organisations), "role": role}
        for role in ("project_admin", *chance.choices(ROLES, k=chance.randint(0, 12)))
    ]
    sites = [
        {"name": names.new(), "org": chance.choice(organisations)} for _ in range(chance.choice(_SITE_COUNTS))
    ]
    project: dict[str, object] = {
        "name": names.new(),
        "trust_domain": _draft_domain(chance, longest=chance.choice((20, 60, 253))),
        "organisations": [{"name": name} for name in organisations],
        "server": _draft_server(chance, names.new(), chance.choice(organisations)),
        "people": people,
        "sites": sites,
    }
    if chance.random() < 0.8:
        project["validity"] = _draft_validity(chance)
    start = datetime(2024, 2, 29, tzinfo=UTC)
    return Draft(
        number=number,
        text=json.dumps(project).encode(),
        sites=len(sites),
        people=len(people),
        now=start + timedelta(seconds=chance.uniform(0, 28 * 365 * 86_400)),  # beyond 2050
        passphrase=b"of the authorities" if chance.random() < 0.3 else None,
        people_passphrase=b"of the people" if chance.random() < 0.3 else None,
    )


_SITE_COUNTS = (0, 0, 1, 1, *range(31))


class _Names:
    """Names that fit the rules, each once, of every length."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._taken = set(_DEVICES)

    def new(self) -> str:
        while (name := self._draft()) in self._taken:
            pass
        self._taken.add(name)
        return name

    def _draft(self) -> str:
        chance = self._chance
        if chance.random() < 0.5:
            return f"{chance.choice(_WORDS)}-{chance.randint(0, 9999)}"
        length = chance.choice((1, 2, 3, 20, LONGEST_NAME - 1, LONGEST_NAME))
        return _draft_label(chance, length)


def _draft_label(chance: random.Random, length: int) -> str:
    middle = "".join(chance.choices(_INNER, k=max(length - 2, 0)))
    return (chance.choice(_OUTER) + middle + chance.choice(_OUTER))[-length:].lstrip("-") or "a"


def _draft_domain(chance: random.Random, *, longest: int) -> str:
    """A DNS name of two labels or more that ends in a top-level domain of letters."""
    domain = chance.choice(("example", "org", "internal", "de", "xn--p1ai"))
    while True:
        longer = f"{_draft_label(chance, chance.choice((1, 4, 9, 30, 63)))}.{domain}"
        if len(longer) > longest:
            return domain if "." in domain else f"a.{domain}"
        domain = longer
        if chance.random() < 0.4:
            return domain


def _draft_private_name(chance: random.Random) -> str:
    """What only a private network resolves: one label, or a last label with a digit at its end."""
    return chance.choice(("localhost", "server", "fl-1", "fl.lan2", "a.b", _draft_label(chance, 63)))


def _draft_international(chance: random.Random) -> str:
    name = chance.choice(("klinik-m\u00fcnchen", "h\u00f4pital", "\u75c5\u9662", "\u0431\u043e\u043b"))
    return f"{name}.example".encode("idna").decode()


def _draft_ipv4(chance: random.Random) -> str:
    return str(ipaddress.IPv4Address(chance.randrange(1, 1 << 32)))


def _draft_ipv6(chance: random.Random) -> str:
    some = chance.choice((1, 0xFFFF_0A00_0001, chance.randrange(1, 1 << 128), (0xFD << 120) + 5))
    return str(ipaddress.IPv6Address(some))


def _draft_public_name(chance: random.Random) -> str:
    return _draft_domain(chance, longest=253)


_HOSTS: tuple[Callable[[random.Random], str], ...] = (
    _draft_public_name,
    _draft_public_name,
    _draft_private_name,
    _draft_international,
    _draft_ipv4,
    _draft_ipv6,
)


def _draft_server(chance: random.Random, name: str, org: str) -> dict[str, object]:
    hosts = list(dict.fromkeys(chance.choice(_HOSTS)(chance) for _ in range(chance.randint(1, 8))))
    split = chance.randint(1, len(hosts))
    endpoints = [
        f"[{host}]:{chance.randint(1, 65535)}" if ":" in host else f"{host}:{chance.randint(1, 65535)}"
        for host in hosts[:split]
    ]
    return {"name": name, "org": org, "endpoints": endpoints, "names": hosts[split:]}


def _draft_validity(chance: random.Random) -> dict[str, object]:
    """Days of every size, each no longer than that of the CA above."""
    root = chance.choice((1, 2, 365, 3650, 7305, 36_525, chance.randint(1, 36_525)))
    issuing = chance.choice((1, root, max(1, root // 2), chance.randint(1, root)))
    leaves = {
        key: chance.choice((float(issuing), issuing / 3, min(0.01, issuing), chance.uniform(0.01, issuing)))
        for key in ("server_days", "site_days", "person_days")
    }
    return {"root_days": root, "issuing_days": issuing, **leaves}
