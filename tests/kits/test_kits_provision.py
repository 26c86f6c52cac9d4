# SPDX-License-Identifier: Apache-2.0
"""What provisioning makes, and what it leaves alone when it runs again."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from datetime import timedelta

import pytest
from kit_parties import NAMES, NOW, PROJECT, changed_files, contents, snapshot, with_endpoints, with_site

from flprov.errors import Conflict, LocalError, Misuse, NotFound, StateDamaged
from flprov.kits import Outcome, load_kit, plan, provision
from flprov.pki import Kind, Role, certificate_identity, fingerprint, parse_identity
from flprov.project import Person, SiteParty

DAY = timedelta(days=1)
PASSPHRASE = b"correct horse battery staple"


def outcomes(report):
    return {kit.name: kit.outcome for kit in report.kits}


def touched(report):
    return {kit.name for kit in report.changed}


def reissued(report):
    return {kit.name for kit in report.changed if kit.outcome is Outcome.REISSUED}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# ---- what there is after the first run --------------------------------------------------------


def test_every_party_gets_a_kit_that_loads(provisioned):
    kits = {name: load_kit(provisioned / "kits" / name, now=NOW) for name in NAMES}
    assert {name: kit.identity for name, kit in kits.items()} == {
        "server": parse_identity("spiffe://heart.example/server/server"),
        "hospital-a": parse_identity("spiffe://heart.example/site/org-a/hospital-a"),
        "hospital-b": parse_identity("spiffe://heart.example/site/org-b/hospital-b"),
        "alice": parse_identity("spiffe://heart.example/person/org-a/project_admin/alice"),
        "bob": parse_identity("spiffe://heart.example/person/org-b/lead/bob"),
    }
    assert {kit.project_id for kit in kits.values()} == {kits["alice"].project_id}


def test_kits_hold_what_their_kind_needs_and_nothing_else(provisioned):
    common = {"kit.yml", "README.md", "manifest.json", "manifest.sig", "signer.pem"}
    common |= {"identity/cert.pem", "identity/key.pem", "anchors/root.pem", "anchors/servers.pem"}
    started = {
        "start.sh",
        "anchors/people.pem",
        "containers/Dockerfile",
        "containers/Dockerfile.dockerignore",
    }
    started |= {"containers/compose.yml", "containers/kubernetes.yml"}
    assert set(contents(provisioned / "kits" / "server")) == common | started | {
        "anchors/sites.pem",
        "authority/servers.key.pem",
        "authority/servers.pem",
        "authority/sites.key.pem",
        "authority/sites.pem",
        "trust.json",
        "registry.json",
        "flprov-server.service",
        "server.yml.sample",
    }
    assert set(contents(provisioned / "kits" / "hospital-a")) == common | started | {
        "flprov-site.service",
        "policy.yml.sample",
        "site.yml.sample",
    }
    assert set(contents(provisioned / "kits" / "alice")) == common


def test_private_files_are_private(provisioned):
    assert mode(provisioned) == 0o700
    assert mode(provisioned / "ca") == 0o700
    keys = list(provisioned.rglob("*key.pem"))
    assert len(keys) == 4 + len(NAMES) + 2  # the CAs', everybody's, and what the server signs with
    assert {mode(key) for key in keys} == {0o600}
    assert {mode(script) for script in provisioned.rglob("start.sh")} == {0o755}
    assert (provisioned / ".gitignore").read_text().splitlines()[-1] == "*"


def test_the_server_alone_gets_ca_keys_and_none_with_which_it_could_make_a_person(provisioned):
    ca_keys = {path.read_bytes(): path.name for path in (provisioned / "ca").glob("*.key.pem")}
    found = {name: ca_keys[data] for name, data in contents(provisioned / "kits").items() if data in ca_keys}
    assert found == {
        "server/authority/servers.key.pem": "servers.key.pem",
        "server/authority/sites.key.pem": "sites.key.pem",
    }


def test_the_server_kit_knows_sites_and_people(provisioned):
    kit = load_kit(provisioned / "kits" / "server", now=NOW, kind=Kind.SERVER)
    assert [(site.name, site.org) for site in kit.registry] == [
        ("hospital-a", "org-a"),
        ("hospital-b", "org-b"),
    ]
    assert [(person.name, person.org, person.role) for person in kit.people] == [
        ("alice", "org-a", Role.PROJECT_ADMIN),
        ("bob", "org-b", Role.LEAD),
    ]
    assert set(kit.anchors) == {"root", "servers", "sites", "people"}
    assert kit.listen == "0.0.0.0:8443"


def test_the_report_says_what_was_made(tmp_path):
    seen = []
    folder = tmp_path / "deep" / "workspace"
    report = provision(PROJECT, folder, now=NOW, progress=lambda done, total: seen.append((done, total)))
    assert (report.ca_created, report.ca_adopted) == (True, False)
    assert not report.ca_encrypted
    assert report.root_fingerprint == fingerprint((folder / "ca" / "root.pem").read_bytes())
    assert set(outcomes(report).values()) == {Outcome.CREATED}
    assert [kit.folder for kit in report.kits] == [folder / "kits" / name for name in NAMES]
    assert seen == [(done, len(NAMES)) for done in range(1, len(NAMES) + 1)]


# ---- again ------------------------------------------------------------------------------------


def test_a_second_run_changes_no_byte_and_no_file_time(workspace):
    before = snapshot(workspace)
    report = provision(PROJECT, workspace, now=NOW + DAY)
    assert set(outcomes(report).values()) == {Outcome.UNCHANGED}
    assert not report.ca_created
    after = snapshot(workspace)
    del before[".lock"], after[".lock"]  # it holds the number of the last process
    assert after == before


def test_a_new_endpoint_changes_settings_and_keeps_every_identity_but_the_servers(workspace):
    before = contents(workspace / "kits")
    report = provision(with_endpoints("new.heart.example:443"), workspace, now=NOW + DAY)
    updated = dict.fromkeys(NAMES, Outcome.UPDATED)
    assert outcomes(report) == updated | {"server": Outcome.REISSUED}
    changed = changed_files(before, contents(workspace / "kits"))
    signed = {"manifest.json", "manifest.sig", "signer.pem"}
    assert {name for name in changed if name.startswith("alice/")} == {
        f"alice/{name}" for name in signed | {"kit.yml", "README.md"}
    }
    assert "hospital-a/identity/key.pem" not in changed
    assert "server/identity/cert.pem" in changed  # it carries the host names
    for name in NAMES:
        assert load_kit(workspace / "kits" / name, now=NOW + DAY).endpoints == ("new.heart.example:443",)


def test_another_port_leaves_the_servers_certificate(workspace):
    key = (workspace / "kits/server/identity/key.pem").read_bytes()
    provision(with_endpoints("fl.heart.example:443", "[2001:db8::1]:443"), workspace, now=NOW + DAY)
    assert (workspace / "kits/server/identity/key.pem").read_bytes() == key


def test_a_new_site_touches_only_its_own_kit_and_the_servers(workspace):
    before = contents(workspace / "kits")
    report = provision(with_site("hospital-c"), workspace, now=NOW + DAY)
    assert outcomes(report) == {
        "server": Outcome.UPDATED,
        "hospital-a": Outcome.UNCHANGED,
        "hospital-b": Outcome.UNCHANGED,
        "hospital-c": Outcome.CREATED,
        "alice": Outcome.UNCHANGED,
        "bob": Outcome.UNCHANGED,
    }
    changed = changed_files(before, contents(workspace / "kits"))
    assert {name for name in changed if not name.startswith("hospital-c/")} == {
        f"server/{name}" for name in ("registry.json", "manifest.json", "manifest.sig", "signer.pem")
    }
    server = load_kit(workspace / "kits/server", now=NOW + DAY)
    assert [site.name for site in server.registry] == ["hospital-a", "hospital-b", "hospital-c"]


def test_a_person_with_a_new_role_gets_a_new_certificate(workspace):
    people = (PROJECT.people[0], replace(PROJECT.people[1], role="observer"))
    report = provision(replace(PROJECT, people=people), workspace, now=NOW + DAY)
    assert touched(report) == {"bob", "server"}
    kit = load_kit(workspace / "kits/bob", now=NOW + DAY)
    assert kit.role is Role.OBSERVER
    [bob] = [kit for kit in report.changed if kit.name == "bob"]
    assert "person/org-b/lead/bob" in bob.reason
    assert "2027-03-01" in bob.reason  # until when the old one is good
    record = json.loads((workspace / "project.json").read_text())
    assert len(record["kits"]["bob"]["certificates"]) == 2


def test_people_past_two_thirds_get_a_new_key_and_those_who_renew_themselves_do_not(workspace):
    just_before, just_after = NOW + 243 * DAY, NOW + 244 * DAY
    assert touched(provision(PROJECT, workspace, now=just_before)) == set()
    old = (workspace / "kits/alice/identity/key.pem").read_bytes()
    report = provision(PROJECT, workspace, now=just_after)
    assert reissued(report) == {"alice", "bob"}
    assert {"two thirds" in kit.reason for kit in report.changed if kit.name in ("alice", "bob")} == {True}
    kit = load_kit(workspace / "kits/alice", now=NOW + 366 * DAY)
    assert kit.private_pem != old


def test_expired_kits_of_people_are_made_new(workspace):
    report = provision(PROJECT, workspace, now=NOW + 400 * DAY)
    assert reissued(report) == {"alice", "bob"}
    assert load_kit(workspace / "kits/alice", now=NOW + 400 * DAY).name == "alice"


def test_a_site_that_never_started_gets_a_new_certificate_when_that_is_asked_for(workspace):
    later = NOW + 100 * DAY
    [note] = [note for note in plan(PROJECT, workspace, now=later).notes if "expired" in note]
    assert "hospital-a, hospital-b" in note
    assert "flprov provision --reissue NAME" in note
    old = (workspace / "kits/hospital-a/identity/key.pem").read_bytes()
    report = provision(PROJECT, workspace, now=later, reissue=["hospital-a"])
    assert reissued(report) == {"hospital-a"}
    assert (workspace / "kits/hospital-a/identity/key.pem").read_bytes() != old
    assert load_kit(workspace / "kits/hospital-a", now=later).not_after == later + 90 * DAY
    [note] = [note for note in plan(PROJECT, workspace, now=later).notes if "expired" in note]
    assert "kit of hospital-b has expired" in note
    assert touched(provision(PROJECT, workspace, now=later)) == set()


def test_reissuing_somebody_who_is_not_in_the_project_changes_nothing(workspace):
    before = contents(workspace / "kits")
    with pytest.raises(NotFound, match="hospital-z"):
        provision(PROJECT, workspace, now=NOW + DAY, reissue=["hospital-a", "hospital-z"])
    assert contents(workspace / "kits") == before


FEWER = replace(PROJECT, sites=PROJECT.sites[:1])


def test_the_kit_of_a_removed_party_is_moved_aside_whole_and_reported_until_it_expires(workspace):
    before = contents(workspace / "kits/hospital-b")
    report = provision(FEWER, workspace, now=NOW + DAY)
    [removed] = report.removed
    assert (removed.name, removed.kind) == ("hospital-b", Kind.SITE)
    assert removed.folder.parent == workspace / "removed"
    assert contents(removed.folder) == before
    assert not (workspace / "kits/hospital-b").exists()
    assert mode(workspace / "removed") == 0o700
    again = provision(FEWER, workspace, now=NOW + 2 * DAY)
    assert again.changed == ()
    assert again.removed == report.removed
    shutil.rmtree(removed.folder)
    assert provision(FEWER, workspace, now=NOW + 3 * DAY).removed[0].folder is None
    assert provision(FEWER, workspace, now=NOW + 100 * DAY).removed == ()


def test_what_a_removed_party_kept_beside_its_kit_stays(workspace):
    local = workspace / "kits/hospital-b.local"
    local.mkdir()
    (local / "policy.yml").write_text("allow: {people: [bob]}\n")
    provision(FEWER, workspace, now=NOW + DAY)
    assert contents(local) == {"policy.yml": b"allow: {people: [bob]}\n"}


def test_a_site_that_comes_back_is_new(workspace):
    key = (workspace / "kits/hospital-b/identity/key.pem").read_bytes()
    provision(FEWER, workspace, now=NOW + DAY)
    report = provision(PROJECT, workspace, now=NOW + 2 * DAY)
    assert outcomes(report)["hospital-b"] is Outcome.CREATED
    assert (workspace / "kits/hospital-b/identity/key.pem").read_bytes() != key
    assert report.removed[0].name == "hospital-b"  # its first certificate is still valid
    provision(FEWER, workspace, now=NOW + 3 * DAY)
    assert len(list((workspace / "removed").iterdir())) == 2


def test_a_kit_that_is_moved_back_before_the_site_returns_is_kept(workspace):
    before = contents(workspace / "kits/hospital-b")
    [removed] = provision(FEWER, workspace, now=NOW + DAY).removed
    removed.folder.rename(workspace / "kits/hospital-b")
    provision(PROJECT, workspace, now=NOW + 2 * DAY)
    assert contents(workspace / "kits/hospital-b") == before
    assert provision(PROJECT, workspace, now=NOW + 2 * DAY).changed == ()


def test_a_copy_of_a_removed_kit_is_moved_aside_beside_the_first(workspace):
    [removed] = provision(FEWER, workspace, now=NOW + DAY).removed
    shutil.copytree(removed.folder, workspace / "kits/hospital-b")
    provision(FEWER, workspace, now=NOW + DAY)
    assert {path.name for path in (workspace / "removed").iterdir()} == {
        removed.folder.name,
        f"{removed.folder.name}-2",
    }


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"site_days": 30}, {"hospital-a", "hospital-b"}),
        ({"person_days": 100}, {"alice", "bob"}),
        ({"server_days": 30.5}, {"server"}),
    ],
)
def test_another_validity_reissues_those_whom_it_is_for(workspace, change, names):
    before = contents(workspace / "kits")
    project = replace(PROJECT, validity=replace(PROJECT.validity, **change))
    report = provision(project, workspace, now=NOW + DAY)
    assert {kit.name for kit in report.kits if kit.outcome is Outcome.REISSUED} == names
    renews = names | {"server"}  # it issues sites' next ones, and its registry names people's
    assert touched(report) == renews
    changed = changed_files(before, contents(workspace / "kits"))
    assert {name.partition("/")[0] for name in changed} == renews
    assert provision(project, workspace, now=NOW + DAY).changed == ()


def test_a_validity_beyond_the_authoritys_end_is_no_change_for_ever(tmp_path):
    short = replace(PROJECT, validity=replace(PROJECT.validity, issuing_days=200, person_days=150))
    provision(short, tmp_path / "w", now=NOW)
    longer = replace(short, validity=replace(short.validity, person_days=199))
    later = NOW + 60 * DAY
    assert touched(provision(longer, tmp_path / "w", now=later)) >= {"alice", "bob"}
    assert touched(provision(longer, tmp_path / "w", now=later)) == set()


def test_the_record_before_the_last_change_is_kept(workspace):
    before = (workspace / "project.json").read_bytes()
    assert not (workspace / "project.json.bak").exists()
    provision(with_site("hospital-c"), workspace, now=NOW + DAY)
    assert (workspace / "project.json.bak").read_bytes() == before
    between = (workspace / "project.json").read_bytes()
    provision(with_site("hospital-c"), workspace, now=NOW + DAY)  # nothing to do
    assert (workspace / "project.json.bak").read_bytes() == before
    provision(PROJECT, workspace, now=NOW + DAY)
    assert (workspace / "project.json.bak").read_bytes() == between


# ---- kits that are not as they were made -------------------------------------------------------


def test_an_edited_kit_is_repaired_and_keeps_its_identity(workspace):
    kit = workspace / "kits/hospital-a"
    whole = contents(kit)
    (kit / "kit.yml").write_text("kind: server\n")
    (kit / "notes.txt").write_text("call Bob\n")
    report = provision(PROJECT, workspace, now=NOW + DAY)
    [found] = report.changed
    assert (found.name, found.outcome) == ("hospital-a", Outcome.REPAIRED)
    assert "kit.yml was changed" in found.reason
    assert "notes.txt" in found.reason
    signed = {"manifest.json", "manifest.sig", "signer.pem"}
    assert changed_files(whole, contents(kit)) == signed


def test_a_kit_with_a_foreign_key_gets_a_new_identity(workspace):
    kit, other = workspace / "kits/hospital-a", workspace / "kits/hospital-b"
    for name in ("key.pem", "cert.pem"):
        shutil.copy(other / "identity" / name, kit / "identity" / name)
    provision(PROJECT, workspace, now=NOW + DAY)
    loaded = load_kit(kit, now=NOW + DAY)
    assert certificate_identity(loaded.chain_pem).name == "hospital-a"
    assert loaded.private_pem != (other / "identity/key.pem").read_bytes()


def test_a_kit_whose_folder_is_gone_is_made_again(workspace):
    old = (workspace / "kits/alice/identity/key.pem").read_bytes()
    shutil.rmtree(workspace / "kits/alice")
    report = provision(PROJECT, workspace, now=NOW + DAY)
    assert outcomes(report)["alice"] is Outcome.REPAIRED
    assert "its folder was gone" in next(kit.reason for kit in report.changed if kit.name == "alice")
    assert load_kit(workspace / "kits/alice", now=NOW + DAY).private_pem != old


def test_a_key_that_others_could_read_is_put_right(workspace):
    (workspace / "kits/alice/identity/key.pem").chmod(0o644)
    report = provision(PROJECT, workspace, now=NOW + DAY)
    assert touched(report) == {"alice"}
    assert mode(workspace / "kits/alice/identity/key.pem") == 0o600


def test_a_link_in_a_kits_place_is_refused(workspace, tmp_path):
    kit = workspace / "kits/alice"
    kit.rename(tmp_path / "elsewhere")
    kit.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="kits/alice is not a folder"):
        provision(PROJECT, workspace, now=NOW + DAY)


def test_what_a_party_keeps_beside_its_kit_is_never_touched(workspace):
    local = workspace / "kits/hospital-a.local"
    local.mkdir()
    (local / "policy.yml").write_text("allow: {people: [bob]}\n")
    provision(with_endpoints("new.heart.example:443"), workspace, now=NOW + DAY)
    assert contents(local) == {"policy.yml": b"allow: {people: [bob]}\n"}


# ---- one CA for ever ---------------------------------------------------------------------------


def refuses_and_changes_nothing(workspace, project, error, match):
    before = contents(workspace)
    with pytest.raises(error, match=match) as caught:
        provision(project, workspace, now=NOW + DAY)
    after = contents(workspace)
    assert changed_files(before, after) <= {".lock"}
    return caught.value


def test_a_missing_ca_is_never_replaced(workspace):
    shutil.rmtree(workspace / "ca")
    error = refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, "ca is missing")
    assert "restore" in error.hint
    assert "SHA256:" in str(error)


def test_kits_without_ca_and_record_are_not_taken_for_a_new_project(workspace):
    shutil.rmtree(workspace / "ca")
    (workspace / "project.json").unlink()
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, "the CA that made them is missing")


@pytest.mark.parametrize("name", ["root.pem", "people.key.pem", "sites.pem", "ca.json"])
def test_a_ca_with_a_file_missing_is_named(workspace, name):
    (workspace / "ca" / name).unlink()
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, f"ca is damaged: {name} is missing")


@pytest.mark.parametrize("name", ["root.pem", "servers.pem", "ca.json"])
def test_a_ca_with_a_file_that_is_rubbish_is_named(workspace, name):
    (workspace / "ca" / name).write_bytes(b"rubbish\n")
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, f"ca is damaged: {name} cannot be read")


def test_a_ca_with_another_cas_key_is_named_when_it_is_to_sign(workspace):
    shutil.copy(workspace / "ca/people.key.pem", workspace / "ca/sites.key.pem")
    refuses_and_changes_nothing(
        workspace, with_site("hospital-c"), StateDamaged, "sites.key.pem does not go with sites.pem"
    )


def test_a_swapped_ca_certificate_is_named(workspace, tmp_path):
    provision(PROJECT, tmp_path / "other", now=NOW)
    shutil.copy(tmp_path / "other/ca/sites.pem", workspace / "ca/sites.pem")
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, "sites.pem is not the certificate")


def test_ca_and_record_of_two_projects_are_refused(workspace, tmp_path):
    provision(PROJECT, tmp_path / "other", now=NOW)
    shutil.copy(tmp_path / "other/project.json", workspace / "project.json")
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, "are of two projects")


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"format": 1}', "missing"), ("", "cannot be read")],
)
def test_a_damaged_record_is_refused(workspace, text, match):
    (workspace / "project.json").write_text(text)
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, match)


def test_a_record_of_a_later_version_is_refused(workspace):
    record = json.loads((workspace / "project.json").read_text())
    (workspace / "project.json").write_text(json.dumps({**record, "format": 2}))
    refuses_and_changes_nothing(workspace, PROJECT, StateDamaged, "has format 2")


def test_a_lost_record_is_written_again_from_what_is_there(workspace):
    kits, root = contents(workspace / "kits"), (workspace / "ca/root.pem").read_bytes()
    (workspace / "project.json").unlink()
    report = provision(PROJECT, workspace, now=NOW + DAY)
    assert (report.ca_created, report.ca_adopted) == (False, True)
    assert (workspace / "ca/root.pem").read_bytes() == root
    changed = changed_files(kits, contents(workspace / "kits"))
    # Only the record knew for which host names the server's certificate was made.
    assert {name.partition("/")[0] for name in changed} == {"server"}


@pytest.mark.parametrize("change", [{"name": "lung"}, {"trust_domain": "lung.example"}])
def test_a_workspace_belongs_to_one_project(workspace, change):
    error = refuses_and_changes_nothing(workspace, replace(PROJECT, **change), Conflict, "lung")
    assert "-o WORKSPACE" in error.hint


def test_a_pinned_root_is_the_only_one(workspace, tmp_path):
    root = fingerprint((workspace / "ca/root.pem").read_bytes())
    assert touched(provision(replace(PROJECT, root_fingerprint=root), workspace, now=NOW)) == set()
    pinned = replace(PROJECT, root_fingerprint="SHA256:" + ":".join(["00"] * 32))
    refuses_and_changes_nothing(workspace, pinned, Conflict, "pins the root SHA256:00")
    with pytest.raises(Conflict, match="has no CA"):
        provision(pinned, tmp_path / "new", now=NOW)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_things_is_no_workspace(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(Misuse, match=r"thesis\.tex"):
        provision(PROJECT, tmp_path, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_workspaces_place_is_refused(tmp_path):
    (tmp_path / "workspace").write_text("")
    with pytest.raises(LocalError, match="workspace: File exists"):
        provision(PROJECT, tmp_path / "workspace", now=NOW)


# ---- the passphrase ----------------------------------------------------------------------------


@pytest.fixture
def encrypted(tmp_path):
    folder = tmp_path / "encrypted"
    assert provision(PROJECT, folder, now=NOW, passphrase=PASSPHRASE).ca_encrypted
    return folder


def test_ca_keys_are_encrypted_at_rest(encrypted):
    keys = [path.read_bytes() for path in (encrypted / "ca").glob("*.key.pem")]
    assert len(keys) == 4
    assert all(key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") for key in keys)


def test_nothing_to_do_needs_no_passphrase(encrypted):
    assert provision(PROJECT, encrypted, now=NOW + DAY).changed == ()


def test_signing_needs_the_passphrase(encrypted):
    error = refuses_and_changes_nothing(encrypted, with_site("hospital-c"), Misuse, "no passphrase was given")
    assert "--passphrase-file" in error.hint
    with pytest.raises(Misuse, match="does not open the CA key"):
        provision(with_site("hospital-c"), encrypted, now=NOW, passphrase=b"wrong")
    report = provision(with_site("hospital-c"), encrypted, now=NOW, passphrase=PASSPHRASE)
    assert touched(report) == {"hospital-c", "server"}


def test_a_passphrase_given_later_encrypts_the_keys_that_are_there(workspace):
    root = (workspace / "ca/root.pem").read_bytes()
    report = provision(PROJECT, workspace, now=NOW, passphrase=PASSPHRASE)
    assert report.ca_encrypted
    assert [kit.name for kit in report.changed] == ["server"]  # it has two of the keys
    assert {b"ENCRYPTED" in path.read_bytes() for path in (workspace / "ca").glob("*.key.pem")} == {True}
    assert {mode(path) for path in (workspace / "ca").glob("*.key.pem")} == {0o600}
    assert (workspace / "ca/root.pem").read_bytes() == root
    with pytest.raises(Misuse, match="no passphrase"):
        provision(with_site("hospital-c"), workspace, now=NOW)
    provision(with_site("hospital-c"), workspace, now=NOW, passphrase=PASSPHRASE)
    assert load_kit(workspace / "kits/hospital-c", now=NOW).name == "hospital-c"


# ---- texts from project.yml --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no", "null", "1e5", "123", "true"])
def test_names_that_yaml_would_take_for_something_else_survive(tmp_path, name):
    project = replace(
        PROJECT,
        sites=(SiteParty(name=name, org="org-a"),),
        people=(Person(name="alice", org="org-a", role="project_admin"),),
    )
    provision(project, tmp_path / "w", now=NOW)
    kit = load_kit(tmp_path / "w/kits" / name, now=NOW)
    assert kit.name == name
    assert kit.contact == "alice of org-a"
