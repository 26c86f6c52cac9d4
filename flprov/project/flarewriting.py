# SPDX-License-Identifier: Apache-2.0
"""A Project as the text of a commented project.yml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from flprov.project.model import Person, Project

# What some YAML would read as something else than text; whatever else is odd is quoted too.
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_PLAIN = re.compile(r"[a-z][a-z0-9-]*")


def render(project: Project, notes: Sequence[str], origin: str) -> str:
    """The file. Comments say where it comes from and what was changed or left out on the way."""
    return "\n".join(_lines(project, notes, origin)) + "\n"


def _lines(project: Project, notes: Sequence[str], origin: str) -> Iterator[str]:
    yield f"# A federated-learning project, read from NVIDIA FLARE's {_comment(origin)}."
    yield "#"
    yield "#   flprov plan project.yml         what would be made"
    yield "#   flprov provision project.yml    makes the certificates and one kit per party"
    yield "#"
    yield "# `flprov init` in another folder writes a sample that explains every key."
    if notes:
        yield "#"
        yield "# What was changed or left out, by the line of that file:"
        yield from (f"#   {_comment(note)}" for note in notes)
    yield ""
    yield f"name: {_quoted(project.name)}"
    yield ""
    yield "# Every identity begins with it. It cannot change once certificates are out; FLARE has none."
    yield f"trust_domain: {_quoted(project.trust_domain)}"
    yield ""
    yield "organisations:"
    for organisation in project.organisations:
        yield f"  - name: {_quoted(organisation.name)}"
        if organisation.title:
            yield f"    title: {json.dumps(organisation.title, ensure_ascii=False)}"
    yield from _server(project)
    yield ""
    yield from _list(
        "sites", (f"{{name: {_quoted(one.name)}, org: {_quoted(one.org)}}}" for one in project.sites)
    )
    yield ""
    yield "people:"
    for person in project.people:
        yield from _person(person)


def _server(project: Project) -> Iterator[str]:
    server = project.server
    yield ""
    yield "server:"
    yield f"  name: {_quoted(server.name)}"
    yield f"  org: {_quoted(server.org)}"
    yield f"  listen: {_quoted(server.listen)}"
    yield "  # How sites and people reach it; FLARE's fed_learn_port. There is no second port."
    yield f"  endpoints: [{', '.join(map(_quoted, server.endpoints))}]"
    if server.names:
        yield f"  names: [{', '.join(map(_quoted, server.names))}]"


def _person(person: Person) -> Iterator[str]:
    yield f"  - name: {_quoted(person.name)}"
    yield f"    org: {_quoted(person.org)}"
    yield f"    role: {person.role}"
    if person.email:
        yield f"    email: {_quoted(person.email)}"


def _list(key: str, items: Iterable[str]) -> Iterator[str]:
    found = list(items)
    yield f"{key}:" if found else f"{key}: []"
    yield from (f"  - {item}" for item in found)


def _quoted(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    """One line, whatever a file may be called."""
    return text if text.isprintable() else ascii(text)[1:-1]
