# SPDX-License-Identifier: Apache-2.0
"""A job, or a server, that wants more out of a site than its policy gives: words, logs, work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agent_parties import make_submission, sign_deploy, write_app
from agent_rig import Rig

from flprov.agent.logs import LogSender
from flprov.agent.outbox import Outbox
from flprov.jobs import JobSpec, decode_submission
from flprov.policy import LogRules
from flprov.wire import pb
from flprov.workers import LogSegments

RULES = "allow: {organisations: [org-a]}\nlogs: {redact: ['MRN[0-9]{6}']}\n"
NAME = "MRN123456"


@pytest.mark.parametrize("cut", range(990, 1000))
async def test_a_line_over_two_segments_leaves_masked_and_what_follows_it_too(bulk, server, tmp_path, cut):
    log = LogSegments(tmp_path / "log", limit=8000)  # of segments of 1000 bytes
    log.append(b"a" * (cut - 1) + b"\n" + b"x " + NAME.encode() + b" y\nnext\n")
    log.close()
    assert len(list(tmp_path.glob("log*"))) == 2
    sender = LogSender(bulk, "j1", tmp_path / "log", rules=LogRules(redact=("MRN[0-9]{6}",)))
    sender.grew()
    assert sender._task is not None
    await sender._task  # not at the end of the job: while it runs
    found = server.logs.path("j1", "site-1").read_bytes()
    assert found.endswith(b"\nx ********* y\nnext\n")
    await sender.flush()


async def deployed(rig: Rig, tmp_path) -> None:
    rig.config.policy.write_text(RULES)
    assert (await rig.deploy(write_app(tmp_path / "app"))).ready
    rig.jobs.order(pb.TaskOrder(job_id="j1", task_id="t1", name="train", rounds=1, expects="full"))
    await rig.worker.sent.wait("task")


async def test_a_job_has_no_words_of_its_own_in_progress(rig: Rig, tmp_path):
    await deployed(rig, tmp_path)
    rig.worker.say(progress=pb.Progress(task_id=NAME, step=3, doing=NAME, bytes_done=7, bytes_total=9))
    told = await rig.reports.wait("progress")
    assert (told.task_id, told.step, told.doing, told.bytes_done) == ("t1", 3, "", 0)


@pytest.mark.parametrize("before", range(1992, 2000))
async def test_a_name_at_the_end_of_a_long_message_is_masked_before_it_is_cut(rig: Rig, tmp_path, before):
    await deployed(rig, tmp_path)
    long = "x" * before + NAME
    failure = pb.Failure(code="job-failed", message=long, hint=long, traceback=NAME + "x" * (64_000 - 4))
    rig.worker.say(answer=pb.TaskAnswer(task_id="t1", failure=failure))
    told = (await rig.reports.wait("answer")).failure
    assert len(told.message) == 2000
    for text in (told.message, told.hint, told.traceback):
        assert not set(text) & set("MRN123456")


async def test_what_was_signed_for_a_plan_is_not_run_on_the_server_s_word(rig: Rig, tmp_path):
    app = write_app(tmp_path / "app")
    rig.server.add(app.bundle.data)
    wish = decode_submission(make_submission(rig.person, app.spec, app=app.bundle.digest))
    rig.jobs.deploy(sign_deploy(rig.person, replace(wish, plan=True).encode()))
    told = await rig.reports.wait("deployed")
    assert (told.ready, told.refused.code) == (False, "permission-refused")
    assert "to ask what would come of it" in told.refused.message


async def test_a_flood_of_questions_is_not_answered_in_full(rig: Rig):
    signed = sign_deploy(rig.person, make_submission(rig.person, JobSpec(name="toy", tasks={"train": "a:b"})))
    for number in range(200):
        rig.jobs.probe(
            pb.Probe(
                probe_id=str(number),
                submission=signed.submission,
                signature=signed.signature,
                chain=signed.chain,
            )
        )
    await rig.reports.wait("probed", 16)
    assert len(rig.reports.of("probed")) == 16
    rig.jobs.probe(pb.Probe(probe_id="later"))
    assert (await rig.reports.wait("probed", 17)).probe_id == "later"


def test_answers_to_questions_do_not_fill_the_outbox():
    outbox = Outbox(most=10)
    for number in range(100):
        outbox.put(pb.FromSite(probed=pb.Probed(probe_id=str(number))))
    assert len(outbox) == 10
