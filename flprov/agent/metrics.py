# SPDX-License-Identifier: Apache-2.0
"""The agent's `/metrics` and `/health`: made when they are asked for, from what `site status KIT` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from flprov._base import canonical_json
from flprov.wire.documents import SiteStatusDocument, Vitals

_LINK_STATES = ("connecting", "connected", "refused", "stopped")


class SiteMetrics(Collector):
    """Everything that Prometheus is told, in a registry of its own."""

    def __init__(self, status: Callable[[], SiteStatusDocument], uploads: Callable[[], int]) -> None:
        self._status = status
        self._uploads = uploads
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All of it, as it is now, in Prometheus' text format."""
        return bytes(generate_latest(self._registry))

    def health(self) -> tuple[bool, bytes]:
        """Whether every rung of the ladder holds, and the ladder."""
        found = self._status()
        well = found.connected and all(rung.ok for rung in found.ladder)
        return well, canonical_json(
            {
                "ok": well,
                "site": found.name,
                "connected": found.connected,
                "link": found.link,
                "ladder": found.ladder,
                "why": found.why,
                "hint": found.hint,
                "drained": found.drained,
                "jobs": found.jobs,
            }
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing is collected before it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        found = self._status()
        info = GaugeMetricFamily(
            "flprov_agent_build_info", "The version that runs.", labels=["version", "site"]
        )
        info.add_metric([found.version, found.name], 1)
        yield info
        link = GaugeMetricFamily("flprov_agent_link", "1 for the state that the link has.", labels=["state"])
        for state in _LINK_STATES:
            link.add_metric([state], float(found.link.state == state))
        yield link
        yield _gauge("flprov_agent_link_since_timestamp_seconds", "Since when.", _stamp(found.link.since))
        yield _gauge("flprov_agent_link_tries", "Dials since it was last connected.", found.link.tries)
        ready = found.connected and all(rung.ok for rung in found.ladder)
        yield _gauge("flprov_agent_ready", "1 while every rung of the ladder holds.", float(ready))
        yield _gauge("flprov_agent_drained", "1 while it gets no new jobs.", float(bool(found.drained)))
        yield _gauge("flprov_agent_retrying", "Things that are being tried again.", len(found.retrying))
        yield _gauge("flprov_agent_uploads", "Updates that are on their way to the server.", self._uploads())
        yield _gauge(
            "flprov_agent_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends.",
            _stamp(found.cert_not_after),
        )
        yield _gauge("flprov_agent_jobs", "Jobs that this site holds.", len(found.jobs))
        if found.vitals:
            yield from _machine(found.vitals)


def _machine(vitals: Vitals) -> Iterator[Metric]:
    yield _gauge("flprov_agent_disk_free_bytes", "Free on the disk of the state.", vitals.disk.available)
    yield _gauge("flprov_agent_disk_size_bytes", "Size of the disk of the state.", vitals.disk.total)
    yield _gauge("flprov_agent_memory_free_bytes", "Memory that is available.", vitals.memory.available)
    used = GaugeMetricFamily(
        "flprov_agent_gpu_memory_used_bytes", "Memory in use, by whomever.", labels=["gpu"]
    )
    total = GaugeMetricFamily("flprov_agent_gpu_memory_total_bytes", "Memory of the GPU.", labels=["gpu"])
    busy = GaugeMetricFamily("flprov_agent_gpu_utilization_ratio", "How busy it is, 0 to 1.", labels=["gpu"])
    leased = GaugeMetricFamily("flprov_agent_gpu_leased", "Jobs that have it.", labels=["gpu"])
    for gpu in vitals.gpus:
        label = [str(gpu.index)]
        used.add_metric(label, gpu.memory_used)
        total.add_metric(label, gpu.memory_total)
        leased.add_metric(label, len(gpu.leased_to))
        if gpu.utilization is not None:
            busy.add_metric(label, gpu.utilization / 100)
    yield from (used, total, busy, leased)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _stamp(moment: datetime) -> float:
    return moment.timestamp()
