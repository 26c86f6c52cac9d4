# SPDX-License-Identifier: Apache-2.0
"""A site's control stream: who is let in, what is heard, and what is not believed."""

from __future__ import annotations

import asyncio

import pytest
from server_network import ALONE, settle, trained
from server_parties import SITES, payload, site, spec, tensors
from server_world import broadcast, ready

from flprov.blobs import digest_of
from flprov.errors import IdentityRefused, KitRefused, ProtocolError
from flprov.jobs import JobState, Membership
from flprov.server import sessions
from flprov.wire import PROTOCOL, pb

# ---- coming and going ------------------------------------------------------------------------


async def test_site_is_welcomed_with_the_jobs_that_it_may_hold(world, dial):
    for id_, state in (("a", JobState.RUNNING), ("b", JobState.COMPLETED), ("c", JobState.QUEUED)):
        await world.put_job(id=id_, state=state, targets=("site-1",))
    await world.put_job(id="d", state=JobState.RUNNING, targets=("site-2",))
    world.jobs.load()
    welcome = await dial().open()
    assert (welcome.protocol, welcome.installation, welcome.heartbeat_seconds) == (
        PROTOCOL,
        "the-server",
        5.0,
    )
    assert list(welcome.jobs) == ["a"]


async def test_coming_and_going_are_rows_and_are_remembered(world, dial):
    one = dial()
    await one.open()
    [row] = world.store.told("site.connect")
    assert (row.who, row.object, row.data) == (site("site-1").uri, "site-1", {"host": "site-1.example"})
    assert "site-1" in world.sessions
    world.clock.advance(60)
    one.beat()
    one.hang_up()
    assert await one.ended() == "its connection was closed without a goodbye"
    await settle(lambda: "site-1" not in world.sessions)
    assert world.registry.find("site-1").last_seen == world.clock.now()


async def test_site_that_is_cut_off_is_gone_at_once(world, dial, caplog):
    one = dial()
    await one.open()
    await one.close()
    await settle(lambda: bool(world.store.told("site.disconnect")))
    assert "site-1" not in world.sessions
    assert world.store.told("site.disconnect")[0].reason == "connection lost"
    assert caplog.records == []  # it is no fault of ours


async def test_a_site_that_reads_nothing_is_gone_soon_after_its_stream_was_closed(world, dial, monkeypatch):
    monkeypatch.setattr(sessions, "_GOODBYE", 0.1)
    one = dial()
    await one.open()
    for number in range(30):  # more than is on its way at once; too large to travel together
        word = pb.RoundClosed(job_id="x" * (250 << 10), round=number)
        world.sessions.send("site-1", pb.ToSite(closed=word))
    await asyncio.sleep(0.05)
    one.say()
    await settle(lambda: bool(world.store.told("site.disconnect")))
    assert "site-1" not in world.sessions
    assert world.store.told("site.disconnect")[0].reason == "a site cannot send an empty message here"


FIRST = {
    "nothing": None,
    "an empty message": {},
    "a heartbeat": {"heartbeat": pb.Heartbeat(vitals=b"{}")},
    "an answer": {"answer": pb.TaskAnswer(job_id="0job")},
}


@pytest.mark.parametrize("first", FIRST)
async def test_stream_that_does_not_begin_with_hello_is_refused(world, dial, network, first):
    one = dial()
    one.hang_up() if FIRST[first] is None else one.say(**FIRST[first])
    with pytest.raises(ProtocolError, match="a control stream begins with Hello"):
        await one.next()
    assert "site-1" not in world.sessions
    await network.log.denials.close()
    [row] = world.store.told("call")
    assert (row.who, row.outcome, row.object) == (site("site-1").uri, "denied", "/flprov.v1.Site/Control")


@pytest.mark.parametrize(
    ("protocol", "upgrade"), [(0, "the site"), (PROTOCOL + 1, "this flprov"), (2**32 - 1, "")]
)
async def test_site_of_another_protocol_is_told_who_has_to_upgrade(world, dial, protocol, upgrade):
    one = dial()
    one.say(hello=pb.Hello(protocol=protocol, installation="x" * 32))
    with pytest.raises(
        ProtocolError, match=f"the site speaks protocol {protocol}; .* speaks {PROTOCOL}"
    ) as found:
        await one.next()
    assert upgrade in found.value.hint
    assert world.store.told("site.connect") == []


@pytest.mark.parametrize("installation", ["", "short", "x" * 65, "x" * 100_000])
async def test_hello_without_an_installation_is_refused(dial, installation):
    one = dial()
    one.say(hello=pb.Hello(protocol=PROTOCOL, installation=installation))
    with pytest.raises(ProtocolError, match="Hello without an installation"):
        await one.next()


@pytest.mark.parametrize("identity", [site("site-9", "org-a"), site("site-1", "org-b")])
async def test_stranger_with_a_good_certificate_is_refused_at_the_gate(world, dial, identity):
    one = dial(identity=identity)
    one.say(hello=pb.Hello(protocol=PROTOCOL, installation="x" * 32))
    with pytest.raises(IdentityRefused, match="is not enrolled in this project"):
        await one.next()
    assert world.store.told("site.connect") == []


