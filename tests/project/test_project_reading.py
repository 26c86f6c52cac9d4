# SPDX-License-Identifier: Apache-2.0
"""project.yml to Project: what is right, and the line of whatever is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flprov.errors import ConfigError, NotFound
from flprov.pki import Identity, Kind, Role
from flprov.project import ROLES, Person, Project, ServerParty, SiteParty, Validity, load_project

GOOD = """\
name: heart-study
trust_domain: heart-study.example
organisations:
  - {name: org-a, title: "Klinikum Größe"}
  - {name: org-b}
server:
  name: server
  org: org-a
  endpoints: [localhost:8443]
sites:
  - {name: hospital-a, org: org-a}
  - {name: hospital-b, org: org-b}
people:
  - {name: alice, org: org-a, role: project_admin}
"""

Load = Callable[[str], Project]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str) -> Project:
        path = tmp_path / "project.yml"
        path.write_text(text)
        return load_project(path)

    return load


@pytest.fixture
def problems(tmp_path: Path, load: Load) -> Callable[..., list[str]]:
    """The problems of GOOD after each `old` is replaced by `new`, as `line: message`."""

    def problems(*changes: tuple[str, str]) -> list[str]:
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        with pytest.raises(ConfigError) as caught:
            load(text)
        start = f"{tmp_path / 'project.yml'}:"
        assert all(problem.startswith(start) for problem in caught.value.problems)
        return [problem.removeprefix(start) for problem in caught.value.problems]

    return problems


def test_a_small_project_is_read(load, tmp_path):
    project = load(GOOD)
    assert (project.name, project.trust_domain) == ("heart-study", "heart-study.example")
    assert project.root_fingerprint is None
    assert [organisation.title for organisation in project.organisations] == ["Klinikum Größe", ""]
    assert project.server == ServerParty(name="server", org="org-a", endpoints=("localhost:8443",))
    assert project.server.listen == "0.0.0.0:8443"
    assert project.sites == (
        SiteParty(name="hospital-a", org="org-a"),
        SiteParty(name="hospital-b", org="org-b"),
    )
    assert project.people == (Person(name="alice", org="org-a", role="project_admin"),)
    assert project.validity == Validity(
        root_days=3650, issuing_days=1825, server_days=90, site_days=90, person_days=365
    )
    assert project.source == tmp_path / "project.yml"


def test_a_project_may_begin_without_sites(load):
    assert load(GOOD.replace(GOOD[GOOD.index("sites:") : GOOD.index("people:")], "")).sites == ()


def test_the_roles_are_those_of_identities():
    assert set(ROLES) == {role.value for role in Role}


def test_every_name_that_loads_can_be_an_identity(load):
    names = ["a", "7", "a-b", "x" * 63, "7-11", "console", "com10"]
    text = GOOD.replace("hospital-a", "'" + "NAME" + "'")
    for name in names:
        (site, _) = load(text.replace("NAME", name)).sites
        assert (
            Identity(trust_domain="heart-study.example", kind=Kind.SITE, org=site.org, name=name).name == name
        )


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "-rf",
        "a-",
        "A",
        "a.b",
        "a_b",
        "a b",
        "a/b",
        "a\\\\b",
        "x" * 64,
        "hоspital",
        "größe",
        "$(id)",
        "a;b",
        "a:b",
        "*",
        "~root",
        "a\\n",
        "%2e",
        "hospital-a.local",
        "a'b",
    ],
)
def test_names_that_hurt_are_refused(problems, name):
    (problem,) = problems(("{name: hospital-a,", f'{{name: "{name}",'))
    assert problem.startswith("11: 'name' must be ")
    assert problem.isprintable()


@pytest.mark.parametrize("name", ["con", "nul", "aux", "prn", "com1", "lpt9", "com0"])
def test_names_of_windows_devices_are_refused(problems, name):
    assert problems(("{name: hospital-a,", f"{{name: {name},")) == [
        f"11: {name!r} is the name of a device on Windows; choose another"
    ]


def test_a_lookalike_letter_is_named(problems):
    (problem,) = problems(("{name: hospital-a,", "{name: hоspital-a,"))
    assert problem.endswith("(with U+043E CYRILLIC SMALL LETTER O)")


@pytest.mark.parametrize(
    "name", ["no", "on", "1_0", "12:30:45", "0o17", "1e5", "null", "42", "true", "2024-01-31"]
)
def test_names_that_yaml_would_change_have_to_be_quoted(problems, name):
    (problem,) = problems(("{name: hospital-a,", f"{{name: {name},"))
    assert problem.startswith("11: 'name' ")
    assert "quotes" in problem or "empty" in problem


@pytest.mark.parametrize("place", ["hospital-b", "alice"])
def test_parties_share_one_space_of_names(problems, place):
    (problem,) = problems((place, "hospital-a"))
    assert "the name 'hospital-a' is taken by a site in line 11; kits need different names" in problem


def test_the_server_takes_a_name_too(problems):
    assert problems(("hospital-b", "server")) == [
        "12: the name 'server' is taken by the server in line 7; kits need different names"
    ]


def test_an_organisation_may_be_named_like_its_site(load):
    assert load(GOOD.replace("hospital-a", "org-a")).sites[0].name == "org-a"


def test_an_organisation_stands_once(problems):
    assert problems(("{name: org-b}", "{name: org-b}\n  - {name: org-b}")) == [
        "6: organisation 'org-b' stands here twice (first in line 5)"
    ]


def test_an_unknown_organisation_is_refused_with_the_nearest(problems):
    assert problems(
        ("hospital-b, org: org-b", "hospital-b, org: orgb"), ("alice, org: org-a", "alice, org: zzz")
    ) == [
        "12: there is no organisation 'orgb' (did you mean 'org-b'?)",
        "14: there is no organisation 'zzz' (known here: org-a, org-b)",
    ]


def test_a_project_needs_an_admin(problems):
    assert problems(("role: project_admin", "role: lead")) == [
        "13: a project needs at least one person with the role project_admin"
    ]


def test_an_unknown_role_is_refused_with_the_nearest(problems):
    (problem,) = problems(("role: project_admin", "role: project_amdin"))
    assert problem.startswith("14: 'role' must be one of project_admin, org_admin, ")
    assert problem.endswith("(did you mean 'project_admin'?)")


def test_unknown_keys_are_refused_everywhere_with_the_nearest(problems):
    found = problems(
        ("trust_domain: heart", "root_fingerpint: x\ntrust_domain: heart"),
        ("  endpoints:", "  listem: x\n  endpoints:"),
        ("hospital-b, org", "hospital-b, organisation: x, org"),
        ("role: project_admin", "emali: x, role: project_admin"),
    )
    assert found == [
        "2: unknown key 'root_fingerpint' (did you mean 'root_fingerprint'?)",
        "10: unknown key 'listem' (did you mean 'listen'?)",
        "14: unknown key 'organisation' (known here: proxy)",
        "16: unknown key 'emali' (did you mean 'email'?)",
    ]


def test_every_missing_key_is_named(load, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load("# nothing yet\n")
    assert [problem.rpartition(":1: ")[2] for problem in caught.value.problems] == [
        f"key {key!r} is missing" for key in ("trust_domain", "name", "organisations", "server", "people")
    ]


def test_empty_lists_are_named(problems):
    found = problems(
        ("endpoints: [localhost:8443]", "endpoints: []"),
        ("people:\n  - {name: alice, org: org-a, role: project_admin}", "people: []"),
    )
    assert found == [
        "9: the server needs at least one endpoint: host:port, as the sites dial it",
        "13: a project needs at least one person with the role project_admin",
    ]


def test_a_project_needs_an_organisation(problems):
    listed = GOOD[GOOD.index("organisations:") : GOOD.index("server:")]
    assert problems((listed, "organisations: []\n")) == ["3: a project needs at least one organisation"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "fl.example:443",
        "10.0.0.5:8443",
        '"[2001:db8::10]:8443"',
        "localhost:1",
        "a:65535",
        "xn--bcher-kva.example:1",
    ],
)
def test_endpoints(load, endpoint):
    project = load(GOOD.replace("[localhost:8443]", f"[{endpoint}]"))
    assert project.server.endpoints == (endpoint.strip('"'),)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("localhost", "it must be host:port"),
        ("localhost:", "it must be host:port"),
        (":8443", "it must be host:port"),
        ("localhost:0", "nobody can dial port 0"),
        ("localhost:65536", "there is no port 65536"),
        ("localhost:-1", "it must be host:port"),
        ("localhost:8443x", "it must be host:port"),
        ("localhost:٨٤٤٣", "it must be host:port"),
        ("0.0.0.0:8443", "nobody can dial that"),
        ("[::]:8443", "nobody can dial that"),
        ("2001:db8::10:8443", "brackets"),
        ("[2001:db8::10:8443", "brackets"),
        ("[2001:DB8::10]:8443", "use 2001:db8::10"),
        ("[fe80::1%eth0]:8443", "a zone"),
        ("[1.2.3.4]:8443", "use 1.2.3.4"),
        ("1.2.3:8443", "does not appear"),
        ("010.0.0.1:8443", "does not appear"),
        ("256.1.1.1:8443", "does not appear"),
        ("Localhost:8443", "neither a DNS name in lower case"),
        ("https://fl.example:8443", "without a scheme"),
        ("fl.example/x:8443", "neither"),
        ("fl..example:8443", "neither"),
        ("fl.example.:8443", "neither"),
        ("-rf:8443", "neither"),
        ("user@fl.example:8443", "neither"),
        ("*.example:8443", "neither"),
        ("x" * 64 + ":8443", "neither"),
        ("fl\\u0000.example:8443", "U+0000"),
    ],
)
def test_what_is_no_endpoint(problems, endpoint, words):
    found = problems(("[localhost:8443]", f'["{endpoint}"]'))
    assert found[0].startswith("9: ")
    assert words in found[0]


def test_an_endpoint_twice_is_refused_at_its_line(problems):
    assert problems(("[localhost:8443]", "\n    - a:1\n    - b:1\n    - a:1")) == [
        "12: 'a:1' will not do: it stands here twice"
    ]


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:8443", '"[::]:8443"', "127.0.0.1:0", "localhost:8443", '"[::1]:0"']
)
def test_listen_addresses(load, listen):
    project = load(GOOD.replace("  endpoints:", f"  listen: {listen}\n  endpoints:"))
    assert project.server.listen == listen.strip('"')


@pytest.mark.parametrize("listen", ['"8443"', '":8443"', "0.0.0.0", "0.0.0.0:99999", '"*:8443"', '""'])
def test_what_is_no_listen_address(problems, listen):
    (problem,) = problems(("  endpoints:", f"  listen: {listen}\n  endpoints:"))
    assert problem.startswith("9: ")
    assert "is not an address to listen on" in problem


def test_a_bare_port_is_not_an_address(problems):
    assert "quotes" in problems(("  endpoints:", "  listen: 8443\n  endpoints:"))[0]


def test_certificate_names_come_from_endpoints_and_names_once(load):
    text = GOOD.replace(
        "[localhost:8443]",
        '[fl.example:8443, "[::1]:8443", fl.example:443]\n  names: [10.0.0.5, fl.example, "::1"]',
    )
    assert load(text).server.certificate_names == ("fl.example", "::1", "10.0.0.5")


@pytest.mark.parametrize("name", ["a:1", "*.example", "A.example", "1.2.3", "", "[::1]", "a b"])
def test_what_is_no_certificate_name(problems, name):
    (problem,) = problems(("  endpoints:", f'  names: ["{name}"]\n  endpoints:'))
    assert problem.startswith("9: ")


@pytest.mark.parametrize("domain", ["heart", "heart-study.example", "a.b.c.d", "x" * 63 + ".example"])
def test_trust_domains(load, domain):
    assert load(GOOD.replace("heart-study.example", domain)).trust_domain == domain


@pytest.mark.parametrize(
    "domain",
    [
        "Heart.example",
        "heart..example",
        ".example",
        "example.",
        "heart_study",
        "a/b",
        "spiffe://a",
        "10.0.0.1",
        "a:1",
        "x" * 64 + ".example",
        ".".join(["x" * 50] * 6),
        "hеart.example",
        "a b",
        "-a.example",
    ],
)
def test_what_is_no_trust_domain(problems, domain):
    (problem,) = problems(("heart-study.example", f'"{domain}"'))
    assert problem.startswith("2: ")
    assert "is not a trust domain" in problem


def test_a_fingerprint_is_kept_in_the_spelling_of_openssl(load):
    value = "SHA256:" + ":".join(["ab"] * 32)
    project = load(f"root_fingerprint: {value}\n{GOOD}")
    assert project.root_fingerprint == value.upper()


@pytest.mark.parametrize(
    "value", ["ab" * 32, "SHA1:" + ":".join(["ab"] * 20), "SHA256:" + ":".join(["ab"] * 31), '""']
)
def test_what_is_no_fingerprint(problems, value):
    (problem,) = problems(("name: heart-study\n", f"name: heart-study\nroot_fingerprint: {value}\n"))
    assert problem.startswith("2: 'root_fingerprint' must be a fingerprint as `flprov provision` prints it")


def test_validity_is_read_and_shortened_defaults_keep_the_order(load):
    assert load(GOOD + "validity: {root_days: 30, server_days: 0.5}\n").validity == Validity(
        root_days=30, issuing_days=30, server_days=0.5, site_days=30, person_days=30
    )


@pytest.mark.parametrize(
    ("validity", "problem"),
    [
        ("{root_days: 10, issuing_days: 11}", "issuing_days (11) must not be more than root_days (10)"),
        ("{issuing_days: 10, site_days: 10.5}", "site_days (10.5) must not be more than issuing_days (10)"),
        ("{root_days: 0}", "'root_days' must be at least 1, not 0"),
        ("{root_days: 99999}", "'root_days' must be at most 36525, not 99999"),
        ("{site_days: 0}", "'site_days' must be at least 0.0001, not 0.0"),
        ("{person_days: -1}", "'person_days' must be at least 0.0001, not -1.0"),
        ("{person_days: 1y}", "'person_days' must be a number, not '1y'"),
        ("{root_days: 1.5}", "'root_days' must be a whole number, not '1.5'"),
    ],
)
def test_validity_out_of_order(problems, validity, problem):
    assert problems(("people:", f"validity: {validity}\npeople:")) == [f"13: {problem}"]


@pytest.mark.parametrize("email", ["alice", "a@b", "a b@c.d", "a@b.c\\nBcc: x@y.z", "<a@b.c>", "@b.c"])
def test_what_is_no_email(problems, email):
    (problem,) = problems(("role: project_admin", f'role: project_admin, email: "{email}"'))
    assert problem.startswith("14: 'email' must be ")


@pytest.mark.parametrize("title", ["x" * 201, "a\\nb", "a\\u202eb"])
def test_titles_are_one_visible_line(problems, title):
    assert problems(("Klinikum Größe", title))[0].startswith("4: ")


def test_all_mistakes_of_a_file_come_at_once(problems):
    found = problems(
        ("heart-study\n", "Heart\n"),
        ("org: org-a\n", "org: orga\n"),
        ("localhost:8443", "localhost"),
        ("hospital-b", "hospital-a"),
        ("role: project_admin", "role: boss"),
    )
    assert [problem.split(":")[0] for problem in found] == ["1", "8", "9", "12", "14"]


def test_a_missing_project_file_says_how_to_get_one(tmp_path):
    with pytest.raises(NotFound) as caught:
        load_project(tmp_path / "project.yml")
    assert "flprov init" in str(caught.value.hint)
