# SPDX-License-Identifier: Apache-2.0
"""What a run of provisioning did, as values; the command prints them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flprov.kits.record import RevokedPerson
from flprov.pki import Kind


class Outcome(enum.Enum):
    """What happened to one kit."""

    CREATED = "created"  # it is new
    UPDATED = "updated"  # what it is made from changed; certificate and key are the same
    REISSUED = "reissued"  # it has a new certificate and a new key
    REPAIRED = "repaired"  # its folder was not as it had been made
    UNCHANGED = "unchanged"  # nothing was touched


@dataclass(frozen=True, kw_only=True)
class KitOutcome:
    """One kit after the run."""

    name: str
    kind: Kind
    org: str
    outcome: Outcome
    reason: str  # why it was touched; empty for what is new or unchanged
    folder: Path
    not_after: datetime  # of its certificate


@dataclass(frozen=True, kw_only=True)
class RemovedParty:
    """One who is no longer in project.yml and has a certificate that is still valid."""

    name: str
    kind: Kind
    folder: Path | None  # where its kit lies now, if it does
    not_after: datetime  # until when its certificate is valid


@dataclass(frozen=True, kw_only=True)
class ProvisionReport:
    """The outcome of one run."""

    project: str
    project_id: str
    workspace: Path
    root_fingerprint: str
    ca_created: bool  # by this run
    ca_adopted: bool  # by a run that died before it could say so, or the record of it was lost
    ca_encrypted: bool  # the CA's private keys, at rest
    ca_not_after: datetime  # when the first of the issuing CAs ends
    endpoints: tuple[str, ...]
    trust_version: int  # of the trust bundle; the live network may have an older one
    revoked: tuple[RevokedPerson, ...] = ()  # whom this run put on the list of people
    kits: tuple[KitOutcome, ...]
    removed: tuple[RemovedParty, ...]

    @property
    def changed(self) -> tuple[KitOutcome, ...]:
        """The kits that have to be delivered."""
        return tuple(kit for kit in self.kits if kit.outcome is not Outcome.UNCHANGED)
