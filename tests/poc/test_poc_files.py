# SPDX-License-Identifier: Apache-2.0
"""The project, policies and settings of a trial network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flprov.errors import Conflict, Misuse, NotFound
from flprov.pki import Role
from flprov.poc import Dataset, parse_dataset
from flprov.poc.projectfile import (
    admin_of,
    free_port,
    is_free,
    port_of,
    prepare_project,
    render,
)
from flprov.poc.sitefiles import write_policy, write_settings
from flprov.policy import load_policy, load_site_settings


@pytest.fixture
def listening():
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_new_project_has_as_many_sites_as_asked_for_each_of_its_own_organisation(tmp_path):
    project = prepare_project(tmp_path / "project.yml", sites=3)
    assert [(site.name, site.org) for site in project.sites] == [
        ("site-1", "org-1"),
        ("site-2", "org-2"),
        ("site-3", "org-3"),
    ]


def test_there_are_two_sites_unless_told_otherwise(tmp_path):
    assert len(prepare_project(tmp_path / "project.yml", sites=None).sites) == 2


def test_there_is_a_person_for_each_role(tmp_path):
    project = prepare_project(tmp_path / "project.yml", sites=1)
    assert {person.role for person in project.people} == {role.value for role in Role}
    assert admin_of(project) == "admin"


def test_the_server_listens_on_this_machine_alone(tmp_path):
    project = prepare_project(tmp_path / "project.yml", sites=1)
    port = port_of(project)
    assert project.server.listen == f"127.0.0.1:{port}"
    assert project.server.endpoints == (f"localhost:{port}",)


def test_an_unchanged_project_is_left_as_it_is(tmp_path):
    path = tmp_path / "project.yml"
    path.write_bytes(render(sites=2, port=free_port()) + b"# mine\n")
    before = path.read_bytes()
    prepare_project(path, sites=None)
    prepare_project(path, sites=2)
    assert path.read_bytes() == before


def test_sites_can_be_added_to_a_project_as_it_was_made(tmp_path):
    path = tmp_path / "project.yml"
    first = prepare_project(path, sites=1)
    second = prepare_project(path, sites=4)
    assert len(second.sites) == 4
    assert port_of(second) == port_of(first)


def test_an_edited_project_is_not_overwritten(tmp_path):
    path = tmp_path / "project.yml"
    path.write_bytes(render(sites=2, port=free_port()) + b"# mine\n")
    before = path.read_bytes()
    with pytest.raises(Conflict, match="was edited"):
        prepare_project(path, sites=3)
    assert path.read_bytes() == before


def test_a_port_that_was_taken_meanwhile_is_replaced_also_in_an_edited_project(tmp_path, listening):
    path = tmp_path / "project.yml"
    path.write_bytes(render(sites=2, port=listening) + b"# mine\n")
    project = prepare_project(path, sites=None)
    assert port_of(project) != listening
    assert project.server.endpoints == (f"localhost:{port_of(project)}",)
    assert path.read_text().endswith("# mine\n")


def test_a_port_that_stands_nowhere_is_not_replaced(tmp_path, listening, monkeypatch):
    path = tmp_path / "project.yml"
    text = render(sites=1, port=listening).decode().replace(f'  listen: "127.0.0.1:{listening}"\n', "")
    path.write_text(text.replace(f":{listening}", ":8443"))
    monkeypatch.setattr("flprov.poc.projectfile.is_free", lambda port: port != 8443)
    with pytest.raises(Conflict, match=r"port 8443.* is taken"):
        prepare_project(path, sites=None)


def test_a_port_that_somebody_listens_on_is_not_free(listening):
    assert not is_free(listening)
    assert is_free(free_port())


@pytest.mark.parametrize(
    ("text", "site", "name"),
    [
        ("heart={}", None, "heart"),
        ("site-1:heart={}", "site-1", "heart"),
        ("site-1:MRI_3.T={}", "site-1", "MRI_3.T"),
    ],
)
def test_a_dataset_is_for_all_sites_or_for_one(tmp_path, text, site, name):
    folder = tmp_path / "a=b:c"
    folder.mkdir()
    assert parse_dataset(text.format(folder)) == Dataset(name=name, path=folder, site=site)


@pytest.mark.parametrize(
    "text", ["", "heart", "heart=", "=/tmp", "a b=/tmp", "../x=/tmp", "S:heart=/tmp", "a:b:c=/tmp"]
)
def test_what_is_no_dataset_is_refused(text):
    with pytest.raises(Misuse, match="name=/path"):
        parse_dataset(text)


def test_a_dataset_must_be_there():
    with pytest.raises(NotFound, match="nothing at /no/such"):
        parse_dataset("heart=/no/such")


def test_a_relative_path_begins_where_the_command_is_typed(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_dataset("heart=data").path == tmp_path / "data"


def test_the_policy_allows_everybody_of_the_project_and_no_more(tmp_path):
    path = tmp_path / "policy.yml"
    assert write_policy(path, organisations=["org-1", "org-2"], unconfined=False)
    policy = load_policy(path)
    assert policy.organisations == {"org-1", "org-2"}
    assert not policy.people
    assert not policy.unconfined


def test_confinement_is_waived_only_where_there_is_none(tmp_path):
    path = tmp_path / "policy.yml"
    write_policy(path, organisations=["org-1"], unconfined=True)
    assert load_policy(path).unconfined


def test_a_policy_that_is_there_is_left_as_it_is(tmp_path):
    path = tmp_path / "policy.yml"
    path.write_text("allow: {people: [lead]}\n")
    assert not write_policy(path, organisations=["org-1"], unconfined=False)
    assert path.read_text() == "allow: {people: [lead]}\n"


HOSTILE = {"no": Path("/data/a b"), "1.5": Path('/data/"quoted"'), "heart": Path("/data/größe: {x}  # y")}


def test_names_and_paths_of_datasets_survive_yaml(tmp_path):
    path = tmp_path / "site.yml"
    assert write_settings(path, HOSTILE)
    assert dict(load_site_settings(path).datasets) == HOSTILE


def test_datasets_are_added_to_those_that_are_there(tmp_path):
    path = tmp_path / "site.yml"
    write_settings(path, {"a": Path("/a")})
    assert write_settings(path, {"b": Path("/b")})
    assert dict(load_site_settings(path).datasets) == {"a": Path("/a"), "b": Path("/b")}


def test_the_same_datasets_again_change_nothing(tmp_path):
    path = tmp_path / "site.yml"
    write_settings(path, {"a": Path("/a")})
    assert not write_settings(path, {"a": Path("/a")})
    assert not write_settings(path, {})


def test_without_datasets_the_file_shows_how_to_name_some(tmp_path):
    path = tmp_path / "site.yml"
    assert write_settings(path, {})
    assert load_site_settings(path).datasets == {}
    assert "# heart: /data/heart" in path.read_text()


def test_settings_that_somebody_edited_are_left_as_they_are(tmp_path):
    path = tmp_path / "site.yml"
    path.write_text("datasets: {}\npython: /opt/python\n")
    with pytest.raises(Conflict, match="was edited") as caught:
        write_settings(path, {"b": Path("/b")})
    assert caught.value.hint == 'add under `datasets` in it: "b": "/b"'
    assert path.read_text() == "datasets: {}\npython: /opt/python\n"
