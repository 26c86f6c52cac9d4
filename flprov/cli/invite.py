# SPDX-License-Identifier: Apache-2.0
"""`flprov invite`: let hospitals make their kits themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_invite, complete_org, complete_site
from flprov.cli.output import ago, clean, json_option, print_json, print_table, talk, until
from flprov.errors import Conflict, LocalError, Misuse, NotFound, Refused

if TYPE_CHECKING:
    from flprov.admin import Admin, NewInvite
    from flprov.wire.documents import InviteDocument

_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
_LARGEST = 1 << 20
_path = click.Path(path_type=Path, dir_okay=False)


@click.group()
def invite() -> None:
    """Invite a hospital: it makes its own key and kit, with one line that you send.

    \b
    Examples:
      flprov invite create hospital-a
      flprov invite create hospital-d --org clinic-d --approve --expires 3d
      flprov invite ls
      flprov invite approve hospital-d
      flprov invite revoke hospital-a
      flprov invite approve --request hospital-a.request --response hospital-a.response
    """


class _Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """`30m`, `24h`, `7d`."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d{1,6})(m|min|h|d)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no time: write 30m, 24h or 7d", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


# ---- create --------------------------------------------------------------------------------


@invite.command()
@click.argument("site", shell_complete=complete_site)
@click.option(
    "--org",
    default="",
    shell_complete=complete_org,
    help="The site's organisation; adds the site if the project lacks it.",
)
@click.option(
    "--expires", "lifetime", type=_Duration(), default="24h", show_default=True, help="30m, 24h, 7d."
)
@click.option("--approve", "approval", is_flag=True, help="Compare the hospital's fingerprint first.")
@json_option
def create(site: str, org: str, lifetime: timedelta, approval: bool, as_json: bool) -> None:
    """Make an invite for SITE: one line on stdout, to be used once.

    \b
    Examples:
      flprov invite create hospital-a
      flprov invite create hospital-a --approve --expires 3d > hospital-a.invite
    """
    from flprov.wire.documents import NewInviteDocument

    with acting() as admin:
        made = admin.create_invite(site, org=org, lifetime=lifetime, approval=approval)
    if as_json:
        print_json(
            NewInviteDocument(
                line=made.line, invite=made.invite, site_added=made.site_added, replaced=made.replaced
            )
        )
    else:
        click.echo(made.line)
    _explain(made)


def _explain(made: NewInvite) -> None:
    found = made.invite
    if made.site_added:
        talk(clean(f"Site {found.site} of {found.org} was added to the project."))
    for old in made.replaced:
        talk(clean(f"Invite {old}, the site's earlier one, was taken back."))
    until_then = f"{found.not_after:%Y-%m-%d %H:%M} UTC"
    talk(clean(f"This line lets {found.site} of {found.org} join, once, until {until_then}."))
    talk("Send it over a channel that you trust: until it is used, it is worth as much as a key.")
    talk("At the hospital:  flprov join INVITE   (or `flprov join -`, which reads the line from stdin)")
    if found.approval:
        talk(f"Then you compare the fingerprint of its key:  flprov invite approve {clean(found.site)}")
    else:
        talk(f"Afterwards:  flprov site show {clean(found.site)}")


# ---- ls ------------------------------------------------------------------------------------


@invite.command("ls")
@json_option
def list_all(as_json: bool) -> None:
    """Every invite: what became of it, and which wait for you."""
    from flprov.wire.documents import InviteListDocument

    with acting() as admin:
        found = admin.invites()
    if as_json:
        print_json(InviteListDocument(invites=found))
        return
    print_table(("INVITE", "SITE", "ORG", "STATE", "CREATED", "EXPIRES", "BY"), [_row(one) for one in found])
    for one in found:
        if one.state == "waiting":
            talk(clean(f"{one.site} waits for you. Its key: {one.fingerprint}"))
            talk(clean(f"next:  flprov invite approve {one.site}"))


def _row(one: InviteDocument) -> tuple[str, ...]:
    left = until(one.not_after) if one.state in ("open", "waiting", "approved") else "-"
    return (
        one.id,
        one.site,
        one.org,
        one.state if one.used_at is None else f"used {ago(one.used_at)}",
        ago(one.created_at),
        left,
        one.created_by.rpartition("/")[2],
    )


# ---- approve -------------------------------------------------------------------------------


