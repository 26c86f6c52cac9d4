# SPDX-License-Identifier: Apache-2.0
"""Names that a shell or the console can complete: sites, apps and jobs, as the server knows them.

Used as `shell_complete=` of arguments and options. Whoever presses Tab is not told of errors and does
not wait: what cannot be had within a second is not offered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from flprov.cli.acting import KeptAdmin, chosen_kit
from flprov.cli.output import clean
from flprov.cli.proxies import environment_route
from flprov.errors import FlprovError

if TYPE_CHECKING:
    from flprov.rpc import Method

_PATIENCE = 1.0  # seconds
_KEEP = 2.0  # seconds for which an answer is offered again; the console asks at each key

Offer = tuple[str, str]  # a word, and what to say about it

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")  # a shell puts it onto the line as it is

_answers: dict[tuple[Path, str], tuple[float, list[Offer]]] = {}


def complete_site(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of sites."""
    return _matching(_offers(ctx, "sites"), incomplete)


def complete_sites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of sites with commas between them."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    found = [item for item in complete_site(ctx, param, last) if item.value not in taken]
    return [CompletionItem(f"{before}{comma}{item.value}", help=item.help) for item in found]


def complete_party(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of sites, and `server`."""
    return _matching([*_offers(ctx, "sites"), ("server", "the workflow's own")], incomplete)


def complete_person(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of people."""
    return _matching(_offers(ctx, "people"), incomplete)


def complete_about(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """What a row of the log may be about: jobs and sites."""
    return _matching([*_offers(ctx, "jobs"), *_offers(ctx, "sites")], incomplete)


def complete_org(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Organisations that have a site."""
    return _matching(_offers(ctx, "orgs"), incomplete)


def complete_invite(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Sites with an invite that can still be decided on."""
    return _matching(_offers(ctx, "invites"), incomplete)


def complete_holder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of sites and people: whose certificate can be revoked."""
    return _matching([*_offers(ctx, "sites"), *_offers(ctx, "people")], incomplete)


def complete_app(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of uploaded apps."""
    return _matching(_offers(ctx, "apps"), incomplete)


def complete_app_or_folder(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """What `job submit` takes."""
    apps = [] if "/" in incomplete else complete_app(ctx, param, incomplete)
    return [*apps, CompletionItem(incomplete, type="dir")]


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Ids of jobs, newest first, and `last`."""
    jobs = _offers(ctx, "jobs")
    return _matching([("last", "the newest job"), *jobs] if jobs else [], incomplete)


def _matching(offers: list[Offer], incomplete: str) -> list[CompletionItem]:
    unique = dict(reversed(offers))  # of two apps with one name, the newer one's word
    words = [word for word in dict.fromkeys(word for word, _ in offers) if word.startswith(incomplete)]
    return [CompletionItem(word, help=unique[word]) for word in words]


def _offers(ctx: click.Context, what: str) -> list[Offer]:
    """What there is, from the last seconds or from the server; nothing when it cannot be had.

    A server that was broken into does not write commands behind somebody's cursor.
    """
    try:
        kit = _kit(ctx)
    except FlprovError:
        return []
    asked_at, found = _answers.get((kit, what), (-_KEEP, []))
    if time.monotonic() - asked_at >= _KEEP:
        import asyncio  # late: most lines need no server to be completed

        try:
            told = asyncio.run(_ask(kit, what))
            found = [(word, clean(note)) for word, note in told if _WORD.fullmatch(word)]
        except (FlprovError, OSError, ValueError):  # TimeoutError is an OSError
            found = []
        _answers[kit, what] = (time.monotonic(), found)
    return found


def _kit(ctx: click.Context) -> Path:
    """As `acting.current_kit`, though a line that is being completed has run no command."""
    root = ctx.find_root()
    if isinstance(root.obj, KeptAdmin):
        return root.obj.kit
    named = root.params.get("kit")
    return Path(named) if named else chosen_kit()


async def _ask(kit: Path, what: str) -> list[Offer]:
    import asyncio

    from flprov._base import SystemClock
    from flprov.admin import PersonTrust
    from flprov.kits import load_kit
    from flprov.pki import Kind
    from flprov.project import DIRECT
    from flprov.rpc import connect
    from flprov.wire import pb

    method, document, read = _questions()[what]
    loaded = load_kit(kit, now=SystemClock().now(), kind=Kind.PERSON)
    connection = connect(
        loaded.endpoints,
        chain_pem=loaded.chain_pem,
        private_pem=loaded.private_pem,
        server_anchors=PersonTrust(loaded, SystemClock().now()).servers,
        route=loaded.route or environment_route() or DIRECT,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            reply = await connection.unary(method, pb.Query())
    finally:
        await connection.close()
    return [read(item) for item in _items(document, reply.json)]


def _items(document: str, answer: bytes) -> tuple[Any, ...]:
    """What a document lists, which is its first field; others may follow."""
    from flprov._base import from_document, parse_json
    from flprov.wire import documents

    listing = from_document(getattr(documents, document), parse_json(answer))
    found: tuple[Any, ...] = next(iter(vars(listing).values()))
    return found


def _questions() -> dict[str, tuple[Method, str, Callable[[Any], Offer]]]:
    """What to ask, the name of the document of one list that comes, and how to offer an item of it."""
    from flprov.rpc import methods

    return {
        "sites": (methods.LIST_SITES, "SiteListDocument", lambda site: (site.name, site.state)),
        "orgs": (methods.LIST_SITES, "SiteListDocument", lambda site: (site.org, "")),
        "invites": (
            methods.LIST_INVITES,
            "InviteListDocument",
            lambda invite: (invite.site, f"{invite.state} {invite.id}"),
        ),
        "people": (
            methods.LIST_PEOPLE,
            "PersonListDocument",
            lambda person: (person.name, f"{person.role} {person.state}"),
        ),
        "apps": (methods.LIST_APPS, "AppListDocument", lambda app: (app.name, app.digest[:12])),
        "jobs": (methods.LIST_JOBS, "JobListDocument", lambda job: (job.id, f"{job.name} {job.state}")),
    }