# ---- two machines, one kit -------------------------------------------------------------------


async def test_second_installation_is_refused_while_the_first_is_here(world, dial):
    first, second = dial(), dial()
    await first.open(installation="machine-one")
    second.say(hello=pb.Hello(protocol=PROTOCOL, installation="machine-two", host="thief.example"))
    with pytest.raises(
        KitRefused, match=r"already connected from site-1.example .*thief.example uses a second copy"
    ):
        await second.next()
    assert world.sessions.get("site-1").hello.installation == "machine-one"
    assert len(world.store.told("site.connect")) == 1
    first.beat()
    await settle(lambda: world.sessions.get("site-1").vitals is not None)


async def test_of_two_installations_that_come_at_once_one_is_refused(world, dial):
    """Nothing may happen between the look whether the place is free and the taking of it."""
    both = [dial(), dial()]
    for number, one in enumerate(both):
        one.say(hello=pb.Hello(protocol=PROTOCOL, installation=f"machine-{number}"))
    outcomes = await asyncio.gather(*(one.next() for one in both), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KitRefused", "ToSite"]
    assert len(world.store.told("site.connect")) == 1


async def test_second_installation_may_come_when_the_first_is_gone(world, dial):
    first = dial()
    await first.open(installation="machine-one")
    first.hang_up()
    await first.ended()
    await settle(lambda: "site-1" not in world.sessions)
    await dial().open(installation="machine-two")


async def test_same_installation_takes_over_from_its_own_older_socket(world, dial):
    first, second = dial(), dial()
    run = await world.run(targets=("site-1",), spec=ALONE)
    await first.open()
    run.choose(("site-1",))
    await first.hears("deploy")
    await second.open()
    assert await first.ended() == "the site connected again"
    await second.hears("deploy")  # what the first was told is said again
    second.beat()
    await settle(lambda: world.sessions.get("site-1").vitals is not None)


async def test_no_two_sites_disturb_each_other(world, dial):
    for name in SITES:
        await dial(name).open()
    assert {session.name for session in world.sessions} == set(SITES)


async def test_site_can_come_although_the_disk_is_full(world, dial):
    """How else would an abort reach it?"""
    world.store.full = True
    await dial().open()
    assert "site-1" in world.sessions


# ---- updates ---------------------------------------------------------------------------------


async def test_good_update_is_taken_and_acknowledged(world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)
    one.updates(run, samples=2**53, weight=0.5)
    ack = await one.hears("ack")
    assert (ack.task_id, ack.HasField("refused")) == ("train/0/0", False)
    update = (await workflow.hears("answer")).answer.update
    assert (update.samples, update.weight, workflow.handed(update.tensors)) == (2**53, 0.5, tensors(1, 2))


async def test_update_whose_numbers_were_looked_at_as_it_arrived_is_not_read_for_them_again(
    world, dial, monkeypatch
):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    good = tensors(1, 2)
    await one.send(good)

    def read_again(_contents):
        raise AssertionError("it was read once more")

    monkeypatch.setattr("flprov.wire.update_checks._verify_finite", read_again)
    one.updates(run, part=pb.Payload(digest=digest_of(good), size=len(good)))
    assert not (await one.hears("ack")).HasField("refused")


NAN, INF = float("nan"), float("inf")
BAD = {
    "NaN in a tensor": ({"part": payload(tensors(1, NAN))}, "tensor 'w' holds NaN or infinity"),
    "infinity in a tensor": ({"part": payload(tensors(-INF, 1))}, "tensor 'w' holds NaN or infinity"),
    "another shape": ({"part": payload(tensors(1, 2, 3))}, "tensor 'w' is"),
    "another name": ({"part": payload(tensors(1, 2, name="v"))}, "tensor 'w' is missing"),
    "no tensors at all": ({"part": pb.Payload(inline=b"")}, "no tensor file"),
    "random bytes": ({"part": payload(b"\xff" * 64)}, "no tensor file"),
    "a payload that is a file": ({"part": pb.Payload(file="../../server.key", size=4)}, "no tensor file"),
    "another kind": ({"kind": "opaque"}, "the update is of kind 'opaque', the task takes full,diff"),
    "a kind that does not exist": ({"kind": "\x1b[2J"}, "the update is of kind"),
    "2^63 samples": ({"samples": 2**63}, "samples is 9223372036854775808; it must be from 0 to 2^53"),
    "2^64 - 1 samples": ({"samples": 2**64 - 1}, "samples is 18446744073709551615"),
    "a weight of NaN": ({"weight": NAN}, "weight is nan"),
    "a negative weight": ({"weight": -1.0}, "weight is -1.0"),
    "a weight that drowns all others": ({"weight": 1e300}, "weight is 1e+300; it must be from 0 to 2^53"),
    "more samples than the job takes": (
        {"samples": 10**6 + 1},
        "samples is 1000001; the job's sites.max_weight",
    ),
    "a weight above what the job takes": (
        {"samples": 1, "weight": 2e6},
        "weight is 2000000; the job's sites",
    ),
    "a metric of NaN": ({"metrics": {"loss": NAN}}, "metric 'loss' is nan"),
    "a metric of infinity": ({"metrics": {"loss": INF}}, "metric 'loss' is inf"),
    "a metric that clears the screen": ({"metrics": {"\x1b[2J": 1.0}}, "a metric has a name that is"),
    "many metrics": ({"metrics": {str(n): 1.0 for n in range(300)}}, "there are 300 metrics"),
    "seconds of NaN": ({"seconds": NAN}, "seconds is nan"),
    "seconds of infinity": ({"seconds": INF}, "seconds is inf"),
    "negative seconds": ({"seconds": -1.0}, "seconds is -1.0"),
    "seconds that overflow when added": ({"seconds": 1.7e308}, "seconds is 1.7e+308"),
    "more by value than may be": ({"part": payload(tensors(*[0.0] * 20_000))}, "bytes came by value"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_update_is_refused_by_name_and_the_round_goes_on_without_it(world, dial, case):
    one, two, three = dial("site-1"), dial("site-2"), dial("site-3")
    for each in (one, two, three):
        await each.open()
    limited = spec(sites=Membership(min=2, max_weight=1e6))
    run, workflow = await trained(world, one, two, three, spec=limited)
    changes, reason = BAD[case]
    one.updates(run, **changes)
    ack = await one.hears("ack")
    assert ack.refused.code == "update-refused"
    assert reason in ack.refused.message
    answer = (await workflow.hears("answer")).answer
    assert (answer.site, answer.absent.message) == ("site-1", ack.refused.message)
    for each in (two, three):
        each.updates(run)
        await each.hears("ack")
    assert run.record.state is JobState.RUNNING
    assert run.rounds.gathers.newest.refused.keys() == {"site-1"}
    [row] = world.store.told("update.refuse")
    assert (row.who, row.object, row.reason) == ("site-1", "0job/train/0/0/site-1", ack.refused.message)


async def test_update_that_comes_before_its_task_is_never_taken_unseen(world, dial):
    """Task ids can be guessed. What nobody could check when it came must not count when the task opens."""
    one = dial()
    await one.open()
    run = await world.run(targets=("site-1",), spec=ALONE)
    run.choose(("site-1",))
    workflow = await world.launcher.process()
    await one.deploys(run)
    workflow.say(ready())
    await workflow.hears("start_workflow")
    for _ in range(20):
        one.updates(run, part=payload(tensors(NAN, NAN)), samples=2**63)
    workflow.say(broadcast())
    while (message := await one.next()).WhichOneof("body") != "task":
        assert message.ack.refused.message == "the round went on without it"
    for _ in range(5):
        one.updates(run, part=payload(tensors(NAN, NAN)))
    assert (await workflow.hears("answer")).answer.HasField("absent")
    assert run.record.causes[-1].code == "update-refused"
    assert world.store.load("update") == {}


async def test_failure_of_a_task_comes_with_its_trace(world, dial):
    one, two = dial("site-1"), dial("site-2")
    await one.open()
    await two.open()
    run, workflow = await trained(world, one, two, spec=ALONE)
    failure = pb.Failure(code="job-failed", message="boom", traceback="Traceback\n  line 1")
    one.say(answer=pb.TaskAnswer(job_id="0job", task_id="train/0/0", failure=failure))
    await workflow.hears("answer")
    [cause] = run.record.causes
    assert (cause.party, cause.code, cause.message, cause.traceback) == (
        "site-1",
        "job-failed",
        "boom",
        "Traceback\n  line 1",
    )


async def test_progress_is_shown_and_written_nowhere(world, dial):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    rows = world.store.head
    one.say(progress=pb.Progress(job_id="0job", task_id="train/0/0", step=7, values={"loss": NAN}))
    await settle(lambda: "step 7" in run.sites.parts["site-1"].progress)
    assert world.store.head == rows


async def test_refusal_of_a_job_comes_with_its_reason(world, dial):
    one = dial()
    await one.open()
    run = await world.run(targets=("site-1", "site-2"), spec=ALONE)
    run.choose(("site-1",))
    await one.hears("deploy")
    refused = pb.Failure(code="policy-refused", message="policy.yml allows nobody")
    one.say(deployed=pb.Deployed(job_id="0job", ready=False, refused=refused))
    await world.until(run, lambda seen: bool(seen.record.refusals))
    assert run.record.refusals == {"site-1": "policy.yml allows nobody"}
    assert run.record.causes[0].code == "policy-refused"


async def test_proof_that_nothing_runs_ends_the_job(world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)
    workflow.end()
    await one.hears("stop")
    one.say(stopped=pb.Stopped(job_id="0job", clean=True))
    await world.reaches(run, JobState.FAILED)
    assert run.record.unconfirmed == ()
