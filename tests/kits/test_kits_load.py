# SPDX-License-Identifier: Apache-2.0
"""A kit is loaded whole and as it was made, or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from kit_parties import NAMES, NOW, PROJECT

from flprov._base import canonical_json
from flprov.errors import KitRefused, NotFound
from flprov.kits import list_kits, load_kit, provision, sketch_kit, verify_kits
from flprov.kits.manifest import build_manifest
from flprov.pki import Kind, Role, create_root, create_signer, sign

DAY = timedelta(days=1)


def refusal(folder, *, now=NOW, kind=None):
    with pytest.raises(KitRefused) as caught:
        load_kit(folder, now=now, kind=kind)
    return caught.value


# ---- good kits ---------------------------------------------------------------------------------


def test_a_sites_kit_says_who_it_is_and_where_the_server_is(kit):
    loaded = load_kit(kit, now=NOW, kind=Kind.SITE)
    assert (loaded.name, loaded.org, loaded.role) == ("hospital-a", "org-a", None)
    assert (loaded.project, loaded.trust_domain) == ("heart", "heart.example")
    assert loaded.server == "server"
    assert loaded.endpoints == ("fl.heart.example:8443", "[2001:db8::1]:8443")
    assert loaded.listen == ""
    assert loaded.contact == "alice <alice@heart.example>"
    assert set(loaded.anchors) == {"root", "servers", "people"}
    assert loaded.anchors["people"].kinds == {Kind.PERSON}
    assert loaded.registry == ()
    assert loaded.made_at == NOW
    assert loaded.not_after == NOW + 90 * DAY


def test_a_persons_kit_trusts_servers_only(workspace):
    loaded = load_kit(workspace / "kits/bob", now=NOW, kind=Kind.PERSON)
    assert loaded.role is Role.LEAD
    assert set(loaded.anchors) == {"root", "servers"}


def test_a_kits_repr_shows_no_key(kit):
    shown = repr(load_kit(kit, now=NOW))
    assert "PRIVATE" not in shown
    assert "BEGIN" not in shown


def test_the_machines_own_folder_lies_beside_the_kit_however_it_is_named(kit, monkeypatch):
    (kit.parent / "link").symlink_to(kit)
    monkeypatch.chdir(kit)
    found = {
        load_kit(path, now=NOW).local for path in (kit, kit.parent / "link", kit / "../hospital-a", kit / ".")
    }
    assert found == {kit.parent / "hospital-a.local"}


def test_a_kit_may_be_moved_and_lose_modes_that_guard_nothing(kit, tmp_path):
    moved = tmp_path / "elsewhere"
    kit.rename(moved)
    for path in moved.rglob("*"):
        if path.is_file() and path.name != "key.pem":
            path.chmod(0o666)
    assert load_kit(moved, now=NOW).name == "hospital-a"


def test_loading_a_kit_takes_milliseconds(kit):
    load_kit(kit, now=NOW)
    started = time.process_time()
    for _ in range(10):
        load_kit(kit, now=NOW)
    assert (time.process_time() - started) / 10 < 0.05  # 2 ms on a quiet machine


def test_loading_kits_imports_nothing_heavy():
    code = (
        "import sys; import flprov.kits; flprov.kits.load_kit;"
        "heavy = {'jinja2', 'paramiko', 'grpc', 'torch', 'sqlite3', 'google.protobuf', 'click'};"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- tampering, each class by name -------------------------------------------------------------


def change(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


ALL_FILES = [
    "README.md",
    "anchors/people.pem",
    "anchors/servers.pem",
    "containers/Dockerfile",
    "containers/Dockerfile.dockerignore",
    "containers/compose.yml",
    "containers/kubernetes.yml",
    "flprov-site.service",
    "identity/cert.pem",
    "identity/key.pem",
    "kit.yml",
    "policy.yml.sample",
    "site.yml.sample",
    "start.sh",
]


def test_the_list_of_files_to_tamper_with_is_whole(kit):
    files = json.loads((kit / "manifest.json").read_text())["files"]
    assert set(files) == {*ALL_FILES, "anchors/root.pem", "signer.pem"}


@pytest.mark.parametrize("name", ALL_FILES)
def test_one_changed_bit_is_refused(kit, name):
    change(kit / name)
    assert str(refusal(kit)) == f"{kit}: {name} was changed after the kit was made"


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_a_changed_manifest_or_signature_is_refused(kit, name):
    change(kit / name)
    assert "manifest.sig is not the provisioner's signature of manifest.json" in str(refusal(kit))


@pytest.mark.parametrize("name", ["signer.pem", "anchors/root.pem"])
def test_a_changed_signer_or_root_is_refused(kit, name):
    change(kit / name)
    assert "signer.pem is not a provisioner's certificate" in str(refusal(kit))


@pytest.mark.parametrize("name", [*ALL_FILES, "anchors/root.pem", "signer.pem", "manifest.sig"])
def test_a_missing_file_is_refused(kit, name):
    (kit / name).unlink()
    assert f"{name} is missing" in str(refusal(kit))


@pytest.mark.parametrize("name", [*ALL_FILES, "signer.pem", "manifest.sig", "manifest.json"])
def test_a_file_that_became_a_link_is_refused_even_to_the_same_bytes(kit, tmp_path, name):
    shutil.move(kit / name, tmp_path / "same")
    (kit / name).symlink_to(tmp_path / "same")
    assert f"{name} was replaced by a symbolic link" in str(refusal(kit))


def test_a_folder_that_became_a_link_is_refused(kit, tmp_path):
    shutil.move(kit / "identity", tmp_path / "identity")
    (kit / "identity").symlink_to(tmp_path / "identity")
    assert "identity/ was replaced by a symbolic link" in str(refusal(kit))


@pytest.mark.parametrize("name", ["evil.pth", "identity/other.pem", "anchors/extra.pem", ".hidden", "sub"])
def test_an_added_file_or_folder_is_refused(kit, name):
    path = kit / name
    if name == "sub":
        path.mkdir()
    else:
        path.write_text("x")
    assert f"{name} is not part of this kit" in str(refusal(kit))


@pytest.mark.parametrize("name", ["policy.yml", "site.yml"])
def test_own_files_inside_the_kit_are_shown_their_place(kit, name):
    (kit / name).write_text("")
    error = refusal(kit)
    assert f"{name} is not part of this kit" in str(error)
    assert f"{kit}.local/" in error.hint


def test_every_problem_is_named_at_once(kit):
    change(kit / "kit.yml")
    (kit / "start.sh").unlink()
    (kit / "x").write_text("")
    message = str(refusal(kit))
    for part in ("kit.yml was changed", "start.sh is missing", "x is not part"):
        assert part in message


def test_a_pipe_in_a_files_place_is_refused_and_does_not_hang(kit):
    (kit / "README.md").unlink()
    os.mkfifo(kit / "README.md")
    assert "README.md is not a regular file" in str(refusal(kit))


def test_a_folder_in_a_files_place_is_refused(kit):
    (kit / "README.md").unlink()
    (kit / "README.md").mkdir()
    assert "README.md is not a regular file" in str(refusal(kit))


def test_a_huge_file_is_refused_unread(kit):
    with (kit / "README.md").open("r+b") as file:
        file.truncate(1 << 40)
    assert "README.md is larger than 64 MiB" in str(refusal(kit))


def test_a_huge_manifest_is_refused_unread(kit):
    with (kit / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "manifest.json is larger than 1 MiB" in str(refusal(kit))


def test_a_kit_of_another_user_is_not_called_damaged(kit, monkeypatch):
    opening = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("key.pem"):
            raise PermissionError(13, "Permission denied")
        return opening(path, *arguments, **options)

    monkeypatch.setattr("flprov.kits.reading.os.open", refuse)
    error = refusal(kit)
    assert str(error).endswith("identity/key.pem cannot be read by this user")
    assert error.hint == f"run this as the user that the kit belongs to, uid {os.geteuid()}: sudo -u" + (
        f" '#{os.geteuid()}' flprov ..."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(kit):
    (kit / "README.md").chmod(0)
    assert "README.md cannot be read by this user" in str(refusal(kit))


def test_files_of_another_kit_are_refused(workspace):
    ours, theirs = workspace / "kits/hospital-a", workspace / "kits/hospital-b"
    shutil.rmtree(ours / "identity")
    shutil.copytree(theirs / "identity", ours / "identity")
    message = str(refusal(ours))
    assert "identity/cert.pem was changed" in message
    assert "identity/key.pem was changed" in message


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660, 0o620])
def test_a_key_that_others_can_reach_is_refused(kit, bits):
    (kit / "identity/key.pem").chmod(bits)
    error = refusal(kit)
    assert f"{kit}/identity/key.pem can be read by other users of this machine (mode {bits:04o})" == str(
        error
    )
    assert "chmod 600" in error.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_that_belongs_to_another_user_is_refused(kit):
    os.chown(kit / "identity/key.pem", 12345, -1)
    error = refusal(kit)
    assert "belongs to another user (uid 12345)" in str(error)


def test_what_was_read_and_verified_is_what_is_used(kit, monkeypatch):
    """No gap between check and use: files changed right after they were read have no effect."""
    from flprov.kits import kit as module

    key = (kit / "identity/key.pem").read_bytes()

    def read_then_tamper(folder, **options):
        found = read_contents(folder, **options)
        for path in folder.rglob("*.*"):
            path.write_bytes(b"tampered")
        return found

    read_contents = module.read_contents
    monkeypatch.setattr(module, "read_contents", read_then_tamper)
    assert load_kit(kit, now=NOW).private_pem == key


# ---- forged whole ------------------------------------------------------------------------------


def resign(kit, root, *, project="heart", **changes):
    """Sign the kit's manifest again, after changing it, with a signer that `root` makes."""
    signer = create_signer(root, project=project, days=10, now=NOW)
    (kit / "signer.pem").write_bytes(signer.certificate_pem)
    files = {
        str(path.relative_to(kit)): (path.read_bytes(), 0o644)
        for path in kit.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "manifest.sig")
    }
    fields = {"kind": Kind.SITE, "name": "hospital-a", "project": "heart", "project_id": "x", "now": NOW}
    manifest = build_manifest(files, **fields | changes)
    (kit / "manifest.json").write_bytes(manifest)
    (kit / "manifest.sig").write_bytes(sign(signer.private_pem, manifest))


