# SPDX-License-Identifier: Apache-2.0
"""What `provision` and `kit` print."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why something was refused or failed, as every command says it."""

    code: str  # as in docs/exit-codes.md: kit-refused, host-unreachable, ...
    message: str  # one sentence
    hint: str | None  # the next thing to type


@dataclass(frozen=True, kw_only=True)
class KitDocument:
    """`kit show --json`."""

    name: str
    kind: str  # server | site | person
    org: str
    role: str | None  # of a person
    identity: str  # SPIFFE URI
    project: str
    project_id: str
    trust_domain: str
    server: str
    endpoints: tuple[str, ...]  # "host:port", in the order in which they are tried
    listen: str | None  # of the server
    cert_not_after: datetime
    made_at: datetime
    manifest: str  # SHA-256 of manifest.json, hex
    root_fingerprint: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class KitVerdict:
    """One folder, and the kit in it or why it is none."""

    folder: str
    ok: bool
    kit: KitDocument | None
    error: Problem | None


@dataclass(frozen=True, kw_only=True)
class KitListDocument:
    """`kit ls --json` and `kit verify --json`."""

    kits: tuple[KitVerdict, ...]


@dataclass(frozen=True, kw_only=True)
class KitPackDocument:
    """`kit pack --json`; never the passphrase."""

    file: str
    kit: str
    bytes: int
    files: int


@dataclass(frozen=True, kw_only=True)
class KitUnpackDocument:
    """`kit unpack --json`."""

    folder: str
    kit: str
    kind: str  # server | site | person
    root_fingerprint: str  # to be compared by telephone


@dataclass(frozen=True, kw_only=True)
class KitDelivery:
    """What became of one kit on its way to one host."""

    kit: str
    folder: str  # here
    user: str
    host: str
    port: int
    path: str | None  # there; None: it did not come so far
    outcome: str  # delivered | replaced | unchanged | failed
    service: str | None  # installed | started
    bytes_sent: int
    files_kept: int  # of an earlier try that was cut
    seconds: float
    note: str
    error: Problem | None


@dataclass(frozen=True, kw_only=True)
class KitSendDocument:
    """`kit send --json`."""

    deliveries: tuple[KitDelivery, ...]


@dataclass(frozen=True, kw_only=True)
class ProvisionedKit:
    """One kit after the run."""

    name: str
    kind: str  # server | site | person
    org: str
    outcome: str  # created | updated | reissued | repaired | unchanged
    reason: str  # why it was touched; empty for what is new or unchanged
    folder: str
    not_after: datetime  # of its certificate


@dataclass(frozen=True, kw_only=True)
class RemovedKit:
    """One who is no longer in project.yml and has a certificate that is still valid."""

    name: str
    kind: str  # server | site | person
    folder: str | None  # where its kit lies now, if it does
    not_after: datetime  # until when its certificate is valid


@dataclass(frozen=True, kw_only=True)
class ProvisionDocument:
    """`provision --json`."""

    project: str
    project_id: str
    workspace: str
    root_fingerprint: str
    ca_created: bool  # by this run
    ca_adopted: bool  # made by a run that died before it could say so, or whose record was lost
    ca_encrypted: bool  # the CA's private keys, at rest
    ca_not_after: datetime  # when the first of the issuing CAs ends
    endpoints: tuple[str, ...]
    kits: tuple[ProvisionedKit, ...]
    removed: tuple[RemovedKit, ...]
    trust_version: int = 0  # of the workspace's trust bundle
    revoked: tuple[str, ...] = ()  # people whose certificates this run put on the list
