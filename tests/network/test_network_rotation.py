# SPDX-License-Identifier: Apache-2.0
"""The CAs are replaced while a job runs: real processes, real mTLS, every phase, and the way back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness import GATED, Network, write_app

from flprov.admin import Admin, Rotated, Step, open_admin, rotate
from flprov.errors import Conflict, FlprovError, IdentityRefused
from flprov.kits import Phase, plan, read_publication
from flprov.project import load_project
from flprov.wire.documents import TrustStatusDocument

pytestmark = pytest.mark.network

PATIENCE = 20.0
SITES = ("site-1", "site-2")


class Operator:
    """Whoever provisions and rotates, with ada's kit."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.workspace = network.folder / "ws"

    @property
    def project(self):
        return load_project(self.network.folder / "project.yml")

    def rotate(self, step: Step, **options: bool) -> Rotated:
        with open_admin(self.network.kit("ada")) as admin:
            return rotate(admin, step, self.project, self.workspace, now=datetime.now(UTC), **options)

    def publish(self) -> TrustStatusDocument:
        with open_admin(self.network.kit("ada")) as admin:
            return admin.publish_trust(read_publication(self.project, self.workspace))

    def trust(self) -> TrustStatusDocument:
        with open_admin(self.network.kit("ada")) as admin:
            return admin.trust()

    def until(self, holds: Callable[[TrustStatusDocument], bool]) -> TrustStatusDocument:
        """Ask until this holds: renewals are moments away, and nothing tells a person of them."""
        deadline = time.monotonic() + PATIENCE
        while not holds(found := self.trust()):
            assert time.monotonic() < deadline, found
        return found

    def active(self) -> dict[str, str]:
        return {ca.unit: ca.key_id for ca in self.trust().authorities if ca.state == "active"}


def all_hold(found: TrustStatusDocument) -> bool:
    return all(one.version == found.version for one in found.holders if one.kind == "site")


def all_moved(found: TrustStatusDocument) -> bool:
    """Whether server and sites use certificates of the CAs that issue now."""
    wanted = {ca.key_id for ca in found.authorities if ca.state == "active"}
    return all(one.ca in wanted for one in found.holders if one.kind != "person")


def start_job(network: Network, tmp_path: Path, admin: Admin) -> str:
    """A job of four rounds that is in its second one and stays there until the gates open."""
    app = write_app(tmp_path / "gated", train=GATED)
    job_id = admin.submit(app, settings={"rounds": "4"}).job_id
    for found in admin.watch(job_id, timeout=60):
        if found.rounds_done >= 1:
            break
    return job_id


def finish_job(network: Network, admin: Admin, job_id: str) -> None:
    for name in SITES:
        network.open_gate(name)
    done = admin.wait(job_id, timeout=60)
    assert (done.state, done.rounds_done) == ("completed", 4)
    assert [len(each.contributors) for each in done.rounds] == [2, 2, 2, 2]
    assert not any(each.absent or each.refused for each in done.rounds)


def verify_nobody_was_cut_off(network: Network) -> None:
    for name in SITES:
        assert network.running[name].process.poll() is None
        assert "link to the server: connecting" not in network.running[name].log.read_text()


def test_cas_and_root_are_replaced_under_a_running_job(network: Network, tmp_path: Path):
    operator, lead = Operator(network), network.admin("leo")
    for name in ("site-1", "leo"):
        shutil.copytree(network.kit(name), tmp_path / "old" / name)
    job_id = start_job(network, tmp_path, lead)
    lead.close()
    before = operator.active()

    with pytest.raises(Conflict, match="no rotation is prepared"):
        operator.rotate(Step.ACTIVATE)
    assert operator.rotate(Step.PREPARE, root=True).report.phase is Phase.PREPARED
    assert operator.active() == before
    operator.until(all_hold)
    with open_admin(tmp_path / "old" / "leo") as old:
        assert old.status().server.project == "net"  # and learns of the new CAs at the end

    assert operator.rotate(Step.ACTIVATE).report.phase is Phase.ACTIVATED
    operator.until(all_moved)
    with open_admin(tmp_path / "old" / "leo") as old:
        assert old.job(job_id).state == "running"  # at a server that shows a certificate of the new CA
    assert not set(operator.active().values()) & set(before.values())
    with pytest.raises(Conflict, match=r"kits of .*flprov provision"):
        operator.rotate(Step.FINISH)
    network.provision()
    with pytest.raises(Conflict, match="person leo: uses a certificate of an old people CA"):
        operator.rotate(Step.FINISH)
    with open_admin(network.kit("leo")) as renewed:
        assert renewed.job(job_id).state == "running"

    finished = operator.rotate(Step.FINISH)
    assert (finished.live.phase, len(finished.live.authorities)) == ("steady", 4)
    finish_job(network, network.admin("leo"), job_id)
    assert all_moved(operator.trust())
    verify_nobody_was_cut_off(network)

    with pytest.raises(IdentityRefused) as refused, open_admin(tmp_path / "old" / "leo") as old:
        old.status()
    assert "new CA" in f"{refused.value} {refused.value.hint}"
    code, said = network.start_refused("site-1", kit=tmp_path / "old" / "site-1")
    assert (code, "new CA" in said) == (3, True), said
    with pytest.raises(Conflict, match="no way back"):
        operator.rotate(Step.ROLLBACK)


