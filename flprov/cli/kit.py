# SPDX-License-Identifier: Apache-2.0
"""`flprov kit`: look at kits, verify them, and deliver them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from flprov.cli.delivery import pack, problem_document, send, unpack
from flprov.cli.output import json_option, print_fields, print_json, print_table, talk, until
from flprov.errors import ExitCode
from flprov.kits import Kit, KitListing, list_kits, look_at_kit, look_at_renewed, verify_kits
from flprov.pki import Kind, fingerprint
from flprov.wire import documents as doc

_path = click.Path(path_type=Path)


@click.group()
def kit() -> None:
    """Look at kits, verify them, and deliver them.

    \b
    A kit is the folder that one party received. Examples:
      flprov kit ls workspace
      flprov kit show workspace/kits/hospital-a
      flprov kit verify .
      flprov kit pack workspace/kits/hospital-a -o hospital-a.zip
      flprov kit send workspace/kits/hospital-a flprov@gpu1.hospital-a.example:/srv/flprov
    """


for _command in (pack, send, unpack):
    kit.add_command(_command)


@kit.command("ls")
@click.argument("folder", type=_path, default=Path("workspace"))
@json_option
def list_all(folder: Path, as_json: bool) -> None:
    """Every kit in a workspace (or another folder of kits), each verified."""
    found = list_kits(folder, now=datetime.now(UTC))
    if as_json:
        print_json(doc.KitListDocument(kits=tuple(map(_listing_document, found))))
        return
    print_table(("KIT", "KIND", "ORG", "CERTIFICATE", "STATE"), [_row(listing) for listing in found])


def _row(listing: KitListing) -> tuple[str, ...]:
    loaded = listing.kit
    if loaded is None:
        return (listing.folder.name, "-", "-", "-", _why(listing))
    return (loaded.name, loaded.kind.value, loaded.org, _left(loaded), "ok")


def _end(loaded: Kit) -> datetime:
    """Of the certificate in use: on the machine where the kit runs, that is a renewed one."""
    renewed = look_at_renewed(loaded, now=datetime.now(UTC))
    return renewed.not_after if renewed else loaded.not_after


def _left(loaded: Kit) -> str:
    """Days left. A kit's own certificate ends without harm where a newer one was brought by renewing."""
    end = _end(loaded)
    renews_itself = loaded.kind is not Kind.PERSON
    return "over, unless renewed where it runs" if until(end) == "expired" and renews_itself else until(end)


def _why(listing: KitListing) -> str:
    """What is wrong with a kit, without the folder that stands beside it."""
    return str(listing.problem).removeprefix(f"{listing.folder.resolve()}: ")


@kit.command()
@click.argument("folder", metavar="KIT", type=_path)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Whose kit this is, for which project and server, and until when."""
    loaded = look_at_kit(folder, now=datetime.now(UTC))
    if as_json:
        print_json(_kit_document(loaded))
        return
    print_fields(
        [
            ("kit", f"{loaded.kind.value} {loaded.name} of {loaded.org}"),
            ("identity", str(loaded.identity)),
            ("project", f"{loaded.project} ({loaded.project_id})"),
            ("server", f"{loaded.server} at {', '.join(loaded.endpoints)}"),
            ("listens on", loaded.listen),
            ("sites", str(len(loaded.registry)) if loaded.listen else ""),
            ("certificate", f"until {_end(loaded):%Y-%m-%d %H:%M} UTC, {_left(loaded)}"),
            ("made", f"{loaded.made_at:%Y-%m-%d %H:%M} UTC"),
            ("manifest", f"SHA-256 {loaded.manifest_digest}"),
            ("root", _root(loaded)),
            ("ask", loaded.contact),
            ("folder", str(loaded.folder)),
            ("own files", f"{loaded.local}/"),
        ]
    )


@kit.command()
@click.argument("folders", metavar="KIT...", type=_path, nargs=-1, required=True)
@json_option
def verify(folders: tuple[Path, ...], as_json: bool) -> None:
    """Check signature, files, key and certificate of kits; exit 3 when one is refused."""
    found = verify_kits(folders, now=datetime.now(UTC))
    if as_json:
        print_json(doc.KitListDocument(kits=tuple(map(_listing_document, found))))
    else:
        _print_verdicts(found)
    problems = [listing.problem for listing in found if listing.problem is not None]
    if problems:
        raise SystemExit(ExitCode.REFUSED if len(found) > 1 else problems[0].exit_code)


def _print_verdicts(found: Sequence[KitListing]) -> None:
    from flprov.cli import report

    for listing in found:
        if listing.problem is not None:
            report(listing.problem)
        elif listing.kit is not None:
            loaded = listing.kit
            good = click.style("good", fg="green")
            click.echo(f"{good}  {listing.folder}: {loaded.kind.value} {loaded.name} of {loaded.project}")
            if _end(loaded) < datetime.now(UTC):
                talk(
                    f"Its certificate ended on {_end(loaded):%Y-%m-%d}: {loaded.name} can be started only"
                    " if it has renewed it before, where it runs."
                )
    for root in sorted({_root(listing.kit) for listing in found if listing.kit is not None}):
        click.echo(f"root  {root}")
        talk("Ask by telephone whether this is the project's root: a forged kit would name another.")


def _root(loaded: Kit) -> str:
    return fingerprint(loaded.anchors["root"].pem)


def _listing_document(listing: KitListing) -> doc.KitVerdict:
    return doc.KitVerdict(
        folder=str(listing.folder),
        ok=listing.kit is not None,
        kit=_kit_document(listing.kit) if listing.kit else None,
        error=problem_document(listing.problem),
    )


def _kit_document(loaded: Kit) -> doc.KitDocument:
    return doc.KitDocument(
        name=loaded.name,
        kind=loaded.kind.value,
        org=loaded.org,
        role=loaded.role.value if loaded.role else None,
        identity=loaded.identity.uri,
        project=loaded.project,
        project_id=loaded.project_id,
        trust_domain=loaded.trust_domain,
        server=loaded.server,
        endpoints=loaded.endpoints,
        listen=loaded.listen or None,
        cert_not_after=_end(loaded),
        made_at=loaded.made_at,
        manifest=loaded.manifest_digest,
        root_fingerprint=_root(loaded),
        folder=str(loaded.folder),
    )
