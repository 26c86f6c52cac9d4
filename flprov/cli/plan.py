# SPDX-License-Identifier: Apache-2.0
"""`flprov plan`: what `flprov provision` would change, and nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from flprov.cli.livenet import ask_live, print_live
from flprov.cli.output import json_option, print_json, talk
from flprov.cli.passphrases import CA, PEOPLE, has_passphrase, read_passphrase
from flprov.cli.provision import default_workspace, progress_bar
from flprov.errors import ExitCode
from flprov.kits import AuthorityChange, Change, KitPlan, Plan, RemovalPlan
from flprov.kits import plan as make_plan
from flprov.project import load_project
from flprov.wire import documents as doc

_LONGEST_LIST = 20  # of new kits; what is done to others is always shown
_SIGNS = {
    Change.NEW: ("+", "green"),
    Change.CHANGED: ("~", "yellow"),
    Change.REISSUED: ("!", "yellow"),
    Change.REPAIRED: ("!", "yellow"),
    Change.REMOVED: ("-", "red"),
}
_AUTHORITY = {
    AuthorityChange.UNCHANGED: "CA unchanged",
    AuthorityChange.NEW: "CA will be created",
    AuthorityChange.ADOPTED: "CA unchanged; a run made it and left no record, which will be written",
    AuthorityChange.ENCRYPTED: "CA certificates unchanged; its private keys will be encrypted",
}


@click.command()
@click.argument("project_file", metavar="PROJECT.YML", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--workspace",
    type=click.Path(path_type=Path),
    help="Where the CA and the kits are kept. Default: workspace/ beside PROJECT.YML.",
)
@click.option(
    "--live/--no-live",
    default=None,
    help="Compare with the live network, too. Default: if the chosen admin kit is of this project.",
)
@json_option
def plan(project_file: Path, workspace: Path | None, live: bool | None, as_json: bool) -> None:
    """What `flprov provision` would do for PROJECT.YML. Writes nothing; asks for no passphrase.

    \b
    Examples:
      flprov plan project.yml
      flprov plan project.yml -o /secure/heart-study --json
      flprov plan project.yml --live

    Exit code 7 if there is anything to do, or the live network differs; 0 if not. What is shown is what
    provision does next, unless the file or the workspace changes in between.
    """
    project = load_project(project_file)
    folder = workspace or default_workspace(project_file)
    with progress_bar(project) as progress:
        found = make_plan(
            project,
            folder,
            now=datetime.now(UTC),
            encrypt=has_passphrase(CA),
            people_passphrase=read_passphrase(PEOPLE, None, ask=False, is_new=False),
            progress=progress,
        )
    network = ask_live(found, wanted=live)
    differs = network is not None and bool(network.differences)
    if as_json:
        print_json(document(found, network))
    else:
        _print_plan(found)
        if network is not None:
            print_live(network)
        option = f" -o {workspace}" if workspace else ""
        _talk_next(found, f"flprov provision {project_file}{option}", differs=differs)
    if not found.is_empty or differs:
        raise SystemExit(ExitCode.ATTENTION)


def document(plan: Plan, live: doc.LivePlan | None = None) -> doc.PlanDocument:
    """The plan as `--json` shows it."""
    authorities = plan.authorities
    return doc.PlanDocument(
        project=plan.project.name,
        project_id=authorities.record.project_id if authorities else None,
        workspace=str(plan.workspace),
        changes=not plan.is_empty,
        unfinished=plan.unfinished,
        authority=doc.PlannedAuthority(
            change=plan.authority.value,
            root_fingerprint=authorities.root_fingerprint if authorities else None,
            not_after=authorities.not_after if authorities else None,
        ),
        parties=(*map(_planned, plan.changed), *map(_removed, plan.removals)),
        unchanged=len(plan.kits) - len(plan.changed),
        needs=plan.needs,
        notes=plan.notes,
        trust=plan.trust.reason if plan.trust else "",
        live=live,
    )


def _planned(kit: KitPlan) -> doc.PlannedParty:
    return doc.PlannedParty(
        name=kit.party.name,
        kind=kit.party.kind.value,
        org=kit.party.org,
        change=kit.change.value,
        reason=kit.reason,
        details=kit.details,
        files=kit.files,
        folder=str(kit.folder),
    )


def _removed(party: RemovalPlan) -> doc.PlannedParty:
    return doc.PlannedParty(
        name=party.name,
        kind=party.identity.kind.value,
        org=party.identity.org,
        change=Change.REMOVED.value,
        reason=_why_removed(party),
        details=(),
        files=(),
        folder=str(party.target),
    )


def _why_removed(party: RemovalPlan) -> str:
    where = f"its kit goes to removed/{party.target.name}" if party.folder else "its kit is gone already"
    return f"no longer in project.yml; {where}; its certificate is valid until {party.not_after:%Y-%m-%d}"


def _print_plan(plan: Plan) -> None:
    click.echo(f"project   {click.style(plan.project.name, bold=True)}")
    click.echo(f"workspace {plan.workspace}")
    root = f" (root {plan.authorities.root_fingerprint})" if plan.authorities else ""
    click.echo(f"{_AUTHORITY[plan.authority]}{root}")
    for line in _lines(plan):
        click.echo(line)
    if plan.trust is not None:
        click.echo(f"  {plan.trust.reason}")
    if plan.unfinished:
        click.echo("project.json will be written: an earlier run died before it said what it had done")
    counts = Counter(kit.change for kit in plan.kits) + Counter({Change.REMOVED: len(plan.removals)})
    summary = ", ".join(f"{counts[change]} {change.value}" for change in Change if counts[change])
    click.echo(summary)


def _lines(plan: Plan) -> Iterator[str]:
    new = [kit for kit in plan.changed if kit.change is Change.NEW]
    hidden = {kit.party.name for kit in new[_LONGEST_LIST:]}
    for kit in plan.changed:
        if kit.party.name not in hidden:
            yield _line(kit.change, kit.party.name, kit.party.kind.value, _words(kit))
    if hidden:
        yield f"  and {len(hidden)} more new ones; --json lists all"
    for party in plan.removals:
        yield _line(Change.REMOVED, party.name, party.identity.kind.value, _why_removed(party))


def _words(kit: KitPlan) -> str:
    parts = [kit.reason, *(detail for detail in kit.details if detail not in kit.reason)]
    return "; ".join(filter(None, parts)) or f"of {kit.party.org}"


def _line(change: Change, name: str, kind: str, words: str) -> str:
    sign, color = _SIGNS[change]
    return f"  {click.style(f'{sign} {change.value:<8}', fg=color)} {kind:<6} {name:<20} {words}"


def _talk_next(plan: Plan, command: str, *, differs: bool) -> None:
    for note in plan.notes:
        talk(f"note: {note}")
    if plan.is_empty:
        every = "every kit is as it should be"
        talk(f"{every}; the live network is not: see above" if differs else f"nothing to do: {every}")
        return
    talk(f"nothing was written; to do this: {command}")
    for need in plan.needs:
        talk(f"it will want {need}")
