# SPDX-License-Identifier: Apache-2.0
"""Where project.yml and the live network differ. Pure: both as values in, differences out."""

from __future__ import annotations

from collections.abc import Iterator

from flprov.kits.departures import revoke_withdrawn
from flprov.kits.party import Party, list_parties
from flprov.kits.plans import Plan
from flprov.pki import Kind
from flprov.project import Project
from flprov.wire.documents import LiveDifference, TrustHolder, TrustStatusDocument


def list_differences(plan: Plan, live: TrustStatusDocument) -> tuple[LiveDifference, ...]:
    """What `plan` shows of the network; with an `action`, what `provision --live` does about it."""
    return (
        *_compare_sites(plan, live),
        *_compare_people(plan, live),
        *_compare_trust(plan, live),
        *_compare_endpoints(plan.project, live),
    )


def _compare_sites(plan: Plan, live: TrustStatusDocument) -> Iterator[LiveDifference]:
    there = {holder.name: holder for holder in live.holders if holder.kind == Kind.SITE.value}
    here = {party.name: party for party in list_parties(plan.project) if party.kind is Kind.SITE}
    for name, party in here.items():
        yield from _compare_site(party, there.get(name), live)
    made_here = _names_of_record(plan)
    for name, holder in there.items():
        if name not in here:
            ours = holder.from_kit or name in made_here
            yield _extra(holder, plan.project, made_here=ours)


def _compare_site(
    party: Party, holder: TrustHolder | None, live: TrustStatusDocument
) -> Iterator[LiveDifference]:
    name = party.name
    if holder is None and name in live.removed_sites:
        yield _site(
            name,
            "removed",
            f"site {name} is in the file, and an admin has removed it from the network",
            hint=f"take it out of the file, or: flprov site add {name} --org {party.org}",
        )
    elif holder is None:
        text = f"site {name} of {party.org} is in the file, and the network does not have it"
        yield _site(name, "missing", text, action="add")
    elif holder.org != party.org:
        text = f"site {name} is of {party.org} in the file, and of {holder.org} in the network"
        hint = f"flprov site rm {name}, then flprov site add {name} --org {party.org}, and a new kit"
        yield _site(name, "other_org", text, hint=hint)
    elif holder.barred:
        hint = f"flprov site unlock {name}" if holder.barred == "locked" else f"flprov invite create {name}"
        state = "locked" if holder.barred == "locked" else "refused: its certificate is revoked"
        yield _site(name, "locked", f"site {name} is {state}", hint=hint)


def _extra(holder: TrustHolder, project: Project, *, made_here: bool) -> LiveDifference:
    name, org = holder.name, holder.org
    if made_here:
        text = f"site {name} is in the network, and the file does not name it any more"
        return _site(name, "extra", text, action="remove")
    text = f"site {name} was added or invited in the network, and the file does not name it"
    is_new = org not in {known.name for known in project.organisations}
    also = f" (and `{{name: {org}}}` under organisations)" if is_new else ""
    line = f"write `{{name: {name}, org: {org}}}` under sites{also} in {project.source}"
    hint = f"{line}, or: flprov site rm {name}"
    return _site(name, "extra", text, hint=hint)


def _names_of_record(plan: Plan) -> set[str]:
    record = plan.record
    if record is None:
        return set()
    return {*record.kits, *(removed.name for removed in record.removed.values())}


def _site(name: str, difference: str, text: str, *, action: str = "", hint: str = "") -> LiveDifference:
    return LiveDifference(
        subject=name, kind=Kind.SITE.value, difference=difference, text=text, action=action, hint=hint
    )


def _compare_people(plan: Plan, live: TrustStatusDocument) -> Iterator[LiveDifference]:
    """Those whom the network has thrown out and who have a kit of the file, or are not on our list."""
    if plan.record is None or plan.authorities is None:
        return
    current = _current_serials(plan)
    for serial, entry in revoke_withdrawn(plan.record, live.withdrawn):
        listed = serial in plan.record.revoked
        if not listed:
            yield LiveDifference(
                subject=entry.name,
                kind=Kind.PERSON.value,
                difference="revoked",
                text=f"the network has revoked a certificate of {entry.name} ({entry.reason.value});"
                " the sites' list does not have it",
                action="list",
            )
        if serial in current:
            yield LiveDifference(
                subject=entry.name,
                kind=Kind.PERSON.value,
                difference="revoked",
                text=f"person {entry.name} is in the file, and the network has revoked the certificate of"
                " that kit",
                hint=f"take {entry.name} out of {plan.project.source}, or make a new kit:"
                f" flprov provision {plan.project.source} --reissue {entry.name}",
            )


def _current_serials(plan: Plan) -> set[str]:
    found: set[str] = set()
    for kit in plan.kits:
        if kit.party.kind is Kind.PERSON and kit.known is not None and kit.held is not None:
            found.add(kit.held.certificate.serial)
    return found


def _compare_trust(plan: Plan, live: TrustStatusDocument) -> Iterator[LiveDifference]:
    if plan.authorities is None:
        return
    ours = plan.trust.version if plan.trust else plan.authorities.says.version
    if live.version < ours:
        yield LiveDifference(
            subject="",
            kind="trust",
            difference="behind",
            text=f"the network has trust bundle {live.version}, and the workspace {ours}",
            action="publish",
            hint="flprov ca publish",
        )
    elif live.version > plan.authorities.says.version:
        yield LiveDifference(
            subject="",
            kind="trust",
            difference="ahead",
            text=f"the network has trust bundle {live.version}, and this workspace only"
            f" {plan.authorities.says.version}: it is not the newest copy",
            hint="find the workspace in which somebody has provisioned since, and use that one",
        )


def _compare_endpoints(project: Project, live: TrustStatusDocument) -> Iterator[LiveDifference]:
    if live.endpoints != project.server.endpoints:
        there, here = ", ".join(live.endpoints), ", ".join(project.server.endpoints)
        yield LiveDifference(
            subject=project.server.name,
            kind=Kind.SERVER.value,
            difference="endpoints",
            text=f"the server was started with the endpoints {there}, and the file says {here}",
            hint="bring the server its new kit and start it again",
        )
