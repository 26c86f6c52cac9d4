# SPDX-License-Identifier: Apache-2.0
"""`flprov provision`: from project.yml to a workspace with a CA and one kit per party."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.output import json_option, on_terminal, print_json, print_table, talk, until
from flprov.cli.passphrases import CA, PEOPLE, passphrase_options, read_passphrase
from flprov.kits import KitOutcome, Outcome, Progress, ProvisionReport, RemovedParty
from flprov.kits import provision as make_kits
from flprov.pki import Kind
from flprov.project import Project, load_project, split_address

if TYPE_CHECKING:
    from flprov.admin import Admin
from flprov.wire import documents as doc

_LONGEST_TABLE = 20
_FEWEST_FOR_A_BAR = 50  # fewer kits are made before a bar could be seen
_COMMANDS = {
    Kind.SERVER: "flprov server start",
    Kind.SITE: "flprov site start",
    Kind.PERSON: "flprov use",
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
    "--reissue",
    metavar="NAME",
    multiple=True,
    help="Give this party a new certificate and key although nothing has changed; may be repeated.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Then bring the live network to it: add and remove sites, publish who is revoked.",
)
@passphrase_options(CA, "ca")
@passphrase_options(PEOPLE, "people")
@json_option
def provision(
    project_file: Path,
    workspace: Path | None,
    reissue: tuple[str, ...],
    live: bool,
    ca_file: Path | None,
    ask_ca: bool,
    people_file: Path | None,
    ask_people: bool,
    as_json: bool,
) -> None:
    """Make or update the certificate authority and one kit for each party of PROJECT.YML.

    \b
    Examples:
      flprov provision project.yml
      flprov provision project.yml -o /secure/heart-study --passphrase-file ~/ca-passphrase
      flprov provision project.yml --reissue hospital-a
      flprov provision project.yml --live

    Run it again after every change of PROJECT.YML, and from time to time: it renews people's certificates
    past two thirds of their life, and touches nothing else. Sites and the server renew theirs themselves.
    `flprov plan PROJECT.YML` shows beforehand what it would do. It never makes a second CA for a project
    that has one; the kits of those who are no longer in PROJECT.YML are moved to removed/ in the workspace.

    The passphrase of the CA's keys is taken from --passphrase-file, from --passphrase, or from the
    environment variable FLPROV_CA_PASSPHRASE; that of the keys in people's kits from
    --people-passphrase-file, --people-passphrase or FLPROV_PEOPLE_PASSPHRASE. Whoever acts with such a kit
    is asked for it, or sets FLPROV_KIT_PASSPHRASE.
    """
    project = load_project(project_file)
    folder = workspace or default_workspace(project_file)
    is_new = not (folder / "ca").exists()
    passphrase = read_passphrase(CA, ca_file, ask=ask_ca, is_new=is_new)
    people_passphrase = read_passphrase(PEOPLE, people_file, ask=ask_people, is_new=True)
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(_acting_for(project, folder)) if live else None
        withdrawn = admin.trust().withdrawn if admin else ()
        with progress_bar(project) as progress:
            report = make_kits(
                project,
                folder,
                now=datetime.now(UTC),
                passphrase=passphrase,
                people_passphrase=people_passphrase,
                reissue=reissue,
                withdrawn=withdrawn,
                progress=progress,
            )
        _show(report, project, as_json=as_json)
        if admin is not None:
            _bring_to_live(admin, project, folder)


@contextlib.contextmanager
def _acting_for(project: Project, folder: Path) -> Iterator[Admin]:
    """The chosen admin, if its network is this workspace's. Late: only --live calls the server."""
    from flprov.admin import verify_same_project
    from flprov.cli.acting import acting
    from flprov.kits import read_publication

    publication = read_publication(project, folder)
    with acting() as admin:
        verify_same_project(admin, publication)
        yield admin


