# SPDX-License-Identifier: Apache-2.0
"""What is refused by name: second starts, tampered kits, policies, forged and replayed submissions."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import timedelta

import pytest
from harness import PLAIN, Network, write_app

from flprov.admin import Admin
from flprov.errors import FlprovError, IdentityRefused, PermissionRefused, ServerUnavailable
from flprov.jobs import Submission, build_bundle, load_job
from flprov.pki import sign
from flprov.rpc import connect
from flprov.rpc import methods as m
from flprov.wire import pb

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def network(shared_network: Network) -> Network:
    return shared_network


def test_a_second_start_on_one_kit_is_refused_here(network: Network):
    for name in ("server", "site-1"):
        code, words = network.start_refused(name)
        assert code == 3, words
        assert "already running" in words


def test_a_copy_of_a_site_s_kit_on_another_machine_is_refused_by_name(network: Network):
    copy = network.folder / "elsewhere" / "site-1"
    shutil.copytree(network.kit("site-1"), copy)
    code, words = network.start_refused("site-1", kit=copy)
    assert code == 3, words
    assert "site site-1 is already connected from" in words
    assert network.admin().site("site-1").state == "connected"


def test_a_copy_of_the_server_s_kit_is_refused_while_the_server_answers(network: Network):
    copy = network.folder / "elsewhere" / "server"
    shutil.copytree(network.kit("server"), copy)
    (network.folder / "elsewhere" / "server.local").mkdir()
    (network.folder / "elsewhere" / "server.local" / "server.yml").write_text('listen: "127.0.0.1:0"\n')
    code, words = network.start_refused("server", kit=copy)
    assert code == 3, words
    assert "another server" in words


@pytest.mark.parametrize("where", ["changed", "readable", "added"])
def test_a_kit_that_is_not_as_it_was_made_does_not_start(make_network, where):
    network = make_network(1)
    kit = network.kit("site-1")
    if where == "changed":
        (kit / "kit.yml").write_text((kit / "kit.yml").read_text().replace("localhost", "evil.example"))
        named = "kit.yml"
    elif where == "readable":
        (kit / "identity" / "key.pem").chmod(0o644)
        named = "key.pem"
    else:
        (kit / "extra.py").write_text("x")
        named = "extra.py"
    code, words = network.start_refused("site-1")
    assert code == 3, words
    assert named in words


def test_a_site_without_policy_takes_no_job_and_says_so_beforehand(make_network, tmp_path):
    network = make_network(2)
    (network.local("site-2") / "policy.yml").write_text("allow: {organisations: [org-b]}\n")
    network.up()
    admin = network.admin("leo")
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN, job="sites: {min: 1}"))
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "degraded"
    assert [site.state for site in done.sites] == ["stopped", "refused"]
    assert "org-b" in done.sites[1].reason
    both = admin.submit(tmp_path / "plain", min_sites=2)
    failed = admin.wait(both.job_id, timeout=60)
    assert failed.state == "failed"
    assert "site-2" in admin.why(both.job_id).answer


def submit_raw(admin: Admin, submission: bytes, signature: bytes, chain: bytes) -> object:
    request = pb.SubmitRequest(submission=submission, signature=signature, chain=chain)
    return admin._link.unary(m.SUBMIT_JOB, request)


def test_forged_submissions_are_refused(network: Network, tmp_path):
    leo, lea = network.admin("leo"), network.admin("lea")
    before = leo.jobs()
    app = write_app(tmp_path / "plain", train=PLAIN)
    leo.upload(app)
    now = leo._clock.now()
    true = Submission(
        project_id=leo.kit.project_id,
        app=build_bundle(app).digest,
        spec=load_job(app),
        sites=("site-1", "site-2"),
        token="t",
        submitted_by=leo.kit.identity.uri,
        made_at=now,
        not_after=now + timedelta(hours=1),
    )
    data = true.encode()
    good = sign(leo.kit.private_pem, data)
    with pytest.raises(IdentityRefused):
        submit_raw(leo, data.replace(b'"t"', b'"u"'), good, leo.kit.chain_pem)
    with pytest.raises(FlprovError):  # another person's wish, signed by the caller
        submit_raw(lea, data, sign(lea.kit.private_pem, data), lea.kit.chain_pem)
    with pytest.raises(PermissionRefused):  # another person's signed wish, sent by the caller
        submit_raw(lea, data, good, leo.kit.chain_pem)
    other = dataclasses.replace(true, project_id="0" * 8 + "-0000-0000-0000-" + "0" * 12).encode()
    with pytest.raises(FlprovError):
        submit_raw(leo, other, sign(leo.kit.private_pem, other), leo.kit.chain_pem)
    assert leo.jobs() == before
    assert submit_raw(leo, data, good, leo.kit.chain_pem)


def test_a_site_cannot_reach_blobs_or_logs_of_jobs_that_are_not_its_own(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN), sites=["site-1"])
    admin.wait(job.job_id, timeout=60)
    from flprov.kits import load_kit

    kit = load_kit(network.kit("site-2"), now=admin._clock.now())
    stranger = Admin(
        kit,
        connect(
            kit.endpoints,
            chain_pem=kit.chain_pem,
            private_pem=kit.private_pem,
            server_anchors=kit.anchors["servers"],
        ),
    )
    with stranger:
        with pytest.raises(PermissionRefused):
            list(stranger._link.download(m.FETCH_BLOB, pb.BlobRequest(digest=job.app, job_id=job.job_id)))
        with pytest.raises(PermissionRefused):
            stranger.status()


def test_sigterm_stops_cleanly_and_quickly(make_network):
    network = make_network(2).up()
    for name in ("site-1", "site-2", "server"):
        assert network.running.pop(name).stop(10) == 0


def test_an_unreachable_server_is_named_with_the_cause(make_network):
    network = make_network(1)
    with pytest.raises(ServerUnavailable, match=f"{network.port}"):
        network.admin().status()
