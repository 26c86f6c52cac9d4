# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the newest are kept; a clone starts with one; a job that is deleted takes them with it."""

from __future__ import annotations

import asyncio

import pytest
from server_fakes import PATIENCE
from server_parties import ADA, LEA, LEO, inline_state, signed, spec, submission, tensors
from server_running import copy_config, put_job, running
from server_world import broadcast, close_round, deploy, ready

from flprov._base import SystemClock, from_document, parse_json, to_document
from flprov.errors import Conflict, Misuse, NotFound, PermissionRefused
from flprov.jobs import JobState, Origin, Workflow
from flprov.rpc import methods as m
from flprov.server.jobs.checkpoints import Retention, find_checkpoint, in_ranges
from flprov.server.records import BlobRef, RoundRecord, StateRef
from flprov.store import Put, open_store
from flprov.wire import documents as doc
from flprov.wire import pb

TWO = ("site-1", "site-2")


def record(number: int, state: StateRef | None = None, job: str = "0job") -> RoundRecord:
    return RoundRecord(
        job_id=job,
        round=number,
        started_at=None,
        finished_at=None,
        contributors=(),
        absent=(),
        refused=(),
        metrics={},
        state=state,
    )


STATES = [inline_state(tensors(number, name="state")) for number in range(5)]
ROUNDS = [record(number, state) for number, state in enumerate(STATES)]


# ---- which are kept --------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "gone"), [(0, []), (10, []), (5, []), (2, [0, 1, 2]), (1, [0, 1, 2, 3])])
def test_newest_are_kept(most, gone):
    assert [round_.round for round_ in Retention(most=most).outdated(ROUNDS)] == gone


def large(number: int, size: int, best: int) -> RoundRecord:
    state = StateRef(
        inline="00",
        model=BlobRef(digest=f"{number:064}", size=size),
        best=BlobRef(digest="b" * 64, size=best),
    )
    return record(number, state)


@pytest.mark.parametrize(
    ("size", "best", "kept"),
    [(10, 0, 10), (100, 0, 10), (200, 0, 5), (200, 1, 4), (201, 0, 4), (400, 0, 3), (5000, 9000, 3)],
)
def test_of_large_states_as_many_are_kept_as_fit_but_never_less_than_three(size, best, kept):
    rounds = [large(number, size, best) for number in range(12)]
    gone = Retention(room=1000).outdated(rounds)
    assert [round_.round for round_ in gone] == list(range(12 - kept))
    assert Retention(room=0).outdated(rounds) == rounds[:2]
    assert Retention(room=0, most=0).outdated(rounds) == []


def test_states_of_the_same_bytes_take_their_room_once():
    rounds = [large(7, 600, 0) for _ in range(12)]
    assert Retention(room=1000).outdated(rounds) == rounds[:2]


@pytest.mark.parametrize(
    ("rounds", "size", "kept"),
    [(2, 900, 2), (50, 900, 3), (50, 250, 4), (50, 0, 10), (50, 10, 10), (4, 0, 4)],
)
def test_how_many_will_be_kept_is_known_before(rounds, size, kept):
    assert Retention(room=1000).count(rounds, size) == kept
    assert Retention(room=0, most=0).count(rounds, size) == rounds


def test_numbers_are_said_in_ranges():
    assert in_ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


@pytest.fixture
async def ended(world):
    """leo's job with five rounds done, of which the last two have their state; and its run."""
    run = await world.run(state=JobState.COMPLETED, round=5, spec=spec(workflow=Workflow(rounds=9)))
    for number in range(5):
        world.jobs._keep_round(record(number, STATES[number] if number > 2 else None))
    return run


@pytest.mark.parametrize("done", [4, 5])
def test_state_after_so_many_rounds(world, ended, done):
    assert find_checkpoint(ended.record, world.jobs.rounds("0job"), done) == STATES[done - 1]


def test_state_that_is_not_kept_any_more_says_which_there_are(world, ended):
    with pytest.raises(Conflict, match=r"after 3 rounds is not kept any more; there are those after 4-5"):
        find_checkpoint(ended.record, world.jobs.rounds("0job"), 3)


def test_round_that_was_never_done(world, ended):
    with pytest.raises(NotFound, match=r"has done 5 rounds, not 6"):
        find_checkpoint(ended.record, world.jobs.rounds("0job"), 6)


# ---- clones ----------------------------------------------------------------------------------


async def clone(world, kit, round_=0, *, by="leo", token="c", **changes):
    found = {"spec": spec(workflow=Workflow(rounds=9)), "sites": TWO} | changes
    origin = Origin(job_id="0job", round=round_)
    wish = submission(kit(by), world.app.digest, token=token, origin=origin, **found)
    job, _ = await world.jobs.submit(wish, signed(kit(by), wish))
    return world.jobs.find(job.id)


