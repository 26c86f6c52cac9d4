# SPDX-License-Identifier: Apache-2.0
"""A model that the server foretells is here before its task; one that never comes does not stay."""

from __future__ import annotations

import asyncio

import pytest
from agent_parties import App
from agent_rig import PATIENCE, Rig
from test_agent_sitejob import LARGE, Site, answer

from flprov.blobs import digest_of
from flprov.wire import pb

NEXT = LARGE.replace(b"\x00" * 8, b"\x01" * 8)


@pytest.fixture
async def site(rig: Rig, app: App) -> Site:
    assert (await rig.deploy(app)).ready
    found = Site(rig)
    await found.order("0/train/1", model=found.offer(LARGE))
    await found.says(answer=answer(found.put_out("u", LARGE)))
    return found


def foretell(site: Site, model: pb.Payload, job_id: str = "j1") -> None:
    site.rig.jobs.foretold(pb.Upcoming(job_id=job_id, model=model))


async def here(site: Site, digest: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not site.rig.blobs.has(digest):
            await asyncio.sleep(0.005)


def fetches(site: Site, digest: str) -> int:
    return sum(ask.digest == digest and ask.offset == 0 for ask in site.rig.server.fetches)


async def test_the_task_finds_the_model_that_was_foretold(site: Site):
    model = site.offer(NEXT)
    foretell(site, model)
    await here(site, model.digest)
    task = await site.order("1/train/1", number=1, model=model)
    assert (site.rig.folder() / "in" / task.model.file).read_bytes() == NEXT
    assert fetches(site, model.digest) == 1


async def test_a_task_that_comes_while_its_model_is_on_the_way_waits_for_that(site: Site):
    model = site.offer(NEXT)
    foretell(site, model)
    task = await site.order("1/train/1", number=1, model=model)
    assert (site.rig.folder() / "in" / task.model.file).read_bytes() == NEXT
    assert fetches(site, model.digest) == 1


async def test_a_model_that_was_foretold_and_does_not_come_goes_with_the_next_task(site: Site):
    model = site.offer(NEXT)
    foretell(site, model)
    await here(site, model.digest)
    other = site.offer(LARGE.replace(b"\x00" * 8, b"\x02" * 8))
    await site.order("1/train/1", number=1, model=other)
    assert not site.rig.blobs.has(model.digest)
    assert site.rig.blobs.has(other.digest)


async def test_a_model_that_the_server_does_not_give_yet_does_no_harm(site: Site):
    digest = digest_of(NEXT)
    foretell(site, pb.Payload(digest=digest, size=len(NEXT)))
    foretell(site, site.offer(NEXT), job_id="not here")
    model = site.offer(NEXT)
    task = await site.order("1/train/1", number=1, model=model)
    assert (site.rig.folder() / "in" / task.model.file).read_bytes() == NEXT


async def test_a_site_that_is_at_work_fetches_nothing_ahead(site: Site):
    await site.order("1/train/1", number=1)
    model = site.offer(NEXT)
    foretell(site, model)
    await site.says(answer=answer(task_id="1/train/1"))
    assert fetches(site, model.digest) == 0


@pytest.mark.parametrize("name", ["../x", "", "A" * 64, "a" * 63])
async def test_what_is_no_name_of_a_blob_is_neither_fetched_nor_remembered(site: Site, name: str):
    foretell(site, pb.Payload(digest=name, size=9))
    site.rig.jobs.stop("j1", "over", 0.1)
    await site.rig.reports.wait("stopped")
    assert fetches(site, name) == 0


async def test_only_the_newest_foretold_model_is_kept(site: Site):
    first, second = site.offer(NEXT), site.offer(LARGE.replace(b"\x00" * 8, b"\x02" * 8))
    foretell(site, first)
    await here(site, first.digest)
    foretell(site, second)
    await here(site, second.digest)
    assert not site.rig.blobs.has(first.digest)
