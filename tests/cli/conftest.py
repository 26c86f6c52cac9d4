# SPDX-License-Identifier: Apache-2.0
"""Commands run in this process with a home of their own, a fake client, and kits of a small project."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_admin import FakeAdmin
from cli_process import Ran

from flprov.cli import main
from flprov.kits import provision
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty, Validity

Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits of a project whose server listens nowhere. Not to be changed."""
    folder = tmp_path_factory.mktemp("cli") / "workspace"
    project = Project(
        name="heart",
        trust_domain="heart.example",
        organisations=(Organisation(name="org-a"),),
        server=ServerParty(name="server", org="org-a", listen="127.0.0.1:0", endpoints=("localhost:1",)),
        sites=(SiteParty(name="site-1", org="org-a"),),
        people=(Person(name="leo", org="org-a", role="lead"),),
        validity=Validity(),
        source=Path("project.yml"),
    )
    provision(project, folder, now=datetime.now(UTC))
    return folder / "kits"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`flprov ...` from its entry point to its exit status, in a folder and with a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FLPROV_KIT", raising=False)

    def ran(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["flprov", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ran(code=int(ended.value.code or 0), out=said.out, err=said.err)

    return ran


@pytest.fixture
def admin(run: Run, monkeypatch: pytest.MonkeyPatch) -> FakeAdmin:
    """The client of every command, with a kit chosen by the environment."""
    fake = FakeAdmin()
    monkeypatch.setenv("FLPROV_KIT", "kits/leo")
    monkeypatch.setattr("flprov.admin.open_admin", fake.open)
    return fake