async def test_clone_starts_at_its_round_with_its_state(world, ended, kit):
    run = await clone(world, kit, 4)
    assert (run.record.round, run.record.base, run.record.origin) == (4, 4, Origin(job_id="0job", round=4))
    sites = [world.connect(name) for name in TWO]
    run.choose(TWO)
    workflow = await world.launcher.process()
    for fake in sites:
        await fake.deploys(run)
    workflow.say(ready())
    start = (await workflow.hears("start_workflow")).start_workflow
    assert (start.round, start.state.inline.hex()) == (4, STATES[3].inline)
    workflow.say(broadcast(4))
    for fake in sites:
        await fake.hears("task")
        fake.updates(run, "train/4/0")
        await workflow.hears("answer")
    workflow.say(close_round(4))
    await workflow.hears("saved")
    assert [round_.round for round_ in world.jobs.rounds(run.record.id)] == [4]  # no earlier one is its own


async def test_clone_from_the_start_has_no_state(world, ended, kit):
    run = await clone(world, kit)
    assert (run.record.round, run.record.model, run.record.origin.job_id) == (0, None, "0job")


async def test_clone_of_a_clone_is_sent_to_where_the_state_is(world, ended, kit):
    run = await clone(world, kit, 4)
    with pytest.raises(NotFound, match="began with 4 rounds done") as caught:
        find_checkpoint(run.record, [], 2)
    assert caught.value.hint == "flprov job clone 0job --from-round 2"


async def test_state_of_a_clone_outlives_the_job_that_it_came_from(world, kit):
    source = await world.run(state=JobState.COMPLETED, round=1, targets=TWO)
    digest = await world.blobs.put(b"z" * 70_000)
    world.jobs._keep_round(record(0, StateRef(digest=digest, size=70_000)))
    run = await clone(world, kit, 1)
    assert await world.jobs.delete(source, LEO.uri, "") == 1
    assert world.blobs.has(digest)
    await world.jobs.abort(run, ADA, "")
    await world.reaches(run, JobState.ABORTED)
    await world.over(run)
    assert not world.blobs.has(digest)


async def test_clone_of_nothing(world, kit):
    with pytest.raises(NotFound, match="no job '0job' to clone"):
        await clone(world, kit, 1)


async def test_clone_is_repeated_by_its_token_and_by_nothing_else(world, ended, kit):
    first = await clone(world, kit, 4)
    assert (await clone(world, kit, 4)).record.id == first.record.id
    with pytest.raises(Conflict):
        await clone(world, kit, 5)


async def test_weights_of_another_organisation_cannot_be_cloned(kit_folder, tmp_path, made_at, app, kit):
    """They are what `job download` brings, and has the same rule."""
    config = copy_config(kit_folder, tmp_path, made_at)
    await put_job(config, app, state=JobState.COMPLETED, round=1, targets=("site-2",))
    store = open_store(config.state, clock=SystemClock())
    await store.commit([Put("round", ROUNDS[0].key, to_document(ROUNDS[0]))], None)
    await store.close()
    origin = Origin(job_id="0job", round=1)
    async with running(config) as server:
        for name, by in (("lea", LEA), ("leo", LEO)):
            wish = submission(kit(name), app.digest, origin=origin, spec=spec(workflow=Workflow(rounds=9)))
            call = server.connect(kit(name)).unary(m.SUBMIT_JOB, signed(kit(name), wish), timeout=PATIENCE)
            if by is LEA:
                with pytest.raises(PermissionRefused, match="belongs to another organisation"):
                    await call
            else:
                made = from_document(doc.SubmitDocument, parse_json((await call).json))
                assert made.state == "queued"


# ---- delete ----------------------------------------------------------------------------------


async def test_deleted_job_leaves_a_row_and_its_token(world, ended, kit):
    digest = await world.blobs.put(b"r" * 70_000)
    run = await clone(world, kit, 4, token="once")
    await world.jobs.abort(run, LEO, "")
    await world.reaches(run, JobState.ABORTED)
    folder = world.folder / "jobs" / run.record.id
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "site-1.log").write_text("x")
    run._ledger.note(results={"m": BlobRef(digest=digest, size=70_000)})
    await world.jobs.delete(run, LEO.uri, "consent was withdrawn")
    assert not folder.exists()
    assert not world.blobs.has(digest)
    assert run.record.id not in world.store.load("job")
    [row] = world.store.told("job.delete")
    assert (row.who, row.object, row.reason) == (LEO.uri, run.record.id, "consent was withdrawn")
    for _ in range(2):
        with pytest.raises(Conflict, match=r"has made job .* which was deleted"):
            await clone(world, kit, 4, token="once")
        await world.reboot()
    with pytest.raises(NotFound):
        world.jobs.find(run.record.id)


