# SPDX-License-Identifier: Apache-2.0
"""What `cert`, `user`, `invite`, `join` and the changes of sites print."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class RenewalDocument:
    """`cert renew NAME --json`: the certificate that a site or the server has got."""

    name: str
    serial: str  # hex
    issued_at: datetime
    not_after: datetime


@dataclass(frozen=True, kw_only=True)
class CertificateDocument:
    """One line of `cert ls`."""

    subject: str  # the party's name, or the CA's
    kind: str  # root | ca | server | site | person | invite
    identity: str  # SPIFFE URI; empty for a CA
    state: str  # valid | overdue | expired | revoked | locked | unseen: nobody has come with it yet
    reason: str = ""  # why it is revoked, locked or overdue
    serial: str = ""  # hex; empty: not known yet
    issued_at: datetime | None = None
    not_after: datetime | None = None
    days_left: float | None = None
    how: str = ""  # kit | join | renewal | invite | provision: how it was made, as far as the server knows
    renews_itself: bool = False
    fingerprint: str = ""
    hint: str = ""  # what to do about it


@dataclass(frozen=True, kw_only=True)
class CertificateListDocument:
    """`cert ls --json`: what ends first comes first."""

    certificates: tuple[CertificateDocument, ...]
    at: datetime


@dataclass(frozen=True, kw_only=True)
class PartyChangeDocument:
    """What `site add|rm|lock|unlock`, `user rm` and `cert revoke` did, as `--json` prints it."""

    name: str
    kind: str  # site | person | invite
    change: str  # added | removed | locked | unlocked | revoked
    changed: bool  # false: it was so already, and nothing was done
    reason: str = ""
    identities: tuple[str, ...] = ()  # whose certificates were revoked, as SPIFFE URIs
    serials: tuple[str, ...] = ()  # hex; of the certificates that the server knew and revoked
    ended: int = 0  # calls that were open and were ended
    notes: tuple[str, ...] = ()  # what else there is to know or to do


@dataclass(frozen=True, kw_only=True)
class PersonDocument:
    """One item of `user ls --json`."""

    name: str
    org: str
    role: str
    identity: str
    state: str  # active | expired | revoked | unseen: has not called yet
    reason: str = ""  # why it is revoked
    last_seen: datetime | None = None  # since the server was started
    cert_not_after: datetime | None = None  # None: not known before the first call
    provisioned: bool = False  # the server's kit names the person


@dataclass(frozen=True, kw_only=True)
class PersonListDocument:
    """`user ls --json`."""

    people: tuple[PersonDocument, ...]


@dataclass(frozen=True, kw_only=True)
class CRLDocument:
    """One revocation list that `cert crl` writes."""

    name: str  # servers | sites | people
    pem: str  # one list for each CA of this kind; the one that issues now comes first
    revoked: int  # entries
    next_update: datetime | None  # None: there is no list, since nobody was revoked


@dataclass(frozen=True, kw_only=True)
class CRLListDocument:
    """`cert crl --json`."""

    lists: tuple[CRLDocument, ...]


@dataclass(frozen=True, kw_only=True)
class InviteDocument:
    """One invite; never its secret."""

    id: str
    site: str
    org: str
    state: str  # open | waiting | approved | used | expired | revoked
    approval: bool  # an admin has to compare the key's fingerprint and approve it
    created_at: datetime
    created_by: str
    not_after: datetime
    fingerprint: str = ""  # of the first key that came with it; empty: none has come yet
    came_at: datetime | None = None
    approved_at: datetime | None = None
    approved_by: str = ""
    used_at: datetime | None = None
    serial: str = ""  # of the site's certificate that was issued for it, hex
    revoked_at: datetime | None = None
    revoked_by: str = ""
    reason: str = ""  # why it was revoked


@dataclass(frozen=True, kw_only=True)
class InviteListDocument:
    """`invite ls --json`."""

    invites: tuple[InviteDocument, ...]


@dataclass(frozen=True, kw_only=True)
class InviteIssueDocument:
    """What the server answers to whoever creates an invite."""

    invite: InviteDocument
    certificate: str  # of the invite, PEM
    site_added: bool = False  # the project did not have this site
    replaced: tuple[str, ...] = ()  # ids of the site's older invites, which are revoked now


@dataclass(frozen=True, kw_only=True)
class NewInviteDocument:
    """`invite create --json`."""

    line: str  # the invite itself: as secret as a key until it is used
    invite: InviteDocument
    site_added: bool
    replaced: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JoinDocument:
    """`join --json`."""

    site: str
    org: str
    project: str
    kit: str  # the folder
    moved_aside: str | None  # where the kit is now that was there before
    server: str
    endpoints: tuple[str, ...]
    cert_not_after: datetime
    fingerprint: str  # of the site's key
    root_fingerprint: str