@pytest.fixture
def forger(kit):
    """A root of ours whose key the test has, in the kit's place for it."""
    root = create_root(project="heart", trust_domain="heart.example", days=100, now=NOW)
    (kit / "anchors/root.pem").write_bytes(root.certificate_pem)
    return root


def test_the_forgers_kit_would_load_if_nothing_were_wrong_with_it(kit, forger):
    resign(kit, forger)
    assert load_kit(kit, now=NOW).name == "hospital-a"


def test_a_manifest_signed_by_another_root_is_refused(kit):
    root = create_root(project="heart", trust_domain="heart.example", days=100, now=NOW)
    resign(kit, root)
    assert "signer.pem is not a provisioner's certificate from anchors/root.pem" in str(refusal(kit))


def test_a_manifest_signed_with_the_sites_own_key_is_refused(kit):
    key = (kit / "identity/key.pem").read_bytes()
    (kit / "signer.pem").write_bytes((kit / "identity/cert.pem").read_bytes())
    (kit / "manifest.sig").write_bytes(sign(key, (kit / "manifest.json").read_bytes()))
    assert "signer.pem was changed after the kit was made" in str(refusal(kit))


def test_a_signer_of_another_project_is_refused(kit, forger):
    resign(kit, forger, project="lung")
    assert "is of project heart and signed by spiffe://heart.example/provisioner/lung" in str(refusal(kit))