def _bring_to_live(admin: Admin, project: Project, folder: Path) -> None:
    from flprov.cli.livenet import bring_to_live
    from flprov.kits import plan as make_plan

    if not bring_to_live(admin, make_plan(project, folder, now=datetime.now(UTC)), folder):
        talk("live: nothing to do")


def _show(report: ProvisionReport, project: Project, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(report))
    else:
        _print_report(report)
    _talk_warnings(report, project)
    _talk_trust(report)
    _talk_next(report)


def default_workspace(project_file: Path) -> Path:
    """Where the CA and the kits are kept if nothing else is said."""
    return project_file.parent / "workspace"


@contextlib.contextmanager
def progress_bar(project: Project) -> Iterator[Progress | None]:
    """A bar on stderr for projects that take their time."""
    count = 1 + len(project.sites) + len(project.people)
    if not on_terminal() or count < _FEWEST_FOR_A_BAR:
        yield None
        return
    with click.progressbar(
        length=count, label="kits", file=sys.stderr, show_pos=True, update_min_steps=10
    ) as bar:
        yield lambda done, total: bar.update(done - bar.pos)  # noqa: ARG005


def _document(report: ProvisionReport) -> doc.ProvisionDocument:
    return doc.ProvisionDocument(
        project=report.project,
        project_id=report.project_id,
        workspace=str(report.workspace),
        root_fingerprint=report.root_fingerprint,
        ca_created=report.ca_created,
        ca_adopted=report.ca_adopted,
        ca_encrypted=report.ca_encrypted,
        ca_not_after=report.ca_not_after,
        endpoints=report.endpoints,
        trust_version=report.trust_version,
        revoked=tuple(entry.name for entry in report.revoked),
        kits=tuple(map(_kit_document, report.kits)),
        removed=tuple(map(_removed_document, report.removed)),
    )


def _kit_document(kit: KitOutcome) -> doc.ProvisionedKit:
    return doc.ProvisionedKit(
        name=kit.name,
        kind=kit.kind.value,
        org=kit.org,
        outcome=kit.outcome.value,
        reason=kit.reason,
        folder=str(kit.folder),
        not_after=kit.not_after,
    )


def _removed_document(party: RemovedParty) -> doc.RemovedKit:
    return doc.RemovedKit(
        name=party.name,
        kind=party.kind.value,
        folder=str(party.folder) if party.folder else None,
        not_after=party.not_after,
    )


def _print_report(report: ProvisionReport) -> None:
    click.echo(f"project   {click.style(report.project, bold=True)} ({report.project_id})")
    click.echo(f"workspace {report.workspace}")
    _print_root(report)
    if len(report.kits) <= _LONGEST_TABLE:
        print_table(("KIT", "KIND", "ORG", "CERTIFICATE", "NOW", "WHY"), [_row(kit) for kit in report.kits])
    else:
        _print_changes(report)
    counts = Counter(kit.outcome for kit in report.kits)
    summary = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome])
    click.echo(f"{len(report.kits)} kits in {report.workspace / 'kits'}: {summary}")


def _talk_trust(report: ProvisionReport) -> None:
    """Whom this run has thrown out, and that somebody has to be told."""
    if report.revoked:
        names = ", ".join(f"{entry.name} ({entry.reason.value})" for entry in report.revoked[:_LONGEST_TABLE])
        talk(f"trust bundle {report.trust_version}: people's certificates revoked: {names}")
        talk("server and sites refuse them once it is published: flprov ca publish, or provision --live")


def _print_root(report: ProvisionReport) -> None:
    """The root's fingerprint: loud the first time that anybody sees it."""
    if not (report.ca_created or report.ca_adopted):
        click.echo(f"root      {report.root_fingerprint} (unchanged)")
        return
    what = "A new certificate authority was made."
    if report.ca_adopted:
        what = "The certificate authority was made by a run that has left no record, and was kept."
    click.echo(f"\n{click.style(f'{what} Its root is', bold=True)}\n")
    click.echo(f"    {click.style(report.root_fingerprint, fg='yellow', bold=True)}\n")


