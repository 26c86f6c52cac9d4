# SPDX-License-Identifier: Apache-2.0
"""policy.yml and its verdicts: default deny, the rule that refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flprov.errors import ConfigError, LocalError, NoRoom, PolicyRefused
from flprov.pki import Identity, Kind, Role
from flprov.policy import Ceilings, SitePolicy, judge, load_policy

ALICE = Identity(trust_domain="heart.example", kind=Kind.PERSON, name="alice", org="org-a", role=Role.LEAD)
GIB = 2**30


def person(name: str = "alice", org: str = "org-a", role: Role = Role.LEAD) -> Identity:
    return Identity(trust_domain="heart.example", kind=Kind.PERSON, name=name, org=org, role=role)


def refusal(policy: SitePolicy, identity: Identity = ALICE, **asked: int) -> PolicyRefused:
    with pytest.raises(PolicyRefused) as caught:
        decide(policy, identity, **asked)
    assert caught.value.hint
    return caught.value


def decide(policy: SitePolicy, identity: Identity = ALICE, **asked: int) -> None:
    asked = {"gpus": 0, "cpus": 1, "memory": GIB, "jobs_here": 0} | asked
    judge(policy, identity=identity, **asked)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], SitePolicy]:
    def load(text: str) -> SitePolicy:
        path = tmp_path / "policy.yml"
        path.write_text(text)
        return load_policy(path)

    return load


@pytest.fixture
def problems(load, tmp_path) -> Callable[[str], list[str]]:
    def problems(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text)
        return [problem.removeprefix(f"{tmp_path / 'policy.yml'}:") for problem in caught.value.problems]

    return problems


def test_a_policy_is_read(load, tmp_path):
    policy = load("""
