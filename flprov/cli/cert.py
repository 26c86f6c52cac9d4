# SPDX-License-Identifier: Apache-2.0
"""`flprov cert`: what expires when; revoking, renewing, revocation lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.changes import print_change
from flprov.cli.completion import complete_holder
from flprov.cli.output import clean, json_option, print_json, print_table, talk, until
from flprov.cli.renewing import renew
from flprov.cli.spans import Span
from flprov.errors import ExitCode

if TYPE_CHECKING:
    from flprov.wire.documents import CertificateDocument

_WARN = 30.0  # days: for what does not renew itself

_REASONS = (
    "unspecified",
    "key-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
)


@click.group()
def cert() -> None:
    """What expires when; revoke and renew certificates, export revocation lists.

    \b
    Examples:
      flprov cert ls --warn 60
      flprov cert revoke hospital-a --reason key-compromise --comment "laptop stolen"
      flprov cert revoke 3f9a27c1
      flprov cert crl -o lists
    """


cert.add_command(renew)


@cert.command("ls")
@click.option(
    "--warn",
    type=Span(min=0),
    metavar="DAYS",
    help="Exit 7 if anything ends within so many days; by default 30 for people and CAs, and for what renews"
    " itself when that is overdue.",
)
@click.option("--all", "every", is_flag=True, help="Also certificates that were replaced or have expired.")
@json_option
def list_certificates(warn: float | None, every: bool, as_json: bool) -> None:
    """Every certificate with its days left, what ends first on top.

    \b
    Examples:
      flprov cert ls
      flprov cert ls --warn 60 || echo "somebody should look"
      flprov cert ls --json | jq '.certificates[] | select(.state == "overdue").subject'
    """
    with acting() as admin:
        found = admin.certificates(every=every)
    if as_json:
        print_json(found)
    else:
        _print_certificates(found.certificates)
    pressing = [line for line in found.certificates if _is_pressing(line, warn)]
    if pressing and not as_json:
        talk("")
    for line in pressing if not as_json else ():
        hint = f": {line.hint}" if line.hint else ""
        talk(clean(f"{line.kind} {line.subject} {_ending(line)}{hint}"))
    raise SystemExit(ExitCode.ATTENTION if pressing else ExitCode.DONE)


def _is_pressing(line: CertificateDocument, warn: float | None) -> bool:
    if line.days_left is None or line.state in ("revoked", "locked") or line.kind == "invite":
        return False
    if line.state in ("overdue", "expired"):
        return True
    if warn is None:
        return not line.renews_itself and line.days_left <= _WARN
    return line.days_left <= warn


def _ending(line: CertificateDocument) -> str:
    if line.state == "expired":
        return "has expired"
    overdue = " and has not been renewed" if line.state == "overdue" else ""
    return f"ends on {line.not_after:%Y-%m-%d %H:%M} UTC{overdue}"


def _print_certificates(lines: Sequence[CertificateDocument]) -> None:
    rows = [
        (
            line.subject,
            line.kind,
            until(line.not_after),
            f"{line.not_after:%Y-%m-%d %H:%M}" if line.not_after else "-",
            line.state,
            "yes" if line.renews_itself else "no",
            _made(line),
            line.serial[:12],
            line.reason,
        )
        for line in lines
    ]
    header = ("SUBJECT", "KIND", "LEFT", "ENDS (UTC)", "STATE", "RENEWS ITSELF", "MADE", "SERIAL", "REASON")
    print_table(header, rows)


def _made(line: CertificateDocument) -> str:
    return f"{line.how} {line.issued_at:%Y-%m-%d %H:%M}" if line.issued_at else "-"


@cert.command()
@click.argument("target", shell_complete=complete_holder)
@click.option("--reason", type=click.Choice(_REASONS), default="unspecified", help="For the lists.")
@click.option("--comment", default="", help="In words; whoever is refused reads it, too.")
@json_option
def revoke(target: str, reason: str, comment: str, as_json: bool) -> None:
    """Refuse certificates from now on: new calls at once, open ones are ended.

    \b
    TARGET is a site or a person (every certificate that it has until now), a SPIFFE URI, or a serial
    number in hex (that one; as many digits as make it unique). Examples:
      flprov cert revoke hospital-a --reason key-compromise --comment "laptop stolen"
      flprov cert revoke 3f9a27c1
    There is no way to take this back; a site comes back with a new invite, a person with a new kit.
    To keep a site out for a while: flprov site lock.
    """
    with acting() as admin:
        found = admin.revoke_certificate(target, reason=reason, comment=comment)
    print_change(found, as_json=as_json, already=f"the certificate {target} was revoked already")


@cert.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to write the lists; by default here.",
)
@json_option
def crl(folder: Path, as_json: bool) -> None:
    """Write the revocation lists of now, for other software: servers, sites and people.

    \b
    Examples:
      flprov cert crl -o lists
      openssl crl -in lists/sites.crl.pem -noout -text
    They are good for 7 days. Files of the same names are replaced by newer lists.
    """
    from flprov.admin import write_crls
    from flprov.wire.documents import CRLListDocument

    with acting() as admin:
        found = admin.crls()
    written = write_crls(found, folder)
    if as_json:
        print_json(CRLListDocument(lists=found))
        return
    for path, entry in zip(written, [entry for entry in found if entry.pem], strict=True):
        end = f"{entry.next_update:%Y-%m-%d %H:%M} UTC" if entry.next_update else "-"
        click.echo(f"{path}: {entry.revoked} revoked, good until {end}")
    for entry in found:
        if not entry.pem:
            talk(f"no list of {entry.name}: none was ever revoked")