@invite.command()
@click.argument("name", metavar="[INVITE]", required=False, shell_complete=complete_invite)
@click.option("--fingerprint", default="", help="What the hospital reads to you; refused if it differs.")
@click.option("--request", "request_file", type=_path, help="A request that came as a file.")
@click.option("--response", "response_file", type=_path, help="Where to write the answer to it.")
@json_option
def approve(
    name: str | None, fingerprint: str, request_file: Path | None, response_file: Path | None, as_json: bool
) -> None:
    """Let the key that came with an invite have its certificate, once its fingerprint was compared.

    INVITE is the id of an invite, the beginning of one, or its site.

    \b
    Examples:
      flprov invite approve hospital-a
      flprov invite approve hospital-a --fingerprint SHA256:4F:1C:...
      flprov invite approve --request hospital-a.request --response hospital-a.response
    """
    if as_json and request_file is not None:
        raise Misuse("--json does not go with --request", hint="the answer is the file: --response FILE")
    if request_file is not None and response_file is not None and name is None:
        _relay(request_file, response_file, fingerprint)
        return
    if name is None or request_file is not None or response_file is not None:
        raise Misuse(
            "give the invite, or --request FILE and --response FILE together",
            hint="flprov invite ls   shows which invites wait",
        )
    with acting() as admin:
        decided = _approve(admin, name, fingerprint)
    if as_json:
        print_json(decided)
    else:
        click.echo(clean(f"approved: {decided.site} gets its certificate as soon as it asks"))
        click.echo(clean(f"next: flprov site show {decided.site}"))


def _approve(admin: Admin, name: str, fingerprint: str) -> InviteDocument:
    if fingerprint:
        return admin.approve_invite(name, fingerprint=fingerprint)
    found = _find_waiting(admin.invites(), name)
    _compare(found.site, found.fingerprint)
    return admin.approve_invite(found.id, fingerprint=found.fingerprint)


def _find_waiting(invites: Sequence[InviteDocument], name: str) -> InviteDocument:
    named = [one for one in invites if one.site == name or one.id.startswith(name)]
    waiting = [one for one in named if one.state == "waiting"]
    if len(waiting) == 1:
        return waiting[0]
    if not named:
        raise NotFound(f"no invite with the id or for the site {name!r}", hint="flprov invite ls")
    states = ", ".join(f"{one.id} is {one.state}" for one in named[:3])
    raise Conflict(f"no invite of {name} waits for approval: {states}", hint="flprov invite ls")


def _compare(site: str, fingerprint: str) -> None:
    """Have a person compare it. Raises Misuse where there is none, Refused when it differs."""
    if not sys.stdin.isatty():
        raise Misuse(
            f"the fingerprint of {site}'s key has to be compared, and there is no terminal to ask at",
            hint="give what the hospital shows: --fingerprint SHA256:...",
        )
    talk(clean(f"The key that came for {site} has the fingerprint"))
    talk(f"  {clean(fingerprint)}")
    if not click.confirm("Does the hospital show the same (ask by telephone)?", default=False, err=True):
        raise Refused(
            "not approved",
            hint=f"if it shows another one, somebody else has the invite: flprov invite revoke {site}",
        )


def _relay(request_file: Path, response_file: Path, fingerprint: str) -> None:
    from flprov._base import write_atomic
    from flprov.admin import fingerprint_of
    from flprov.kits import decode_request, encode_answer
    from flprov.pki import certificate_identity

    if response_file.exists():
        raise Conflict(f"{response_file} is there already", hint="name another file, or remove it")
    signed = decode_request(_read(request_file))
    site, found = certificate_identity(signed.chain).name, fingerprint_of(signed)
    if not fingerprint:
        _compare(site, found)
    elif _plain(fingerprint) != _plain(found):
        raise Refused(
            f"the key in {request_file} has another fingerprint: {found}",
            hint="ask the hospital for the file again; if it shows another one there, revoke the invite",
        )
    with acting() as admin:
        answer = admin.relay_join(signed)
    try:
        write_atomic(response_file, encode_answer(answer))
    except OSError as error:  # the same request again gets the same answer
        raise LocalError(f"{response_file} cannot be written: {error.strerror}") from error
    click.echo(clean(f"{site} may join: the answer is in {response_file}; nothing in it is secret"))
    click.echo(f"at the hospital: flprov join --response {response_file.name}")


def _plain(fingerprint: str) -> str:
    return re.sub(r"[\s:-]", "", fingerprint.upper()).removeprefix("SHA256")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST)
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}") from error


# ---- revoke --------------------------------------------------------------------------------


@invite.command()
@click.argument("name", metavar="INVITE", shell_complete=complete_invite)
@click.option("--reason", default="", help="For the log, and for whoever comes with it.")
@json_option
def revoke(name: str, reason: str, as_json: bool) -> None:
    """Take an invite back: by its id, the beginning of one, or its site.

    \b
    Examples:
      flprov invite revoke hospital-a --reason "sent to the wrong address"
    """
    with acting() as admin:
        found = admin.revoke_invite(name, reason=reason)
    if as_json:
        print_json(found)
    else:
        click.echo(clean(f"invite {found.id} of {found.site} was taken back; nobody can join with it"))
        click.echo(clean(f"another one: flprov invite create {found.site}"))
