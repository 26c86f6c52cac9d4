# SPDX-License-Identifier: Apache-2.0
"""The typed client: what it asks, what it signs, how it watches and waits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from admin_server import NOW, WAITS, Network, Server, make_job, make_site

from flprov._base import from_iso
from flprov.admin import Admin, LogText, open_admin
from flprov.errors import (
    ConfigError,
    IdentityRefused,
    KitRefused,
    Misuse,
    NotFound,
    PermissionRefused,
    ProtocolError,
    ServerUnavailable,
    TimedOut,
)
from flprov.jobs import build_bundle, decode_submission
from flprov.kits import load_kit
from flprov.pki import Kind, verify_signed
from flprov.rpc import methods as m
from flprov.testing.clock import FakeClock
from flprov.wire import documents as doc
from flprov.wire import pb


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "heart"
    folder.mkdir()
    (folder / "job.yml").write_text("name: heart\ntasks: train.py\nargs: {lr: 0.1}\n")
    (folder / "train.py").write_text("x = 1\n")
    return folder


@pytest.fixture
def project(server: Server, app):
    """A server that has the app already, and two sites."""
    bundle = build_bundle(app)
    server.replies[m.SHOW_APP] = doc.AppDocument(
        digest=bundle.digest, name="heart", size=3, uploaded_at=NOW, uploaded_by="x"
    )
    server.replies[m.LIST_SITES] = doc.SiteListDocument(sites=(make_site("site-1"), make_site("site-2")))
    server.replies[m.DOWNLOAD_APP] = [bundle.data]
    server.replies[m.SUBMIT_JOB] = doc.SubmitDocument(job_id="j1", app=bundle.digest, state="queued")
    return bundle


def submitted(server: Server) -> tuple[pb.SubmitRequest, object]:
    request = server.requests(m.SUBMIT_JOB)[-1]
    return request, decode_submission(request.submission)


# ---- submit ------------------------------------------------------------------------------------


def test_a_submission_says_everything_and_is_signed_by_the_person(
    admin: Admin, server: Server, app, project, kits
):
    assert admin.submit(app).job_id == "j1"
    request, submission = submitted(server)
    assert submission.app == project.digest
    assert submission.spec == project.spec
    assert submission.sites == ("site-1", "site-2")
    assert submission.project_id == admin.kit.project_id
    assert submission.submitted_by == admin.kit.identity.uri
    assert (submission.made_at, submission.not_after) == (NOW, NOW + timedelta(days=7))
    people = load_kit(kits / "site-1", now=NOW).anchors["people"]  # a site checks it so
    signer = verify_signed(
        request.submission, request.signature, request.chain, people, now=NOW, kinds=(Kind.PERSON,)
    )
    assert signer == admin.kit.identity


def test_settings_sites_and_quorum_are_signed_as_they_will_run(admin: Admin, server: Server, app, project):
    admin.submit(
        app, settings={"rounds": "7", "args.lr": "0.5"}, sites=["site-2"], min_sites=1, token="nightly"
    )
    _, submission = submitted(server)
    assert submission.spec.workflow.rounds == 7
    assert submission.spec.args == {"lr": 0.5}
    assert submission.spec.sites.min == 1
    assert (submission.sites, submission.token) == (("site-2",), "nightly")


def test_without_a_token_each_submission_is_another_job(admin: Admin, server: Server, app, project):
    tokens = set()
    for _ in range(3):
        admin.submit(app)
        tokens.add(submitted(server)[1].token)
    assert len(tokens) == 3


@pytest.mark.parametrize("name", ["heart", "DIGEST", "PREFIX"])
def test_an_uploaded_app_is_named_by_its_name_or_digest(admin: Admin, server: Server, project, name):
    names = {"DIGEST": project.digest, "PREFIX": project.digest[:8]}
    admin.submit(names.get(name, name))
    assert submitted(server)[1].app == project.digest


def test_an_app_that_was_not_asked_for_is_not_signed(admin: Admin, server: Server, project):
    with pytest.raises(ProtocolError, match="'lung'"):
        admin.submit("lung")
    assert server.requests(m.SUBMIT_JOB) == []


def test_an_app_without_a_name_is_not_the_current_folder(admin: Admin, server: Server, app, monkeypatch):
    monkeypatch.chdir(app)
    with pytest.raises(Misuse, match="has no name"):
        admin.submit("")
    assert server.asked == []


@pytest.mark.parametrize("name", ["gone/", "./heart", "a/b"])
def test_a_folder_that_is_not_there_is_not_looked_for_at_the_server(admin: Admin, server: Server, name):
    with pytest.raises(NotFound, match="no folder"):
        admin.submit(name)
    assert server.asked == []


@pytest.mark.parametrize(
    ("settings", "said"), [({"round": "7"}, "round"), ({"rounds": "many"}, "many"), ({"args": "3"}, "args")]
)
def test_a_setting_that_is_none_is_a_mistake_and_nothing_is_submitted(
    admin: Admin, server: Server, app, project, settings, said
):
    with pytest.raises((ConfigError, Misuse), match=said):
        admin.submit(app, settings=settings)
    assert server.requests(m.SUBMIT_JOB) == []


@pytest.mark.parametrize(
    "wanted", [{"min_sites": 3}, {"sites": ["site-1", "site-1"]}, {"sites": ["No Site"]}]
)
def test_a_job_that_breaks_a_rule_is_not_submitted(admin: Admin, server: Server, app, project, wanted):
    with pytest.raises(ConfigError):
        admin.submit(app, **wanted)
    assert server.requests(m.SUBMIT_JOB) == []


def test_a_project_without_sites_is_told_what_to_do(admin: Admin, server: Server, app, project):
    server.replies[m.LIST_SITES] = doc.SiteListDocument(sites=())
    with pytest.raises(Misuse, match="no site yet") as refused:
        admin.submit(app)
    assert "project.yml" in (refused.value.hint or "")


# ---- watch and wait ----------------------------------------------------------------------------


def test_a_watch_collects_the_rounds_that_come_one_by_one(admin: Admin, server: Server):
    server.replies[m.WATCH_JOB] = [
        make_job("running", rounds=(0, 1)),
        make_job("running", rounds=()),
        make_job("running", rounds=(2,)),
        make_job("completed", rounds=()),
    ]
    seen = [(job.state, [record.round for record in job.rounds]) for job in admin.watch("j1")]
    assert seen == [
        ("running", [0, 1]),
        ("running", [0, 1]),
        ("running", [0, 1, 2]),
        ("completed", [0, 1, 2]),
    ]


@pytest.mark.parametrize("state", ["completed", "degraded", "failed", "aborted"])
def test_waiting_gives_the_job_however_it_ended(admin: Admin, server: Server, state):
    server.replies[m.WATCH_JOB] = [make_job("running", rounds=(0,)), make_job(state, rounds=(1,))]
    seen = []
    done = admin.wait("j1", on_change=seen.append)
    assert (done.state, len(done.rounds)) == (state, 2)
    assert [job.state for job in seen] == ["running", state]


def test_after_a_break_it_is_still_the_job_that_was_the_last_one_then(
    admin: Admin, server: Server, monkeypatch
):
    monkeypatch.setattr(admin, "_rest", lambda _seconds: None)
    watches = [[make_job("running"), ServerUnavailable("gone")], [make_job("completed")]]
    server.replies[m.WATCH_JOB] = lambda _request: watches.pop(0)
    first = make_job("running").id
    assert admin.wait("last", on_retry=lambda *_: None).state == "completed"
    assert [request.id for request in server.requests(m.WATCH_JOB)] == ["last", first]


def test_waiting_ends_after_the_time_that_was_given(admin: Admin, server: Server):
    server.replies[m.WATCH_JOB] = [make_job("running"), WAITS]
    with pytest.raises(TimedOut):
        admin.wait("j1", timeout=0.05)
    assert server.ended.wait(5)


@pytest.mark.parametrize("replies", [[], [make_job("running")]])
def test_a_server_that_ends_the_watch_early_is_no_end_of_the_job(admin: Admin, server: Server, replies):
    server.replies[m.WATCH_JOB] = replies
    with pytest.raises(ServerUnavailable, match="ended the watch of job j1") as refused:
        admin.wait("j1")
    assert refused.value.hint == "flprov job wait j1"


def test_a_server_that_stops_in_the_middle_is_named(admin: Admin, server: Server, network: Network):
    server.replies[m.WATCH_JOB] = [make_job("running"), WAITS]
    with pytest.raises(ServerUnavailable):
        admin.wait("j1", on_change=lambda _: network.stop())


def test_an_error_of_whoever_watches_ends_the_watch(admin: Admin, server: Server):
    server.replies[m.WATCH_JOB] = [make_job("running"), WAITS]

    def fails(_: doc.JobDocument) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        admin.wait("j1", on_change=fails)
    assert server.ended.wait(5)


# ---- the rest ----------------------------------------------------------------------------------


def test_lists_and_shows_are_documents(admin: Admin, server: Server, project):
    server.replies[m.SHOW_SITE] = make_site("site-1")
    server.replies[m.LIST_APPS] = doc.AppListDocument(apps=(admin.app("heart"),))
    server.replies[m.LIST_JOBS] = doc.JobListDocument(jobs=(make_job(),))
    server.replies[m.SHOW_JOB] = make_job()
    server.replies[m.WHY_JOB] = doc.WhyDocument(job_id="j1", state="failed", answer="it failed")
    assert [site.name for site in admin.sites()] == ["site-1", "site-2"]
    assert admin.site("site-1").name == "site-1"
    assert admin.apps()[0].name == "heart"
    assert admin.jobs("heart") == (make_job(),)
    assert admin.job("last").id == "j1"
    assert admin.why("last").answer == "it failed"
    assert server.requests(m.LIST_JOBS) == [pb.Query(id="heart")]
    assert server.requests(m.SHOW_JOB) == server.requests(m.WHY_JOB) == [pb.Query(id="last")]


def test_logs_are_asked_for_as_wanted_and_named_by_party(admin: Admin, server: Server):
    server.replies[m.JOB_LOGS] = [
        pb.LogMessage(site="site-1", offset=5, data=b"a"),
        pb.LogMessage(site="server", data=b"b"),
    ]
    found = list(admin.logs("j1", site="site-1", offset=5, follow=True))
    assert found == [
        LogText(party="site-1", offset=5, data=b"a"),
        LogText(party="server", offset=0, data=b"b"),
    ]
    assert server.requests(m.JOB_LOGS) == [pb.LogsRequest(job_id="j1", site="site-1", offset=5, follow=True)]


def test_an_abort_is_meant_once_and_for_now(admin: Admin, server: Server):
    server.replies[m.ABORT_JOB] = make_job("aborting")
    assert admin.abort("j1", reason="wrong data").state == "aborting"
    admin.abort("j1")
    first, second = server.requests(m.ABORT_JOB)
    assert (first.job_id, first.reason) == ("j1", "wrong data")
    assert first.key != second.key
    assert from_iso(first.not_after) == NOW + timedelta(minutes=2)


def test_a_refusal_is_the_server_s_own_word(admin: Admin, server: Server):
    server.replies[m.STATUS] = IdentityRefused("leo was revoked", hint="ask ada")
    with pytest.raises(IdentityRefused, match="leo was revoked") as refused:
        admin.status()
    assert refused.value.hint == "ask ada"


# ---- opening -----------------------------------------------------------------------------------


def test_it_is_opened_with_a_person_s_kit_and_calls_nobody(kits):
    with open_admin(kits / "leo", clock=FakeClock(start=NOW)) as admin:
        assert admin.kit.identity.name == "leo"


@pytest.mark.parametrize("name", ["site-1", "server"])
def test_another_kit_is_refused(kits, name):
    with pytest.raises(KitRefused, match="kit of a person is needed"):
        open_admin(kits / name, clock=FakeClock(start=NOW))


@pytest.mark.parametrize("name", ["site-1", ""])  # as of a variable that was never set
def test_an_order_about_a_site_is_never_one_about_the_server(admin: Admin, name):
    with pytest.raises(PermissionRefused, match="leo is lead and may not do `flprov site drain`"):
        admin.drain_site(name)
    with pytest.raises(PermissionRefused, match="leo is lead and may not do `flprov site enable`"):
        admin.enable_site(name)
