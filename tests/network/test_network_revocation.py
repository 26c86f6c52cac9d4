# SPDX-License-Identifier: Apache-2.0
"""Locked, revoked, removed: on a real network, with open streams, a running job and servers that die."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from harness import GATED, Network, write_app

from flprov.admin import Admin
from flprov.cli.own import ask_own
from flprov.errors import IdentityRefused, NotFound, Refused, Unavailable
from flprov.pki import Kind
from flprov.wire.documents import SiteDocument, SiteStatusDocument

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds; only a failing test waits so long


T = TypeVar("T")


def wait_for(what: Callable[[], T], holds: Callable[[T], bool]) -> T:
    """The first answer of `what()` for which this holds."""
    end = time.monotonic() + PATIENCE
    while not holds(found := what()):
        assert time.monotonic() < end, found
        threading.Event().wait(0.05)  # other processes: nobody tells this one
    return found


def site_state(admin: Admin, name: str, state: str) -> SiteDocument:
    return wait_for(lambda: admin.site(name), lambda site: site.state == state)


def own_link(network: Network, name: str, state: str) -> SiteStatusDocument:
    """What the site says of itself on its own machine, once it is in this state."""

    def ask() -> SiteStatusDocument | None:
        try:
            return ask_own(network.kit(name), Kind.SITE, SiteStatusDocument)
        except Unavailable:
            return None

    found = wait_for(ask, lambda status: status is not None and status.link.state == state)
    assert found is not None
    return found


def ended_by_itself(network: Network, name: str) -> str:
    """An agent whose identity is refused ends with exit code 3, whenever that comes; its last line."""
    ended = network.running.pop(name)
    assert ended.process.wait(PATIENCE) == 3
    return ended.log.read_text().splitlines()[-1]


def test_locked_site_waits_and_comes_back_by_itself_also_when_it_starts_while_locked(network):
    admin = network.admin()
    admin.lock_site("site-2", reason="updates look wrong")
    shown = site_state(admin, "site-2", "locked")
    assert "by ada: updates look wrong" in shown.ladder[0].reason
    own = own_link(network, "site-2", "refused")
    assert "updates look wrong" in own.link.reason
    network.running.pop("site-2").stop()
    again = network.start("site-2", ready=False)
    assert "updates look wrong" in own_link(network, "site-2", "refused").link.reason
    network.kill("server")
    network.start("server")  # the lock holds over the server's death
    admin = network.admin()
    assert admin.site("site-2").state == "locked"
    admin.unlock_site("site-2")
    again.wait_ready()
    site_state(admin, "site-2", "connected")


def test_job_goes_on_without_the_site_that_is_removed_and_its_history_stays(network, tmp_path):
    admin = network.admin()
    app = write_app(tmp_path / "gated", train=GATED, job="sites: {min: 1, absence: 1s}")
    job = admin.submit(app).job_id
    next(seen for seen in admin.watch(job, timeout=PATIENCE) if seen.rounds_done == 1)
    told = b""  # a log comes when it comes; what the site has not sent when it is removed stays there
    for part in admin.logs(job, site="site-2", follow=True):
        told += part.data
        if b"round 0 at site-2" in told:
            break
    admin.remove_site("site-2", reason="the study is over there")
    network.open_gate("site-1")
    done = admin.wait(job, timeout=PATIENCE)
    assert done.state == "degraded"
    assert [part.site for part in done.rounds[0].contributors] == ["site-1", "site-2"]
    assert [part.site for part in done.rounds[-1].contributors] == ["site-1"]
    with pytest.raises(NotFound, match="the study is over there"):
        admin.site("site-2")
    assert b"round 0 at site-2" in b"".join(part.data for part in admin.logs(job, site="site-2"))
    assert ended_by_itself(network, "site-2").endswith("then: flprov invite create site-2")
    code, said = network.start_refused("site-2")
    assert code == 3
    assert "the study is over there" in said
    assert "flprov site add site-2" in said


def test_revoked_kit_is_refused_by_name_with_the_way_back(network):
    network.admin().revoke_certificate("site-1", reason="key-compromise", comment="laptop stolen")
    assert "flprov invite create site-1" in ended_by_itself(network, "site-1")
    code, said = network.start_refused("site-1")
    assert code == 3
    assert "somebody else may have its key (laptop stolen)" in said
    assert "flprov invite create site-1" in said
    assert network.admin().site("site-2").state == "connected"


def test_person_who_is_removed_is_cut_off_in_the_middle_of_a_watch(network, tmp_path):
    admin, leo = network.admin(), network.admin("leo")
    app = write_app(tmp_path / "gated", train=GATED)
    job = leo.submit(app).job_id
    watching, ended = threading.Event(), []

    def watch() -> None:
        try:
            leo.wait(job, timeout=PATIENCE, on_change=lambda _: watching.set())
        except IdentityRefused as error:
            ended.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    assert watching.wait(PATIENCE)
    done = admin.remove_person("leo", reason="has left")
    thread.join(5)
    assert "its holder has left (has left)" in str(ended[0])
    assert done.ended == 1
    with pytest.raises(IdentityRefused, match="has left"):
        network.admin("leo").status()
    with pytest.raises(Refused, match="last project_admin"):
        admin.remove_person("ada")
    network.kill("server")
    network.start("server")
    with pytest.raises(IdentityRefused, match="has left"):
        network.admin("leo").status()
    assert {one.name: one.state for one in network.admin().people()}["leo"] == "revoked"


def test_site_that_is_added_belongs_without_a_restart(network):
    admin = network.admin()
    admin.add_site("site-9", org="org-b")
    assert admin.site("site-9").state == "never_connected"
    network.kill("server")
    network.start("server")
    assert network.admin().site("site-9").org == "org-b"


def test_a_dozen_revocations_are_in_force_within_the_target(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "identity"))
    sys.modules.pop("revocation", None)
    import revocation

    found = revocation.run(tmp_path, small=True)
    assert found["met"], found
