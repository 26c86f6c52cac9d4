# SPDX-License-Identifier: Apache-2.0
"""What an agent tells Prometheus and health probes: the ladder, and no ids of jobs as labels."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from flprov.agent.metrics import SiteMetrics
from flprov.wire import documents as doc

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU = doc.GPU(
    index=0,
    uuid="GPU-0",
    name="A100",
    driver="550",
    memory_total=8,
    memory_used=3,
    utilization=25.0,
    temperature=None,
    leased_to=("job-1",),
)
STATUS = doc.SiteStatusDocument(
    name="site-1",
    org="org-a",
    project="heart",
    version="0.1.0",
    server=("localhost:1",),
    connected=True,
    link=doc.LinkStatus(state="connected", since=NOW, tries=2),
    cert_not_after=NOW,
    policy="p",
    site_settings="s",
    jobs={"job-1": "training"},
    vitals=doc.Vitals(
        cpu=doc.CPU(count=4, load=0.5, percent=3.0),
        memory=doc.Space(total=2, available=1),
        disk=doc.Space(total=20, available=10),
        gpus=(GPU,),
    ),
    ladder=(doc.Rung(name="connected", ok=True, since=NOW),),
)


def figures(status: doc.SiteStatusDocument) -> dict[str, float]:
    text = SiteMetrics(lambda: status, lambda: 1).text().decode()
    assert "job-1" not in text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_are_those_of_site_status():
    found = figures(STATUS)
    assert found["flprov_agent_link connected"] == 1
    assert found["flprov_agent_link connecting"] == 0
    assert found["flprov_agent_link_tries"] == 2
    assert found["flprov_agent_ready"] == 1
    assert found["flprov_agent_jobs"] == 1
    assert found["flprov_agent_uploads"] == 1
    assert found["flprov_agent_disk_free_bytes"] == 10
    assert found["flprov_agent_gpu_utilization_ratio 0"] == 0.25
    assert found["flprov_agent_gpu_leased 0"] == 1


def test_before_the_first_look_around_there_are_no_figures_of_the_machine():
    assert "flprov_agent_disk_free_bytes" not in figures(replace(STATUS, vitals=None))


def test_health_is_the_ladder():
    def health(**changes):
        well, body = SiteMetrics(lambda: replace(STATUS, **changes), lambda: 0).health()
        assert json.loads(body)["ok"] is well
        return well

    assert health()
    assert not health(connected=False)
    assert not health(ladder=(doc.Rung(name="environment_ready", ok=False, since=NOW, reason="disk"),))
    assert health(drained="drained by ada")  # which is somebody's decision, and not ill health
