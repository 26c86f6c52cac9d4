# SPDX-License-Identifier: Apache-2.0
"""A small project to make kits of, and what tests ask of folders."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from flprov.project import Organisation, Person, Project, ServerParty, SiteParty, Validity

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

PROJECT = Project(
    name="heart",
    trust_domain="heart.example",
    organisations=(Organisation(name="org-a"), Organisation(name="org-b")),
    server=ServerParty(name="server", org="org-a", endpoints=("fl.heart.example:8443", "[2001:db8::1]:8443")),
    sites=(SiteParty(name="hospital-a", org="org-a"), SiteParty(name="hospital-b", org="org-b")),
    people=(
        Person(name="alice", org="org-a", role="project_admin", email="alice@heart.example"),
        Person(name="bob", org="org-b", role="lead"),
    ),
    validity=Validity(server_days=90, site_days=90, person_days=365),
    source=Path("project.yml"),
)
NAMES = ("server", "hospital-a", "hospital-b", "alice", "bob")


def with_endpoints(*endpoints: str) -> Project:
    """The same project, its server somewhere else."""
    return replace(PROJECT, server=replace(PROJECT.server, endpoints=endpoints))


def with_site(name: str, org: str = "org-a") -> Project:
    """The same project with one site more."""
    return replace(PROJECT, sites=(*PROJECT.sites, SiteParty(name=name, org=org)))


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Every file and folder below: its mode, when it was last written, its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, data)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed_files(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """The names whose bytes differ, or that only one of the two has."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
