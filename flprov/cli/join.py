# SPDX-License-Identifier: Apache-2.0
"""`flprov join`: at the hospital, from an invite to a kit."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.output import clean, json_option, print_fields, print_json, talk
from flprov.cli.proxies import environment_route
from flprov.errors import Conflict, LocalError, Misuse, NotFound

if TYPE_CHECKING:
    from flprov.kits import Answer, Attempt, Kit

_LARGEST = 32 << 20
_LONGEST_LINE = 20_001
_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("invite", required=False)
@click.option("-o", "--output", "kit", type=click.Path(path_type=Path), help="Where to put the kit.")
@click.option("--site", default="", help="Refuse an invite that is for another site.")
@click.option("--request", "request_file", type=_file, help="Write a request for an admin; no network.")
@click.option("--response", "response_file", type=_file, help="Take the admin's answer; no network.")
@json_option
def join(
    invite: str | None,
    kit: Path | None,
    site: str,
    request_file: Path | None,
    response_file: Path | None,
    as_json: bool,
) -> None:
    """Make this site's key and kit, with the INVITE that the project's admin sent.

    INVITE is the line, or - to read it from stdin, or @FILE. Programs on this machine can read the
    arguments of others; - and @FILE keep the line from them.

    \b
    Examples:
      flprov join flprov1:AAAA...
      flprov join - < hospital-a.invite
      flprov join @hospital-a.invite -o /srv/flprov/hospital-a
    Without a network between here and the server:
      flprov join @hospital-a.invite --request hospital-a.request
      flprov join --response hospital-a.response
    """
    from flprov.kits import open_attempt

    if request_file is not None and response_file is not None:
        raise Misuse(
            "--request and --response are two steps",
            hint="first --request; with the answer, --response",
        )
    if invite is None and response_file is None:
        raise Misuse(
            "no invite was given", hint="flprov join INVITE, or `flprov join -` to read it from stdin"
        )
    line = _read_line(invite) if invite is not None else None
    with open_attempt(kit, line, site=site) as attempt:
        if request_file is not None:
            _write_request(attempt, request_file)
            return
        answer = _answer(attempt, response_file)
        made, aside = attempt.finish(answer, now=datetime.now(UTC))
    _tell(made, aside, attempt.fingerprint, as_json=as_json)


def _read_line(invite: str) -> str:
    if invite == "-":
        if sys.stdin.isatty():
            talk("Paste the invite, then Enter:")
            return sys.stdin.readline(_LONGEST_LINE)
        return sys.stdin.read(_LONGEST_LINE)
    if invite.startswith("@"):
        return _read(Path(invite[1:]), _LONGEST_LINE).decode("ascii", "replace")
    return invite


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(most)
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}") from error


def _answer(attempt: Attempt, response_file: Path | None) -> Answer:
    """What the server gave: in an earlier run, in the admin's file, or now."""
    from flprov.kits import decode_answer

    now = datetime.now(UTC)
    kept = attempt.kept_answer(now=now)
    if kept is not None:
        return kept
    if response_file is not None:
        attempt.verify_place(now=now)
        answer = decode_answer(_read(response_file, _LARGEST))
    else:
        answer = asyncio.run(_ask(attempt))
    attempt.keep_answer(answer, now=datetime.now(UTC))
    return answer


async def _ask(attempt: Attempt) -> Answer:
    from flprov.agent import ask_to_join, is_refused
    from flprov.policy import load_site_settings
    from flprov.project import DIRECT

    there = attempt.find_valid_kit(now=datetime.now(UTC))
    own = load_site_settings(attempt.kit.with_name(f"{attempt.kit.name}.local") / "site.yml").route
    route = own or (there.route if there else None) or environment_route() or DIRECT
    if there is not None and not await is_refused(there, route=route):
        raise _still_good(there)
    talk(clean(f"joining {attempt.invitation.project} as {attempt.invitation.site.name}"))
    if route.proxy is not None:
        talk(f"through the proxy {route}; what runs as a service needs it in site.yml: proxy: http://...")
    return await ask_to_join(attempt, on_pending=_tell_pending, on_trouble=_tell_trouble, route=route)


def _still_good(there: Kit) -> Conflict:
    return Conflict(
        f"{there.folder} is there already, and the server takes its certificate: there is no need to join",
        hint=f"flprov site start {there.folder}; or make another kit elsewhere: -o KIT",
    )


def _tell_pending(fingerprint: str) -> None:
    talk("An admin compares the fingerprint of this site's new key before it may join. Here it is:")
    talk(f"  {fingerprint}")
    talk("Waiting. You may stop this with Ctrl-C; the same command goes on where it was.")


def _tell_trouble(reason: str) -> None:
    talk(clean(f"{reason}; trying again until it works"))


def _write_request(attempt: Attempt, file: Path) -> None:
    from flprov._base import write_atomic
    from flprov.kits import encode_request, sign_request

    attempt.verify_place(now=datetime.now(UTC))
    if os.path.lexists(file):
        raise Conflict(f"{file} is there already", hint="name another file, or remove it")
    signed = sign_request(attempt.invitation, attempt.request_pem)
    try:
        write_atomic(file, encode_request(signed, site=attempt.invitation.site.name))
    except OSError as error:
        raise LocalError(f"{file} cannot be written: {error.strerror}") from error
    talk(f"The request is in {file}; nothing in it is secret. Its key, which stays here, has the fingerprint")
    talk(f"  {attempt.fingerprint}")
    talk(
        f"Take the file to an admin, who types:  flprov invite approve --request {file.name} --response FILE"
    )
    talk(f"Then, here:  flprov join --response FILE -o {attempt.kit}")
    talk(f"Until then {attempt.folder} must stay as it is: it holds the key.")


def _tell(made: Kit, aside: Path | None, fingerprint: str, *, as_json: bool) -> None:
    from flprov.pki import fingerprint as fingerprint_of
    from flprov.wire.documents import JoinDocument

    root = fingerprint_of(made.anchors["root"].pem)
    if as_json:
        print_json(
            JoinDocument(
                site=made.name,
                org=made.org,
                project=made.project,
                kit=str(made.folder),
                moved_aside=str(aside) if aside else None,
                server=made.server,
                endpoints=made.endpoints,
                cert_not_after=made.not_after,
                fingerprint=fingerprint,
                root_fingerprint=root,
            )
        )
        return
    print_fields(
        [
            ("joined", f"{made.project} as site {made.name} of {made.org}"),
            ("kit", str(made.folder)),
            ("before", f"moved to {aside}" if aside else ""),
            ("server", f"{made.server} at {', '.join(made.endpoints)}"),
            (
                "certificate",
                f"until {made.not_after:%Y-%m-%d %H:%M} UTC; it renews itself while the site runs",
            ),
            ("root", root),
            ("ask", made.contact),
        ]
    )
    talk("next:")
    if aside:
        talk("  # an agent that still runs with the kit from before has to be stopped first")
    policy = made.local / "policy.yml"
    if not policy.exists():
        talk(f"  mkdir -p {made.local}")
        talk(f"  cp {made.folder}/policy.yml.sample {policy}   # then say in it whose jobs may run here")
        talk(f"  cp {made.folder}/site.yml.sample {made.local}/site.yml   # and in it where your data are")
    talk(f"  flprov site start {made.folder}")
