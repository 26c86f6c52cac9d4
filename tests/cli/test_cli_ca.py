# SPDX-License-Identifier: Apache-2.0
"""`flprov ca`, and `plan` and `provision` with a live network: words, exit codes, documents."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_process import run_process
from click.testing import CliRunner

from flprov.cli import acting, root
from flprov.errors import Conflict, FlprovError, Misuse, ServerUnavailable
from flprov.kits import load_kit, look_at_rotation
from flprov.project import load_project
from flprov.wire import documents as doc

PROJECT = """
name: net
trust_domain: net.example
organisations: [{name: org-a}]
server: {name: server, org: org-a, endpoints: ["localhost:1"]}
sites: [{name: site-1, org: org-a}, {name: site-2, org: org-a}]
people: [{name: ada, org: org-a, role: project_admin}]
"""


class FakeAdmin:
    """A network that holds what was published, and does what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kit = load_kit(folder / "workspace/kits/ada", now=datetime.now(UTC))
        self.version, self.behind, self.answers = 1, (), True
        self.sites = {"site-1": "org-a", "site-2": "org-a"}
        self.withdrawn: tuple[doc.WithdrawnPerson, ...] = ()
        self.done: list[str] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def trust(self) -> doc.TrustStatusDocument:
        if not self.answers:
            raise ServerUnavailable("nothing listens at localhost:1")
        authorities = look_at_rotation(load_project(self.folder / "project.yml"), self.folder / "workspace")[
            1
        ]
        cas = authorities.describe()
        active = {ca.unit: ca.key_id for ca in cas if ca.state == "active"}
        return doc.TrustStatusDocument(
            version=self.version,
            phase="steady",
            made_at=datetime.now(UTC),
            endpoints=("localhost:1",),
            authorities=cas,
            holders=tuple(
                doc.TrustHolder(
                    name=name,
                    kind="site",
                    org=org,
                    identity=f"spiffe://net.example/site/{org}/{name}",
                    version=0 if name in self.behind else self.version,
                    ca=active["sites"],
                    from_kit=True,
                )
                for name, org in self.sites.items()
            ),
            withdrawn=self.withdrawn,
        )

    def publish_trust(self, publication):
        if not self.answers:
            raise ServerUnavailable("nothing listens at localhost:1")
        self.version = publication.version
        self.done.append(f"publish {publication.version}")
        return self.trust()

    def add_site(self, name, *, org, reason=""):
        self.sites[name] = org
        self.done.append(f"add {name}")

    def remove_site(self, name, *, reason=""):
        del self.sites[name]
        self.done.append(f"remove {name}")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project.yml").write_text(PROJECT)
    assert flprov("provision", "project.yml").exit_code == 0
    return tmp_path


@pytest.fixture
def network(folder, monkeypatch) -> FakeAdmin:
    admin = FakeAdmin(folder)
    monkeypatch.setattr(acting, "acting", lambda: admin)
    return admin


def flprov(*words: str):
    return CliRunner().invoke(root, list(words), standalone_mode=False)


def error_of(*words: str) -> FlprovError:
    found = flprov(*words).exception
    assert isinstance(found, FlprovError), found
    return found


# ---- show --------------------------------------------------------------------------------------


def test_show_names_every_ca_with_its_fingerprint(folder):
    found = flprov("ca", "show")
    assert found.exit_code == 0
    document = json.loads(flprov("ca", "show", "--json").stdout)
    assert [(ca["unit"], ca["state"]) for ca in document["authorities"]] == [
        ("root", "active"),
        ("servers", "active"),
        ("sites", "active"),
        ("people", "active"),
    ]
    assert all(ca["fingerprint"] in found.stdout for ca in document["authorities"])
    assert "not encrypted" in found.stdout


def test_without_a_workspace_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.yml").write_text(PROJECT)
    error = error_of("ca", "show")
    assert (error.exit_code, "flprov provision project.yml" in error.hint) == (5, True)


# ---- rotate ------------------------------------------------------------------------------------


def test_a_rotation_in_three_commands(network):
    found = flprov("ca", "rotate", "prepare", "--root")
    assert "The new root is" in found.stderr
    assert "waiting" in found.stdout
    assert flprov("ca", "rotate", "status").exit_code == 0
    assert flprov("ca", "rotate", "activate").exit_code == 0
    assert flprov("provision", "project.yml").exit_code == 0
    document = json.loads(flprov("ca", "rotate", "finish", "--json").stdout)
    assert (document["phase"], document["changed"], document["published"]) == ("steady", True, 4)
    assert network.done == ["publish 2", "publish 3", "publish 4"]
    again = flprov("ca", "rotate", "finish")
    assert "nothing changed in the workspace" in again.stderr
    assert "the last one was finished" in again.stdout


