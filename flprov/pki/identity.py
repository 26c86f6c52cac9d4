# SPDX-License-Identifier: Apache-2.0
"""Who somebody is: the SPIFFE URI in a certificate, and nothing else.

    spiffe://<trust domain>/server/<name>
    spiffe://<trust domain>/site/<org>/<name>
    spiffe://<trust domain>/person/<org>/<role>/<name>
    spiffe://<trust domain>/invite/<org>/<site>/<invite>

Names are lower-case ASCII on purpose. Two names that differ can then never look the same, mean the
same folder, or need quoting in a URI, a path, a shell or a log line.
"""

from __future__ import annotations

import enum
import re

from flprov._base import dataclass
from flprov.errors import IdentityRefused

SCHEME = "spiffe://"

# SPIFFE-ID section 2.3: validators must support 2,048 bytes; ours never come near.
_LONGEST_URI = 2048
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_INVITE = re.compile(r"[0-9a-f]{16}")
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")
_NAME_RULE = "1 to 63 of a-z 0-9 . _ -, with a letter or digit first and last"


class Kind(enum.Enum):
    """What sort of party an identity is. `profiles.ISSUERS` says which CA may vouch for it."""

    SERVER = "server"  # the one process that everybody dials
    SITE = "site"  # a party with data; dials out
    PERSON = "person"  # an admin with a role
    INVITE = "invite"  # a site that is yet to join: may ask for its certificate, once, and for nothing else


class Role(enum.Enum):
    """What a person may do; the table of methods says the rest."""

    PROJECT_ADMIN = "project_admin"  # everything
    ORG_ADMIN = "org_admin"  # sites, invites and people of the own organisation
    LEAD = "lead"  # uploads and submits; aborts, deletes and downloads own jobs
    MEMBER = "member"  # lists, logs, downloads of the own organisation's jobs
    OBSERVER = "observer"  # status and lists


def show(text: str, limit: int = 100) -> str:
    """Text from a stranger, safe to print: ASCII, quoted, cut."""
    return ascii(text if len(text) <= limit else text[:limit] + "...")


def verify_name(name: str, what: str) -> str:
    """`name`, if it may be part of an identity. Raises IdentityRefused, naming `what`."""
    if not _NAME.fullmatch(name):
        raise IdentityRefused(f"{what} {show(name)} is not a name", hint=f"use {_NAME_RULE}")
    return name


def verify_trust_domain(name: str) -> str:
    """`name`, if it may be a trust domain (SPIFFE-ID section 2.1, in lower case)."""
    if not _TRUST_DOMAIN.fullmatch(name):
        raise IdentityRefused(
            f"trust domain {show(name)} is not a name",
            hint="use up to 255 of a-z 0-9 . _ -, with a letter or digit first and last",
        )
    return name


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One party, as its certificate names it. Cannot be made with a name that breaks the rules.

    Raises:
        IdentityRefused: a name breaks the rules, or a part is missing or does not belong.
    """

    trust_domain: str
    kind: Kind
    name: str  # an invite's is that of the site
    org: str = ""
    role: Role | None = None
    invite: str = ""  # which invite: 16 lower-case hex digits

    def __post_init__(self) -> None:
        verify_trust_domain(self.trust_domain)
        verify_name(self.name, f"{self.kind.value} name")
        if self.kind is not Kind.SERVER:
            verify_name(self.org, f"organisation of {self.kind.value} {self.name}")
        elif self.org:
            raise IdentityRefused(f"server {self.name} cannot belong to an organisation")
        if (self.role is not None) != (self.kind is Kind.PERSON):
            raise IdentityRefused(f"{self.kind.value} {self.name}: a person has a role, nobody else has")
        self._verify_invite()

    def _verify_invite(self) -> None:
        if self.kind is not Kind.INVITE:
            if self.invite:
                raise IdentityRefused(f"{self.kind.value} {self.name} cannot have the id of an invite")
        elif not _INVITE.fullmatch(self.invite):
            raise IdentityRefused(
                f"invite id {show(self.invite)} of site {self.name} is not 16 lower-case hex digits"
            )

    @property
    def uri(self) -> str:
        """The SPIFFE URI."""
        role = self.role.value if self.role else ""
        parts = [self.trust_domain, self.kind.value, self.org, role, self.name, self.invite]
        return SCHEME + "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.uri


def parse_identity(uri: str) -> Identity:
    """The identity that `uri` spells, if it is exactly one of the four forms.

    Nothing is decoded, folded or trimmed: what is not in its one spelling is refused.

    Raises:
        IdentityRefused: it is something else; the message says which part.
    """
    if len(uri) > _LONGEST_URI:
        raise IdentityRefused(f"identity {show(uri, 60)} is longer than {_LONGEST_URI} bytes")
    if not uri.startswith(SCHEME):
        raise IdentityRefused(f"identity {show(uri)} does not start with {SCHEME}")
    match uri.removeprefix(SCHEME).split("/"):
        case [domain, "server", name]:
            return Identity(trust_domain=domain, kind=Kind.SERVER, name=name)
        case [domain, "site", org, name]:
            return Identity(trust_domain=domain, kind=Kind.SITE, org=org, name=name)
        case [domain, "person", org, role, name]:
            found = _parse_role(role, uri)
            return Identity(trust_domain=domain, kind=Kind.PERSON, org=org, role=found, name=name)
        case [domain, "invite", org, name, invite]:
            return Identity(trust_domain=domain, kind=Kind.INVITE, org=org, name=name, invite=invite)
    raise IdentityRefused(
        f"identity {show(uri)} is not server/<name>, site/<org>/<name>, person/<org>/<role>/<name>"
        " or invite/<org>/<site>/<invite>"
    )


def _parse_role(role: str, uri: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise IdentityRefused(f"identity {show(uri)} has the unknown role {show(role)}") from None
