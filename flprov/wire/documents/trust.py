# SPDX-License-Identifier: Apache-2.0
"""What `ca` prints: CAs, trust bundles, rotations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class AuthorityDocument:
    """One CA, as the network believes it or as it lies in the workspace."""

    unit: str  # root | servers | sites | people
    state: str  # active: it issues now | waiting: it will, after `activate` | leaving: it did | retired
    fingerprint: str
    key_id: str  # hex; the authorityKeyIdentifier of what it issued
    not_after: datetime


@dataclass(frozen=True, kw_only=True)
class TrustHolder:
    """A party of the live network: which trust bundle it holds, and whose certificate it uses."""

    name: str
    kind: str  # server | site | person
    org: str
    identity: str  # SPIFFE URI
    version: int  # of the bundle; 0: only its kit's anchors, or nobody has heard of it
    ca: str = ""  # key id of the CA that issued its newest certificate; empty: not known
    not_after: datetime | None = None  # of that certificate
    connected: bool = False
    barred: str = ""  # locked | refused; empty: it may come
    from_kit: bool = False  # the server's kit names it; others were added or invited


@dataclass(frozen=True, kw_only=True)
class WithdrawnPerson:
    """A person whose certificates the live network refuses."""

    identity: str
    at: datetime
    reason: str  # as in RFC 5280: cessationOfOperation, keyCompromise, ...
    serial: str = ""  # hex; of one certificate
    before: datetime | None = None  # or: all that were issued before this moment


@dataclass(frozen=True, kw_only=True)
class TrustStatusDocument:
    """What the live network believes, and who has heard of it."""

    version: int
    phase: str  # of a rotation: steady | prepared | activated
    made_at: datetime
    endpoints: tuple[str, ...]  # that the server's kit advertises
    authorities: tuple[AuthorityDocument, ...]
    holders: tuple[TrustHolder, ...]
    withdrawn: tuple[WithdrawnPerson, ...] = ()
    removed_sites: tuple[str, ...] = ()  # names that an admin has removed


@dataclass(frozen=True, kw_only=True)
class CADocument:
    """`ca show --json`: the CAs in a workspace."""

    project: str
    project_id: str
    trust_domain: str
    workspace: str
    encrypted: bool  # every private key, at rest
    phase: str  # of a rotation: steady | prepared | activated
    version: int  # of the trust bundle
    root_fingerprint: str  # of the root that signs new kits
    authorities: tuple[AuthorityDocument, ...]
    revoked_people: int  # certificates on the list that the bundle carries


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """Somebody for whom a step of a rotation comes too early."""

    name: str
    kind: str  # server | site | person
    reason: str
    warns: bool = False  # the step is taken all the same


@dataclass(frozen=True, kw_only=True)
class RotationDocument:
    """`ca rotate ... --json` and `ca publish --json`."""

    project: str
    workspace: str
    phase: str  # of the workspace: steady | prepared | activated
    changed: bool  # by this command
    ended: str  # how the last rotation ended: finished | rolled back; empty: there was none
    version: int  # of the workspace's trust bundle
    published: int | None  # of the live network's; None: it was not asked, or does not answer
    root_fingerprint: str
    other_root_fingerprint: str  # of the root that waits or leaves; empty without one
    authorities: tuple[AuthorityDocument, ...]  # of the workspace
    holders: tuple[TrustHolder, ...] = ()  # of the live network
    blockers: tuple[Blocker, ...] = ()  # of the step that comes next
    next: str = ""  # what to type
