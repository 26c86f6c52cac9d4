# SPDX-License-Identifier: Apache-2.0
"""`load_project`: project.yml to Project, with every mistake in one pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from flprov.config import Section, open_config, suggestion
from flprov.errors import NotFound
from flprov.project.model import ROLES, Organisation, Person, Project, ServerParty, SiteParty, Validity
from flprov.project.names import (
    NAME,
    NAME_IN_WORDS,
    is_dns_name,
    is_unspecified,
    mistake_in_name,
    mistake_in_trust_domain,
    split_address,
    verify_ip,
)
from flprov.project.proxy import read_open_proxy

_TITLE = r".{1,200}"
EMAIL = r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,8}"
_FINGERPRINT = r"SHA256:([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}"
_CENTURY_DAYS = 36_525
_MOST_MISTAKES = 60  # of one list; fewer are shown of a whole file
_MOST_HINTS = 10  # on organisations: each is compared with all that there are
_SHORTEST_DAYS = 0.0001  # nine seconds: to watch renewals; any network that runs has more


def load_project(path: Path) -> Project:
    """Read a project file.

    Raises:
        ConfigError: with every mistake, by line.
        NotFound: no such file.
        LocalError: this machine does not let us read it.
    """
    try:
        with open_config(path) as top:
            project = _read_project(top, path)
    except NotFound as error:
        raise NotFound(str(error), hint="`flprov init` writes a commented one") from None
    return project


def parse_project(text: bytes, source: Path) -> Project:
    """The project in the text of a file; `source` is what messages call it.

    Raises:
        ConfigError: with every mistake, by line.
    """
    with open_config(source, text=text) as top:
        return _read_project(top, source)


def _read_project(top: Section, source: Path) -> Project:
    trust_domain = top.text("trust_domain")
    _note(top, "trust_domain", mistake_in_trust_domain(trust_domain) if trust_domain else None)
    fingerprint = top.text(
        "root_fingerprint", None, pattern=_FINGERPRINT, what="a fingerprint as `flprov provision` prints it"
    )
    name = _read_name(top)
    organisations = _read_organisations(top)
    reader = _PartyReader(frozenset(organisation.name for organisation in organisations))
    return Project(
        name=name,
        trust_domain=trust_domain,
        root_fingerprint=fingerprint.upper() if fingerprint else None,
        organisations=organisations,
        server=reader.read_server(top),
        sites=tuple(reader.read_site(site) for site in top.sections("sites", required=False)),
        people=reader.read_people(top),
        validity=_read_validity(top.section("validity", required=False)),
        source=source,
    )


def _note(section: Section, key: str, mistake: str | None) -> None:
    if mistake:
        section.problem(key, mistake)


def _read_name(section: Section) -> str:
    name = section.text("name", pattern=NAME, what=NAME_IN_WORDS)
    _note(section, "name", mistake_in_name(name))
    return name


def _read_organisations(top: Section) -> tuple[Organisation, ...]:
    sections = top.sections("organisations")
    found = [
        Organisation(
            name=_read_name(section),
            title=section.text("title", "", pattern=_TITLE, what="a title of at most 200 characters"),
        )
        for section in sections
    ]
    lines: dict[str, int] = {}
    for section, organisation in zip(sections, found, strict=True):
        first = lines.setdefault(organisation.name, section.line("name"))
        if organisation.name and first != section.line("name"):
            section.problem(
                "name", f"organisation {organisation.name!r} stands here twice (first in line {first})"
            )
    if not found and top.has("organisations"):
        top.problem("organisations", "a project needs at least one organisation")
    return tuple(found)


class _PartyReader:
    """Reads server, sites and people; they share one space of names, as their kits share a folder."""

    def __init__(self, organisations: frozenset[str]) -> None:
        self._organisations = organisations
        self._taken: dict[str, str] = {}  # name -> "site, line 12"
        self._strangers = 0  # organisations that are not there

    def read_server(self, top: Section) -> ServerParty:
        section = top.section("server")
        if section is None:
            return ServerParty(name="", org="")
        return ServerParty(
            name=self._read_party(section, "the server"),
            org=self._read_org(section),
            listen=_read_listen(section),
            endpoints=_read_endpoints(section),
            names=_read_names(section),
        )

    def read_site(self, section: Section) -> SiteParty:
        return SiteParty(
            name=self._read_party(section, "a site"),
            org=self._read_org(section),
            proxy=read_open_proxy(section),
        )

    def read_people(self, top: Section) -> tuple[Person, ...]:
        people = tuple(self._read_person(section) for section in top.sections("people"))
        if top.has("people") and not any(person.role == "project_admin" for person in people):
            top.problem("people", "a project needs at least one person with the role project_admin")
        return people

    def _read_person(self, section: Section) -> Person:
        return Person(
            name=self._read_party(section, "a person"),
            org=self._read_org(section),
            role=section.choice("role", ROLES),
            email=section.text("email", None, pattern=EMAIL, what="an e-mail address"),
        )

    def _read_party(self, section: Section, what: str) -> str:
        name = _read_name(section)
        line = section.line("name")
        if name and name in self._taken:
            section.problem(
                "name", f"the name {name!r} is taken by {self._taken[name]}; kits need different names"
            )
        self._taken.setdefault(name, f"{what} in line {line}")
        return name

    def _read_org(self, section: Section) -> str:
        org = section.text("org", pattern=NAME, what=NAME_IN_WORDS)
        if org and self._organisations and org not in self._organisations:
            self._strangers += 1
            hint = suggestion(org, self._organisations) if self._strangers <= _MOST_HINTS else ""
            section.problem("org", f"there is no organisation {org!r}{hint}")
        return org


def _read_listen(section: Section) -> str:
    listen = section.text("listen", ServerParty(name="", org="").listen)
    try:
        _, port = split_address(listen)
        if port > 65535:
            raise ValueError(f"there is no port {port}")
    except ValueError as error:
        section.problem("listen", f"{listen!r} is not an address to listen on: {error}")
    return listen


def _read_endpoints(section: Section) -> tuple[str, ...]:
    endpoints = section.texts("endpoints")
    _verify_each(section, "endpoints", endpoints, _verify_endpoint)
    if section.has("endpoints") and not endpoints:
        section.problem(
            "endpoints", "the server needs at least one endpoint: host:port, as the sites dial it"
        )
    return tuple(endpoint for endpoint in endpoints)


def _verify_endpoint(endpoint: str) -> None:
    host, port = split_address(endpoint)
    if not 1 <= port <= 65535:
        raise ValueError(f"there is no port {port}" if port else "nobody can dial port 0")
    if is_unspecified(host):
        raise ValueError("nobody can dial that; write the name or the address that the sites use")


def _read_names(section: Section) -> tuple[str, ...]:
    names = section.texts("names", ())
    _verify_each(section, "names", names, _verify_certificate_name)
    return names


def _verify_certificate_name(name: str) -> None:
    if not is_dns_name(name):
        try:
            verify_ip(name)
        except ValueError:
            raise ValueError("it must be a DNS name in lower case or an IP address, without a port") from None


def _verify_each(section: Section, key: str, items: tuple[str, ...], verify: Callable[[str], object]) -> None:
    mistakes: dict[str, ValueError] = {}
    seen: set[str] = set()
    for item in items:
        try:
            verify(item)
            if item in seen:
                raise ValueError("it stands here twice")
        except ValueError as error:
            mistakes.setdefault(item, error)
        seen.add(item)
    for item, mistake in islice(mistakes.items(), _MOST_MISTAKES):  # each is looked for in the list
        section.problem(key, f"{item!r} will not do: {mistake}", item=item)


def _read_validity(section: Section | None) -> Validity:
    if section is None:
        return Validity()
    default = Validity()
    root = section.integer("root_days", default.root_days, minimum=1, maximum=_CENTURY_DAYS)
    issuing = section.integer(
        "issuing_days", min(default.issuing_days, root), minimum=1, maximum=_CENTURY_DAYS
    )
    leaves = {
        key: section.number(key, min(getattr(default, key), float(issuing)), minimum=_SHORTEST_DAYS)
        for key in ("server_days", "site_days", "person_days")
    }
    if issuing > root:
        section.problem("issuing_days", f"issuing_days ({issuing}) must not be more than root_days ({root})")
    for key, days in leaves.items():
        if days > issuing:
            section.problem(key, f"{key} ({days:g}) must not be more than issuing_days ({issuing})")
    return Validity(root_days=root, issuing_days=issuing, **leaves)
