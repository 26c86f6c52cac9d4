# SPDX-License-Identifier: Apache-2.0
"""NVIDIA FLARE's project files become ours, and whatever is left out is named with the reason."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from flprov.errors import ConfigError, NotFound
from flprov.project import NAME, convert_flare, load_project
from flprov.project.flarenames import Names

HERE = Path(__file__).parent
V3, V4 = HERE / "flare_v3.yml", HERE / "flare_v4.yml"

SMALL = """
api_version: 3
name: p
participants:
  - {name: server1, type: server, org: o, fed_learn_port: 8002, admin_port: 8003}
  - {name: site-1, type: client, org: o}
  - {name: admin@nvidia.com, type: admin, org: o, role: project_admin}
builders:
  - path: nvflare.lighter.impl.cert.CertBuilder
"""


@pytest.fixture
def convert(tmp_path):
    """Convert a text; the result has been loaded from its own file, too."""

    def convert(text):
        path = tmp_path / "their_project.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        found = convert_flare(path)
        ours = tmp_path / "project.yml"
        ours.write_text(found.text)
        loaded = load_project(ours)
        assert (loaded.server, loaded.sites, loaded.people) == (
            found.project.server,
            found.project.sites,
            found.project.people,
        )
        return found

    return convert


def told(found, words):
    """Whether one of the notes says this."""
    return [note for note in found.notes if words in note] != []


# ---- version 3 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def v3():
    return convert_flare(V3)


def test_version_3_parties_are_carried_over(v3):
    project = v3.project
    assert (project.name, project.trust_domain) == ("example-project", "example-project.internal")
    assert [(one.name, one.title) for one in project.organisations] == [
        ("nvidia", ""),
        ("org-a", "org_a"),
        ("org-b", "org_b"),
    ]
    assert project.server.name == "server1-hospital-example"
    assert project.server.endpoints == ("server1.hospital.example:8002",)
    assert project.server.listen == "0.0.0.0:8002"
    assert [(site.name, site.org) for site in project.sites] == [("site-1", "org-a"), ("site-2", "org-b")]
    assert [(one.name, one.org, one.role, one.email) for one in project.people] == [
        ("admin-nvidia-com", "nvidia", "project_admin", "admin@nvidia.com"),
        ("it-a-org", "org-a", "org_admin", "it@a.org"),
        ("trainer-a-org", "org-a", "lead", "trainer@a.org"),
        ("trainer-b-org", "org-b", "member", "trainer@b.org"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        "flare_v3.yml:2: project example_project is example-project here",
        "flare_v3.yml:7: left out overseer overseer: sites find the server by its endpoints",
        "flare_v3.yml:13: server server1.hospital.example is server1-hospital-example here",
        "flare_v3.yml:17: left out admin_port: the server has one port",
        "flare_v3.yml:18: left out enable_byoc: each site says in its policy.yml",
        "flare_v3.yml:19: left out server server2.hospital.example: a project has one server here",
        "client Site_2 is site-2 here",
        "left out listening_host: nothing listens at a site",
        "left out components:",
        "admin admin@nvidia.com is admin-nvidia-com here",
        "left out builders: kits are made from templates/",
        "left out 'nvflare.lighter.impl.docker.DockerBuilder'",
        "left out 'nvflare.lighter.impl.he.HEBuilder': homomorphic encryption has no counterpart",
        "left out 'byob.WebPostDistributionBuilder': it has no counterpart here",
        "left out description",
        "trust_domain is example-project.internal: FLARE has none",
    ],
)
def test_version_3_says_what_it_changed_and_left_out(v3, words):
    assert told(v3, words), "\n".join(v3.notes)


def test_the_usual_builders_are_one_word_together(v3):
    assert not told(v3, "CertBuilder")
    assert not told(v3, "SignatureBuilder")


def test_the_file_says_the_same_in_comments(v3, tmp_path):
    for note in v3.notes:
        assert f"#   {note}\n" in v3.text
    path = tmp_path / "project.yml"
    path.write_text(v3.text)
    assert load_project(path).people == v3.project.people


# ---- version 4 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def v4():
    return convert_flare(V4)


def test_version_4_hosts_become_endpoint_and_names(v4):
    server = v4.project.server
    assert server.endpoints == ("fl.consortium.example:443",)
    assert server.names == ("fl-internal.consortium.example", "10.0.0.7")
    assert told(v4, "'bad_name' is no DNS name")


def test_version_4_roles_that_do_not_exist_here_become_the_least(v4):
    assert [(one.name, one.role) for one in v4.project.people] == [
        ("admin-nvidia-com", "project_admin"),
        ("lead-nvidia-com", "org_admin"),
        ("auditor-nvidia-com", "observer"),
    ]
    assert told(v4, "'auditor@nvidia.com' has the role 'auditor', which is none here; now observer")


@pytest.mark.parametrize(
    "words",
    [
        "left out studies: there is one project in a network",
        "left out relay relay-1: sites dial the server themselves",
        "left out connect_to: sites dial the server's endpoints",
        "left out connection_security: it is mutual TLS 1.3 everywhere",
        "left out cc_config",
        "left out my_own_property: it has no counterpart here",
        "left out capacity",
        "left out admin sso-admin-kit",
        "left out packager",
    ],
)
def test_version_4_says_what_it_left_out(v4, words):
    assert told(v4, words), "\n".join(v4.notes)


# ---- what files have that ours must have, or must not ------------------------------------------


def test_thousands_of_the_same_name_are_told_apart_in_no_time():
    names, start = Names(), time.perf_counter()
    assert len({names.take("q") for _ in range(10_000)}) == 10_000
    assert time.perf_counter() - start < 5


def test_names_that_become_the_same_are_told_apart(convert):
    text = SMALL.replace("  - {name: site-1,", "  - {name: site_1, type: client, org: o}\n  - {name: site-1,")
    found = convert(text)
    assert [site.name for site in found.project.sites] == ["site-1", "site-1-2"]


@pytest.mark.parametrize(
    "name", ["con", "NUL", "_", "x" * 150, "a" * 62 + ".b", "Grün-Straße", "no", "true", "1e5"]
)
def test_names_are_made_to_fit(convert, name):
    found = convert(SMALL.replace("name: site-1", f'name: "{name}"'))
    [site] = found.project.sites
    assert re.fullmatch(NAME, site.name)
    assert site.name not in ("con", "nul")


def test_a_host_that_cannot_be_dialled_is_said(convert):
    found = convert(SMALL.replace("name: server1", "name: server1, default_host: __SERVER_IP__"))
    assert found.project.server.endpoints == ("localhost:8002",)
    assert told(found, "'__SERVER_IP__' is no DNS name and no IP address")
    assert told(found, "the endpoint is localhost")


def test_an_ipv6_host_gets_its_brackets(convert):
    found = convert(SMALL.replace("name: server1", 'name: server1, default_host: "2001:db8::7"'))
    assert found.project.server.endpoints == ("[2001:db8::7]:8002",)


def test_without_server_and_project_admin_placeholders_are_written_and_said(convert):
    found = convert("api_version: 3\nname: edge\nparticipants: []\n")
    assert found.project.server.endpoints == ("localhost:8443",)
    assert [person.role for person in found.project.people] == ["project_admin"]
    assert told(found, "there is no server")
    assert told(found, "nobody is project_admin")


def test_nobody_is_made_project_admin_by_a_mistake_in_the_role(convert):
    found = convert(SMALL.replace("role: project_admin", "role: super"))
    assert [(one.name, one.role) for one in found.project.people] == [
        ("admin-nvidia-com", "observer"),
        ("admin", "project_admin"),
    ]


# ---- hostile -----------------------------------------------------------------------------------

REFUSED = {
    "another version": (
        SMALL.replace("api_version: 3", "api_version: 2"),
        "'api_version' must be at least 3",
    ),
    "no version": (SMALL.replace("api_version: 3\n", ""), "key 'api_version' is missing"),
    "version as text": (SMALL.replace("api_version: 3", 'api_version: "3"'), "'api_version' must be"),
    "no participants": ("api_version: 3\nname: p\n", "key 'participants' is missing"),
    "no org": (SMALL.replace("type: client, org: o", "type: client"), "key 'org' is missing"),
    "ours": ((HERE.parents[1] / "project.yml").read_bytes(), "key 'api_version' is missing"),
    "anchors": (SMALL + "x: &a 1\n", "anchors and aliases are not allowed"),
    "duplicate": (SMALL + "name: q\n", "stands here twice"),
    "tag": (SMALL.replace("name: p\n", "name: !!python/object/new:os.system p\n"), "tags are not allowed"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "hidden": (SMALL.replace("site-1", "site\u202e-1"), "U+202E"),
    "number as a name": (SMALL.replace("name: site-1", "name: 17"), "must be in quotes"),
    "port": (SMALL.replace("fed_learn_port: 8002", "fed_learn_port: 80020"), "must be at most 65535"),
    "long": (SMALL.replace("site-1", "s" * 201), "at most 200 characters"),
    "deep": (SMALL + "x: " + "[" * 2000 + "]" * 2000, "deeper than 20"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_file_is_refused_with_its_line(convert, case):
    text, words = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        convert(text)
    assert any(words in problem for problem in caught.value.problems), caught.value.problems
    assert all(re.match(r".*their_project\.yml:\d+: ", problem) for problem in caught.value.problems)


def test_a_key_cannot_write_lines_into_our_file(convert):
    found = convert(SMALL + '"x\\nname: evil\\ntrust_domain: evil.example": 1\n')
    assert found.project.name == "p"
    assert found.text.count("\nname: ") == 1
    assert found.text.count("\ntrust_domain: ") == 1


def test_a_title_cannot_write_lines_into_our_file(convert):
    found = convert(SMALL.replace("org: o", "org: 'o: {x}  # \"y\"'"))
    assert found.project.organisations[0].title == 'o: {x}  # "y"'


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match="nothing"):
        convert_flare(tmp_path / "nothing.yml")
