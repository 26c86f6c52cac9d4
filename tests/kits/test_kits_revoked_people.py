# SPDX-License-Identifier: Apache-2.0
"""The list of people whose certificates count no more: who comes onto it, until when, and that it holds."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT, contents, with_endpoints

from flprov.kits import (
    Change,
    Trust,
    activate_rotation,
    finish_rotation,
    list_differences,
    load_kit,
    plan,
    prepare_rotation,
    provision,
)
from flprov.kits.authorities import open_authorities
from flprov.pki import Kind, Reason, describe_leaf
from flprov.project import Person
from flprov.wire.documents import TrustHolder, TrustStatusDocument, WithdrawnPerson

DAY = timedelta(days=1)
LATER = NOW + DAY
WITHOUT_BOB = replace(PROJECT, people=PROJECT.people[:1])
BOB = "spiffe://heart.example/person/org-b/lead/bob"


def trust(workspace: Path, now=LATER) -> Trust:
    return open_authorities(workspace / "ca", passphrase=None).read_trust(now)


def leaf(workspace: Path, name: str, now=LATER):
    return describe_leaf(load_kit(workspace / "kits" / name, now=now).chain_pem)


def reasons(workspace: Path, now=LATER) -> dict[int, Reason]:
    return {
        one.serial: one.reason for crl in trust(workspace, now).people_crls for one in crl.revoked.values()
    }


# ---- who comes onto it -------------------------------------------------------------------------


def test_who_leaves_the_project_is_revoked_and_a_second_run_changes_nothing(workspace):
    serial = leaf(workspace, "bob").serial
    found = plan(WITHOUT_BOB, workspace, now=LATER)
    assert found.trust.reason == "trust bundle 1 -> 2: people revoked: bob (cessationOfOperation)"
    report = provision(WITHOUT_BOB, workspace, now=LATER)
    assert (report.trust_version, [one.name for one in report.revoked]) == (2, ["bob"])
    assert reasons(workspace) == {serial: Reason.CESSATION_OF_OPERATION}
    assert trust(workspace).revoked_people == {serial}
    before = contents(workspace)
    assert provision(WITHOUT_BOB, workspace, now=LATER + DAY).revoked == ()
    assert contents(workspace) == before


def test_who_gets_another_role_is_revoked_in_the_old_one_alone(workspace):
    old = leaf(workspace, "bob").serial
    people = (PROJECT.people[0], replace(PROJECT.people[1], role="observer"))
    provision(replace(PROJECT, people=people), workspace, now=LATER)
    assert reasons(workspace) == {old: Reason.AFFILIATION_CHANGED}
    assert leaf(workspace, "bob").serial != old


def test_a_new_kit_that_was_asked_for_revokes_the_old_one(workspace):
    old = leaf(workspace, "alice").serial
    provision(PROJECT, workspace, now=LATER, reissue=["alice"])
    assert reasons(workspace) == {old: Reason.SUPERSEDED}
    assert plan(PROJECT, workspace, now=LATER).is_empty


@pytest.mark.parametrize("how", ["in time", "validity", "kit gone"])
def test_what_is_replaced_in_the_course_of_things_goes_on_until_it_expires(workspace, how):
    project, now = PROJECT, LATER
    if how == "in time":
        now = NOW + 300 * DAY
    elif how == "validity":
        project = replace(PROJECT, validity=replace(PROJECT.validity, person_days=100))
    else:
        (workspace / "kits/bob").rename(workspace.parent / "delivered")
    old = describe_leaf((workspace / "kits/alice/identity/cert.pem").read_bytes()).serial
    report = provision(project, workspace, now=now)
    assert report.revoked == ()
    assert reasons(workspace, now) == {}
    assert how == "kit gone" or leaf(workspace, "alice", now).serial != old


def test_whom_the_network_has_removed_comes_onto_it_and_stays_without_asking_again(workspace):
    serial = leaf(workspace, "bob").serial
    gone = WithdrawnPerson(identity=BOB, at=LATER, reason="keyCompromise", before=LATER)
    assert [one.name for one in provision(PROJECT, workspace, now=LATER, withdrawn=[gone]).revoked] == ["bob"]
    assert reasons(workspace) == {serial: Reason.KEY_COMPROMISE}
    assert provision(PROJECT, workspace, now=LATER).revoked == ()
    provision(PROJECT, workspace, now=LATER + DAY, reissue=["bob"])
    provision(PROJECT, workspace, now=LATER + DAY, withdrawn=[gone])
    assert leaf(workspace, "bob", LATER + DAY).serial not in trust(workspace, LATER + 2 * DAY).revoked_people


def test_a_certificate_after_the_network_s_cutoff_and_a_stranger_s_are_left_alone(workspace):
    early = WithdrawnPerson(identity=BOB, at=NOW, reason="unspecified", before=NOW - DAY)
    stranger = WithdrawnPerson(identity=f"{BOB}y", at=LATER, reason="unspecified", before=LATER)
    other = WithdrawnPerson(identity=BOB, at=LATER, reason="unspecified", serial="ab12")
    assert provision(PROJECT, workspace, now=LATER, withdrawn=[early, stranger, other]).revoked == ()


def test_a_network_that_lies_does_not_keep_the_provisioner_from_its_work(workspace):
    """A server that was broken into can have people revoked; it must not stop later runs as well."""
    serial = leaf(workspace, "bob").serial
    odd = WithdrawnPerson(identity=BOB, at=datetime.min.replace(tzinfo=UTC), reason="made up", before=LATER)
    provision(PROJECT, workspace, now=LATER, withdrawn=[odd])
    assert reasons(workspace) == {serial: Reason.UNSPECIFIED}
    assert provision(PROJECT, workspace, now=LATER + DAY).revoked == ()


def test_who_comes_back_gets_a_new_certificate_even_with_the_old_kit_in_place(workspace):
    old = leaf(workspace, "bob").serial
    [left] = provision(WITHOUT_BOB, workspace, now=LATER).removed
    left.folder.rename(workspace / "kits/bob")
    provision(PROJECT, workspace, now=LATER + DAY)
    assert leaf(workspace, "bob", LATER + DAY).serial != old
    assert trust(workspace, LATER + DAY).revoked_people == {old}


# ---- how long, and what carries it -------------------------------------------------------------


def test_an_entry_stays_as_long_as_the_certificate_and_goes_with_the_next_list(workspace):
    provision(WITHOUT_BOB, workspace, now=LATER)
    expired = NOW + 366 * DAY
    assert plan(WITHOUT_BOB, workspace, now=expired).trust is None
    report = provision(PROJECT, workspace, now=expired)  # bob is back, alice is renewed
    assert trust(workspace, expired).version == 2
    people = (*PROJECT.people, Person(name="eve", org="org-a", role="member"))
    provision(replace(PROJECT, people=people), workspace, now=expired)
    provision(PROJECT, workspace, now=expired + DAY)
    assert len(trust(workspace, expired + DAY).revoked_people) == 1  # eve's
    assert report.revoked == ()


def test_the_server_s_kit_carries_the_newest_list(workspace):
    provision(WITHOUT_BOB, workspace, now=LATER)
    kit = load_kit(workspace / "kits/server", now=LATER)
    assert kit.trust.revoked_people == trust(workspace).revoked_people
    assert len(kit.trust.revoked_people) == 1


def test_the_registry_names_the_certificates_of_people(workspace):
    people = {one.name: one for one in load_kit(workspace / "kits/server", now=LATER).people}
    for name in ("alice", "bob"):
        found = leaf(workspace, name)
        assert (people[name].serial, people[name].issued_at) == (f"{found.serial:x}", found.issued_at)
        assert people[name].not_after == found.not_after
    provision(PROJECT, workspace, now=LATER, reissue=["bob"])
    people = {one.name: one for one in load_kit(workspace / "kits/server", now=LATER).people}
    assert people["bob"].serial == f"{leaf(workspace, 'bob').serial:x}"


def test_a_run_that_died_after_signing_the_list_is_finished_with_it(workspace, monkeypatch):
    from flprov.kits import provisioning

    def die(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(provisioning, "replace_tree", die)
        with pytest.raises(KeyboardInterrupt):
            provision(PROJECT, workspace, now=LATER, reissue=["alice"])
    listed = trust(workspace).revoked_people
    assert len(listed) == 1
    provision(WITHOUT_BOB, workspace, now=LATER)
    assert trust(workspace).revoked_people > listed
    assert plan(WITHOUT_BOB, workspace, now=LATER).is_empty


def test_a_rotation_keeps_the_list_of_each_ca_as_long_as_the_ca(workspace):
    provision(WITHOUT_BOB, workspace, now=LATER)
    old = trust(workspace).revoked_people
    prepare_rotation(WITHOUT_BOB, workspace, now=LATER)
    activate_rotation(WITHOUT_BOB, workspace, now=LATER)
    provision(WITHOUT_BOB, workspace, now=LATER)
    assert trust(workspace).revoked_people == old
    provision(WITHOUT_BOB, workspace, now=LATER, reissue=["alice"])
    both = trust(workspace)
    assert (len(both.people_crls), both.revoked_people > old) == (2, True)
    finish_rotation(WITHOUT_BOB, workspace, now=LATER)
    assert trust(workspace).revoked_people == both.revoked_people - old - {
        serial for serial in both.revoked_people if serial in both.people_crls[-1].revoked
    }


def test_openssl_takes_the_list_and_refuses_who_is_on_it(workspace, tmp_path):
    bob = load_kit(workspace / "kits/bob", now=LATER)
    alice = load_kit(workspace / "kits/alice", now=LATER)
    provision(WITHOUT_BOB, workspace, now=LATER)
    (tmp_path / "crl.pem").write_text(trust(workspace).says.people_crl)
    verdicts = {}
    for name, kit in (("bob", bob), ("alice", alice)):
        (tmp_path / "leaf.pem").write_bytes(kit.chain_pem)
        words = [
            "openssl",
            "verify",
            "-partial_chain",
            "-crl_check",
            "-attime",
            str(int(LATER.timestamp()) + 60),
        ]
        words += ["-trusted", str(workspace / "ca/people.pem"), "-CRLfile", str(tmp_path / "crl.pem")]
        done = subprocess.run(
            [*words, str(tmp_path / "leaf.pem")], capture_output=True, text=True, check=False
        )
        verdicts[name] = (done.returncode, "certificate revoked" in done.stdout + done.stderr)
    assert verdicts == {"bob": (2, True), "alice": (0, False)}


# ---- against the live network ------------------------------------------------------------------


def live(workspace: Path, **changes) -> TrustStatusDocument:
    """A network that is exactly as PROJECT says."""
    holders = tuple(
        TrustHolder(
            name=name,
            kind="site",
            org=org,
            identity=f"spiffe://heart.example/site/{org}/{name}",
            version=1,
            from_kit=True,
        )
        for name, org in (("hospital-a", "org-a"), ("hospital-b", "org-b"))
    )
    found = TrustStatusDocument(
        version=1,
        phase="steady",
        made_at=NOW,
        endpoints=PROJECT.server.endpoints,
        authorities=(),
        holders=holders,
    )
    return replace(found, **changes)


def differences(workspace: Path, project=PROJECT, **changes) -> list[tuple[str, str, str]]:
    found = list_differences(plan(project, workspace, now=LATER), live(workspace, **changes))
    assert all(one.text and (one.action or one.hint) for one in found)
    return [(one.difference, one.subject, one.action) for one in found]


def test_a_network_that_is_as_the_file_says_has_no_differences(workspace):
    assert differences(workspace) == []


def test_sites_that_are_missing_extra_locked_removed_or_another_organisation_s_are_told(workspace):
    a, b = live(workspace).holders
    assert differences(workspace, holders=(a,)) == [("missing", "hospital-b", "add")]
    assert differences(workspace, holders=(a,), removed_sites=("hospital-b",)) == [
        ("removed", "hospital-b", "")
    ]
    assert differences(workspace, holders=(a, replace(b, barred="locked"))) == [("locked", "hospital-b", "")]
    assert differences(workspace, holders=(a, replace(b, barred="refused"))) == [("locked", "hospital-b", "")]
    assert differences(workspace, holders=(a, replace(b, org="org-a"))) == [("other_org", "hospital-b", "")]
    made, joined = replace(b, name="hospital-y"), replace(b, name="hospital-z", from_kit=False)
    assert differences(workspace, holders=(a, b, made, joined)) == [
        ("extra", "hospital-y", "remove"),
        ("extra", "hospital-z", ""),
    ]


def test_bundles_that_are_behind_or_ahead_and_other_endpoints_are_told(workspace):
    assert differences(workspace, version=2) == [("ahead", "", "")]
    assert differences(workspace, endpoints=("old:1",)) == [("endpoints", "server", "")]
    assert ("endpoints", "server", "") in differences(workspace, project=with_endpoints("new:1"))
    provision(WITHOUT_BOB, workspace, now=LATER)
    assert differences(workspace, project=WITHOUT_BOB) == [("behind", "", "publish")]


def test_a_person_whom_the_network_has_revoked_and_the_file_still_has_is_told(workspace):
    gone = WithdrawnPerson(identity=BOB, at=LATER, reason="keyCompromise", before=LATER)
    assert differences(workspace, withdrawn=(gone,)) == [("revoked", "bob", "list"), ("revoked", "bob", "")]
    provision(PROJECT, workspace, now=LATER, withdrawn=[gone])
    assert differences(workspace, withdrawn=(gone,), version=2) == [("revoked", "bob", "")]
    found = plan(WITHOUT_BOB, workspace, now=LATER)
    assert {kit.party.name for kit in found.kits if kit.change is not Change.UNCHANGED} == {"server"}
    assert {party.identity.kind for party in found.removals} == {Kind.PERSON}
