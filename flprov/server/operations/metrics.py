# SPDX-License-Identifier: Apache-2.0
"""The server's `/metrics` and `/health`: made when they are asked for, from what `status` shows.

Labels are bounded: names of sites, states, indices of GPUs; never ids of jobs or names of people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from flprov._base import Clock, canonical_json
from flprov.jobs import JobState
from flprov.server.jobs.jobs import Jobs
from flprov.server.operations.tally import Histogram, Tally
from flprov.wire.documents import GPU, SiteDocument, StatusDocument

_MOST_GPUS = 64  # of one site
_SITE_STATES = ("connected", "disconnected", "never_connected", "locked", "refused")


class ServerMetrics(Collector):
    """Everything that Prometheus is told, in a registry of its own."""

    def __init__(
        self, *, clock: Clock, status: Callable[[], StatusDocument], jobs: Jobs, tally: Tally
    ) -> None:
        self._clock = clock
        self._status = status
        self._jobs = jobs
        self._tally = tally
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All of it, as it is now, in Prometheus' text format."""
        return bytes(generate_latest(self._registry))

    def health(self) -> tuple[bool, bytes]:
        """Whether it serves and nothing waits for an admin; that it serves is why it can answer."""
        server = self._status().server
        return not server.notes, canonical_json({"ok": not server.notes, "server": server})

    def describe(self) -> Iterator[Metric]:
        """Nothing is collected before it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        status = self._status()
        yield from self._server(status)
        yield from self._job_figures()
        yield from _sites(status.sites)
        yield from _gpus(status.sites)
        yield from self._counts()

    def _server(self, status: StatusDocument) -> Iterator[Metric]:
        server = status.server
        info = GaugeMetricFamily(
            "flprov_build_info", "The version that runs.", labels=["version", "protocol"]
        )
        info.add_metric([server.version, str(server.protocol)], 1)
        yield info
        yield _gauge("flprov_start_time_seconds", "When the server was started.", _stamp(server.started_at))
        yield _gauge("flprov_drained", "1 while the server starts no jobs.", float(bool(server.drained)))
        yield _gauge("flprov_log_index", "Index of the last row of the log.", server.log_index)
        yield _gauge("flprov_warnings", "Certificates that end soon.", len(server.warnings))
        if server.disk:
            yield _gauge("flprov_disk_free_bytes", "Free on the disk of the state.", server.disk.available)
            yield _gauge("flprov_disk_size_bytes", "Size of the disk of the state.", server.disk.total)
        ends_of = CounterMetricFamily(
            "flprov_tracking_restarts", "Times that a receiver of metrics has ended.", labels=["receiver"]
        )
        for receiver in server.tracking:
            ends_of.add_metric([receiver.name], receiver.restarts)
        yield ends_of
        ends = GaugeMetricFamily(
            "flprov_certificate_expiry_timestamp_seconds",
            "When the certificate of a party ends.",
            labels=["kind", "name"],
        )
        ends.add_metric(["server", server.name], _stamp(server.cert_not_after))
        for site in status.sites:
            if site.cert_not_after is not None:
                ends.add_metric(["site", site.name], _stamp(site.cert_not_after))
        yield ends

    def _job_figures(self) -> Iterator[Metric]:
        runs = self._jobs.all()
        states = Counter(run.record.state for run in runs)
        found = GaugeMetricFamily("flprov_jobs", "Jobs by state.", labels=["state"])
        for state in JobState:
            found.add_metric([state.value], states[state])
        yield found
        queued = [run.record.submitted_at for run in runs if run.record.state is JobState.QUEUED]
        waited = (self._clock.now() - min(queued)).total_seconds() if queued else 0.0
        yield _gauge("flprov_queue_oldest_seconds", "How long the oldest queued job waits.", waited)

    def _counts(self) -> Iterator[Metric]:
        tally = self._tally
        yield _counter("flprov_rounds", "Rounds that were closed.", tally.rows["round.close", "ok"])
        updates = CounterMetricFamily("flprov_updates", "Updates by what became of them.", labels=["outcome"])
        for outcome, verb in (("taken", "accept"), ("refused", "refuse"), ("late", "late")):
            updates.add_metric([outcome], _verb(tally, f"update.{verb}"))
        yield updates
        denied = sum(count for (_, outcome), count in tally.rows.items() if outcome == "denied")
        yield _counter("flprov_refused_calls", "Rows about calls that were refused.", denied)
        yield _counter("flprov_workflow_restarts", "Workflows begun again.", _verb(tally, "workflow.restart"))
        yield _counter("flprov_failed_commits", "Changes that could not be written.", tally.failed_commits)
        for name, words, counts in (
            ("flprov_received_bytes", "Bytes of blobs and logs that came, by who sent them.", tally.received),
            ("flprov_sent_bytes", "Bytes of blobs and logs that went, by who asked for them.", tally.sent),
        ):
            found = CounterMetricFamily(name, words, labels=["peer"])
            for peer in ("site", "person"):
                found.add_metric([peer], counts[peer])
            yield found
        yield _histogram("flprov_commit_seconds", "How long a durable change took.", tally.commit_seconds)
        yield _histogram("flprov_round_seconds", "How long a round took.", tally.round_seconds)


def _sites(sites: tuple[SiteDocument, ...]) -> Iterator[Metric]:
    states = Counter(site.state for site in sites)
    total = GaugeMetricFamily("flprov_sites", "Sites by state.", labels=["state"])
    for state in sorted({*_SITE_STATES, *states}):
        total.add_metric([state], states[state])
    yield total
    yield _per_site("flprov_site_connected", "1 while its control stream is open.", sites, _is_connected)
    yield _per_site("flprov_site_ready", "1 while every rung of its ladder holds.", sites, _is_ready)
    yield _per_site("flprov_site_drained", "1 while it gets no new jobs.", sites, lambda s: bool(s.drained))
    yield _per_site("flprov_site_jobs", "Jobs that run there.", sites, lambda s: len(s.jobs))
    yield _per_site(
        "flprov_site_last_seen_timestamp_seconds",
        "When it was heard of last.",
        sites,
        lambda s: _stamp(s.last_seen) if s.last_seen else None,
    )
    yield _per_site(
        "flprov_site_disk_free_bytes",
        "Free on the disk of its state.",
        sites,
        lambda s: s.disk.available if s.disk else None,
    )


def _is_connected(site: SiteDocument) -> bool:
    return site.state == "connected"


def _is_ready(site: SiteDocument) -> bool:
    return _is_connected(site) and all(rung.ok for rung in site.ladder)


def _gpus(sites: tuple[SiteDocument, ...]) -> Iterator[Metric]:
    figures: tuple[tuple[str, str, Callable[[GPU], float | None]], ...] = (
        ("flprov_site_gpu_memory_used_bytes", "Memory in use, by whomever.", lambda gpu: gpu.memory_used),
        ("flprov_site_gpu_memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.memory_total),
        ("flprov_site_gpu_utilization_ratio", "How busy it is, 0 to 1.", _utilization),
    )
    for name, words, read in figures:
        found = GaugeMetricFamily(name, words, labels=["site", "gpu"])
        for site in sites:
            for gpu in _countable(site.gpus):
                value = read(gpu)
                if value is not None:
                    found.add_metric([site.name, str(gpu.index)], value)
        yield found


def _countable(gpus: tuple[GPU, ...]) -> list[GPU]:
    """Each index once, and none that no machine has: a site's word must not make series without end."""
    return list({gpu.index: gpu for gpu in gpus if gpu.index < _MOST_GPUS}.values())


def _utilization(gpu: GPU) -> float | None:
    return None if gpu.utilization is None else gpu.utilization / 100


def _per_site(
    name: str, words: str, sites: tuple[SiteDocument, ...], read: Callable[[SiteDocument], float | None]
) -> Metric:
    found = GaugeMetricFamily(name, words, labels=["site", "org"])
    for site in sites:
        value = read(site)
        if value is not None:
            found.add_metric([site.name, site.org], float(value))
    return found


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=value)


def _histogram(name: str, words: str, found: Histogram) -> Metric:
    return HistogramMetricFamily(name, words, buckets=found.buckets, sum_value=found.sum)


def _verb(tally: Tally, what: str) -> int:
    return sum(count for (verb, _), count in tally.rows.items() if verb == what)


def _stamp(moment: datetime) -> float:
    return moment.timestamp()