def _row(kit: KitOutcome) -> tuple[str, ...]:
    return (kit.name, kit.kind.value, kit.org, until(kit.not_after), kit.outcome.value, kit.reason)


def _print_changes(report: ProvisionReport) -> None:
    """Of a large project, what was touched for a reason; new kits are counted, not listed."""
    for kit in [kit for kit in report.changed if kit.reason][:_LONGEST_TABLE]:
        click.echo(f"  {kit.name}: {kit.outcome.value}, {kit.reason}")


def _talk_warnings(report: ProvisionReport, project: Project) -> None:
    if not report.ca_encrypted:
        _warn(
            f"the CA's private keys in {report.workspace / 'ca'} are not encrypted: whoever can read them can"
            " be anybody in this project. Run this again with --passphrase to encrypt them"
        )
    if all(split_address(endpoint)[0] in ("localhost", "127.0.0.1", "::1") for endpoint in report.endpoints):
        _warn(
            f"the server's endpoints ({', '.join(report.endpoints)}) lead nowhere but to this machine:"
            f" put the server's public name into {project.source} before you send kits to others"
        )
    longest = timedelta(days=max(project.validity.site_days, project.validity.person_days))
    if report.ca_not_after - datetime.now(UTC) < longest:
        _warn(
            f"an issuing CA ends on {report.ca_not_after:%Y-%m-%d}, and no certificate outlives it:"
            " plan for a new one"
        )
    for party in report.removed:
        _talk_removed(party)


def _talk_removed(party: RemovedParty) -> None:
    kit = f"its kit is in {party.folder}" if party.folder else "its kit is gone"
    still = {
        Kind.SITE: f"the server takes it until: flprov site rm {party.name}, or flprov provision --live",
        Kind.SERVER: "sites and people believe it until then",
        Kind.PERSON: "server and sites refuse it once they have the new list (flprov ca publish)",
    }[party.kind]
    _warn(
        f"no longer in project.yml: {party.kind.value} {party.name}; {kit};"
        f" its certificate is valid until {party.not_after:%Y-%m-%d}, and {still}"
    )


def _warn(text: str) -> None:
    talk(click.style("warning: ", fg="yellow", bold=True) + text)


def _talk_next(report: ProvisionReport) -> None:
    changed = report.changed
    if not changed:
        talk("nothing to do: every kit is as it should be")
        return
    talk("\nNext")
    if report.ca_created or report.ca_adopted:
        talk(f"  Back up {report.workspace / 'ca'} and project.json: without them no kit can be renewed.")
        talk("  Read the root's fingerprint to every party by telephone; the kit asks them for it.")
    talk("  Bring each kit to its party, unchanged, by a way that nobody else can read: a key is in it.")
    if any(kit.kind is not Kind.PERSON and _is_of_rotation(kit) for kit in changed):
        talk("  Sites and a server that are running have the new CAs already (flprov ca rotate status): only")
        talk("  people, and those who have not started yet, need the kits that were made because of them.")
    talk("  Its README.md says all that is to be done there. In short, there or here to try:\n")
    for kit in changed[:_LONGEST_TABLE]:
        whose = f"{kit.kind.value} {kit.name} ({kit.org})"
        talk(f"    {whose:34}  {_COMMANDS[kit.kind]} {_shorten(kit.folder)}")
    if len(changed) > _LONGEST_TABLE:
        talk(f"    and {len(changed) - _LONGEST_TABLE} more; --json lists all")
    if any(kit.kind is Kind.PERSON for kit in changed):
        talk("\n  After `flprov use`, `flprov status` shows the server and every site.")
    if any(kit.outcome is not Outcome.CREATED for kit in changed):
        talk("  A kit that was changed replaces the folder that its party has; <kit>.local/ beside it stays.")


def _is_of_rotation(kit: KitOutcome) -> bool:
    return kit.outcome is not Outcome.CREATED and ("anchors: " in kit.reason or "another CA" in kit.reason)


def _shorten(folder: Path) -> str:
    """The path as one would type it here."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
