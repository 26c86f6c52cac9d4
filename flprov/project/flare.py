# SPDX-License-Identifier: Apache-2.0
"""NVIDIA FLARE's project.yml (api_version 3 and 4) as ours.

Its format: https://nvflare.readthedocs.io/en/main/programming_guide/provisioning_system.html. What has
a counterpart here is carried over, under names that fit our rules; everything else is named, with the
reason, and left out. Nothing of FLARE is imported and nothing that the file names is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flprov.config import Section, open_config, shown
from flprov.project.flarenames import Names, fits_host
from flprov.project.flarewords import (
    BUILDERS,
    DEFAULT_BUILDERS,
    PARTICIPANT_KEYS,
    PARTICIPANT_TYPES,
    TOP_KEYS,
    UNKNOWN_KEY,
)
from flprov.project.flarewriting import render
from flprov.project.model import ROLES, Organisation, Person, Project, ServerParty, SiteParty
from flprov.project.reading import EMAIL, parse_project

_PORT = 8002  # FLARE's default for fed_learn_port
_LOCAL = "localhost:8443"
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A project file of ours, made from one of FLARE's."""

    text: str  # a whole project.yml, with comments; it loads
    project: Project
    notes: tuple[str, ...]  # "file:line: what was changed or left out, and why"


def convert_flare(path: Path) -> Conversion:
    """Read one of FLARE's project files and say it in ours.

    Raises:
        ConfigError: it is not such a file, or not YAML as strict as ours must be; every mistake by line.
        NotFound: no such file.
        LocalError: this machine does not let us read it.
    """
    with open_config(path) as top:
        reader = _Reader(path)
        project = reader.read(top)
    text = render(project, reader.notes, path.name)
    return Conversion(
        text=text, project=parse_project(text.encode(), Path("project.yml")), notes=reader.notes
    )


