# SPDX-License-Identifier: Apache-2.0
"""What `plan` prints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class LiveDifference:
    """One thing in which project.yml and the live network differ."""

    subject: str  # the party's name; empty for trust and endpoints
    kind: str  # site | person | server | trust
    difference: str  # missing | extra | removed | locked | other_org | revoked | behind | ahead | endpoints
    text: str
    action: str = ""  # what `provision --live` does about it: add | remove | list | publish; empty: nothing
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class LivePlan:
    """`plan --json`, against the live network."""

    asked: bool  # whether it answered
    note: str = ""  # why not
    version: int | None = None  # of its trust bundle
    differences: tuple[LiveDifference, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlannedAuthority:
    """What is to be done about the certificate authority."""

    change: str  # unchanged | new | adopted | encrypted
    root_fingerprint: str | None  # None: there is none yet
    not_after: datetime | None  # when the first of the issuing CAs ends


@dataclass(frozen=True, kw_only=True)
class PlannedParty:
    """What is to be done about one party."""

    name: str
    kind: str  # server | site | person
    org: str
    change: str  # new | changed | reissued | repaired | removed
    reason: str
    details: tuple[str, ...]  # which settings: "endpoints: a:8443 -> a:443"
    files: tuple[str, ...]  # of its kit that will differ
    folder: str  # of its kit; of a removed one: where it goes


@dataclass(frozen=True, kw_only=True)
class PlanDocument:
    """`plan --json`."""

    project: str
    project_id: str | None  # None: not provisioned yet
    workspace: str
    changes: bool  # whether `provision` has anything to do; then the exit code is 7
    unfinished: bool  # an earlier run died before it wrote down what it had done
    authority: PlannedAuthority
    parties: tuple[PlannedParty, ...]  # about which something is to be done
    unchanged: int  # parties about which nothing is
    needs: tuple[str, ...] = ()  # passphrases that `provision` will want
    notes: tuple[str, ...] = ()  # what project.yml says and nothing can be done about
    trust: str = ""  # why a newer trust bundle is to be signed; empty: it stays as it is
    live: LivePlan | None = None  # None: the live network was not asked
