# SPDX-License-Identifier: Apache-2.0
"""`flprov init`: a sample, or FLARE's project file in our words."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flprov.cli.init import init
from flprov.errors import ConfigError, Conflict, LocalError, NotFound
from flprov.project import load_project, sample_project

ROOT = Path(__file__).resolve().parents[2]
FLARE = ROOT / "tests" / "project" / "flare_v3.yml"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    result = CliRunner().invoke(init, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def refused(*words):
    result = CliRunner().invoke(init, [str(word) for word in words])
    assert result.exception is not None
    return result.exception


def test_the_sample_is_written_and_loads(here):
    result = run()
    assert "wrote project.yml" in result.stdout
    assert "flprov plan project.yml" in result.stderr
    assert (here / "project.yml").read_bytes() == sample_project() == (ROOT / "project.yml").read_bytes()
    assert load_project(here / "project.yml").name == "heart-study"


def test_a_folder_is_made_for_it(here):
    run("studies/heart")
    assert [path.name for path in (here / "studies/heart").iterdir()] == ["project.yml"]


@pytest.mark.parametrize("words", [[], ["--from-flare", FLARE]])
def test_a_file_that_is_there_is_never_overwritten(here, words):
    (here / "project.yml").write_text("precious")
    error = refused(*words)
    assert isinstance(error, Conflict)
    assert "project.yml is there already" in str(error)
    assert (here / "project.yml").read_text() == "precious"


def test_a_link_that_leads_nowhere_is_not_followed(here):
    (here / "project.yml").symlink_to(here / "elsewhere")
    assert isinstance(refused(), Conflict)
    assert not (here / "elsewhere").exists()


def test_a_folder_that_cannot_be_made_is_named(here):
    (here / "file").write_text("")
    assert isinstance(refused("file/below"), LocalError)


def test_from_flare_writes_a_project_that_loads_and_says_what_it_left_out(here):
    result = run("ours", "--from-flare", FLARE)
    project = load_project(here / "ours/project.yml")
    assert [site.name for site in project.sites] == ["site-1", "site-2"]
    assert "server server1-hospital-example, 2 sites, 4 people, 3 organisations" in result.stdout
    assert "admin admin@nvidia.com is admin-nvidia-com here" in result.stderr
    assert "left out admin_port: the server has one port" in result.stderr
    assert "left out" not in result.stdout


def test_from_flare_writes_nothing_when_the_file_is_no_good(here):
    (here / "theirs.yml").write_text("api_version: 2\nname: x\nparticipants: []\n")
    assert isinstance(refused("ours", "--from-flare", "theirs.yml"), ConfigError)
    assert isinstance(refused("ours", "--from-flare", "nothing.yml"), NotFound)
    assert isinstance(refused("ours", "--from-flare", ROOT / "project.yml"), ConfigError)
    assert [path.name for path in here.iterdir()] == ["theirs.yml"]
