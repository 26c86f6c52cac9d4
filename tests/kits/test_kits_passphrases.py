# SPDX-License-Identifier: Apache-2.0
"""People's private keys can be encrypted in their kits; whoever acts with one needs the passphrase."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from kit_parties import NOW, PROJECT, changed_files, contents, with_endpoints

from flprov.errors import KitRefused, Misuse
from flprov.kits import Change, list_kits, load_kit, look_at_kit, plan, provision
from flprov.pki import sign, verify_signature

DAY = timedelta(days=1)
SECRET = b"correct horse"


@pytest.fixture
def locked(tmp_path):
    folder = tmp_path / "workspace"
    provision(PROJECT, folder, now=NOW, people_passphrase=SECRET)
    return folder


def key_of(workspace, name):
    return (workspace / "kits" / name / "identity/key.pem").read_bytes()


def test_only_peoples_keys_are_encrypted(locked):
    encrypted = {
        name for name in ("server", "hospital-a", "alice", "bob") if b"ENCRYPTED" in key_of(locked, name)
    }
    assert encrypted == {"alice", "bob"}


def test_the_kit_opens_with_the_passphrase_and_signs(locked):
    kit = load_kit(locked / "kits/alice", now=NOW, passphrase=SECRET)
    assert b"ENCRYPTED" not in kit.private_pem
    verify_signature(b"payload", sign(kit.private_pem, b"payload"), kit.chain_pem)
    assert "PRIVATE" not in repr(kit)


def test_the_passphrase_can_be_asked_for_and_is_only_where_it_is_needed(locked):
    asked = []

    def ask(folder):
        asked.append(folder)
        return SECRET

    load_kit(locked / "kits/hospital-a", now=NOW, passphrase=ask)
    assert asked == []
    load_kit(locked / "kits/alice", now=NOW, passphrase=ask)
    assert asked == [locked / "kits/alice"]


@pytest.mark.parametrize("given", [None, b"", lambda _: None])
def test_without_the_passphrase_it_says_how_to_give_it(locked, given):
    with pytest.raises(Misuse, match=r"key\.pem is encrypted, and no passphrase") as caught:
        load_kit(locked / "kits/alice", now=NOW, passphrase=given)
    assert "FLPROV_KIT_PASSPHRASE" in caught.value.hint


def test_a_wrong_passphrase_is_said_to_be_wrong(locked):
    with pytest.raises(Misuse, match="does not open") as caught:
        load_kit(locked / "kits/alice", now=NOW, passphrase=b"Tr0ub4dor")
    assert "Tr0ub4dor" not in f"{caught.value} {caught.value.hint}"


def test_a_key_that_is_rubbish_under_its_lock_is_refused(tmp_path, locked):
    kit = locked / "kits/alice"
    (kit / "identity/key.pem").write_bytes(key_of(locked, "alice").replace(b"A", b"B", 1))
    with pytest.raises(KitRefused, match=r"key\.pem was changed"):
        load_kit(kit, now=NOW, passphrase=SECRET)


def test_kits_are_shown_and_verified_without_it(locked):
    kit = look_at_kit(locked / "kits/alice", now=NOW)
    assert (kit.name, kit.private_pem) == ("alice", b"")
    assert {listing.problem for listing in list_kits(locked, now=NOW)} == {None}


def test_nothing_to_do_and_settings_that_change_need_no_passphrase(locked):
    assert provision(PROJECT, locked, now=NOW + DAY).changed == ()
    key = key_of(locked, "alice")
    provision(with_endpoints("new.heart.example:443"), locked, now=NOW + DAY)
    assert key_of(locked, "alice") == key
    assert load_kit(locked / "kits/alice", now=NOW + DAY, passphrase=SECRET).endpoints


def test_a_new_key_for_somebody_whose_keys_are_encrypted_needs_it(locked):
    before = contents(locked)
    people = (PROJECT.people[0], replace(PROJECT.people[1], role="member"))
    project = replace(PROJECT, people=people)
    assert plan(project, locked, now=NOW + DAY).needs == ("the passphrase of people's keys",)
    with pytest.raises(Misuse, match="new keys are due for bob") as caught:
        provision(project, locked, now=NOW + DAY)
    assert "--people-passphrase-file" in caught.value.hint
    assert changed_files(before, contents(locked)) <= {".lock"}
    provision(project, locked, now=NOW + DAY, people_passphrase=SECRET)
    assert load_kit(locked / "kits/bob", now=NOW + DAY, passphrase=SECRET).role.value == "member"


def test_a_damaged_kit_is_repaired_with_its_encrypted_key(locked):
    key = key_of(locked, "alice")
    (locked / "kits/alice/README.md").unlink()
    with pytest.raises(Misuse, match="new keys are due for alice"):  # it cannot tell whether the key fits
        provision(PROJECT, locked, now=NOW + DAY)
    provision(PROJECT, locked, now=NOW + DAY, people_passphrase=SECRET)
    assert key_of(locked, "alice") == key
    load_kit(locked / "kits/alice", now=NOW + DAY, passphrase=SECRET)


def test_a_passphrase_given_later_encrypts_the_keys_that_are_there(workspace):
    clear = load_kit(workspace / "kits/alice", now=NOW).private_pem
    before = contents(workspace / "kits")
    report = provision(PROJECT, workspace, now=NOW + DAY, people_passphrase=SECRET)
    assert {kit.name for kit in report.changed} == {"alice", "bob"}
    changed = changed_files(before, contents(workspace / "kits"))
    assert {name for name in changed if name.startswith("alice/")} == {
        f"alice/{name}" for name in ("identity/key.pem", "manifest.json", "manifest.sig", "signer.pem")
    }
    assert load_kit(workspace / "kits/alice", now=NOW + DAY, passphrase=SECRET).private_pem == clear
    assert plan(PROJECT, workspace, now=NOW + DAY, people_passphrase=SECRET).is_empty


def test_who_comes_later_gets_no_key_in_clear(locked):
    people = (*PROJECT.people, replace(PROJECT.people[1], name="carol"))
    project = replace(PROJECT, people=people)
    [carol] = [kit for kit in plan(project, locked, now=NOW).changed if kit.party.name == "carol"]
    assert carol.change is Change.NEW
    with pytest.raises(Misuse, match="new keys are due for carol"):
        provision(project, locked, now=NOW)
    provision(project, locked, now=NOW, people_passphrase=SECRET)
    assert b"ENCRYPTED" in key_of(locked, "carol")


@pytest.mark.parametrize("words", [{"passphrase": b"too short"}, {"people_passphrase": b"too short"}])
def test_a_passphrase_that_is_soon_guessed_protects_no_new_key(tmp_path, words):
    with pytest.raises(Misuse, match="9 characters") as caught:
        provision(PROJECT, tmp_path / "ws", now=NOW, **words)
    assert "12" in caught.value.hint
    assert not (tmp_path / "ws/ca").exists()


def test_keys_that_are_encrypted_later_are_encrypted_in_the_servers_kit_as_well(tmp_path):
    workspace, words = tmp_path / "ws", {"passphrase": b"a horse of mine"}
    provision(PROJECT, workspace, now=NOW)
    report = provision(PROJECT, workspace, now=NOW, **words)
    assert [(kit.name, kit.outcome.value) for kit in report.changed] == [("server", "updated")]
    for unit in ("servers", "sites"):
        there = (workspace / f"kits/server/authority/{unit}.key.pem").read_bytes()
        assert there == (workspace / f"ca/{unit}.key.pem").read_bytes()
        assert b"ENCRYPTED" in there
    assert provision(PROJECT, workspace, now=NOW, **words).changed == ()
