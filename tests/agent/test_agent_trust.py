# SPDX-License-Identifier: Apache-2.0
"""Whom a site believes: bundles that the server brings, verified here, and people who were revoked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from agent_parties import NOW, Parties, make_config, make_submission, project, sign_deploy

from flprov.agent.admission import admit
from flprov.agent.trust import SiteTrust
from flprov.errors import IdentityRefused
from flprov.jobs import JobSpec
from flprov.kits import SignedTrust, activate_rotation, finish_rotation, prepare_rotation, provision
from flprov.kits.authorities import open_authorities
from flprov.wire import pb

LATER = NOW + timedelta(days=1)
SPEC = JobSpec(name="toy", tasks={"train": "train:train"})
PROJECT = project()


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "ws"
    provision(PROJECT, folder, now=NOW)
    return folder


@pytest.fixture
def workspace(provisioned, tmp_path) -> Path:
    return shutil.copytree(provisioned, tmp_path / "ws")


@pytest.fixture
def config(workspace, tmp_path):
    return make_config(Parties(workspace / "kits").kit("site-1"), tmp_path / "site")


@pytest.fixture
def trust(config) -> SiteTrust:
    found = SiteTrust(config.kit, config.state)
    found.load(NOW)
    return found


def current(workspace: Path) -> SignedTrust:
    return open_authorities(workspace / "ca", passphrase=None).signed_trust


def bundle(signed: SignedTrust) -> pb.TrustBundle:
    return pb.TrustBundle(document=signed.document, signature=signed.signature, signer=signed.signer)


def bring(trust: SiteTrust, workspace: Path) -> int | None:
    """The version that the site says it holds now; None when it says nothing."""
    answer = trust.take(bundle(current(workspace)), LATER)
    return answer.trust.version if answer else None


def test_without_a_bundle_the_kit_counts(trust, config):
    assert trust.version == 0
    assert (trust.servers, trust.people) == (config.kit.anchors["servers"], config.kit.anchors["people"])
    assert trust.sites.pem in config.kit.chain_pem
    assert trust.revoked_people == frozenset()


def test_a_bundle_is_kept_answered_and_found_again_after_a_restart(trust, config, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER, root=True)
    assert bring(trust, workspace) == 2
    assert len(trust.servers.members) == len(trust.people.members) == len(trust.sites.members) == 2
    assert bring(trust, workspace) == 2  # said again: the server may have forgotten
    again = SiteTrust(config.kit, config.state)
    again.load(LATER)
    assert (again.version, again.servers) == (2, trust.servers)


def test_a_site_follows_a_new_root_to_the_end_and_starts_again_from_its_old_kit(trust, config, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER, root=True)
    assert bring(trust, workspace) == 2
    activate_rotation(PROJECT, workspace, now=LATER)
    finish_rotation(PROJECT, workspace, now=LATER)
    assert bring(trust, workspace) == 4
    again = SiteTrust(config.kit, config.state)
    again.load(LATER)
    assert again.version == 4
    assert not set(again.servers.members) & set(config.kit.anchors["servers"].members)


def test_what_goes_back_is_forged_or_of_another_project_is_refused_and_the_old_one_stays(
    trust, workspace, strangers, tmp_path
):
    first = current(workspace)
    prepare_rotation(PROJECT, workspace, now=LATER)
    assert bring(trust, workspace) == 2
    other = strangers.kit("server").trust.signed
    second = current(workspace)
    for signed in (
        first,
        other,
        replace(second, document=second.document.replace(b'"version":2', b'"version":3')),
        replace(second, document=second.document + b" ", signer=b""),
        SignedTrust(document=b"", signature=b"", signer=b""),
        SignedTrust(document=b"\xff" * (8 << 20), signature=b"", signer=b""),
    ):
        assert trust.take(bundle(signed), LATER) is None
    assert trust.version == 2


def test_a_damaged_file_is_set_aside_and_the_kit_counts(trust, config, workspace, caplog):
    prepare_rotation(PROJECT, workspace, now=LATER)
    bring(trust, workspace)
    (config.state / "trust.json").write_text("{}")
    again = SiteTrust(config.kit, config.state)
    again.load(LATER)
    assert (again.version, again.servers) == (0, config.kit.anchors["servers"])
    assert (config.state / "trust.json.refused").exists()
    assert "is not used" in caplog.text


def test_a_disk_that_is_full_leaves_the_old_one(trust, config, workspace, monkeypatch):
    from flprov.kits import heldtrust

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    prepare_rotation(PROJECT, workspace, now=LATER)
    monkeypatch.setattr(heldtrust, "write_atomic", full)
    assert bring(trust, workspace) is None
    assert trust.version == 0


def test_a_kit_that_was_made_after_the_bundle_counts_and_the_revoked_stay_revoked(config, workspace, trust):
    left = replace(PROJECT, people=tuple(one for one in PROJECT.people if one.name != "leo"))
    provision(left, workspace, now=NOW + timedelta(hours=1))
    trust.take(bundle(current(workspace)), LATER)
    newer = SiteTrust(replace(config.kit, made_at=LATER), config.state)
    newer.load(LATER)
    assert newer.servers is config.kit.anchors["servers"]
    assert len(newer.revoked_people) == 1


def test_a_submission_of_somebody_who_has_left_is_refused_here_whatever_the_server_says(
    trust, config, workspace
):
    leo = Parties(workspace / "kits").kit("leo")
    deploy = sign_deploy(leo, make_submission(leo, SPEC))

    def ask():
        return admit(
            deploy,
            config=config,
            now=LATER,
            jobs_here=0,
            token_job=None,
            known=False,
            people=trust.people,
            revoked_people=trust.revoked_people,
        )

    assert ask().submission.submitted_by == leo.identity.uri
    left = replace(PROJECT, people=tuple(one for one in PROJECT.people if one.name != "leo"))
    provision(left, workspace, now=LATER)
    assert bring(trust, workspace) == 2
    with pytest.raises(IdentityRefused, match="was revoked"):
        ask()