allow:
  organisations: [org-a]
  people: [alice, spiffe://heart.example/person/org-b/lead/bob]
ceilings: {gpus: 1, cpus: 4, memory: 8GiB, jobs: 2}
unconfined: true
tracebacks: false
""")
    assert policy == SitePolicy(
        source=tmp_path / "policy.yml",
        organisations=frozenset({"org-a"}),
        people=frozenset({"alice", "spiffe://heart.example/person/org-b/lead/bob"}),
        ceilings=Ceilings(gpus=1, cpus=4, memory=8 * GIB, jobs=2),
        unconfined=True,
        tracebacks=False,
    )


def test_no_policy_takes_no_jobs(tmp_path):
    policy = load_policy(tmp_path / "hospital-a.local" / "policy.yml")
    error = refusal(policy)
    assert str(error) == "this site has no policy.yml: it takes no jobs"
    assert "policy.yml.sample" in str(error.hint)
    assert str(tmp_path) not in str(error.hint)
    assert not policy.unconfined


@pytest.mark.parametrize(
    "text", ["", "# comments only\n", "allow:\n", "allow: {}\n", "allow: {people: []}\n"]
)
def test_a_policy_that_names_nobody_allows_nobody(load, text):
    error = refusal(load(text), person(role=Role.PROJECT_ADMIN))
    assert str(error) == "this site's policy allows nobody; the job is from alice of org-a"
    assert "`allow`" in str(error.hint)


def test_an_allowed_organisation_lets_its_people_pass(load):
    policy = load("allow: {organisations: [org-a]}\n")
    decide(policy, person())
    decide(policy, person("ann", role=Role.PROJECT_ADMIN))
    error = refusal(policy, person(org="org-b"))
    assert str(error) == "this site's policy allows only org-a; the job is from alice of org-b"


def test_an_organisation_is_not_a_person(load):
    refusal(load("allow: {people: [org-a]}\n"))
    refusal(load("allow: {organisations: [alice]}\n"))


def test_a_person_is_allowed_by_name_or_by_whole_identity(load):
    decide(load("allow: {people: [alice]}\n"))
    policy = load(f"allow: {{people: ['{ALICE.uri}']}}\n")
    decide(policy)
    refusal(policy, person(role=Role.PROJECT_ADMIN))
    refusal(policy, person(org="org-b"))
    refusal(policy, person("bob"))


def test_a_long_list_of_the_allowed_is_cut_in_the_message(load):
    error = refusal(load(f"allow: {{people: [{', '.join(f'p{n}' for n in range(50))}]}}\n"))
    assert "and 44 more" in str(error)


@pytest.mark.parametrize("role", [Role.ORG_ADMIN, Role.MEMBER, Role.OBSERVER])
def test_roles_that_may_not_submit_are_refused_here_too(load, role):
    error = refusal(load("allow: {organisations: [org-a], people: [alice]}\n"), person(role=role))
    assert str(error) == f"only a project_admin or a lead may run jobs here; alice is {role.value}"


@pytest.mark.parametrize("kind", [Kind.SITE, Kind.SERVER])
def test_only_a_person_can_be_allowed(load, kind):
    org = "org-a" if kind is Kind.SITE else ""
    identity = Identity(trust_domain="heart.example", kind=kind, name="alice", org=org)
    assert f"alice is {kind.value}" in str(
        refusal(load("allow: {organisations: [org-a], people: [alice]}\n"), identity)
    )


def test_ceilings_let_pass_what_just_fits(load):
    policy = load("allow: {people: [alice]}\nceilings: {gpus: 1, cpus: 4, memory: 8GiB, jobs: 2}\n")
    decide(policy, gpus=1, cpus=4, memory=8 * GIB, jobs_here=1)


def test_every_ceiling_that_is_passed_is_named(load):
    policy = load("allow: {people: [alice]}\nceilings: {gpus: 1, cpus: 4, memory: 8GiB, jobs: 2}\n")
    assert str(refusal(policy, gpus=2)).endswith("policy gives: 2 gpus (ceiling 1)")
    assert str(refusal(policy, cpus=5, memory=8 * GIB + 2**20 * 100)).endswith(
        "policy gives: 5 cpus (ceiling 4), 8.10 GiB of memory (ceiling 8.00 GiB)"
    )
    with pytest.raises(NoRoom, match="room for 2 jobs at a time; 2 run here now"):
        decide(policy, jobs_here=2)


def test_no_ceilings_are_no_limit(load):
    decide(load("allow: {people: [alice]}\n"), gpus=64, cpus=1000, memory=2**50, jobs_here=99)


def test_a_ceiling_of_no_jobs_pauses_the_site(load):
    with pytest.raises(NoRoom):
        decide(load("allow: {people: [alice]}\nceilings: {jobs: 0}\n"))


def test_who_may_comes_before_how_much(load):
    assert "allows nobody" in str(refusal(load("ceilings: {gpus: 0}\n"), gpus=4))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alow: {}\n", "1: unknown key 'alow' (did you mean 'allow'?)"),
        ("allow: {organizations: [a]}\n", "1: unknown key 'organizations' (did you mean 'organisations'?)"),
        ("ceilings: {gpu: 1}\n", "1: unknown key 'gpu' (did you mean 'gpus'?)"),
        (
            "unconfined: yes\n",
            "1: 'unconfined' must be true or false, not yes (quote it if it is meant as text)",
        ),
        ("tracebacks: 0\n", "1: 'tracebacks' must be true or false, not '0'"),
        ("ceilings: {gpus: -1}\n", "1: 'gpus' must be at least 0, not -1"),
        ("ceilings: {jobs: 1.5}\n", "1: 'jobs' must be a whole number, not '1.5'"),
    ],
)
def test_mistakes_in_a_policy_are_never_guessed_at(problems, text, problem):
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    "person",
    [
        "'*'",
        "Alice",
        "spiffe://heart.example/site/org-a/hospital-a",
        "spiffe://heart.example/person/org-a/boss/alice",
        "spiffe://heart.example/person/org-a/lead/../bob",
        "spiffe://",
        "alice@heart.example",
        "/.*/",
    ],
)
def test_what_names_no_person_is_refused_at_its_line(problems, person):
    (problem,) = problems(f"allow:\n  people:\n    - bob\n    - {person}\n")
    assert problem.startswith("4: ")


def test_a_wildcard_is_not_an_organisation(problems):
    assert problems("allow: {organisations: ['*']}\n")[0].startswith(
        "1: item 1 of 'organisations' must be a name"
    )


def test_a_policy_that_cannot_be_read_is_an_error_and_no_permission(tmp_path):
    (tmp_path / "policy.yml").mkdir()
    with pytest.raises(ConfigError):
        load_policy(tmp_path / "policy.yml")
    with pytest.raises(LocalError):
        load_policy(tmp_path / "policy.yml" / ".." / ("x" * 300))