def test_a_network_that_was_rotated_starts_again_with_what_it_holds(network: Network, tmp_path: Path):
    operator = Operator(network)
    operator.rotate(Step.PREPARE, root=True)
    operator.until(all_hold)
    operator.rotate(Step.ACTIVATE)
    operator.until(all_moved)
    network.kill("server")
    network.kill("site-1")
    network.start("server")
    network.start("site-1")
    found = operator.until(lambda found: all_moved(found) and all(one.connected for one in found.holders[:3]))
    assert (found.phase, found.version) == ("activated", 3)


def test_a_rotation_is_rolled_back_under_a_running_job(network: Network, tmp_path: Path):
    operator, lead = Operator(network), network.admin("leo")
    job_id = start_job(network, tmp_path, lead)
    before = operator.active()
    operator.rotate(Step.PREPARE)
    operator.until(all_hold)
    operator.rotate(Step.ACTIVATE)
    operator.until(all_moved)
    assert operator.active() != before

    assert operator.rotate(Step.ROLLBACK).report.phase is Phase.PREPARED
    operator.until(all_moved)
    assert operator.active() == before
    rolled = operator.rotate(Step.ROLLBACK)
    assert (rolled.report.phase, rolled.report.ended) == (Phase.STEADY, "rolled back")
    assert {ca.key_id for ca in rolled.live.authorities} == set(before.values())
    finish_job(network, lead, job_id)
    verify_nobody_was_cut_off(network)
    found = plan(operator.project, operator.workspace, now=datetime.now(UTC))
    assert {kit.party.name for kit in found.changed} == {"server"}


def test_a_site_that_is_away_holds_activation_up_by_name(network: Network):
    operator = Operator(network)
    network.running.pop("site-2").stop()
    operator.rotate(Step.PREPARE)
    with pytest.raises(Conflict, match=r"site site-2: holds .* is not connected") as error:
        operator.rotate(Step.ACTIVATE)
    assert "site-1" not in str(error.value)
    assert "--force" in (error.value.hint or "")
    with open_admin(network.kit("ada")) as admin:
        admin.lock_site("site-2", reason="away for the summer")
    assert operator.rotate(Step.ACTIVATE).report.phase is Phase.ACTIVATED


def test_a_step_that_the_network_did_not_hear_of_is_published_by_the_same_command(network: Network):
    operator = Operator(network)
    network.kill("server")
    with pytest.raises(FlprovError, match="has taken the step") as error:
        operator.rotate(Step.PREPARE)
    assert error.value.exit_code == 4
    network.start("server")
    again = operator.rotate(Step.PREPARE)
    assert (again.report.changed, again.live.phase, again.live.version) == (False, "prepared", 2)


def test_a_job_of_somebody_who_has_left_is_refused_by_the_sites_themselves(network: Network, tmp_path: Path):
    operator = Operator(network)
    network.running.pop("site-2").stop()
    with open_admin(network.kit("leo")) as leo:
        job = leo.submit(write_app(tmp_path / "late", train=GATED))
        assert leo.job(job.job_id).state == "queued"
        listing = network.folder / "project.yml"
        kept = [line for line in listing.read_text().splitlines() if "leo" not in line]
        listing.write_text("\n".join(kept) + "\n")
        network.provision()
        operator.publish()
        with pytest.raises(IdentityRefused, match="person leo was revoked"):
            leo.status()
    network.start("site-2")
    admin = network.admin("ada")
    done = admin.wait(job.job_id, timeout=30)
    assert done.state == "failed"
    assert "was revoked" in done.reason
    assert any(site.state == "refused" and "was revoked" in site.reason for site in done.sites), done.sites


def test_a_bundle_that_goes_back_or_is_forged_changes_nothing(network: Network):
    operator = Operator(network)
    first = read_publication(operator.project, operator.workspace)
    operator.rotate(Step.PREPARE)
    with open_admin(network.kit("ada")) as admin:
        with pytest.raises(IdentityRefused, match="older than the one that is held here"):
            admin.publish_trust(first)
        assert admin.trust().version == 2
    with open_admin(network.kit("olga")) as org_admin, pytest.raises(FlprovError, match="may not"):
        org_admin.publish_trust(first)
