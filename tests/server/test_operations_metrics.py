# SPDX-License-Identifier: Apache-2.0
"""What the server tells Prometheus: valid, bounded, without secrets, true."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_network import ALONE, trained
from server_parties import ADA, LEO, vitals
from server_running import copy_config, put_job, running

from flprov.jobs import JobState
from flprov.server.operations.metrics import ServerMetrics
from flprov.server.operations.tally import CountedStore, Histogram, Tally
from flprov.server.sights.scene import Scene
from flprov.server.sights.sites import site_documents
from flprov.store import Put, Row
from flprov.wire.documents import GPU, StatusDocument

GPUS = tuple(
    GPU(
        index=n,
        uuid=f"GPU-{n}",
        name="A100",
        driver="550",
        memory_total=80 << 30,
        memory_used=3 << 30,
        utilization=50.0,
        temperature=None,
    )
    for n in range(2)
)


@pytest.fixture
def tally():
    return Tally()


@pytest.fixture
def metrics(world, network, tally):
    from server_network import DESCRIPTION

    scene = Scene(
        clock=world.clock,
        registry=world.registry,
        sessions=world.sessions,
        jobs=world.jobs,
        complete=network.operations.complete,
    )

    def status():
        described = network.operations.described()
        return StatusDocument(server=replace(DESCRIPTION, **described), sites=site_documents(scene))

    return ServerMetrics(clock=world.clock, status=status, jobs=world.jobs, tally=tally)


def read(metrics) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_figures_are_what_status_shows(world, dial, metrics):
    one = dial()
    await one.open()
    one.beat(vitals(gpus=GPUS))
    await trained(world, one, spec=ALONE)
    await world.put_job(id="1queued", targets=("site-1",), submitted_at=world.clock.now())
    world.jobs.load()
    world.clock.advance(60)
    found = read(metrics)
    assert found["flprov_sites"][("connected",)] == 1
    assert found["flprov_sites"][("never_connected",)] == 2
    assert found["flprov_site_connected"] == {
        ("org-a", "site-1"): 1,
        ("org-b", "site-2"): 0,
        ("org-a", "site-3"): 0,
    }
    assert found["flprov_jobs"][("running",)] == 1
    assert found["flprov_jobs"][("queued",)] == 1
    assert found["flprov_queue_oldest_seconds"][()] == 60
    assert found["flprov_site_gpu_memory_used_bytes"][("0", "site-1")] == 3 << 30
    assert found["flprov_site_gpu_utilization_ratio"][("1", "site-1")] == 0.5


async def test_text_keeps_the_rules_of_prometheus(world, dial, metrics):
    one = dial()
    await one.open()
    one.beat(vitals(gpus=GPUS))
    text = metrics.text().decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"flprov_[a-z_]+", family.name), family.name
        assert family.documentation.endswith(".")
        assert family.type != "counter" or all(s.name.endswith("_total") for s in family.samples)
        assert family.type == "counter" or not family.name.endswith("_total")
        assert not re.search(r"_(ms|millis|minutes|kb|mb|percent)(_|$)", family.name)
        labels = {tuple(sorted(set(sample.labels) - {"le"})) for sample in family.samples}
        assert len(labels) <= 1, family.name
    samples = re.findall(r"^(flprov_[^ ]+) ", text, re.MULTILINE)
    assert len(samples) == len(set(samples))


async def test_labels_hold_no_ids_of_jobs_and_no_names_of_people(world, dial, metrics):
    one = dial()
    await one.open()
    await trained(world, one, spec=ALONE)
    text = metrics.text().decode()
    assert "0job" not in text
    assert not re.search(r"\b(ada|leo|spiffe)\b", text)


def test_commits_rounds_and_refusals_are_counted(world, metrics, tally):
    ended = {"started_at": "2026-01-01T00:00:00.000Z", "finished_at": "2026-01-01T00:02:00.000Z"}

    async def commit() -> None:
        store = CountedStore(world.store, tally, world.clock)
        await store.commit([Put("round", "j/0", ended)], Row(who="server", what="round.close", object="j/0"))
        await store.commit([], Row(who=LEO.uri, what="call", object="x", outcome="denied"))
        await store.commit([], Row(who="server", what="update.accept", object="j"))
        world.store.full = True
        with pytest.raises(Exception, match="full"):
            await store.commit([], Row(who=ADA.uri, what="x", object="y"))

    asyncio.run(commit())
    found = read(metrics)
    assert found["flprov_rounds_total"][()] == 1
    assert found["flprov_round_seconds_sum"][()] == 120
    assert found["flprov_round_seconds_bucket"][("60",)] == 0
    assert found["flprov_round_seconds_bucket"][("300",)] == 1
    assert found["flprov_refused_calls_total"][()] == 1
    assert found["flprov_updates_total"][("taken",)] == 1
    assert found["flprov_commit_seconds_count"][()] == 3
    assert found["flprov_failed_commits_total"][()] == 1


def test_histogram_counts_as_prometheus_does():
    found = Histogram((1.0, 10.0))
    for seconds in (0.5, 1.0, 5.0, 100.0):
        found.add(seconds)
    assert found.buckets == [("1", 2), ("10", 3), ("+Inf", 4)]
    assert found.sum == 106.5


async def test_whole_server_is_scraped(kit_folder, tmp_path, made_at, app, kit):
    config = replace(copy_config(kit_folder, tmp_path, made_at), metrics="127.0.0.1:0")
    await put_job(config, app, state=JobState.COMPLETED)
    async with running(config) as found:
        listen = found.server.describe().metrics
        port = int(re.search(r":(\d+)/", listen)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
        writer.close()
        assert 'flprov_jobs{state="completed"} 1.0' in text
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["server"]["name"] == "server"
        assert b"PRIVATE" not in body
