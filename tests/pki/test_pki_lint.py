# SPDX-License-Identifier: Apache-2.0
"""The campaign that puts pkilint over random projects: its projects, its judgement, and a small run."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.identity.lint import EXCEPTIONS, harvest_project, judge, read_exceptions, run  # noqa: E402
from benchmarks.identity.projects import ROLES, draft_project  # noqa: E402
from flprov.project import parse_project  # noqa: E402

URI = {
    "linter": "lint_pkix_cert",
    "file": "x.pem",
    "severity": "ERROR",
    "code": "pkix.invalid_uri_syntax",
    "message": 'Invalid URI syntax: "spiffe://heart.example/site/uni-a/hospital-a"',
    "node": "certificate",
}


def test_random_projects_are_good_ones_of_every_sort():
    drafts = [draft_project(7, number) for number in range(100)]
    projects = [parse_project(draft.text, Path("p.yml")) for draft in drafts]
    assert {person.role for project in projects for person in project.people} == set(ROLES)
    assert {len(project.sites) for project in projects} >= {0, 1}
    assert max(len(project.sites) for project in projects) > 20
    assert max(len(site.name) for project in projects for site in project.sites) == 63
    hosts = " ".join(host for project in projects for host in project.server.endpoints)
    for part in ("[", "localhost", "xn--", ".example:"):
        assert part in hosts
    assert {bool(draft.people_passphrase) for draft in drafts} == {True, False}


def test_a_draft_depends_on_its_seed_and_number_only():
    assert draft_project(7, 3) == draft_project(7, 3)
    assert draft_project(7, 3).text != draft_project(8, 3).text


def test_all_that_a_project_makes_is_found(tmp_path):
    draft = next(draft for draft in map(draft_project, range(50), range(50)) if draft.sites in range(1, 6))
    harvest = harvest_project(draft, tmp_path)
    assert harvest.kinds["site"] == draft.sites
    assert harvest.kinds["person"] == draft.people
    assert (harvest.kinds["server"], harvest.kinds["invite"], harvest.kinds["issuing CA"]) == (1, 1, 3)
    assert len(harvest.files) == 2 * sum(harvest.kinds.values()) + len(harvest.crls)
    assert all(Path(path).exists() for _, *paths in harvest.files for path in paths)


@pytest.mark.parametrize(
    "change",
    [
        {"code": "pkix.other"},
        {"linter": "lint_crl"},
        {"message": 'Invalid URI syntax: "http://heart.example/site"'},
        {"message": 'Invalid URI syntax: "spiffe://heart.example/a b"'},
        {"message": ""},
    ],
)
def test_only_the_very_finding_is_excused(change):
    exceptions = read_exceptions()
    assert judge([URI], exceptions)[0] == []
    assert judge([URI | change], exceptions)[0] == [URI | change]


def test_an_exception_that_nothing_needs_is_named():
    _, excused, unused = judge([URI, URI], read_exceptions())
    assert list(excused.values()) == [2]
    assert len(unused) == len(read_exceptions()) - 1


def test_every_exception_has_its_reason():
    assert all(len(each.why) > 100 for each in read_exceptions(EXCEPTIONS))


@pytest.mark.skipif(find_spec("pkilint") is None, reason="pkilint is not installed here")
def test_pkilint_finds_nothing_in_a_few_projects(tmp_path):
    result = run(tmp_path, small=True)
    assert result["met"], json.dumps(result, indent=2)
