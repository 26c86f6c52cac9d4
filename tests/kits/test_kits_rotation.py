# SPDX-License-Identifier: Apache-2.0
"""Rotating the CAs in a workspace: each phase and its way back, killed anywhere, with keys encrypted."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT, contents

from flprov.errors import Conflict, IdentityRefused, Misuse, NotFound
from flprov.kits import (
    Change,
    HeldTrust,
    Phase,
    SignedTrust,
    activate_rotation,
    decode_trust,
    finish_rotation,
    load_kit,
    look_at_rotation,
    plan,
    prepare_rotation,
    provision,
    roll_back_rotation,
    sign_trust,
    verify_trust,
)
from flprov.kits.authorities import Authorities, open_authorities
from flprov.pki import Kind, create_root, create_signer, describe_leaf, load_anchors

HERE = Path(__file__).parent
DAY = timedelta(days=1)
STEPS = (prepare_rotation, activate_rotation, finish_rotation)
PASSPHRASE = b"correct horse"


def open_ca(workspace: Path) -> Authorities:
    return open_authorities(workspace / "ca", passphrase=None)


def keys(workspace: Path) -> set[bytes]:
    return {data for name, data in contents(workspace / "ca").items() if name.endswith(".key.pem")}


def go(workspace: Path, *steps, **options):
    report = None
    for number, step in enumerate(steps):
        first = options if number == 0 else {}
        report = step(PROJECT, workspace, now=NOW + (number + 1) * DAY, **first)
    return report


# ---- the phases --------------------------------------------------------------------------------


def test_prepared_the_old_ones_still_issue_and_both_are_believed(workspace):
    before = open_ca(workspace)
    report = go(workspace, prepare_rotation)
    after = open_ca(workspace)
    assert (report.phase, report.changed, report.publication.version) == (Phase.PREPARED, True, 2)
    for kind in (Kind.SERVER, Kind.SITE, Kind.PERSON):
        assert after.anchor(kind) == before.anchor(kind)
        assert after.anchors_pem(kind).startswith(before.anchor(kind))
        assert after.anchors_pem(kind).count(b"BEGIN CERTIFICATE") == 2
    assert after.anchors_pem(None) == before.anchor(None)
    assert len(report.publication.keys) == 4


def test_activated_the_new_ones_issue_and_finished_the_old_ones_are_gone(workspace):
    before = open_ca(workspace)
    go(workspace, prepare_rotation, activate_rotation)
    activated = open_ca(workspace)
    assert activated.anchor(Kind.SITE) != before.anchor(Kind.SITE)
    assert activated.anchors_pem(Kind.SITE) == activated.anchor(Kind.SITE) + before.anchor(Kind.SITE)
    report = go(workspace, finish_rotation)
    finished = open_ca(workspace)
    assert (report.phase, report.ended) == (Phase.STEADY, "finished")
    assert finished.anchors_pem(Kind.SITE) == activated.anchor(Kind.SITE)
    assert finished.says.version == 4
    assert len(report.publication.keys) == 2


@pytest.mark.parametrize("root", [False, True])
def test_no_key_is_ever_lost(workspace, root):
    made = keys(workspace)
    for step in STEPS:
        options = {"root": root} if step is prepare_rotation else {}
        step(PROJECT, workspace, now=NOW + DAY, **options)
        assert made <= keys(workspace)
        made = keys(workspace)
    retired = {name for name in contents(workspace / "ca") if name.startswith("retired/0004/")}
    assert len(retired) == (8 if root else 6)
    assert all((workspace / "ca" / name).stat().st_mode & 0o077 == 0 for name in retired if ".key." in name)


def test_each_step_may_be_taken_twice(workspace):
    for step in STEPS:
        assert step(PROJECT, workspace, now=NOW + DAY).changed
        before = contents(workspace / "ca")
        again = step(PROJECT, workspace, now=NOW + 2 * DAY)
        assert not again.changed
        assert contents(workspace / "ca") == before


def test_a_step_that_does_not_come_next_says_which_does(workspace):
    for step, words in ((activate_rotation, "no rotation is prepared"), (finish_rotation, "none to finish")):
        with pytest.raises(Conflict, match=words):
            step(PROJECT, workspace, now=NOW)
    with pytest.raises(Conflict, match="none to roll back"):
        roll_back_rotation(PROJECT, workspace, now=NOW)
    go(workspace, prepare_rotation, activate_rotation)
    with pytest.raises(Conflict, match="not finished"):
        prepare_rotation(PROJECT, workspace, now=NOW)
    go(workspace, finish_rotation)
    with pytest.raises(Conflict, match="no way back"):
        roll_back_rotation(PROJECT, workspace, now=NOW)


def test_rolled_back_step_by_step_everything_is_of_the_old_cas_again(workspace):
    before = open_ca(workspace)
    go(workspace, prepare_rotation, activate_rotation)
    assert go(workspace, roll_back_rotation).phase is Phase.PREPARED
    assert open_ca(workspace).anchor(Kind.SITE) == before.anchor(Kind.SITE)
    report = go(workspace, roll_back_rotation)
    after = open_ca(workspace)
    assert (report.phase, report.ended, after.says.version) == (Phase.STEADY, "rolled back", 5)
    assert [after.anchors_pem(kind) for kind in (Kind.SERVER, Kind.SITE, Kind.PERSON)] == [
        before.anchor(kind) for kind in (Kind.SERVER, Kind.SITE, Kind.PERSON)
    ]
    assert not roll_back_rotation(PROJECT, workspace, now=NOW).changed


def test_without_a_ca_there_is_nothing_to_rotate(tmp_path):
    with pytest.raises(NotFound, match="has no CA yet"):
        prepare_rotation(PROJECT, tmp_path / "nothing", now=NOW)
    assert not (tmp_path / "nothing").exists()


# ---- the root ----------------------------------------------------------------------------------


def test_a_new_root_is_believed_by_way_of_the_old_one_and_remembered(workspace, tmp_path):
    old = load_anchors(open_ca(workspace).anchor(None))
    project_id = open_ca(workspace).record.project_id
    held = HeldTrust(tmp_path / "trust.json", old, project_id=project_id)
    for step in STEPS:
        options = {"root": True} if step is prepare_rotation else {}
        step(PROJECT, workspace, now=NOW + DAY, **options)
        trust = held.verify(open_ca(workspace).signed_trust, NOW + DAY)
        held.keep(trust)
    assert held.version == 4
    assert held.current.anchors["root"].pem == open_ca(workspace).anchor(None)
    again = HeldTrust(tmp_path / "trust.json", old, project_id=project_id)
    again.load(NOW + 2 * DAY)
    assert again.version == 4
    stranger = HeldTrust(tmp_path / "none.json", old, project_id=project_id)
    with pytest.raises(IdentityRefused):  # without the steps between, the new root is nobody
        stranger.verify(open_ca(workspace).signed_trust, NOW + DAY)


def test_a_pinned_root_is_accepted_until_it_goes_and_finish_says_what_to_write(workspace):
    old = open_ca(workspace).root_fingerprint
    project = replace(PROJECT, root_fingerprint=old)
    new = prepare_rotation(project, workspace, now=NOW, root=True).other_root
    activate_rotation(project, workspace, now=NOW)
    assert provision(project, workspace, now=NOW).root_fingerprint == new
    with pytest.raises(Conflict, match="pins the root that is to go") as error:
        finish_rotation(project, workspace, now=NOW)
    assert new in error.value.hint
    pinned = replace(PROJECT, root_fingerprint=new)
    finish_rotation(pinned, workspace, now=NOW)
    assert plan(pinned, workspace, now=NOW).authorities is not None
    with pytest.raises(Conflict, match="has replaced by"):
        plan(project, workspace, now=NOW)


# ---- provisioning meanwhile --------------------------------------------------------------------


def changes(workspace: Path) -> dict[str, Change]:
    return {kit.party.name: kit.change for kit in plan(PROJECT, workspace, now=NOW + DAY).changed}


def test_kits_carry_both_then_get_certificates_of_the_new_cas_and_carry_those_alone(workspace):
    everybody = ("server", "hospital-a", "hospital-b", "alice", "bob")
    go(workspace, prepare_rotation, root=True)
    assert changes(workspace) == dict.fromkeys(everybody, Change.CHANGED)
    provision(PROJECT, workspace, now=NOW + DAY)
    kit = load_kit(workspace / "kits/hospital-a", now=NOW + DAY)
    assert [len(kit.anchors[name].members) for name in ("root", "servers", "people")] == [2, 2, 2]
    assert changes(workspace) == {}

    activate_rotation(PROJECT, workspace, now=NOW + DAY)
    assert changes(workspace) == dict.fromkeys(everybody, Change.REISSUED)
    assert look_at_rotation(PROJECT, workspace)[0].outworn == tuple(sorted(everybody))
    provision(PROJECT, workspace, now=NOW + DAY)
    assert look_at_rotation(PROJECT, workspace)[0].outworn == ()
    active = open_ca(workspace)
    for name in everybody:
        kit = load_kit(workspace / "kits" / name, now=NOW + DAY)
        assert kit.chain_pem.endswith(active.anchor(kit.kind))
    assert not active.read_trust(NOW + DAY).revoked_people  # nobody is thrown out by a rotation

    finish_rotation(PROJECT, workspace, now=NOW + DAY)
    assert changes(workspace) == dict.fromkeys(everybody, Change.CHANGED)
    provision(PROJECT, workspace, now=NOW + DAY)
    kit = load_kit(workspace / "kits/hospital-a", now=NOW + DAY)
    assert [len(kit.anchors[name].members) for name in ("root", "servers", "people")] == [1, 1, 1]
    assert changes(workspace) == {}


def test_the_server_s_kit_has_the_keys_of_those_that_issue(workspace):
    go(workspace, prepare_rotation, activate_rotation)
    provision(PROJECT, workspace, now=NOW + 3 * DAY)
    kit = load_kit(workspace / "kits/server", now=NOW + 3 * DAY)
    ca = open_ca(workspace)
    assert {one.certificate_pem for one in kit.issuing} == {ca.anchor(Kind.SERVER), ca.anchor(Kind.SITE)}
    assert kit.trust.version == 3
    assert describe_leaf(kit.chain_pem).issuer_key_id == kit.trust.active(Kind.SERVER)


# ---- passphrases, death ------------------------------------------------------------------------


def test_encrypted_keys_stay_encrypted_and_want_their_passphrase(workspace):
    provision(PROJECT, workspace, now=NOW, passphrase=PASSPHRASE)
    for secret, words in ((None, "no passphrase was given"), (b"wrong", "does not open the CA key")):
        with pytest.raises(Misuse, match=words):
            prepare_rotation(PROJECT, workspace, now=NOW, passphrase=secret)
    for step in STEPS:
        step(PROJECT, workspace, now=NOW, passphrase=PASSPHRASE)
        assert all(b"ENCRYPTED" in key for key in keys(workspace))


def test_keys_in_clear_are_encrypted_with_all_that_a_rotation_made(workspace):
    go(workspace, prepare_rotation, activate_rotation, finish_rotation)
    go(workspace, prepare_rotation)
    provision(PROJECT, workspace, now=NOW + DAY, passphrase=PASSPHRASE)
    assert all(b"ENCRYPTED" in key for key in keys(workspace))


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from kit_parties import NOW, PROJECT
    from flprov.kits import rotation

    workspace, step, name, when = sys.argv[2:]
    real = getattr(rotation, name)

    def dying(*args, **options):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(rotation, name, dying)
    getattr(rotation, step)(PROJECT, rotation.Path(workspace), now=NOW)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["write_tree", "sync_tree", "replace_tree"])
def test_killed_anywhere_the_ca_is_whole_and_the_same_step_again_is_taken(workspace, name, when):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(KILLED),
            str(HERE),
            str(workspace),
            "prepare_rotation",
            name,
            when,
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    taken = (name, when) == ("replace_tree", "after")
    assert open_ca(workspace).record.phase is (Phase.PREPARED if taken else Phase.STEADY)
    assert prepare_rotation(PROJECT, workspace, now=NOW).changed is not taken
    provision(PROJECT, workspace, now=NOW + DAY)
    assert plan(PROJECT, workspace, now=NOW + DAY).is_empty
    assert not list(workspace.glob(".ca.*"))


def test_where_folders_cannot_change_names_at_once_the_ca_is_found_again(workspace):
    (workspace / "ca").rename(workspace / ".ca.1234.old")  # and died
    provision(PROJECT, workspace, now=NOW + DAY)
    assert open_ca(workspace).says.version == 1


# ---- what is no bundle of ours -----------------------------------------------------------------


@pytest.fixture
def held(workspace, tmp_path):
    ca = open_ca(workspace)
    found = HeldTrust(tmp_path / "t.json", load_anchors(ca.anchor(None)), project_id=ca.record.project_id)
    go(workspace, prepare_rotation)
    found.keep(found.verify(open_ca(workspace).signed_trust, NOW + DAY))
    return found


def forged(workspace: Path, **changes_) -> SignedTrust:
    """Signed by this project's own provisioner, and yet not right."""
    ca = open_ca(workspace)
    return ca.sign_trust(replace(ca.says, **({"version": 9} | changes_)), now=NOW)


