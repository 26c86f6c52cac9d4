# SPDX-License-Identifier: Apache-2.0
"""`flprov ca`: the CAs of a project, their replacement in steps, and their publication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flprov.cli.output import clean, json_option, print_fields, print_json, print_table, talk, until
from flprov.cli.passphrases import CA, passphrase_options, read_passphrase
from flprov.errors import ExitCode, Unavailable

if TYPE_CHECKING:
    from flprov.admin import Rotated, Step
    from flprov.kits import Authorities, RotationReport
    from flprov.wire import documents as doc

_LONGEST = 20  # parties in one list
_PUBLISHED = "published"
_NEXT = {
    "steady": "flprov ca rotate prepare, when the CAs are to be replaced",
    "prepared": "flprov ca rotate activate, when every site holds the new bundle",
    "activated": "flprov provision makes kits of the new CAs; then: flprov ca rotate finish",
}

_project = click.argument(
    "project_file", metavar="[PROJECT.YML]", type=click.Path(path_type=Path), default=Path("project.yml")
)
_workspace = click.option(
    "-o",
    "--workspace",
    type=click.Path(path_type=Path),
    help="Where the CA and the kits are kept. Default: workspace/ beside PROJECT.YML.",
)
_force = click.option("--force", is_flag=True, help="Although somebody is not ready; those are left behind.")


def _options(*more: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What every step takes."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (json_option, passphrase_options(CA, "ca"), *more, _workspace, _project):
            command = option(command)
        return command

    return decorate


@click.group()
def ca() -> None:
    """Show the CAs of a project, publish what they say, replace them.

    \b
    Examples:
      flprov ca show project.yml
      flprov ca publish project.yml
      flprov ca rotate status project.yml
    """


@ca.command()
@_project
@_workspace
@json_option
def show(project_file: Path, workspace: Path | None, as_json: bool) -> None:
    """The root and the issuing CAs in the workspace: fingerprints, how long they last, who is revoked.

    \b
    Examples:
      flprov ca show
      flprov ca show project.yml -o /secure/heart-study --json
    """
    report, authorities = _look(project_file, workspace)
    found = _document(report, authorities, datetime.now(UTC))
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("project", f"{found.project} ({found.project_id})"),
            ("workspace", found.workspace),
            ("keys", "encrypted" if found.encrypted else "not encrypted"),
            ("rotation", "none" if found.phase == "steady" else found.phase),
            (
                "trust bundle",
                f"version {found.version}, {found.revoked_people} certificates of people revoked",
            ),
        ]
    )
    _print_authorities(found.authorities)


@ca.command()
@_project
@_workspace
@json_option
def publish(project_file: Path, workspace: Path | None, as_json: bool) -> None:
    """Bring the workspace's trust bundle, with the list of people who were revoked, to the live network.

    \b
    Examples:
      flprov ca publish
      flprov ca publish project.yml -o /secure/heart-study

    It is signed here and verified by everybody who gets it; the network cannot change it. Published already:
    nothing happens.
    """
    from flprov.cli.acting import acting

    report, authorities = _look(project_file, workspace)
    with acting() as admin:
        from flprov.admin import verify_same_project

        verify_same_project(admin, report.publication)
        live = admin.publish_trust(report.publication)
    _show_rotation(report, authorities, live, as_json=as_json, said=_PUBLISHED)


@ca.group()
def rotate() -> None:
    """Replace the CAs while the network works: prepare, activate, finish; or roll back.

    \b
    Examples:
      flprov ca rotate prepare project.yml      new CAs, which everybody is to believe beside the old ones
      flprov ca rotate status project.yml       who has heard of them, and whose certificate is of which
      flprov ca rotate activate project.yml     the new ones issue: server and sites renew by themselves
      flprov provision project.yml              kits of the new CAs, for people above all
      flprov ca rotate finish project.yml       the old ones are believed no more
      flprov ca rotate rollback project.yml     one step back, as long as it is not finished

    Each step can be repeated. It is taken in the workspace, then published with the admin kit that is chosen
    (flprov use KIT); when the server does not answer, the same command again publishes it.
    """


@rotate.command()
@_options(click.option("--root", is_flag=True, help="Replace the root, too, not only the issuing CAs."))
def prepare(
    project_file: Path,
    workspace: Path | None,
    root: bool,
    ca_file: Path | None,
    ask_ca: bool,
    as_json: bool,
) -> None:
    """Make new CAs, and let everybody believe them beside the old ones, which still issue.

    \b
    Examples:
      flprov ca rotate prepare project.yml
      flprov ca rotate prepare project.yml --root
    """
    from flprov.admin import Step

    _take(Step.PREPARE, project_file, workspace, ca_file, ask_ca=ask_ca, as_json=as_json, root=root)


@rotate.command()
@_options(_force)
def activate(
    project_file: Path,
    workspace: Path | None,
    force: bool,
    ca_file: Path | None,
    ask_ca: bool,
    as_json: bool,
) -> None:
    """Let the new CAs issue. Refused while a site that is not locked has not heard of them.

    \b
    Examples:
      flprov ca rotate activate project.yml
    """
    from flprov.admin import Step

    _take(Step.ACTIVATE, project_file, workspace, ca_file, ask_ca=ask_ca, as_json=as_json, force=force)


@rotate.command()
@_options(_force)
def finish(
    project_file: Path,
    workspace: Path | None,
    force: bool,
    ca_file: Path | None,
    ask_ca: bool,
    as_json: bool,
) -> None:
    """Stop believing the old CAs. Refused while somebody still uses a certificate of theirs. Final.

    \b
    Examples:
      flprov ca rotate finish project.yml
    """
    from flprov.admin import Step

    _take(Step.FINISH, project_file, workspace, ca_file, ask_ca=ask_ca, as_json=as_json, force=force)


@rotate.command()
@_options(_force)
def rollback(
    project_file: Path,
    workspace: Path | None,
    force: bool,
    ca_file: Path | None,
    ask_ca: bool,
    as_json: bool,
) -> None:
    """One step back: from activated to prepared, where the old CAs issue; from there to none at all.

    \b
    Examples:
      flprov ca rotate rollback project.yml
    """
    from flprov.admin import Step

    _take(Step.ROLLBACK, project_file, workspace, ca_file, ask_ca=ask_ca, as_json=as_json, force=force)


@rotate.command()
@_project
@_workspace
@json_option
def status(project_file: Path, workspace: Path | None, as_json: bool) -> None:
    """How far the rotation is: who holds which trust bundle, and whose certificate is of which CA.

    \b
    Examples:
      flprov ca rotate status project.yml

    Exit code 7 while somebody is not ready for the next step, 4 if the network does not answer.
    """
    from flprov.admin import verify_same_project
    from flprov.cli.acting import acting

    report, authorities = _look(project_file, workspace)
    try:
        with acting() as admin:
            verify_same_project(admin, report.publication)
            live = admin.trust()
    except Unavailable as error:
        _show_rotation(report, authorities, None, as_json=as_json)
        talk(clean(f"the live network does not answer: {error}"))
        raise SystemExit(ExitCode.UNREACHABLE) from error
    found = _show_rotation(report, authorities, live, as_json=as_json)
    if any(not blocker.warns for blocker in found.blockers):
        raise SystemExit(ExitCode.ATTENTION)


def _take(
    step: Step,
    project_file: Path,
    workspace: Path | None,
    ca_file: Path | None,
    *,
    ask_ca: bool,
    as_json: bool,
    root: bool = False,
    force: bool = False,
) -> None:
    from flprov.admin import rotate as take
    from flprov.cli.acting import acting
    from flprov.project import load_project

    project, folder = load_project(project_file), _folder(project_file, workspace)
    passphrase = read_passphrase(CA, ca_file, ask=ask_ca, is_new=False)
    with acting() as admin:
        done = take(
            admin,
            step,
            project,
            folder,
            now=datetime.now(UTC),
            passphrase=passphrase,
            root=root,
            force=force,
        )
    _, authorities = _look(project_file, workspace)
    _show_rotation(done.report, authorities, done.live, as_json=as_json, said=step.value)
    _talk_passed_over(done)
    if done.report.with_root and not as_json:
        _talk_root(done.report, project_file)


def _talk_passed_over(done: Rotated) -> None:
    for blocker in done.passed_over:
        word = "note" if blocker.warns else "left behind"
        talk(clean(f"{word}: {blocker.kind} {blocker.name}: {blocker.reason}"))


def _talk_root(report: RotationReport, project_file: Path) -> None:
    new = report.other_root if report.phase.value == "prepared" else report.root_fingerprint
    talk(f"\nThe new root is\n\n    {click.style(new, fg='yellow', bold=True)}\n")
    talk(
        f"Read it to every party by telephone. If {project_file} pins root_fingerprint, write this one there"
    )
    talk("before `flprov ca rotate finish`; until then both are accepted.")


# ---- looking and showing -----------------------------------------------------------------------


def _folder(project_file: Path, workspace: Path | None) -> Path:
    return workspace or project_file.parent / "workspace"


def _look(project_file: Path, workspace: Path | None) -> tuple[RotationReport, Authorities]:
    from flprov.kits import look_at_rotation
    from flprov.project import load_project

    return look_at_rotation(load_project(project_file), _folder(project_file, workspace))


def _document(report: RotationReport, authorities: Authorities, now: datetime) -> doc.CADocument:
    from flprov.wire import documents as doc

    record = authorities.record
    return doc.CADocument(
        project=record.project,
        project_id=record.project_id,
        trust_domain=record.trust_domain,
        workspace=str(authorities.folder.parent),
        encrypted=authorities.encrypted,
        phase=report.phase.value,
        version=report.publication.version,
        root_fingerprint=report.root_fingerprint,
        authorities=authorities.describe(),
        revoked_people=len(authorities.read_trust(now).revoked_people),
    )


def _show_rotation(
    report: RotationReport,
    authorities: Authorities,
    live: doc.TrustStatusDocument | None,
    *,
    as_json: bool,
    said: str = "",
) -> doc.RotationDocument:
    from flprov.kits import list_blockers
    from flprov.wire import documents as doc

    found = doc.RotationDocument(
        project=authorities.record.project,
        workspace=str(authorities.folder.parent),
        phase=report.phase.value,
        changed=report.changed,
        ended=report.ended,
        version=report.publication.version,
        published=live.version if live else None,
        root_fingerprint=report.root_fingerprint,
        other_root_fingerprint=report.other_root,
        authorities=authorities.describe(),
        holders=live.holders if live else (),
        blockers=list_blockers(report, live) if live else (),
        next=_NEXT[report.phase.value],
    )
    if as_json:
        print_json(found)
    else:
        _print_rotation(found, said)
    return found


def _print_rotation(found: doc.RotationDocument, said: str) -> None:
    network = "not asked" if found.published is None else f"version {found.published}"
    ended = f" (the last one was {found.ended})" if found.ended and found.phase == "steady" else ""
    print_fields(
        [
            ("project", found.project),
            ("rotation", ("none" if found.phase == "steady" else found.phase) + ended),
            ("trust bundle", f"version {found.version} in the workspace; in the network {network}"),
        ]
    )
    _print_authorities(found.authorities)
    if found.holders:
        names = {ca.key_id: f"{ca.state} {ca.unit}" for ca in found.authorities}
        print_table(("PARTY", "KIND", "BUNDLE", "CERTIFICATE OF", "LEFT", "NOW"), list(_rows(found, names)))
    _print_blockers(found.blockers)
    if said == _PUBLISHED:
        talk(
            "published: sites that are connected take it within a moment (flprov ca rotate status shows who)"
        )
        return
    if said and not found.changed:
        talk("nothing changed in the workspace: this step was taken before")
    talk(clean(f"next: {found.next}"))


def _print_blockers(blockers: Sequence[doc.Blocker]) -> None:
    for words, chosen in (
        ("the next step waits for", [blocker for blocker in blockers if not blocker.warns]),
        ("it does not wait for", [blocker for blocker in blockers if blocker.warns]),
    ):
        if chosen:
            click.echo(f"{words}")
        for blocker in chosen[:_LONGEST]:
            click.echo(clean(f"  {blocker.kind} {blocker.name}: {blocker.reason}"))
        if len(chosen) > _LONGEST:
            click.echo(f"  and {len(chosen) - _LONGEST} more; --json lists all")


def _rows(found: doc.RotationDocument, names: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for holder in found.holders:
        connected = "connected" if holder.connected else "-"
        version = str(holder.version) if holder.version else "the kit's"
        ca = names.get(holder.ca, "an unknown CA") if holder.ca else "-"
        yield holder.name, holder.kind, version, ca, until(holder.not_after), holder.barred or connected


def _print_authorities(authorities: Sequence[doc.AuthorityDocument]) -> None:
    rows = [(ca.unit, ca.state, until(ca.not_after), ca.fingerprint) for ca in authorities]
    print_table(("CA", "STATE", "LEFT", "FINGERPRINT"), rows)
