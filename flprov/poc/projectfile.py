# SPDX-License-Identifier: Apache-2.0
"""The project of a trial network: one organisation per site, one person per role, a free port."""

from __future__ import annotations

import socket
from pathlib import Path

from flprov._base import write_atomic
from flprov.errors import Conflict, FlprovError, NotFound
from flprov.project import Project, load_project, split_address

ADMIN = "admin"
_PEOPLE = {
    ADMIN: "project_admin",
    "org-admin": "org_admin",
    "lead": "lead",
    "member": "member",
    "observer": "observer",
}


def prepare_project(path: Path, *, sites: int | None) -> Project:
    """The project in `path`, made if there is none, with a port that is free. Nothing of it may run.

    Args:
        sites: how many; None: as many as there are, two in a new one.

    Raises:
        Conflict: project.yml was edited, and would have to change all the same.
        ConfigError: it has mistakes.
    """
    if not path.exists():
        return _write(path, render(sites=sites or 2, port=free_port()))
    project = load_project(path)
    present, port = len(project.sites), port_of(project)
    if sites not in (None, present):
        assert sites is not None
        if is_edited(path):
            raise Conflict(f"{path} was edited, so -n cannot change it", hint="add or remove sites in it")
        project = _write(path, render(sites=sites, port=port))
    return project if is_free(port) else _move(path, port)


def is_edited(path: Path) -> bool:
    """Whether somebody has written in it since it was made, or has made it."""
    try:
        project = load_project(path)
        return path.read_bytes() != render(sites=len(project.sites), port=port_of(project))
    except NotFound:
        return False
    except FlprovError:  # nobody but a person makes mistakes in it
        return True


def _move(path: Path, port: int) -> Project:
    """Another port, wherever the file names the old one."""
    moved = _write(path, path.read_bytes().replace(f":{port}".encode(), f":{free_port()}".encode()))
    if port_of(moved) == port:  # it stands nowhere: the default
        raise Conflict(
            f"port {port}, on which {path} lets the server listen, is taken",
            hint="name another one under `listen` and `endpoints` of the server there",
        )
    return moved


def _write(path: Path, text: bytes) -> Project:
    write_atomic(path, text)
    return load_project(path)


def render(*, sites: int, port: int) -> bytes:
    """The file as it is made."""
    names = range(1, sites + 1)
    people = [f"  - {{name: {name}, org: org-1, role: {role}}}" for name, role in _PEOPLE.items()]
    lines = [
        "# Made by `flprov poc up`. People and sites may be added; `flprov poc up` then makes their kits.",
        "name: poc",
        "trust_domain: poc.example",
        "organisations:",
        *(f"  - {{name: org-{n}}}" for n in names),
        "server:",
        "  name: server",
        "  org: org-1",
        f'  listen: "127.0.0.1:{port}"',
        f'  endpoints: ["localhost:{port}"]',
        "sites:",
        *(f"  - {{name: site-{n}, org: org-{n}}}" for n in names),
        "people:",
        *people,
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def port_of(project: Project) -> int:
    """The port on which its server listens."""
    return split_address(project.server.listen)[1]


def admin_of(project: Project) -> str:
    """The first person who may do everything; a project has at least one."""
    return next(person.name for person in project.people if person.role == "project_admin")


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on it now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
