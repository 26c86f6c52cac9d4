# SPDX-License-Identifier: Apache-2.0
"""All jobs of a server: tokens, looking up, watching, which blobs may go."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from server_fakes import PATIENCE
from server_parties import ADA, NOW, inline, payload, signed, spec, submission, tensors, update_record
from server_world import close_round, deploy, finished, train

from flprov.blobs import BlobStore, digest_of
from flprov.errors import Conflict, LocalError, Misuse, NotFound
from flprov.jobs import JobState, Membership
from flprov.server.jobs import jobs as jobs_module
from flprov.server.jobs.checkpoints import Retention
from flprov.server.records import BlobRef
from flprov.wire import pb

TWO = ("site-1", "site-2")


@pytest.fixture
def submit(world, kit):
    """Submit as a person, as often as you like."""

    async def send(name="leo", **changes):
        wish = submission(kit(name), world.app.digest, **changes)
        return await world.jobs.submit(wish, signed(kit(name), wish))

    return send


# ---- tokens ----------------------------------------------------------------------------------


async def test_submission_becomes_a_queued_job_with_all_that_was_signed(world, submit, kit):
    job, repeated = await submit(sites=("site-2", "site-1"))
    wish = submission(kit("leo"), world.app.digest, sites=("site-2", "site-1"))
    assert (job.state, job.targets, job.token, repeated) == (JobState.QUEUED, TWO, "t-1", False)
    assert job.submission.encode() == wish.encode()
    assert bytes.fromhex(job.signature)
    assert world.store.get("job", job.id)["submitted_by"] == kit("leo").identity.uri
    [row] = world.store.told("job.submit")
    assert (row.who, row.object, row.data) == (kit("leo").identity.uri, job.id, {"app": world.app.digest})


async def test_same_token_is_the_same_job_also_after_a_restart(world, submit):
    first, _ = await submit()
    again, repeated = await submit()
    assert (again.id, repeated) == (first.id, True)
    await world.reboot()
    third, repeated = await submit()
    assert (third.id, repeated) == (first.id, True)
    assert len(world.store.load("job")) == 1


async def test_same_token_at_the_same_moment_is_one_job(world, submit):
    async with asyncio.timeout(PATIENCE):
        found = await asyncio.gather(*(submit() for _ in range(10)))
    assert len({job.id for job, _ in found}) == 1
    assert [repeated for _, repeated in found].count(False) == 1


@pytest.mark.parametrize("changes", [{"sites": TWO}, {"spec": spec(args={"lr": 1})}])
async def test_token_of_another_wish_is_a_conflict(world, submit, changes):
    first, _ = await submit()
    with pytest.raises(Conflict, match=f"token 't-1' has made job {first.id}"):
        await submit(**changes)


async def test_two_people_may_use_the_same_token(submit):
    first, _ = await submit("leo")
    second, repeated = await submit("lea")
    assert (first.id != second.id, repeated) == (True, False)


async def test_submission_that_cannot_be_written_is_no_job(world, submit):
    world.store.full = True
    with pytest.raises(LocalError):
        await submit()
    assert (world.jobs.all(), world.store.load("token")) == ([], {})
    world.store.full = False
    _, repeated = await submit()
    assert not repeated


async def test_id_that_is_taken_is_not_given_again(world, submit, monkeypatch):
    ids = iter(["same", "same", "same", "other"])
    monkeypatch.setattr(jobs_module, "new_job_id", lambda now: next(ids))
    found = [(await submit(token=f"t{number}"))[0].id for number in range(2)]
    assert found == ["same", "other"]


# ---- looking up ------------------------------------------------------------------------------


@pytest.fixture
async def three(world):
    for number, id_ in enumerate(("aaa1", "aab2", "b3")):
        await world.put_job(id=id_, submitted_at=NOW + timedelta(seconds=number))
    world.jobs.load()
    return world.jobs


async def test_job_is_found_by_id_unique_prefix_or_last(three):
    for text, id_ in {"aaa1": "aaa1", "aaa": "aaa1", "b": "b3", "last": "b3"}.items():
        assert three.find(text).record.id == id_


@pytest.mark.parametrize(
    ("text", "error"), [("aa", Misuse), ("c", NotFound), ("", Misuse), ("../b3", NotFound)]
)
async def test_text_that_is_no_job_is_refused_by_name(three, text, error):
    with pytest.raises(error):
        three.find(text)


async def test_last_of_no_jobs_is_not_found(world):
    with pytest.raises(NotFound, match="no job 'last'"):
        world.jobs.find("last")


async def test_get_takes_whole_ids_only(three):
    assert three.get("aaa1").record.id == "aaa1"
    assert three.get("aaa") is None


async def test_jobs_are_in_order_of_submission(three):
    assert [run.record.id for run in three.all()] == ["aaa1", "aab2", "b3"]


async def test_app_is_found_by_digest_prefix_or_name(world):
    world.jobs.load()
    for text in (world.app.digest, world.app.digest[:6], "heart"):
        assert world.jobs.find_app(text).digest == world.app.digest
    with pytest.raises(NotFound, match="no app 'lung'"):
        world.jobs.find_app("lung")


async def test_name_of_an_app_is_its_newest(world):
    world.jobs.load()
    old = world.jobs.apps[world.app.digest]
    newer = replace(old, digest="f" * 64, uploaded_at=NOW + timedelta(days=1))
    await world.jobs.add_app(newer)
    assert world.jobs.find_app("heart").digest == "f" * 64


async def test_name_that_several_people_gave_is_refused_and_their_digests_are_told(world):
    """Or else who uploads last decides what the others submit."""
    world.jobs.load()
    own = world.jobs.apps[world.app.digest]
    await world.jobs.add_app(replace(own, digest="f" * 64, uploaded_by=ADA.uri))
    with pytest.raises(Misuse, match=f"{world.app.digest[:12]} by .*ffffffffffff by ada"):
        world.jobs.find_app("heart")
    assert world.jobs.find_app(world.app.digest) is own
    assert world.jobs.find_app("fff").uploaded_by == ADA.uri


async def test_app_that_is_on_disk_is_known_although_its_caller_hung_up(world):
    world.jobs.load()
    app = replace(world.jobs.apps[world.app.digest], digest="ab" * 32)
    commit, reached, goes_on = world.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(*args, **kwargs):
        index = await commit(*args, **kwargs)  # it goes on although nobody waits for it
        reached.set()
        await goes_on.wait()
        return index

    world.store.commit = slow
    adding = asyncio.ensure_future(world.jobs.add_app(app))
    await reached.wait()
    adding.cancel()
    goes_on.set()
    await asyncio.wait([adding])
    assert world.jobs.apps[app.digest] == app


async def test_app_that_is_added_twice_is_one_row(world):
    world.jobs.load()
    await world.jobs.add_app(world.jobs.apps[world.app.digest])
    assert world.store.told("app.upload") == []


async def test_site_may_hold_what_is_active_and_for_it(world):
    for id_, state in (("a", "running"), ("b", "deploying"), ("c", "queued"), ("d", "aborting")):
        await world.put_job(id=id_, state=JobState(state), targets=TWO)
    world.jobs.load()
    assert {run.record.id for run in world.jobs.active_at("site-1")} == {"a", "b"}
    assert world.jobs.active_at("site-3") == []


# ---- watching --------------------------------------------------------------------------------


async def test_watcher_sees_the_job_at_once_and_each_change_and_the_end(world):
    running = await deploy(world, *TWO)
    watching = world.jobs.watch(running.run.record.id)
    assert (await anext(watching)).record.state is JobState.RUNNING
    rest = asyncio.create_task(states(watching))
    running.workflow.say(finished())
    await world.reaches(running.run, JobState.FINISHING)
    for fake in running.sites.values():
        fake.stops(running.run)
    async with asyncio.timeout(PATIENCE):
        seen = await rest
    assert (JobState.FINISHING in seen, seen[-1]) == (True, JobState.COMPLETED)


async def states(watching):
    return [run.record.state async for run in watching]


async def test_slow_watcher_does_not_lose_the_final_state(world):
    """It stands still between two changes; all that matters happens meanwhile."""
    running = await deploy(world, *TWO)
    watching = world.jobs.watch(running.run.record.id)
    assert (await anext(watching)).record.state is JobState.RUNNING
    running.workflow.say(finished())
    await world.reaches(running.run, JobState.FINISHING)
    for fake in running.sites.values():
        fake.stops(running.run)
    await world.over(running.run)
    async with asyncio.timeout(PATIENCE):
        assert await states(watching) == [JobState.COMPLETED]


async def test_watching_what_has_ended_shows_it_once(world):
    run = await world.run(state=JobState.FAILED)
    async with asyncio.timeout(PATIENCE):
        assert [seen.record.state async for seen in world.jobs.watch(run.record.id)] == [JobState.FAILED]


async def test_each_of_many_watchers_is_woken(world):
    run = await world.run(targets=TWO)

    async def ended():
        return [seen.record.state async for seen in world.jobs.watch(run.record.id)][-1]

    watchers = [asyncio.create_task(ended()) for _ in range(20)]
    await asyncio.sleep(0)
    await world.jobs.abort(run, ADA, "")
    async with asyncio.timeout(PATIENCE):
        assert set(await asyncio.gather(*watchers)) == {JobState.ABORTED}


@pytest.mark.parametrize("unconfirmed", [(), ("site-1",)])
async def test_log_of_a_job_that_ended_before_the_restart_is_at_its_end(world, unconfirmed):
    """Also when a site has still to confirm: nobody who follows may wait for that."""
    await world.put_job(state=JobState.ABORTED, unconfirmed=unconfirmed)
    await world.reboot()
    async with asyncio.timeout(PATIENCE):
        parts = [part async for part in world.logs.follow("0job", {"site-1": 0}, live=True)]
    assert parts == []


# ---- blobs -----------------------------------------------------------------------------------


async def big(world, running, name, *values):
    """A file that the workflow leaves, and the digest under which the server will keep it."""
    data = tensors(*values, name=name)
    return running.workflow.leave(name, data), await world.blobs.put(data)


async def test_saved_state_takes_the_place_of_the_oldest_that_is_kept(world):
    world.checkpoints = Retention(most=2)
    world.boot()
    running = await deploy(world, *TWO)
    digests = []
    for number in range(3):
        part, digest = await big(world, running, f"s{number}", number)
        running.workflow.say(close_round(number, part))
        await running.workflow.hears("saved")
        await running["site-1"].fence(running.run)
        digests.append(digest)
    assert world.blobs.digests() == {world.app.digest, digests[1], digests[2]}
    assert [round_.state is not None for round_ in world.jobs.rounds("0job")] == [False, True, True]


async def test_state_that_did_not_change_is_not_removed_with_the_round(world):
    running = await deploy(world, *TWO)
    for number in range(3):
        part, digest = await big(world, running, "same", 1)
        running.workflow.say(close_round(number, part))
        await running.workflow.hears("saved")
        await running["site-1"].fence(running.run)
        assert world.blobs.has(digest)


async def test_blob_that_another_job_names_is_kept(world):
    data = tensors(1, 2, 3)
    digest = await world.blobs.put(data)
    ref = BlobRef(digest=digest, size=len(data))
    await world.put_job(id="other", state=JobState.COMPLETED, results={"model.safetensors": ref})
    running = await deploy(world, *TWO)
    running.workflow.say(close_round(0, running.workflow.leave("s", data)))
    await running.workflow.hears("saved")
    running.workflow.say(close_round(1, payload(b"small")))
    await running.workflow.hears("saved")
    await running["site-1"].fence(running.run)
    assert world.blobs.has(digest)


async def test_blob_that_the_disk_does_not_let_go_of_fails_no_job(world, monkeypatch, caplog):
    running = await train(world, *TWO)
    data = tensors(1, 2, 3)
    digest = await world.blobs.put(data)
    for name in TWO:
        running[name].updates(running.run, "train/0/0", tensors=BlobRef(digest=digest, size=len(data)))
        await running.workflow.hears("answer")
    with monkeypatch.context() as patch:
        patch.setattr(world.blobs, "remove", refuses("blob 0123 cannot be removed: Input/output error"))
        running.workflow.say(close_round())
        await running.workflow.hears("saved")
        await running["site-1"].fence(running.run)
    assert running.run.record.round == 1
    assert running.run.active
    assert "cannot be removed" in caplog.text
    assert world.jobs.collect({digest}) == []
    assert not world.blobs.has(digest)


def refuses(why):
    def remove(digest):
        raise LocalError(why)

    return remove


async def test_blob_that_another_jobs_open_round_needs_is_kept(world):
    data = tensors(1, 2, 3)
    running = await train(world, *TWO)
    digest = await world.blobs.put(data)
    running.run.rounds.note_sent("site-1", digest)
    world.jobs.collect({digest})
    assert world.blobs.has(digest)
    running.run.rounds.drop()
    world.jobs.collect({digest})
    assert not world.blobs.has(digest)


async def test_upload_that_was_given_up_goes_after_a_week(world):
    upload = world.blobs.upload("a" * 64, 10, owner="site-1")
    await upload.write(b"12345")
    upload.close()
    del upload
    [partial] = (world.folder / "blobs" / "partial").iterdir()
    written = world.clock.now().timestamp()
    os.utime(partial, (written, written))
    world.clock.advance(7 * 24 * 3600)
    world.jobs.collect(())
    assert partial.exists()
    world.clock.advance(3600)  # it is not looked for at every round
    world.jobs.collect(())
    assert not partial.exists()


async def test_app_is_never_collected(world):
    world.jobs.load()
    world.jobs.collect({world.app.digest})
    assert world.blobs.has(world.app.digest)


async def test_results_and_checkpoints_outlive_their_job(world):
    running = await deploy(world, *TWO)
    state, state_digest = await big(world, running, "state", 1)
    result, result_digest = await big(world, running, "result", 2)
    running.workflow.say(close_round(0, state))
    await running.workflow.hears("saved")
    running.workflow.say(finished(model__safetensors=result))
    await world.reaches(running.run, JobState.FINISHING)
    for fake in running.sites.values():
        fake.stops(running.run)
    await world.over(running.run)
    assert running.run.record.model is None
    world.jobs.collect(world.blobs.digests())
    assert world.blobs.digests() == {world.app.digest, result_digest, state_digest}


async def test_what_may_go_after_a_round_is_found_without_a_look_at_each_ended_job(world, monkeypatch):
    for number in range(50):
        await world.put_job(
            id=f"{number:02}job", state=JobState.COMPLETED, results={"r": BlobRef(digest=f"{number:064x}")}
        )
    world.jobs.load()
    looked: list[str] = []
    monkeypatch.setattr(jobs_module, "blobs_of", lambda job, rounds: looked.append(job.id) or set())
    assert world.jobs.unneeded({f"{number:064x}" for number in range(60)}) == {
        f"{number:064x}" for number in range(50, 60)
    }
    assert looked == []


async def test_blob_of_two_ended_jobs_goes_with_the_second(world):
    digest = await world.blobs.put(b"the same result")
    for name in ("one", "two"):
        await world.put_job(id=name, state=JobState.COMPLETED, results={"r": BlobRef(digest=digest, size=15)})
    world.jobs.load()
    await world.jobs.delete(world.jobs.find("one"), ADA.uri, "")
    assert world.blobs.has(digest)
    await world.jobs.delete(world.jobs.find("two"), ADA.uri, "")
    assert not world.blobs.has(digest)


async def test_blobs_of_a_deleted_job_go_although_its_caller_hung_up(world, monkeypatch):
    digest = await world.blobs.put(b"a result")
    await world.put_job(id="one", state=JobState.COMPLETED, results={"r": BlobRef(digest=digest, size=8)})
    world.jobs.load()
    reached, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(folder):
        loop.call_soon_threadsafe(reached.set)
        goes_on.wait(PATIENCE)

    monkeypatch.setattr(jobs_module, "remove_folder", slow)
    deleting = asyncio.ensure_future(world.jobs.delete(world.jobs.find("one"), ADA.uri, ""))
    await reached.wait()
    deleting.cancel()
    await asyncio.wait([deleting])
    goes_on.set()
    assert not world.blobs.has(digest)


async def test_start_removes_blobs_that_no_record_names_and_keeps_the_others(world):
    """What sites had sent when the server was killed, and whose word never came."""
    names = ("orphan", "result", "model", "update")
    found = {name: await world.blobs.put(name.encode()) for name in names}
    refs = {name: BlobRef(digest=digest, size=1) for name, digest in found.items()}
    await world.put_job(id="done", state=JobState.COMPLETED, results={"r": refs["result"], "s": inline(b"1")})
    known = update_record("site-1", "train/1/0", tensors=refs["update"])
    await world.put_job(known=(known,), targets=TWO, state=JobState.RUNNING, model=refs["model"], round=1)
    await world.reboot()
    assert world.blobs.digests() == {world.app.digest, found["result"], found["model"], found["update"]}


async def test_rounds_are_there_after_a_restart_in_order(world):
    running = await deploy(world, *TWO, spec=spec(sites=Membership(min=1)))
    for number in range(12):
        running.workflow.say(close_round(number))
        await running.workflow.hears("saved")
    assert [record.round for record in world.jobs.rounds("0job")] == list(range(12))
    await world.reboot()
    assert [record.round for record in world.jobs.rounds("0job")] == list(range(12))
    assert world.jobs.rounds("nobody") == []


async def half_an_update(world, owner="0job/site-1"):
    """What a site had sent when its connection broke; returns the folder of such halves."""
    data = b"u" * 100_000
    upload = world.blobs.upload(digest_of(data), len(data), owner=owner)
    await upload.write(data[:50_000])
    upload.close()
    folder = world.folder / "blobs" / "partial"
    assert list(folder.iterdir()) != []
    return folder


async def abort_everywhere(world, run, sites):
    await world.jobs.abort(run, ADA, "")
    for fake in sites:
        fake.stops(run)
    await world.over(run)


async def test_half_an_update_goes_with_its_job(world):
    running = await deploy(world, *TWO)
    folder = await half_an_update(world)
    await half_an_update(world, owner="1job/site-1")
    await abort_everywhere(world, running.run, running.sites.values())
    assert len(list(folder.iterdir())) == 1  # another job's is left alone


async def test_half_an_update_goes_with_its_job_also_if_the_server_was_killed_in_between(world):
    await deploy(world, *TWO)
    folder = await half_an_update(world)
    world.blobs = BlobStore(world.folder / "blobs")  # a new process: it has never heard of that upload
    await world.reboot()
    assert list(folder.iterdir()) != []  # the site goes on with it
    run = world.jobs.find("0job")
    await abort_everywhere(world, run, [world.connect(name) for name in TWO])
    assert list(folder.iterdir()) == []


async def test_half_an_update_of_a_job_that_ended_as_the_server_was_killed_goes_at_its_start(world):
    await world.put_job(state=JobState.ABORTED, targets=TWO)
    folder = await half_an_update(world)
    await world.reboot()
    assert list(folder.iterdir()) == []


async def test_watcher_sees_how_a_site_moves_at_most_once_a_second(world):
    """Forty steps and two thousand bytes are one message; a site that repeats itself is none."""
    running = await train(world, *TWO)
    watching = world.jobs.watch(running.run.record.id)
    await anext(watching)
    second = asyncio.create_task(anext(watching))
    await world.clock.elapse(0)
    for number in range(40):
        running.run.note_progress("site-1", pb.Progress(step=number + 1))
    await world.clock.elapse(0.9)
    assert not second.done()
    await world.clock.elapse(0.2)
    assert second.done()
    assert (await second).sites.parts["site-1"].step == 40
    third = asyncio.create_task(anext(watching))
    await world.clock.elapse(5)
    running.run.note_progress("site-1", pb.Progress(step=40))
    await world.clock.elapse(5)
    assert not third.done()
    assert world.clock.sleeping == 0
    running.run.note_progress("site-1", pb.Progress(doing="sending update", bytes_done=7, bytes_total=9))
    await world.clock.elapse(1)
    part = (await third).sites.parts["site-1"]
    assert (part.doing, part.bytes_done, part.bytes_total) == ("sending update", 7, 9)


async def test_steps_of_a_job_that_nobody_watches_start_no_timer(world):
    running = await train(world, *TWO)
    running.run.note_progress("site-1", pb.Progress(step=3))
    assert world.clock.sleeping == 0


async def test_change_that_comes_before_the_second_is_over_takes_the_steps_along(world):
    running = await train(world, *TWO)
    watching = world.jobs.watch(running.run.record.id)
    await anext(watching)
    second = asyncio.create_task(anext(watching))
    await world.clock.elapse(0)
    running.run.note_progress("site-1", pb.Progress(step=3))
    running.run.sites.set("site-2", "stalled", "why")
    await world.clock.elapse(0)
    assert second.done()
    third = asyncio.create_task(anext(watching))
    await world.clock.elapse(3)
    assert not third.done()
    third.cancel()