def test_status_is_attention_while_somebody_is_behind_and_activate_names_them(network):
    flprov("ca", "rotate", "prepare")
    network.behind = ("site-2",)
    found = flprov("ca", "rotate", "status")
    assert found.exception.code == 7
    assert "site site-2: holds no trust bundle" in found.stdout
    assert "site-1: holds" not in found.stdout
    error = error_of("ca", "rotate", "activate")
    assert isinstance(error, Conflict)
    assert "site site-2" in str(error)
    forced = flprov("ca", "rotate", "activate", "--force")
    assert "left behind: site site-2" in forced.stderr


def test_an_unreachable_network_is_exit_4_and_the_same_command_again_publishes(network):
    network.answers = False
    error = error_of("ca", "rotate", "prepare")
    assert (error.exit_code, "ca rotate prepare again" in error.hint) == (4, True)
    assert flprov("ca", "rotate", "status").exception.code == 4
    assert error_of("ca", "rotate", "activate").exit_code == 4  # nobody can be asked, so nothing was done
    network.answers = True
    document = json.loads(flprov("ca", "rotate", "prepare", "--json").stdout)
    assert (document["phase"], document["changed"], document["published"]) == ("prepared", False, 2)


def test_rolled_back_before_it_was_activated_nothing_is_left_of_it(network):
    flprov("ca", "rotate", "prepare")
    found = flprov("ca", "rotate", "rollback")
    assert "the last one was rolled back" in found.stdout
    assert json.loads(flprov("ca", "show", "--json").stdout)["phase"] == "steady"


def test_another_project_s_admin_is_refused_before_anything_is_done(network, folder):
    network.kit = replace(network.kit, project_id="another")
    error = error_of("ca", "rotate", "prepare")
    assert isinstance(error, Misuse)
    assert json.loads(flprov("ca", "show", "--json").stdout)["phase"] == "steady"


def test_without_an_admin_kit_it_says_how_to_choose_one(folder):
    error = error_of("ca", "rotate", "prepare")
    assert "flprov use KIT" in error.hint
    assert json.loads(flprov("ca", "show", "--json").stdout)["phase"] == "steady"


# ---- publish, plan and provision with the live network -----------------------------------------


def test_who_left_is_told_and_published(network, folder):
    listing = PROJECT.replace("people: [", "people: [{name: leo, org: org-a, role: lead}, ")
    (folder / "project.yml").write_text(listing)
    assert flprov("provision", "project.yml").exit_code == 0
    (folder / "project.yml").write_text(PROJECT)
    found = flprov("provision", "project.yml")
    assert "people's certificates revoked: leo (cessationOfOperation)" in found.stderr
    assert "flprov ca publish" in found.stderr
    published = flprov("ca", "publish")
    assert "version 2 in the workspace; in the network version 2" in published.stdout
    assert "flprov ca rotate status" in published.stderr
    assert "next:" not in published.stderr  # nobody who only publishes a list is to rotate CAs
    assert network.done == ["publish 2"]


def test_plan_shows_where_the_live_network_differs_and_provision_live_does_it(network, folder):
    assert flprov("plan", "project.yml", "--live").exit_code == 0
    del network.sites["site-2"]
    network.sites["site-9"] = "org-a"
    found = flprov("plan", "project.yml", "--live")
    assert found.exception.code == 7
    assert "+ site site-2 of org-a is in the file" in found.stdout
    assert "- site site-9 is in the network" in found.stdout
    assert "nothing to do" not in found.stderr
    document = json.loads(flprov("plan", "project.yml", "--live", "--json").stdout)
    assert [one["action"] for one in document["live"]["differences"]] == ["add", "remove"]
    done = flprov("provision", "project.yml", "--live")
    assert network.done == ["add site-2", "remove site-9"]
    assert "live: site site-2 of org-a added" in done.stderr
    assert flprov("plan", "project.yml", "--live").exit_code == 0
    assert "live: nothing to do" in flprov("provision", "project.yml", "--live").stderr


def test_plan_does_not_ask_unless_it_may_and_then_notes_what_went_wrong(folder):
    assert json.loads(flprov("plan", "project.yml", "--json").stdout)["live"] is None
    kit = str(folder / "workspace/kits/ada")
    found = flprov("--kit", kit, "plan", "project.yml")
    assert found.exit_code == 0
    assert "note: the live network was not looked at" in found.stderr
    assert flprov("--kit", kit, "plan", "project.yml", "--no-live").stderr.count("note") == 0
    assert error_of("--kit", kit, "plan", "project.yml", "--live").exit_code == 4


def test_provision_live_does_nothing_when_the_network_cannot_be_asked(network, folder):
    network.answers = False
    (folder / "project.yml").write_text(PROJECT.replace("sites: [", "sites: [{name: site-0, org: org-a}, "))
    assert error_of("provision", "project.yml", "--live").exit_code == 4
    assert not (folder / "workspace/kits/site-0").exists()


def test_the_real_command_prints_one_document(folder):
    done = run_process("ca", "show", "--json", folder=folder)
    assert json.loads(done.out)["phase"] == "steady"