def test_a_manifest_of_another_party_is_refused(kit, forger):
    resign(kit, forger, name="hospital-b")
    assert "kit.yml is of site hospital-a, and manifest.json of site hospital-b" in str(refusal(kit))


def test_a_certificate_of_another_identity_than_the_kits_is_refused(workspace, kit, forger):
    shutil.rmtree(kit / "identity")
    shutil.copytree(workspace / "kits/hospital-b/identity", kit / "identity")
    resign(kit, forger)
    message = str(refusal(kit))
    assert "site/org-b/hospital-b, and kit.yml is of spiffe://heart.example/site/org-a/hospital-a" in message


def test_a_certificate_of_another_kind_than_the_kits_is_refused(workspace, kit, forger):
    shutil.rmtree(kit / "identity")
    shutil.copytree(workspace / "kits/alice/identity", kit / "identity")
    resign(kit, forger)
    assert "identity/cert.pem" in str(refusal(kit))


def test_a_key_of_another_certificate_is_refused(workspace, kit, forger):
    shutil.copy(workspace / "kits/hospital-b/identity/key.pem", kit / "identity/key.pem")
    resign(kit, forger)
    assert "the private key is not the key of the certificate" in str(refusal(kit))


@pytest.mark.parametrize("name", ["identity/cert.pem", "identity/key.pem", "kit.yml"])
def test_a_kit_made_without_a_file_that_it_needs_is_refused(kit, forger, name):
    (kit / name).unlink()
    resign(kit, forger)
    assert f"manifest.json lists no {name}" in str(refusal(kit))


def test_settings_that_this_version_does_not_know_are_refused(kit, forger):
    (kit / "kit.yml").write_text((kit / "kit.yml").read_text() + "novelty: 1\n")
    resign(kit, forger)
    error = refusal(kit)
    assert "unknown key 'novelty'" in str(error)
    assert "install the version" in error.hint


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b/c", "", "x\x00y", "..", "a/../b"])
def test_a_manifest_that_names_files_elsewhere_is_refused(kit, forger, name):
    resign(kit, forger)
    signer = create_signer(forger, project="heart", days=10, now=NOW)
    document = json.loads((kit / "manifest.json").read_text())
    document["files"][name] = {"sha256": "0" * 64, "size": 0, "mode": "0644"}
    (kit / "signer.pem").write_bytes(signer.certificate_pem)
    (kit / "manifest.json").write_bytes(canonical_json(document))
    (kit / "manifest.sig").write_bytes(sign(signer.private_pem, canonical_json(document)))
    assert "manifest.json lists a file that no kit has" in str(refusal(kit))