class _Reader:
    """Goes through one file once and collects parties and notes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = Names()
        self._organisations: dict[str, Organisation] = {}  # by FLARE's name
        self._server: ServerParty | None = None
        self._sites: list[SiteParty] = []
        self._people: list[Person] = []
        self._notes: list[tuple[int, str]] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed or left out, in the order of the file."""
        found = sorted(self._notes, key=lambda note: note[0])
        return tuple(f"{self._path.name}:{line}: {words}" for line, words in found)

    def read(self, top: Section) -> Project:
        """The project, right in itself."""
        top.integer("api_version", minimum=3, maximum=4)
        title = _text(top, "name")
        name = self._names.fit(title, Names()) if title else "project"
        self._tell_renamed(top, "project", title, name)
        for section in top.sections("participants"):
            self._read_participant(section)
        self._read_builders(top)
        self._pass_over(top, TOP_KEYS, {"api_version", "name", "participants", "builders"})
        self._note(top, "name", f"trust_domain is {name}.internal: FLARE has none; write one that you own")
        return self._complete(top, name)

    def _complete(self, top: Section, name: str) -> Project:
        """With what our files need and FLARE's need not have."""
        if self._server is None:
            self._note(top, "participants", "there is no server; one was written in, for this machine only")
            party = self._names.take("server")
            self._server = ServerParty(name=party, org=self._first_org(), endpoints=(_LOCAL,))
        if not any(person.role == "project_admin" for person in self._people):
            party = self._names.take("admin")
            self._note(
                top, "participants", f"nobody is project_admin; {party} was written in: name the real one"
            )
            self._people.append(Person(name=party, org=self._first_org(), role="project_admin"))
        return Project(
            name=name,
            trust_domain=f"{name}.internal",
            organisations=tuple(self._organisations.values()),
            server=self._server,
            sites=tuple(self._sites),
            people=tuple(self._people),
            source=self._path,
        )

    def _first_org(self) -> str:
        if not self._organisations:
            self._organisations["org"] = Organisation(name="org")
        return next(iter(self._organisations.values())).name

    # ---- participants ----

    def _read_participant(self, section: Section) -> None:
        kind, name = _text(section, "type"), _text(section, "name")
        if not kind or not name:
            return
        if kind == "server":
            self._read_server(section, name)
        elif kind == "client":
            self._read_site(section, name)
        elif kind == "admin":
            self._read_person(section, name)
        else:
            why = PARTICIPANT_TYPES.get(kind, "there are only servers, clients and admins here")
            self._leave_out(section, f"{shown(kind)[1:-1]} {shown(name)[1:-1]}: {why}")

    def _leave_out(self, section: Section, words: str) -> None:
        self._note(section, "name", f"left out {words}")
        for key in section.keys():  # noqa: SIM118 - a Section is no mapping
            section.has(key)

    def _read_server(self, section: Section, name: str) -> None:
        if self._server is not None:
            self._leave_out(section, f"server {shown(name)[1:-1]}: a project has one server here")
            return
        port = section.integer("fed_learn_port", _PORT, minimum=1, maximum=65535)
        host = _text(section, "default_host", default="") or name
        hosts = [host, *_host_names(section)]
        fitting = [found for found in map(fits_host, dict.fromkeys(hosts)) if found]
        for bad in (one for one in hosts if fits_host(one) is None):
            self._note(section, "name", f"{shown(bad)} is no DNS name and no IP address, and was left out")
        if fits_host(host) is None:
            self._note(section, "name", "so the endpoint is localhost: write what the sites dial")
        endpoint = _address(fits_host(host) or "localhost", port)
        party = self._take(section, name, "server")
        self._server = ServerParty(
            name=party,
            org=self._read_org(section),
            listen=f"0.0.0.0:{port}",
            endpoints=(endpoint,),
            names=tuple(dict.fromkeys(one for one in fitting if one != fits_host(host))),
        )
        self._pass_over(
            section,
            PARTICIPANT_KEYS,
            {"name", "type", "org", "fed_learn_port", "default_host", "host_names"},
        )

    def _read_site(self, section: Section, name: str) -> None:
        party = self._take(section, name, "client")
        self._sites.append(SiteParty(name=party, org=self._read_org(section)))
        self._pass_over(section, PARTICIPANT_KEYS, {"name", "type", "org"})

    def _read_person(self, section: Section, name: str) -> None:
        if section.has("ephemeral_admin_cert"):
            why = "people have certificates of their own here, and no kit is shared"
            self._leave_out(section, f"admin {shown(name)[1:-1]}: {why}")
            return
        role = _text(section, "role", default="")
        if role not in ROLES:
            self._note(
                section, "role", f"{shown(name)} has the role {shown(role)}, which is none here; now observer"
            )
            role = "observer"
        email = name if re.fullmatch(EMAIL, name) else None
        person = Person(
            name=self._take(section, name, "admin"), org=self._read_org(section), role=role, email=email
        )
        self._people.append(person)
        self._pass_over(section, PARTICIPANT_KEYS, {"name", "type", "org", "role"})

    def _read_org(self, section: Section) -> str:
        org = _text(section, "org")
        if not org:
            return ""
        if org not in self._organisations:
            taken = Names(found.name for found in self._organisations.values())
            name = self._names.fit(org, taken)
            self._tell_renamed(section, "organisation", org, name)
            self._organisations[org] = Organisation(name=name, title=org if name != org else "")
        return self._organisations[org].name

    def _take(self, section: Section, name: str, what: str) -> str:
        party = self._names.take(name)
        self._tell_renamed(section, what, name, party)
        return party

    # ---- what is left out ----

    def _read_builders(self, top: Section) -> None:
        """Kits are made from templates here; only what a builder did beyond that is worth a word."""
        paths = []
        for builder in top.sections("builders", required=False):
            paths.append(_text(builder, "path", default=""))
            for key in builder.keys():  # noqa: SIM118
                builder.has(key)
        if paths:
            self._note(top, "builders", "left out builders: kits are made from templates/, without builders")
        for path in paths:
            name = path.rpartition(".")[2]
            if name not in DEFAULT_BUILDERS:
                self._note(top, "builders", f"left out {shown(path)}: {BUILDERS.get(name, UNKNOWN_KEY)}")

    def _pass_over(self, section: Section, reasons: dict[str, str], known: set[str]) -> None:
        for key in section.keys():  # noqa: SIM118
            if key not in known:
                section.has(key)
                self._note(section, key, f"left out {shown(key)[1:-1]}: {reasons.get(key, UNKNOWN_KEY)}")

    def _tell_renamed(self, section: Section, what: str, old: str, new: str) -> None:
        if old and old != new:
            self._note(section, "name", f"{what} {shown(old)[1:-1]} is {new} here")

    def _note(self, section: Section, key: str, words: str) -> None:
        self._notes.append((section.line(key), words))


def _text(section: Section, key: str, *, default: str | None = None) -> str:
    """One line of text of a sane length; required without a default."""
    what = f"text of at most {_LONGEST} characters"
    if default is None:
        return section.text(key, pattern=rf".{{1,{_LONGEST}}}", what=what)
    return section.text(key, default, pattern=rf".{{0,{_LONGEST}}}", what=what)


def _host_names(section: Section) -> list[str]:
    """FLARE takes one name or a list of them."""
    found = section.value("host_names", None)
    items: Iterable[object] = found if isinstance(found, list) else [found]
    return [item for item in items if isinstance(item, str)]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
