# SPDX-License-Identifier: Apache-2.0
"""A plan as values: what is to be done about the certificate authority and about each party."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov.kits.authorities import Authorities
from flprov.kits.holding import Held
from flprov.kits.party import Party
from flprov.kits.record import KitRecord, ProjectRecord, RevokedPerson
from flprov.pki import Identity
from flprov.project import Project


class Change(enum.Enum):
    """What is to be done about one party."""

    NEW = "new"  # it has no kit yet
    CHANGED = "changed"  # what its kit is made from changed; its certificate and key stay
    REISSUED = "reissued"  # it gets a new certificate and a new key
    REPAIRED = "repaired"  # its kit is not as it was made
    REMOVED = "removed"  # project.yml no longer names it
    UNCHANGED = "unchanged"  # nothing


class AuthorityChange(enum.Enum):
    """What is to be done about the certificate authority."""

    UNCHANGED = "unchanged"  # nothing; it is never made twice
    NEW = "new"  # there is none yet
    ADOPTED = "adopted"  # a run made it and left no record of it; it is kept
    ENCRYPTED = "encrypted"  # its keys, so far in clear, are encrypted


@dataclass(frozen=True, kw_only=True)
class KitPlan:
    """One party that project.yml names."""

    party: Party
    folder: Path
    change: Change
    reason: str = ""  # why, in one line; empty where the change says it all
    details: tuple[str, ...] = ()  # which settings, "endpoints: a:1 -> a:2"
    files: tuple[str, ...] = ()  # that will differ
    known: KitRecord | None = field(default=None, repr=False)
    held: Held | None = field(default=None, repr=False)  # None: a certificate has to be issued
    must_lock: bool = False  # a new key must not be written in clear
    encrypt_key: bool = False  # the key lies there in clear, and a passphrase was given
    manifest: str = ""  # of what lies there, if it is right
    is_recorded: bool = False  # and project.json says so

    @property
    def must_build(self) -> bool:
        """Whether a kit has to be written; what a dead run left may be right already."""
        return not self.manifest

    @property
    def needs_people_passphrase(self) -> bool:
        """Whether a key is to be made for a person of a project whose people's keys are encrypted."""
        return self.held is None and self.must_lock


@dataclass(frozen=True, kw_only=True)
class RemovalPlan:
    """One party that project.yml no longer names."""

    name: str
    identity: Identity
    folder: Path | None  # its kit; None if it is gone already
    target: Path  # where the kit goes
    record: KitRecord = field(repr=False)

    @property
    def not_after(self) -> datetime:
        """Until when somebody who has the kit could use it."""
        return max(certificate.not_after for certificate in self.record.certificates)


@dataclass(frozen=True, kw_only=True)
class TrustPlan:
    """A newer trust bundle that is to be signed, because people's certificates count no more."""

    version: int  # that it will have
    revoked: tuple[RevokedPerson, ...]  # who comes onto the list

    @property
    def reason(self) -> str:
        """In one line."""
        names = ", ".join(f"{entry.name} ({entry.reason.value})" for entry in self.revoked[:5])
        more = f" and {len(self.revoked) - 5} more" if len(self.revoked) > 5 else ""
        return f"trust bundle {self.version - 1} -> {self.version}: people revoked: {names}{more}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What provisioning would do. Made from one project and one workspace; holds no CA key."""

    project: Project
    workspace: Path
    authority: AuthorityChange
    authorities: Authorities | None = field(default=None, repr=False)  # None: still to be made
    kits: tuple[KitPlan, ...]  # every party of project.yml, in its order
    removals: tuple[RemovalPlan, ...] = ()
    record: ProjectRecord | None = field(default=None, repr=False)
    unfinished: bool = False  # an earlier run died before it wrote down what it had done
    revoked: Mapping[str, RevokedPerson] = field(default_factory=dict)  # people's, by serial number
    trust: TrustPlan | None = None  # None: the trust bundle stays as it is
    notes: tuple[str, ...] = ()  # what project.yml says and nothing can be done about

    @property
    def changed(self) -> tuple[KitPlan, ...]:
        """The kits about which something is to be done."""
        return tuple(kit for kit in self.kits if kit.change is not Change.UNCHANGED)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do at all."""
        settled = self.authority is AuthorityChange.UNCHANGED and not self.unfinished
        return settled and not (self.removals or self.changed or self.trust)

    @property
    def needs(self) -> tuple[str, ...]:
        """The passphrases without which it cannot be carried out."""
        signs = self.trust is not None or any(kit.must_build for kit in self.kits)
        found = []
        if signs and self.authorities is not None and self.authorities.any_encrypted:
            found.append("the passphrase of the CA's keys")
        if any(kit.needs_people_passphrase for kit in self.kits):
            found.append("the passphrase of people's keys")
        return tuple(found)