@pytest.mark.parametrize("state", [state for state in JobState if not state.terminal])
async def test_job_that_has_not_ended_is_not_deleted(world, state):
    run = await world.run(targets=TWO, state=state, outcome="completed", unconfirmed=TWO, members=TWO)
    if not run.record.state.terminal:
        with pytest.raises(Conflict, match=r"is (queued|deploying|running|finishing|aborting)"):
            await world.jobs.delete(run, LEO.uri, "")
    assert "0job" in world.store.load("job")


async def test_job_that_a_site_may_still_hold_is_not_deleted(world):
    run = await world.run(targets=TWO, state=JobState.ABORTED, members=TWO, unconfirmed=("site-2",))
    with pytest.raises(Conflict, match="site-2 could not confirm yet that nothing of it runs there"):
        await world.jobs.delete(run, LEO.uri, "")


async def test_site_that_has_left_the_project_keeps_no_job(world):
    run = await world.run(targets=("site-9",), state=JobState.ABORTED, unconfirmed=("site-9",))
    await world.jobs.delete(run, LEO.uri, "")
    assert world.store.load("job") == {}
    await asyncio.sleep(0)
    assert world.jobs._loops == {}


async def test_folder_that_a_kill_kept_goes_with_the_next_start(world):
    """The record went, and then the power."""
    left = world.folder / "jobs" / "gone" / "workflow"
    left.mkdir(parents=True)
    (left / "log").write_text("x")
    await world.put_job(state=JobState.COMPLETED)
    (world.folder / "jobs" / "0job" / "workflow").mkdir(parents=True)
    await world.reboot()
    assert [path.name for path in (world.folder / "jobs").iterdir()] == ["0job"]


async def test_command_to_delete_that_comes_twice_has_no_second_effect(network, world):
    await world.put_job(state=JobState.COMPLETED)
    world.jobs.load()
    request = pb.JobChange(job_id="0job", key="k")
    connection = network.connect(LEO)
    first = await connection.unary(m.DELETE_JOB, request, timeout=PATIENCE)
    again = await connection.unary(m.DELETE_JOB, request, timeout=PATIENCE)
    assert [parse_json(reply.json)["repeated"] for reply in (first, again)] == [False, True]
    assert len(world.store.told("job.delete")) == 1
    with pytest.raises(NotFound):
        await connection.unary(m.DELETE_JOB, pb.JobChange(job_id="0job", key="l"), timeout=PATIENCE)


# ---- long lists ------------------------------------------------------------------------------


async def pages(network, **query):
    found, before = [], ""
    while True:
        request = pb.Query(before=before, **query)
        reply = await network.connect(ADA).unary(m.LIST_JOBS, request, timeout=PATIENCE)
        page = from_document(doc.JobListDocument, parse_json(reply.json))
        found.append([job.id for job in page.jobs])
        if not page.more:
            return found
        before = page.jobs[-1].id


async def test_list_comes_in_pages(network, world):
    for number in range(7):
        state = JobState.FAILED if number % 2 else JobState.COMPLETED
        await world.put_job(id=f"j{number}", state=state)
    world.jobs.load()
    assert await pages(network, limit=3) == [["j6", "j5", "j4"], ["j3", "j2", "j1"], ["j0"]]
    assert await pages(network) == [[f"j{number}" for number in reversed(range(7))]]
    assert await pages(network, limit=2, state="failed") == [["j5", "j3"], ["j1"]]
    with pytest.raises(Misuse, match="no job 'j9' to go on from"):
        await network.connect(ADA).unary(m.LIST_JOBS, pb.Query(before="j9"), timeout=PATIENCE)


async def test_page_is_no_larger_than_a_message(network, world, monkeypatch):
    monkeypatch.setattr("flprov.server.sights.pages._MOST_BYTES", 1000)
    for number in range(9):
        await world.put_job(id=f"j{number}", state=JobState.COMPLETED)
    world.jobs.load()
    found = await pages(network)
    assert [job for page in found for job in page] == [f"j{number}" for number in reversed(range(9))]
    assert max(map(len, found)) < 4


# ---- what a job says -------------------------------------------------------------------------


async def test_checkpoints_and_contributions_are_shown(network, world):
    running = await deploy(world, *TWO)
    for number in range(2):
        running.workflow.say(broadcast(number))
        for name in TWO:
            await running[name].hears("task")
            running[name].updates(running.run, f"train/{number}/0", samples=10 + number)
            await running.workflow.hears("answer")
            assert not (await running[name].hears("ack")).HasField("refused")
        running.workflow.say(close_round(number))
        await running.workflow.hears("saved")
        for name in TWO:
            await running[name].hears("closed")
    reply = await network.connect(LEO).unary(m.SHOW_JOB, pb.Query(id="0job"), timeout=PATIENCE)
    found = from_document(doc.JobDocument, parse_json(reply.json))
    assert [round_.checkpoint for round_ in found.rounds] == [True, True]
    assert [(line.site, line.rounds, line.samples) for line in found.contributions] == [
        ("site-1", 2, 21),
        ("site-2", 2, 21),
    ]
