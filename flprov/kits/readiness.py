# SPDX-License-Identifier: Apache-2.0
"""Who is not ready for the next step of a rotation. Pure: what the network says in, who is in the way out."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from flprov.kits.rotation import RotationReport
from flprov.kits.trust import Phase
from flprov.wire.documents import Blocker, TrustHolder, TrustStatusDocument

_UNIT = {"server": "servers", "site": "sites", "person": "people"}


def list_blockers(report: RotationReport, live: TrustStatusDocument) -> tuple[Blocker, ...]:
    """For whom the step that comes next in this workspace would be too early."""
    if report.phase is Phase.PREPARED:
        return (*_behind(report, live),)
    if report.phase is Phase.ACTIVATED:
        return (*_kits_of_old(report), *_with_certificate_of(_key_ids(live, "leaving"), live, "an old"))
    return ()


def list_followers(live: TrustStatusDocument) -> tuple[Blocker, ...]:
    """Who uses a certificate of a CA that is to be given up by rolling back what was prepared."""
    return tuple(_with_certificate_of(_key_ids(live, "waiting"), live, "a new"))


def _behind(report: RotationReport, live: TrustStatusDocument) -> Iterator[Blocker]:
    """Who does not hold the bundle that names the new CAs: nobody of the new ones could be believed."""
    version = report.publication.version
    if live.version < version:
        yield Blocker(
            name="network",
            kind="server",
            reason=f"it has trust bundle {live.version}, and the workspace {version}: flprov ca publish",
        )
        return
    for holder in _welcome(live):
        if holder.version < version and holder.kind != "server":
            yield Blocker(
                name=holder.name,
                kind=holder.kind,
                reason=_why_behind(holder, version),
                warns=holder.kind == "person",
            )


def _why_behind(holder: TrustHolder, version: int) -> str:
    held = "holds no trust bundle"
    if holder.version:
        held = f"holds trust bundle {holder.version} and not {version}"
    if holder.kind == "person":
        return f"{held}: gets it with the next command, or needs a new kit afterwards"
    if not holder.connected:
        return f"{held}, and is not connected" if holder.ca else f"{held}, and has never connected"
    return f"{held} yet"


def _kits_of_old(report: RotationReport) -> Iterator[Blocker]:
    if report.outworn:
        names = ", ".join(report.outworn[:5]) + (" and others" if len(report.outworn) > 5 else "")
        yield Blocker(
            name="workspace",
            kind="server",
            reason=f"the kits of {names} have certificates of an old CA: `flprov provision` makes new ones",
        )


def _with_certificate_of(
    key_ids: Collection[str], live: TrustStatusDocument, which: str
) -> Iterator[Blocker]:
    for holder in _welcome(live):
        if holder.ca in key_ids:
            yield Blocker(
                name=holder.name,
                kind=holder.kind,
                reason=f"uses a certificate of {which} {_UNIT[holder.kind]} CA{_way_on(holder)}",
            )


def _way_on(holder: TrustHolder) -> str:
    if holder.kind == "person":
        return ": needs a new kit, and then any command with it"
    return ": renews by itself" if holder.connected else ", and is not connected"


def _welcome(live: TrustStatusDocument) -> Iterator[TrustHolder]:
    return (holder for holder in live.holders if not holder.barred)


def _key_ids(live: TrustStatusDocument, state: str) -> set[str]:
    return {ca.key_id for ca in live.authorities if ca.state == state}
