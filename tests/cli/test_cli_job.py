# SPDX-License-Identifier: Apache-2.0
"""`flprov job`: submit, wait, list, show, logs, abort, download and why, as people and programs use them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cli_admin import APP, BEEP, FakeAdmin, before, make_app, make_job, make_round
from cli_process import run_process

from flprov.admin import LogText
from flprov.cli.jobshow import STATES
from flprov.errors import ConfigError, Conflict, NotFound, PermissionRefused, ServerUnavailable, TimedOut
from flprov.jobs import JobState
from flprov.wire import documents as doc

DRIVES = {"\x1b", "\x07", "\u202e"}


# ---- submit ------------------------------------------------------------------------------------


def test_a_submission_names_the_job_and_what_to_type_next(run, admin: FakeAdmin):
    ran = run("job", "submit", "heart")
    assert (ran.code, ran.out, ran.err) == (0, "job j1\n", "watch it: flprov job wait j1\n")
    wanted = {"app": "heart", "settings": {}, "sites": [], "min_sites": None, "token": ""}
    assert admin.calls == [("submit", wanted)]


def test_all_that_was_asked_for_is_submitted(run, admin: FakeAdmin):
    words = ["--set", "rounds=20", "--set", "args.text=a=b", "--sites", "site-2, site-1,", "--min-sites", "2"]
    run("job", "submit", "heart", *words, "--token", "nightly")
    [(_, wanted)] = admin.calls
    assert wanted["settings"] == {"rounds": "20", "args.text": "a=b"}
    assert wanted["sites"] == ["site-2", "site-1"]
    assert (wanted["min_sites"], wanted["token"]) == (2, "nightly")


@pytest.mark.parametrize("setting", ["rounds", "=5", "", "rounds 5"])
def test_a_setting_that_is_none_is_a_mistake_before_anything_is_sent(run, admin: FakeAdmin, setting):
    ran = run("job", "submit", "heart", "--set", setting, "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "--set takes key=value" in ran.err
    assert "for example: --set rounds=5" in ran.err
    assert admin.calls == []


def test_a_setting_that_job_yml_does_not_have_is_a_mistake(run, admin: FakeAdmin):
    admin.fails["submit"] = ConfigError("--set round=5: unknown key 'round' (did you mean 'rounds'?)")
    ran = run("job", "submit", "heart", "--set", "round=5")
    assert ran.code == 2
    assert "did you mean 'rounds'" in ran.err


def test_a_repeated_token_is_told(run, admin: FakeAdmin):
    admin.submitted = dataclasses.replace(admin.submitted, repeated=True)
    assert run("job", "submit", "heart", "--token", "t").out == "job j1 (as before, by its token)\n"


def test_a_submission_as_json_is_one_document(run, admin: FakeAdmin):
    ran = run("job", "submit", "heart", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.document(doc.SubmitDocument) == admin.submitted


def test_submitting_and_waiting_is_one_command(run, admin: FakeAdmin):
    admin.changes = [make_job("running", rounds=()), make_job("running"), make_job("completed")]
    ran = run("job", "submit", "heart", "--wait")
    assert (ran.code, ran.out) == (0, "job j1\n")
    assert ran.err.splitlines() == [
        "heart j1 running",
        "  round 1 of 2   accuracy 0.9123  loss 0.5   2 sites, 40 samples, 0.50 s",
        "  round 2 of 2   accuracy 0.9123  loss 0.5   2 sites, 40 samples, 0.50 s",
        "heart j1 completed",
        "results: flprov job download j1",
    ]


def test_submitting_and_waiting_as_json_is_the_ended_job_alone(run, admin: FakeAdmin):
    admin.changes = [make_job("running"), make_job("degraded")]
    ran = run("job", "submit", "heart", "--wait", "--json")
    assert ran.code == 7
    assert ran.document(doc.JobDocument) == make_job("degraded")


# ---- wait --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "code"), [("completed", 0), ("degraded", 7), ("failed", 1), ("aborted", 1)]
)
def test_how_a_job_ended_is_the_exit_code(run, admin: FakeAdmin, state, code):
    admin.changes = [make_job(state)]
    assert run("job", "wait", "j1").code == code
    ran = run("job", "wait", "j1", "--json")
    assert ran.code == code
    assert ran.document(doc.JobDocument).state == state


def test_a_job_that_left_nothing_is_asked_why(run, admin: FakeAdmin):
    admin.changes = [make_job("failed", results=(), reason="site-1: train.py:3: ValueError")]
    ran = run("job", "wait", "last")
    assert "heart j1 failed: site-1: train.py:3: ValueError\n" in ran.err
    assert ran.err.endswith("why: flprov job why j1\n")


def test_a_round_names_who_is_missing_and_why(run, admin: FakeAdmin):
    absent = (doc.Missing(site="site-3", reason="not connected"),)
    refused = (doc.Missing(site="site-4", reason="NaN"),)
    admin.changes = [make_job(rounds=(make_round(0, absent=absent, refused=refused),), rounds_total=None)]
    err = run("job", "wait", "j1").err
    assert "  round 1   " in err
    assert "without site-3 (not connected), site-4 (NaN)" in err


def test_a_reason_that_stays_is_said_once(run, admin: FakeAdmin):
    waiting = make_job("queued", reason="waiting for site-2", rounds=())
    admin.changes = [waiting, waiting, make_job("running", rounds=()), make_job()]
    assert run("job", "wait", "j1").err.count("waiting for site-2") == 1


def test_waiting_longer_than_wanted_is_exit_6(run, admin: FakeAdmin):
    admin.fails["wait"] = TimedOut("nothing ended within 0.5 s")
    ran = run("job", "wait", "j1", "--timeout", "0.5", "--json")
    assert (ran.code, ran.out) == (6, "")
    assert admin.calls == [("wait", {"job_id": "j1", "timeout": 0.5})]


@pytest.mark.parametrize("words", ["nan", "-1", "soon"])
def test_how_long_to_wait_is_a_number_of_seconds(run, admin: FakeAdmin, words):
    ran = run("job", "wait", "j1", "--timeout", words)
    assert (ran.code, admin.calls) == (2, [])
    assert words in ran.err


def test_a_server_that_stops_meanwhile_is_exit_4_with_what_to_type(run, admin: FakeAdmin):
    admin.fails["wait"] = ServerUnavailable("the server ended the watch of job j1", hint="flprov job wait j1")
    ran = run("job", "wait", "j1")
    assert ran.code == 4
    assert "next:  flprov job wait j1" in ran.err


def test_ctrl_c_ends_the_waiting_and_says_that_the_job_goes_on(run, admin: FakeAdmin):
    admin.fails["wait"] = KeyboardInterrupt()
    ran = run("job", "wait", "j1")
    assert ran.code != 0
    assert "the job goes on: flprov job wait j1" in ran.err


def test_on_a_terminal_the_running_round_says_how_far_each_site_is(run, admin: FakeAdmin, monkeypatch):
    sites = (
        doc.JobSiteDocument(site="site-1", state="ready", answered=True),
        doc.JobSiteDocument(site="site-2", state="training", step=120),
        doc.JobSiteDocument(
            site="site-3", state="training", doing=f"sending {BEEP}", bytes_done=4 << 20, bytes_total=10 << 20
        ),
        doc.JobSiteDocument(site="site-4", state="absent", reason="connection lost"),
    )
    monkeypatch.setattr("flprov.cli.progress.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    admin.changes = [make_job("running", sites=sites, rounds=()), make_job("completed")]
    ran = run("job", "wait", "j1")
    [line] = [part for part in ran.err.split("\r") if "round 3:" in part]
    wanted = ("2/2 rounds", "site-1 has answered", "site-2 step 120", "4.0 MiB of 10.0 MiB", "site-4 absent")
    for words in wanted:
        assert words in line
    assert BEEP not in line
    monkeypatch.setenv("COLUMNS", "60")
    drawn = [part for part in run("job", "wait", "j1").err.split("\r") if "/2 rounds" in part]
    assert drawn
    assert all(len(part.removeprefix("\x1b[K").rstrip("\n")) < 60 for part in drawn)


# ---- ls and show -------------------------------------------------------------------------------


def test_jobs_are_listed(run, admin: FakeAdmin):
    admin.job_documents = (make_job("running", rounds_total=None, reason="round 3"), make_job())
    header, first, second = run("job", "ls").out.splitlines()
    assert header.split() == ["JOB", "NAME", "STATE", "ROUNDS", "SITES", "SUBMITTED", "BY", "REASON"]
    assert first.split() == ["j1", "heart", "running", "2/?", "1", "5", "h", "ago", "leo", "round", "3"]
    assert second.split() == ["j1", "heart", "completed", "2/2", "1", "5", "h", "ago", "leo"]


def test_a_list_may_be_of_one_app(run, admin: FakeAdmin):
    run("job", "ls", "heart")
    run("job", "ls", "-n", "3", "--state", "failed")
    run("job", "ls", "--all")
    assert admin.calls == [
        ("list_jobs", {"name": "heart", "state": "", "limit": 50}),
        ("list_jobs", {"name": "", "state": "failed", "limit": 3}),
        ("list_jobs", {"name": "", "state": "", "limit": None}),
    ]


def test_states_are_those_of_jobs():
    assert list(STATES) == [state.value for state in JobState]


def test_a_list_that_goes_on_says_so(run, admin: FakeAdmin):
    admin.more_jobs = True
    assert run("job", "ls").err == "older jobs are not shown: flprov job ls -n 2, or --all\n"


def test_a_pending_job_is_listed_with_a_reason_for_each_site(run, admin: FakeAdmin):
    lacking = [doc.JobSiteDocument(site=f"site-{n}", state="waiting", reason=f"why {n}") for n in range(7)]
    fine = doc.JobSiteDocument(site="site-8", state="waiting")
    admin.job_documents = (make_job("queued", reason="waiting", sites=(*lacking, fine)), make_job())
    lines = [line.strip() for line in run("job", "ls").out.splitlines()]
    assert lines[2:8] == [*(f"site-{n}: why {n}" for n in range(5)), "and 2 more sites: flprov job show j1"]
    assert "completed" in lines[8]


# ---- clone and delete --------------------------------------------------------------------------


def test_a_clone_is_a_submission(run, admin: FakeAdmin):
    words = [
        "--from-round",
        "3",
        "--set",
        "rounds=9",
        "--sites",
        "site-1",
        "--min-sites",
        "1",
        "--token",
        "t",
    ]
    ran = run("job", "clone", "j0", *words)
    assert (ran.code, ran.out, ran.err) == (0, "job j1\n", "watch it: flprov job wait j1\n")
    [(name, wanted)] = admin.calls
    assert (name, wanted["job_id"], wanted["from_round"], wanted["sites"]) == ("clone", "j0", 3, ["site-1"])
    assert (wanted["settings"], wanted["min_sites"], wanted["token"]) == ({"rounds": "9"}, 1, "t")
    assert run("job", "clone", "j0", "--json").document(doc.SubmitDocument) == admin.submitted


def test_a_clone_from_a_checkpoint_that_has_gone_says_which_there_are(run, admin: FakeAdmin):
    admin.fails["clone"] = Conflict("the checkpoint after 2 rounds is not kept any more", hint="job show")
    ran = run("job", "clone", "j0", "--from-round", "2")
    assert (ran.code, ran.out) == (int(Conflict("").exit_code), "")
    assert "not kept any more" in ran.err


def test_a_job_is_deleted(run, admin: FakeAdmin):
    ran = run("job", "delete", "j1", "--reason", "consent was withdrawn")
    assert (ran.code, ran.out) == (0, "job j1 deleted, with 3 rounds\n")
    assert admin.calls == [("delete_job", {"job_id": "j1", "reason": "consent was withdrawn"})]
    assert run("job", "delete", "j1", "--json").document(doc.JobDeletedDocument).rounds == 3


def test_one_job_is_shown_with_progress_proof_and_who_gave_what(run, admin: FakeAdmin):
    sites = (
        doc.JobSiteDocument(
            site="site-1",
            state="deploying",
            doing="fetching app",
            bytes_done=1 << 20,
            bytes_total=4 << 20,
            at=before(hours=2.2),
        ),
        doc.JobSiteDocument(site="site-2", state="training", step=120, at=before(hours=3.2)),
        doc.JobSiteDocument(site="site-3", state="stopped", freed=("gpu GPU-1a", "2 cpus"), late=2),
    )
    gave = (
        doc.Contribution(site="site-1", rounds=2, samples=1200),
        doc.Contribution(site="site-2", rounds=1, samples=7, missed=(1, 2), reasons=("not connected",)),
    )
    admin.job_documents = (
        make_job(
            sites=sites,
            contributions=gave,
            origin=doc.JobOrigin(job_id="j0", round=4),
            rounds=(make_round(4), make_round(5, checkpoint=True)),
        ),
    )
    lines = [" ".join(line.split()) for line in run("job", "show", "j1").out.splitlines()]
    for line in (
        "clone of j0 after 4 rounds",
        "checkpoints after 6 rounds",
        "site-1 deploying - fetching app, 1.0 MiB of 4.0 MiB, 2 h ago",
        "site-2 training - step 120, 3 h ago",
        "site-3 stopped - - freed: gpu GPU-1a, 2 cpus; 2 too late",
        "site-1 2 1,200 -",
        "site-2 1 7 2, 3 (not connected)",
    ):
        assert any(found.startswith(line) for found in lines), (line, lines)
    assert lines[-1].endswith("checkpoint")


def test_a_list_as_json_is_one_document(run, admin: FakeAdmin):
    assert run("job", "ls", "--json").document(doc.JobListDocument).jobs == admin.job_documents
    admin.job_documents = ()
    assert run("job", "ls", "--json").json() == {"jobs": [], "more": False}


def test_one_job_is_shown_with_its_sites_and_rounds(run, admin: FakeAdmin):
    admin.job_documents = (make_job("aborted", reason="wrong data", unconfirmed=("site-2",)),)
    out = run("job", "show", "j1").out
    for line in (
        "state          aborted",
        "reason         wrong data",
        f"app            {APP}",
        "took           20 s",
        "rounds         2 of 2",
        "not confirmed  site-2",
        "results        model.safetensors",
    ):
        assert line in out.splitlines()
    assert "site-1  stopped  4 h ago  -" in out
    assert "  round 2 of 2   " in out


def test_a_job_that_has_just_been_submitted_is_shown(run, admin: FakeAdmin):
    fresh = make_job(
        "queued", started_at=None, finished_at=None, rounds=(), rounds_total=None, results=(), sites=()
    )
    admin.job_documents = (fresh,)
    out = run("job", "show", "j1").out
    assert "took" not in out
    assert "2 of ?" in out


def test_a_job_as_json_is_one_document(run, admin: FakeAdmin):
    assert run("job", "show", "j1", "--json").document(doc.JobDocument) == make_job()


def test_a_job_that_is_not_there_is_exit_5(run, admin: FakeAdmin):
    admin.fails["job"] = NotFound("no job 'j9'", hint="flprov job ls")
    ran = run("job", "show", "j9", "--json")
    assert (ran.code, ran.out) == (5, "")
    assert "flprov job ls" in ran.err


# ---- logs --------------------------------------------------------------------------------------


def part(party: str, data: bytes) -> LogText:
    return LogText(party=party, offset=0, data=data)


def test_lines_of_several_parties_stay_whole_and_apart(run, admin: FakeAdmin):
    admin.parts = [
        part("site-1", b"round 0\nepo"),
        part("server", b"round 0 saved\n"),
        part("site-1", "ch 1 größe\n".encode()[:7]),
        part("site-1", "ch 1 größe\n".encode()[7:]),
        part("site-2", b"no end of line"),
    ]
    assert run("job", "logs", "j1").out.splitlines() == [
        "site-1 | round 0",
        "server | round 0 saved",
        "site-1 | epoch 1 größe",
        "site-2 | no end of line",
    ]


def test_the_lines_of_one_party_are_as_it_printed_them(run, admin: FakeAdmin):
    admin.parts = [part("site-1", b"round 0\n\n  done\n")]
    ran = run("job", "logs", "j1", "--site", "site-1", "--follow")
    assert ran.out == "round 0\n\n  done\n"
    assert admin.calls == [("logs", {"job_id": "j1", "site": "site-1", "follow": True})]


def test_a_log_cannot_drive_the_terminal(run, admin: FakeAdmin):
    admin.parts = [part(BEEP, BEEP.encode() + b"\xff\xfe\r\x00\n")]
    out = run("job", "logs", "j1").out
    assert not (DRIVES | {"\r", "\x00"}) & set(out)
    assert out.count("[31mred") == 2


# ---- abort -------------------------------------------------------------------------------------


def test_an_abort_returns_when_everything_is_gone(run, admin: FakeAdmin):
    admin.changes = [make_job("aborting", rounds=()), make_job("aborted")]
    ran = run("job", "abort", "last", "--reason", "wrong data")
    assert (ran.code, ran.out) == (0, "job j1 aborted\n")
    assert admin.calls == [
        ("abort", {"job_id": "last", "reason": "wrong data"}),
        ("wait", {"job_id": "j1", "timeout": None}),
    ]


def test_who_could_not_confirm_is_named(run, admin: FakeAdmin):
    admin.changes = [make_job("aborted", unconfirmed=("site-2",))]
    assert "site-2 could not confirm yet" in run("job", "abort", "j1").err


def test_an_abort_need_not_be_waited_for(run, admin: FakeAdmin):
    assert run("job", "abort", "j1", "--no-wait").out == "job j1 aborting\n"
    assert len(admin.calls) == 1


def test_an_abort_as_json_is_one_document(run, admin: FakeAdmin):
    admin.changes = [make_job("aborted")]
    assert run("job", "abort", "j1", "--json").document(doc.JobDocument) == make_job("aborted")


def test_another_person_s_job_is_not_aborted(run, admin: FakeAdmin):
    admin.fails["abort"] = PermissionRefused("job j1 is ada's")
    assert run("job", "abort", "j1").code == 3


# ---- download ----------------------------------------------------------------------------------


def test_a_download_goes_into_a_folder_named_after_the_job(run, admin: FakeAdmin, tmp_path: Path):
    ran = run("job", "download", "last")
    assert (ran.code, ran.out, ran.err) == (0, "j1/model.safetensors  2.0 KiB\n", "")
    assert (tmp_path / "j1" / "model.safetensors").exists()


def test_a_download_goes_where_it_was_asked_for(run, admin: FakeAdmin):
    admin.no_plot = "matplotlib is not installed here"
    ran = run("job", "download", "j1", "-o", "deep/out")
    assert ran.out.startswith("deep/out/model.safetensors")
    assert ran.err == "no metrics.png: matplotlib is not installed here\n"


def test_a_download_as_json_is_one_document(run, admin: FakeAdmin):
    admin.no_plot = "no metrics"
    found = run("job", "download", "j1", "-o", "out", "--json").document(doc.DownloadDocument)
    assert found == doc.DownloadDocument(
        job_id="j1", folder="out", files=("out/model.safetensors",), no_plot="no metrics"
    )


@pytest.mark.parametrize("job_id", ["../up", "/etc", "..", ".", "", "a/b", ".hidden", "-rf", "a\x00b", "~"])
def test_the_server_does_not_choose_the_folder(run, admin: FakeAdmin, tmp_path: Path, job_id):
    admin.job_documents = (make_job(id=job_id),)
    before_ = sorted(tmp_path.parent.rglob("*"))
    ran = run("job", "download", "last")
    assert ran.code == 1
    assert "which has no place here" in ran.err
    assert sorted(tmp_path.parent.rglob("*")) == before_


# ---- why ---------------------------------------------------------------------------------------


def test_why_names_the_first_cause_and_what_to_do(run, admin: FakeAdmin):
    at = before(seconds=50)
    admin.because = doc.WhyDocument(
        job_id="j1",
        state="failed",
        answer="site-1: train.py:3: ValueError: no data",
        causes=(
            doc.Cause(
                at=at, party="site-1", code="job-failed", message="no data", traceback="Traceback\n  x"
            ),
            doc.Cause(at=None, party="server", code="timed-out", message="gave up"),
        ),
        hint="flprov job logs j1 --site site-1",
    )
    ran = run("job", "why", "j1")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "site-1: train.py:3: ValueError: no data",
        f"  {at:%Y-%m-%d %H:%M:%S} UTC  site-1  job-failed: no data",
        "  since when is not known  server  timed-out: gave up",
        "",
        "the first traceback, from site-1:",
        "Traceback",
        "  x",
        "next: flprov job logs j1 --site site-1",
    ]
    assert run("job", "why", "j1", "--json").document(doc.WhyDocument) == admin.because


def test_a_job_that_is_well_has_an_answer_without_causes(run, admin: FakeAdmin):
    admin.because = doc.WhyDocument(job_id="j1", state="completed", answer="it completed")
    assert run("job", "why", "j1").out == "it completed\n"


# ---- what comes from elsewhere -----------------------------------------------------------------


def test_no_word_of_a_site_or_server_drives_the_terminal(run, admin: FakeAdmin):
    missing = (doc.Missing(site=BEEP, reason=BEEP),)
    hostile = make_job(
        BEEP,
        id=BEEP,
        name=BEEP,
        app=BEEP,
        reason=BEEP,
        submitted_by=BEEP,
        sites=(doc.JobSiteDocument(site=BEEP, state=BEEP, reason=BEEP, progress=BEEP),),
        rounds=tuple(make_round(n, metrics={BEEP: 1.0}, absent=missing, spared=(BEEP,)) for n in range(30)),
        unconfirmed=(BEEP,),
        results=(BEEP,),
    )
    cause = doc.Cause(at=None, party=BEEP, code=BEEP, message=BEEP, traceback=BEEP)
    admin.job_documents, admin.changes = (hostile,), [hostile]
    admin.submitted = doc.SubmitDocument(job_id=BEEP, app=BEEP, state=BEEP)
    admin.because = doc.WhyDocument(job_id=BEEP, state=BEEP, answer=BEEP, causes=(cause,), hint=BEEP)
    admin.no_plot = BEEP
    admin.app_documents = (make_app(name=BEEP),)
    for words in (
        ["submit", "x"],
        ["submit", "x", "--wait"],
        ["wait", "x"],
        ["ls"],
        ["show", "x"],
        ["abort", "x"],
        ["download", "x", "-o", "out"],
        ["why", "x"],
    ):
        ran = run("job", *words)
        assert "[31mred" in ran.out + ran.err, words
        assert not DRIVES & set(ran.out + ran.err), words


def test_in_a_process_of_its_own_it_says_which_server_does_not_answer(kits: Path, tmp_path: Path):
    ran = run_process("job", "wait", "last", folder=tmp_path, environment={"FLPROV_KIT": str(kits / "leo")})
    assert (ran.code, ran.out) == (4, "")
    assert "localhost:1" in ran.err
    assert "Traceback" not in ran.err