def test_a_manifest_of_a_later_format_is_refused(kit, forger):
    signer = create_signer(forger, project="heart", days=10, now=NOW)
    document = {**json.loads((kit / "manifest.json").read_text()), "format": 2}
    (kit / "signer.pem").write_bytes(signer.certificate_pem)
    (kit / "manifest.json").write_bytes(canonical_json(document))
    (kit / "manifest.sig").write_bytes(sign(signer.private_pem, canonical_json(document)))
    assert "this kit has format 2" in str(refusal(kit))


# ---- the wrong kit, the wrong time, no kit -----------------------------------------------------


def test_the_kit_of_another_kind_is_refused_with_what_it_is_for(workspace):
    error = refusal(workspace / "kits/alice", kind=Kind.SITE)
    assert str(error).endswith("alice is the kit of person alice, and the kit of a site is needed here")
    assert error.hint == f"this one is for: flprov use {workspace / 'kits/alice'}"
    error = refusal(workspace / "kits/hospital-a", kind=Kind.PERSON)
    assert "flprov site start" in error.hint


def test_an_expired_persons_kit_says_when_and_the_way_back(workspace):
    kit = workspace / "kits/bob"
    assert load_kit(kit, now=NOW + 365 * DAY).name == "bob"
    error = refusal(kit, now=NOW + 365 * DAY + timedelta(seconds=1))
    assert str(error) == f"{kit}/identity/cert.pem expired on 2027-03-01 12:00 UTC"
    assert "ask alice <alice@heart.example> for a new kit" in error.hint
    assert "flprov provision" in error.hint


def test_a_clock_that_is_behind_is_named(kit):
    load_kit(kit, now=NOW - timedelta(minutes=4))
    error = refusal(kit, now=NOW - DAY)
    assert "2026-02-28 12:00 UTC" in str(error)


def test_the_signer_outlives_every_certificate_in_a_kit(tmp_path):
    from dataclasses import replace

    from flprov.project import Validity

    short = Validity(root_days=10, issuing_days=10, server_days=10, site_days=10, person_days=10)
    provision(replace(PROJECT, validity=short), tmp_path / "w", now=NOW)
    for name in NAMES:
        assert load_kit(tmp_path / "w/kits" / name, now=NOW + 10 * DAY).name == name


def test_no_folder_no_kit(tmp_path):
    with pytest.raises(NotFound, match="there is no kit at"):
        load_kit(tmp_path / "nothing", now=NOW)


def test_a_link_that_leads_in_a_circle_is_no_kit(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NotFound, match="there is no kit at"):
        load_kit(tmp_path / "loop", now=NOW)


def test_the_root_of_the_file_system_is_no_kit():
    with pytest.raises(KitRefused, match="/ cannot be a kit"):
        sketch_kit(Path("/"), now=NOW)
    with pytest.raises(KitRefused, match="/ is no kit"):
        load_kit(Path("/"), now=NOW)


def test_a_file_is_no_kit(tmp_path):
    (tmp_path / "kit.zip").write_text("")
    assert "is not a folder" in str(refusal(tmp_path / "kit.zip"))


def test_a_folder_of_kits_is_no_kit_and_the_hint_names_one(workspace):
    error = refusal(workspace / "kits")
    assert "has no manifest.json" in str(error)
    assert str(workspace / "kits/alice") in error.hint
    assert str(workspace / "kits/alice") in refusal(workspace).hint
    assert "kit.yml" in refusal(workspace / "ca").hint


# ---- many --------------------------------------------------------------------------------------


def test_kits_are_listed_good_and_bad(workspace):
    change(workspace / "kits/alice/kit.yml")
    found = {listing.folder.name: listing for listing in list_kits(workspace, now=NOW)}
    assert set(found) == set(NAMES)
    assert found["alice"].kit is None
    assert "kit.yml was changed" in str(found["alice"].problem)
    assert found["bob"].kit is not None
    assert {listing.folder.name for listing in list_kits(workspace / "kits", now=NOW)} == set(NAMES)


def test_a_folder_without_kits_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="there are no kits in"):
        list_kits(tmp_path, now=NOW)


def test_verifying_goes_on_after_a_bad_kit(workspace):
    first, second = verify_kits([workspace / "kits/nobody", workspace / "kits/bob"], now=NOW)
    assert isinstance(first.problem, NotFound)
    assert second.kit is not None