def test_a_bundle_that_goes_back_is_refused(workspace, held):
    with pytest.raises(IdentityRefused, match="older than the one that is held here, 2"):
        held.verify(forged(workspace, version=1), NOW + DAY)
    with pytest.raises(IdentityRefused, match="two trust bundles with version 2"):
        held.verify(forged(workspace, version=2, phase="steady"), NOW + DAY)
    assert held.verify(open_ca(workspace).signed_trust, NOW + DAY) is None
    assert held.version == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"project_id": "another"}, "not of this one"),
        ({"format": 2}, "format 2"),
        ({"servers": ()}, "its servers: no PEM certificate"),
        ({"people_crl": "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"}, "people_crl is refused"),
    ],
)
def test_a_bundle_that_says_what_it_must_not_is_refused(workspace, held, changed, words):
    with pytest.raises(IdentityRefused, match=words):
        held.verify(forged(workspace, **changed), NOW + DAY)


def test_sites_among_the_people_are_refused(workspace, held):
    says = open_ca(workspace).says
    with pytest.raises(IdentityRefused, match="calls something people that is not such a CA"):
        held.verify(forged(workspace, people=says.sites), NOW + DAY)


def test_a_bundle_that_nobody_of_ours_signed_is_refused(workspace, held):
    ca = open_ca(workspace)
    root = create_root(project="heart", trust_domain="heart.example", days=9, now=NOW)
    villain = create_signer(root, project="heart", days=9, now=NOW)
    for signed in (
        sign_trust(replace(ca.says, version=9), villain),
        replace(forged(workspace), document=ca.signed_trust.document.replace(b"prepared", b"steadier")),
        replace(forged(workspace), signer=ca.anchor(Kind.SITE)),
        replace(forged(workspace), signature=b""),
    ):
        with pytest.raises(IdentityRefused):
            held.verify(signed, NOW + DAY)
    assert held.version == 2


def test_a_bundle_of_a_hundred_megabytes_is_refused_unread(workspace, held):
    huge = replace(open_ca(workspace).signed_trust, document=b"{" + b" " * (100 << 20))
    with pytest.raises(IdentityRefused, match="at most"):
        held.verify(huge, NOW + DAY)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"document": 1}', b"\xff", b'{"document":"x","signature":"!"}']
)
def test_what_is_no_trust_json_is_told(data):
    with pytest.raises(IdentityRefused, match="it is not a trust"):
        decode_trust(data)


def test_a_file_that_was_damaged_is_not_believed(workspace, held, tmp_path):
    ca = open_ca(workspace)
    path = tmp_path / "t.json"
    path.write_bytes(path.read_bytes().replace(b"prepared", b"steadies"))
    again = HeldTrust(path, load_anchors(ca.anchor(None)), project_id=ca.record.project_id)
    with pytest.raises(IdentityRefused):
        again.load(NOW + DAY)
    assert again.version == 0
    assert (
        verify_trust(
            ca.signed_trust, load_anchors(ca.anchor(None)), project_id=ca.record.project_id, now=NOW + DAY
        ).version
        == 2
    )
