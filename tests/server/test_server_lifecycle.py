# SPDX-License-Identifier: Apache-2.0
"""A server starts, serves and stops; what it was told survives; a second one on its kit does not start."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from server_fakes import PATIENCE, FailingStore
from server_parties import signed, submission
from server_running import copy_config, put_job, running

from flprov.errors import KitRefused, LocalError, ServerUnavailable
from flprov.jobs import JobState
from flprov.rpc import ask_local
from flprov.rpc import methods as m
from flprov.server import Server
from flprov.store import open_store
from flprov.testing.clock import FakeClock
from flprov.wire import pb


@pytest.fixture
def config(kit_folder, tmp_path, made_at):
    return copy_config(kit_folder, tmp_path, made_at)


async def status(found, kit):
    return json.loads((await found.connect(kit("ada")).unary(m.STATUS, pb.Query())).json)["server"]


async def test_start_and_stop_are_rows(config):
    async with running(config):
        pass
    store = open_store(config.state, clock=FakeClock())
    assert [entry.row.what for entry in store.rows()] == ["server.start", "server.stop"]
    await store.close()


async def test_server_describes_itself(config, kit, app):
    await put_job(config, app, state=JobState.RUNNING)
    async with running(config) as found:
        server = await status(found, kit)
    assert (server["name"], server["project"], server["jobs_running"], server["jobs_queued"]) == (
        "server",
        "heart",
        1,
        0,
    )
    assert (server["log_index"] >= 1, server["listen"]) == (True, "127.0.0.1:0")


async def test_state_folder_is_private(config):
    async with running(config):
        assert oct(config.state.stat().st_mode & 0o777) == "0o700"
        assert oct((config.state / "installation").stat().st_mode & 0o777) == "0o600"


async def test_installation_stays_over_a_restart(config):
    seen = set()
    for _ in range(2):
        async with running(config):
            seen.add((config.state / "installation").read_text())
    assert len(seen) == 1


async def test_job_that_was_submitted_is_there_after_a_restart(config, kit, app):
    await put_job(config, app, id="old")
    request = signed(kit("leo"), submission(kit("leo"), app.digest))
    ids = []
    for _ in range(2):
        async with running(config) as found:
            reply = await found.connect(kit("leo")).unary(m.SUBMIT_JOB, request)
            ids.append(json.loads(reply.json)["job_id"])
    assert ids[0] == ids[1]


async def test_second_server_on_one_kit_does_not_start(config):
    async with running(config):
        with pytest.raises(KitRefused, match="a server is already running on"):
            async with running(config):
                pass


async def test_stopping_server_lets_its_callers_go(config, kit):
    async with running(config) as found:
        connection = found.connect(kit("site-1"))

        async def forever():
            yield pb.FromSite(hello=pb.Hello(protocol=1, installation="x" * 32, trust=1))
            await asyncio.Event().wait()

        stream = connection.stream(m.CONTROL, forever())
        assert (await anext(stream)).HasField("welcome")
        found.server.stop()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises((ServerUnavailable, StopAsyncIteration)):
                await anext(stream)


async def test_status_for_people_on_the_same_machine(config, kit):
    def ask():
        return ask_local(config.state, what="the server", hint="")

    async with running(config):
        assert json.loads(await asyncio.to_thread(ask))["project"] == "heart"
    with pytest.raises(ServerUnavailable):
        await asyncio.to_thread(ask)


async def test_port_that_is_taken_is_named(config, app):
    async def taken(reader, writer):
        writer.close()

    other = await asyncio.start_server(taken, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    with pytest.raises(LocalError, match=f"cannot listen on 127.0.0.1:{port}"):
        async with running(replace(config, listen=f"127.0.0.1:{port}"), transport="grpc"):
            pass
    other.close()


async def test_server_that_cannot_listen_goes_on_with_no_job(config, app):
    """Nobody drives a job whose sites cannot reach it: the twin at the port does."""
    await put_job(config, app, state=JobState.RUNNING, targets=("site-1",), members=("site-1",))

    async def refuse(service, **gates):
        await asyncio.sleep(0.05)
        raise KitRefused("another server with this kit's identity answers")

    before = asyncio.all_tasks()
    with pytest.raises(KitRefused):
        async with running(config, transport="grpc", serve_on=refuse):
            pass
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


async def test_server_whose_log_cannot_be_written_does_not_start_and_leaves_nothing_open(config):
    store = FailingStore()
    store.full = store.no_reserve = True
    before = asyncio.all_tasks()
    with pytest.raises(LocalError, match="disk is full"):
        async with running(config, store=lambda _: store):
            pass
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


def test_making_a_server_touches_nothing(config):
    Server(config)
    assert not config.state.exists()
