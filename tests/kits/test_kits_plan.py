# SPDX-License-Identifier: Apache-2.0
"""The plan: computed without writing, carried out by provision, and empty afterwards."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from kit_parties import (
    NAMES,
    NOW,
    PROJECT,
    changed_files,
    contents,
    snapshot,
    with_endpoints,
    with_site,
)

from flprov._base import hold_lock
from flprov.errors import Conflict, LocalError, Misuse, StateDamaged
from flprov.kits import AuthorityChange, Change, Outcome, plan, provision
from flprov.project import Person, SiteParty

DAY = timedelta(days=1)
LATER = NOW + DAY
PASSPHRASE = b"correct horse"
DONE = {
    Change.NEW: Outcome.CREATED,
    Change.CHANGED: Outcome.UPDATED,
    Change.REISSUED: Outcome.REISSUED,
    Change.REPAIRED: Outcome.REPAIRED,
}


def changes(found):
    """Who is touched, and how."""
    kits = {kit.party.name: kit.change for kit in found.changed}
    return kits | {party.name: Change.REMOVED for party in found.removals}


def authorities(workspace):
    """The files of the CA, but for what it says about people who have left."""
    return {name: data for name, data in contents(workspace / "ca").items() if "trust.json" not in name}


def planned(found, name):
    [kit] = [kit for kit in found.kits if kit.party.name == name]
    return kit


# ---- what it says ------------------------------------------------------------------------------


def test_before_the_first_run_everything_is_new_and_nothing_is_made(tmp_path):
    found = plan(PROJECT, tmp_path / "workspace", now=NOW)
    assert found.authority is AuthorityChange.NEW
    assert changes(found) == dict.fromkeys(NAMES, Change.NEW)
    assert not found.is_empty
    assert list(tmp_path.iterdir()) == []


def test_after_a_run_there_is_nothing_to_do(workspace):
    before = snapshot(workspace)
    found = plan(PROJECT, workspace, now=LATER)
    assert found.is_empty
    assert found.authority is AuthorityChange.UNCHANGED
    assert snapshot(workspace) == before


def test_a_new_site_changes_the_registry_of_the_server(workspace):
    found = plan(with_site("hospital-c"), workspace, now=LATER)
    assert changes(found) == {"hospital-c": Change.NEW, "server": Change.CHANGED}
    assert planned(found, "server").details == ("registry: hospital-c added",)
    assert planned(found, "server").files == ("registry.json",)


def test_a_renamed_site_is_one_that_leaves_and_one_that_comes(workspace):
    sites = (PROJECT.sites[0], SiteParty(name="hospital-z", org="org-b"))
    found = plan(replace(PROJECT, sites=sites), workspace, now=LATER)
    assert changes(found) == {
        "server": Change.CHANGED,
        "hospital-z": Change.NEW,
        "hospital-b": Change.REMOVED,
    }
    assert planned(found, "server").details == ("registry: hospital-z added; hospital-b removed",)
    [removal] = found.removals
    assert removal.folder == workspace / "kits/hospital-b"
    assert removal.target.parent == workspace / "removed"
    assert removal.identity.org == "org-b"


def test_a_person_with_another_role_is_reissued(workspace):
    people = (PROJECT.people[0], replace(PROJECT.people[1], role="observer"))
    found = plan(replace(PROJECT, people=people), workspace, now=LATER)
    assert changes(found) == {"server": Change.CHANGED, "bob": Change.REISSUED}
    assert planned(found, "server").details == ("registry: bob changed", "trust bundle: 1 -> 2")
    assert "it was spiffe://heart.example/person/org-b/lead/bob" in planned(found, "bob").reason


def test_another_port_is_told_as_a_setting(workspace):
    found = plan(with_endpoints("fl.heart.example:443", "[2001:db8::1]:8443"), workspace, now=LATER)
    assert changes(found) == dict.fromkeys(NAMES, Change.CHANGED)
    assert planned(found, "alice").details == (
        "endpoints: fl.heart.example:8443, [2001:db8::1]:8443 -> fl.heart.example:443, [2001:db8::1]:8443",
    )
    assert planned(found, "alice").files == ("README.md", "kit.yml")


def test_another_host_reissues_the_server_alone_and_says_both(workspace):
    found = plan(with_endpoints("new.heart.example:443"), workspace, now=LATER)
    assert changes(found) == dict.fromkeys(NAMES, Change.CHANGED) | {"server": Change.REISSUED}
    server = planned(found, "server")
    assert server.reason == "new certificate: the server's host names changed"
    assert server.details[0].endswith("-> new.heart.example:443")
    assert {"identity/cert.pem", "identity/key.pem", "kit.yml"} <= set(server.files)


def test_a_validity_is_told_in_days(workspace):
    project = replace(PROJECT, validity=replace(PROJECT.validity, person_days=100))
    found = plan(project, workspace, now=LATER)
    people = {"alice": Change.REISSUED, "bob": Change.REISSUED}
    assert changes(found) == people | {"server": Change.CHANGED}  # whose registry names their certificates
    assert planned(found, "bob").reason == "new certificate: validity 365 -> 100 days"


def test_a_validity_that_comes_too_late_for_the_authority_is_said_and_changes_nothing(workspace):
    project = replace(PROJECT, validity=replace(PROJECT.validity, root_days=7300))
    found = plan(project, workspace, now=LATER)
    assert found.is_empty
    assert found.notes == (
        "validity.root_days is 7300, and the authority was made for 3650 days: it stays as it is",
    )
    assert plan(PROJECT, workspace, now=LATER).notes == ()


def test_another_template_is_told_by_its_file(workspace, tmp_path, monkeypatch):
    from flprov.kits import template_dir, texts

    templates = shutil.copytree(template_dir(), tmp_path / "templates")
    with (templates / "site/start.sh").open("a") as file:
        file.write("# more\n")
    monkeypatch.setattr(texts, "template_dir", lambda: templates)
    found = plan(PROJECT, workspace, now=LATER)
    assert changes(found) == {"hospital-a": Change.CHANGED, "hospital-b": Change.CHANGED}
    assert planned(found, "hospital-a").reason == "template: start.sh"


def test_a_damaged_kit_is_to_be_repaired(workspace):
    (workspace / "kits/alice/README.md").write_text("changed")
    shutil.rmtree(workspace / "kits/bob")
    found = plan(PROJECT, workspace, now=LATER)
    people = {"alice": Change.REPAIRED, "bob": Change.REPAIRED}
    assert changes(found) == people | {"server": Change.CHANGED}  # whose registry names their certificates
    assert "README.md was changed" in planned(found, "alice").reason
    assert "its folder was gone" in planned(found, "bob").reason


def test_it_needs_no_passphrase_and_says_which_will_be_needed(tmp_path):
    workspace = tmp_path / "w"
    provision(PROJECT, workspace, now=NOW, passphrase=PASSPHRASE, people_passphrase=b"a staple of mine")
    assert plan(PROJECT, workspace, now=LATER).needs == ()
    assert plan(with_site("hospital-c"), workspace, now=LATER).needs == ("the passphrase of the CA's keys",)
    assert plan(PROJECT, workspace, now=NOW + 400 * DAY).needs == (
        "the passphrase of the CA's keys",
        "the passphrase of people's keys",
    )


def test_keys_that_are_to_be_encrypted_are_something_to_do(workspace):
    found = plan(PROJECT, workspace, now=LATER, encrypt=True)
    assert found.authority is AuthorityChange.ENCRYPTED
    assert not found.is_empty
    found = plan(PROJECT, workspace, now=LATER, people_passphrase=PASSPHRASE)
    assert changes(found) == {"alice": Change.CHANGED, "bob": Change.CHANGED}
    assert "private key: encrypted" in planned(found, "bob").reason


# ---- what it refuses ---------------------------------------------------------------------------


def test_it_refuses_what_provision_refuses(workspace, tmp_path):
    with pytest.raises(Conflict, match="of project heart"):
        plan(replace(PROJECT, name="lung"), workspace, now=LATER)
    with pytest.raises(Conflict, match="has no CA"):
        plan(replace(PROJECT, root_fingerprint="SHA256:" + "00:" * 31 + "00"), tmp_path / "no", now=LATER)
    shutil.rmtree(workspace / "ca")
    with pytest.raises(StateDamaged, match="ca is missing"):
        plan(PROJECT, workspace, now=LATER)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("precious")
    with pytest.raises(Misuse, match=r"thesis\.tex"):
        plan(PROJECT, tmp_path / "thesis", now=LATER)
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="cannot be read"):
        plan(PROJECT, tmp_path / "file", now=LATER)


def test_a_workspace_that_a_run_holds_is_not_planned_for(workspace):
    with hold_lock(workspace / ".lock"), pytest.raises(Conflict, match="works on"):
        plan(PROJECT, workspace, now=LATER)


def test_a_workspace_that_changes_meanwhile_is_not_planned_for(workspace):
    def interfere(done, total):
        if done == total:
            provision(with_site("hospital-c"), workspace, now=LATER)

    with pytest.raises(Conflict, match="changed while it was read"):
        plan(PROJECT, workspace, now=LATER, progress=interfere)


# ---- provision does it, and just that ----------------------------------------------------------


def wander(project, chance):
    """The same project after one change that people make."""
    number = chance.randrange(10_000)
    match chance.randrange(7):
        case 0:
            return replace(project, sites=(*project.sites, SiteParty(name=f"site-{number}", org="org-a")))
        case 1 if project.sites:
            return replace(project, sites=tuple(project.sites[1:]))
        case 2 if project.sites:
            sites = (replace(project.sites[0], name=f"renamed-{number}"), *project.sites[1:])
            return replace(project, sites=sites)
        case 3:
            person = Person(name=f"person-{number}", org="org-b", role="member")
            return replace(project, people=(*project.people, person))
        case 4:
            endpoints = (f"fl.heart.example:{1 + number}",)
            return replace(project, server=replace(project.server, endpoints=endpoints))
        case 5:
            days = float(chance.randrange(20, 200))
            return replace(project, validity=replace(project.validity, site_days=days))
        case _:
            return replace(project, people=(project.people[0], *project.people[2:]))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_edited_provision_does_what_the_plan_says_and_touches_nothing_else(workspace, seed):
    chance = random.Random(seed)
    project, now = PROJECT, NOW
    ca = authorities(workspace)
    for _ in range(6):
        project, now = wander(project, chance), now + 2 * DAY
        found = plan(project, workspace, now=now)
        before = contents(workspace / "kits")
        removed = contents(workspace / "removed") if (workspace / "removed").exists() else {}
        report = provision(project, workspace, now=now)
        done = {kit.name: kit.outcome for kit in report.changed}
        assert done == {kit.party.name: DONE[kit.change] for kit in found.changed}
        touched = {name.partition("/")[0] for name in changed_files(before, contents(workspace / "kits"))}
        assert touched == changes(found).keys()
        for kit in found.changed:
            if kit.change is Change.CHANGED:
                names = changed_files(before, contents(workspace / "kits"))
                files = {name.partition("/")[2] for name in names if name.startswith(f"{kit.party.name}/")}
                assert files - {"manifest.json", "manifest.sig", "signer.pem"} == set(kit.files)
        assert removed.items() <= (contents(workspace / "removed") if removed else {}).items()
        assert plan(project, workspace, now=now).is_empty
        assert authorities(workspace) == ca


def test_nothing_that_was_moved_or_changed_is_lost(workspace):
    """Each private key that was ever made is still somewhere in the workspace, or was replaced on purpose."""
    keys = {data for name, data in contents(workspace / "kits").items() if name.endswith("key.pem")}
    project = replace(PROJECT, sites=(), people=PROJECT.people[:1])
    provision(project, workspace, now=LATER)
    assert keys <= set(contents(workspace).values())
