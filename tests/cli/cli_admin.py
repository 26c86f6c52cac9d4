# SPDX-License-Identifier: Apache-2.0
"""A client that answers what a test tells it to, and documents of a small project to answer with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flprov.admin import LogText
from flprov.errors import FlprovError, NotFound
from flprov.wire import documents as doc

NOW = datetime.now(UTC).replace(microsecond=0)  # "5 h ago" is said from the machine's own clock
BEEP = "\x1b[31mred\x07\u202e"  # text from elsewhere that would drive a terminal
LEO = "spiffe://heart.example/person/org-a/lead/leo"
APP = "ab" * 32


def before(**parts: float) -> datetime:
    return NOW - timedelta(**parts)


def make_gpu(**changes: Any) -> doc.GPU:
    fields: dict[str, Any] = {
        "index": 0,
        "uuid": "GPU-0",
        "name": "A100",
        "driver": "550",
        "memory_total": 80 << 30,
        "memory_used": 3 << 30,
        "utilization": None,
        "temperature": 41.0,
    }
    return doc.GPU(**(fields | changes))


def make_site(name: str = "site-1", **changes: Any) -> doc.SiteDocument:
    fields: dict[str, Any] = {
        "name": name,
        "org": "org-a",
        "state": "connected",
        "ladder": (
            doc.Rung(name="enrolled", ok=True, since=None),
            doc.Rung(name="connected", ok=True, since=before(hours=5.2)),
        ),
        "gpus": (),
        "gpu_note": "no NVIDIA driver on this machine",
        "cpu": doc.CPU(count=4, load=0.5, percent=12.0),
        "memory": doc.Space(total=16 << 30, available=8 << 30),
        "disk": doc.Space(total=100 << 30, available=40 << 30),
        "jobs": ("j1",),
        "last_seen": before(seconds=3),
        "cert_not_after": NOW + timedelta(days=30, hours=1),
        "version": "0.1.0",
        "host": "node-7",
        "datasets": ("heart",),
        "confinement": "landlock",
    }
    return doc.SiteDocument(**(fields | changes))


def make_away(name: str = "site-2") -> doc.SiteDocument:
    """A site that has never been here."""
    return make_site(
        name,
        state="never_connected",
        ladder=(
            doc.Rung(name="enrolled", ok=True, since=None),
            doc.Rung(name="connected", ok=False, since=None, reason="has never connected"),
        ),
        gpu_note="",
        cpu=None,
        memory=None,
        disk=None,
        jobs=(),
        last_seen=None,
        cert_not_after=None,
    )


def make_server(**changes: Any) -> doc.ServerDocument:
    fields: dict[str, Any] = {
        "name": "server",
        "project": "heart",
        "trust_domain": "heart.example",
        "version": "0.1.0",
        "protocol": 1,
        "started_at": before(hours=3),
        "cert_not_after": NOW + timedelta(days=60, hours=1),
        "listen": "0.0.0.0:8443",
        "jobs_running": 1,
        "jobs_queued": 2,
        "log_index": 17,
    }
    return doc.ServerDocument(**(fields | changes))


def make_round(number: int, **changes: Any) -> doc.RoundDocument:
    fields: dict[str, Any] = {
        "round": number,
        "started_at": before(seconds=9),
        "finished_at": before(seconds=8.5),
        "contributors": (
            doc.Contributor(site="site-1", samples=30, weight=30.0, bytes=100, seconds=0.2),
            doc.Contributor(site="site-2", samples=10, weight=10.0, bytes=100, seconds=0.3),
        ),
        "metrics": {"loss": 0.5, "accuracy": 0.91234},
    }
    return doc.RoundDocument(**(fields | changes))


def make_job(state: str = "completed", **changes: Any) -> doc.JobDocument:
    fields: dict[str, Any] = {
        "id": "j1",
        "name": "heart",
        "app": APP,
        "state": state,
        "reason": "",
        "submitted_at": before(hours=5.2),
        "started_at": before(hours=4.2, seconds=20),
        "finished_at": before(hours=4.2),
        "submitted_by": LEO,
        "sites": (doc.JobSiteDocument(site="site-1", state="stopped", since=before(hours=4.2)),),
        "rounds": (make_round(0), make_round(1)),
        "rounds_done": 2,
        "rounds_total": 2,
        "results": ("model.safetensors",),
    }
    return doc.JobDocument(**(fields | changes))


def make_app(**changes: Any) -> doc.AppDocument:
    fields: dict[str, Any] = {
        "digest": APP,
        "name": "heart",
        "size": 4404019,
        "uploaded_at": before(hours=3),
        "uploaded_by": LEO,
        "files": ("job.yml", "train.py"),
    }
    return doc.AppDocument(**(fields | changes))


class FakeAdmin:
    """What the commands call. `calls` has each call; an error in `fails` is raised instead of an answer."""

    def __init__(self) -> None:
        self.kits: list[Path] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fails: dict[str, BaseException] = {}
        self.closed = 0
        self.status_document = doc.StatusDocument(server=make_server(), sites=(make_site(), make_away()))
        self.app_documents: tuple[doc.AppDocument, ...] = (make_app(),)
        self.job_documents: tuple[doc.JobDocument, ...] = (make_job(),)
        self.more_jobs = False
        self.submitted = doc.SubmitDocument(job_id="j1", app=APP, state="queued")
        self.changes: list[doc.JobDocument] = [make_job()]  # what a wait sees; the last one ends it
        self.because = doc.WhyDocument(job_id="j1", state="failed", answer="it failed")
        self.parts: list[LogText] = []
        self.no_plot = ""
        self.changed = doc.PartyChangeDocument(name="site-1", kind="site", change="locked", changed=True)
        self.drains: list[doc.DrainDocument] = []
        self.orders: list[doc.SiteOrderDocument] = []
        self.cleaned = doc.CleanDocument(
            dry_run=False, jobs=(), checkpoints=1, blobs=2, uploads=3, bytes=2048
        )
        self.person_documents: tuple[doc.PersonDocument, ...] = ()
        self.certificate_documents: tuple[doc.CertificateDocument, ...] = ()
        self.crl_documents: tuple[doc.CRLDocument, ...] = ()

    def open(self, kit: str | Path, **_: Any) -> FakeAdmin:
        """Stands for `open_admin`."""
        self.kits.append(Path(kit))
        return self

    def __enter__(self) -> FakeAdmin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def _call(self, name: str, /, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if name in self.fails:
            raise self.fails[name]

    def status(self) -> doc.StatusDocument:
        self._call("status")
        return self.status_document

    def sites(self) -> tuple[doc.SiteDocument, ...]:
        self._call("sites")
        return self.status_document.sites

    def renew_certificate(self, name: str, *, reason: str = "") -> doc.RenewalDocument:
        self._call("renew_certificate", name=name, reason=reason)
        end = NOW + timedelta(days=90, hours=1)
        return doc.RenewalDocument(name=name, serial="3f9a27c1", issued_at=NOW, not_after=end)

    def site(self, name: str) -> doc.SiteDocument:
        self._call("site", name=name)
        found = [site for site in self.status_document.sites if site.name == name]
        if not found:
            raise NotFound(f"no site {name!r}", hint="flprov site ls")
        return found[0]

    def add_site(self, name: str, *, org: str, reason: str = "") -> doc.PartyChangeDocument:
        self._call("add_site", name=name, org=org, reason=reason)
        return self.changed

    def remove_site(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        self._call("remove_site", name=name, reason=reason)
        return self.changed

    def lock_site(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        self._call("lock_site", name=name, reason=reason)
        return self.changed

    def unlock_site(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        self._call("unlock_site", name=name, reason=reason)
        return self.changed

    def drain_site(self, name: str, *, reason: str = "") -> doc.DrainDocument:
        self._call("drain_site", name=name, reason=reason)
        return self.drains[0]

    def enable_site(self, name: str, *, reason: str = "") -> doc.DrainDocument:
        self._call("enable_site", name=name, reason=reason)
        return self.drains[0]

    def drain_server(self, *, reason: str = "") -> doc.DrainDocument:
        self._call("drain_server", reason=reason)
        return self.drains[0]

    def enable_server(self, *, reason: str = "") -> doc.DrainDocument:
        self._call("enable_server", reason=reason)
        return self.drains[0]

    def watch_drain(self, site: str = "") -> Iterator[doc.DrainDocument]:
        self._call("watch_drain", site=site)
        yield from self.drains

    def stop_site(self, name: str, *, now: bool = False, reason: str = "") -> Iterator[doc.SiteOrderDocument]:
        self._call("stop_site", name=name, now=now, reason=reason)
        yield from self.orders

    def restart_site(self, name: str, *, reason: str = "") -> Iterator[doc.SiteOrderDocument]:
        self._call("restart_site", name=name, reason=reason)
        yield from self.orders

    def clean(self, *, older_than: timedelta | None = None, dry_run: bool = False) -> doc.CleanDocument:
        self._call("clean", older_than=older_than, dry_run=dry_run)
        return self.cleaned

    def people(self) -> tuple[doc.PersonDocument, ...]:
        self._call("people")
        return self.person_documents

    def remove_person(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        self._call("remove_person", name=name, reason=reason)
        return self.changed

    def certificates(self, *, every: bool = False) -> doc.CertificateListDocument:
        self._call("certificates", every=every)
        return doc.CertificateListDocument(certificates=self.certificate_documents, at=NOW)

    def revoke_certificate(
        self, target: str, *, reason: str = "", comment: str = ""
    ) -> doc.PartyChangeDocument:
        self._call("revoke_certificate", target=target, reason=reason, comment=comment)
        return self.changed

    def crls(self) -> tuple[doc.CRLDocument, ...]:
        self._call("crls")
        return self.crl_documents

    def upload(self, folder: Path, *, progress: Callable[[int, int], None]) -> doc.AppDocument:
        self._call("upload", folder=folder)
        progress(1, 2)
        progress(2, 2)
        return self.app_documents[0]

    def apps(self) -> tuple[doc.AppDocument, ...]:
        self._call("apps")
        return self.app_documents

    def app(self, name: str) -> doc.AppDocument:
        self._call("app", name=name)
        return self.app_documents[0]

    def submit(self, app: str, *, progress: object, **wanted: Any) -> doc.SubmitDocument:
        self._call("submit", app=app, **wanted)
        return self.submitted

    def list_jobs(self, name: str = "", **wanted: Any) -> doc.JobListDocument:
        self._call("list_jobs", name=name, **wanted)
        return doc.JobListDocument(jobs=self.job_documents, more=self.more_jobs)

    def clone(self, job_id: str, **wanted: Any) -> doc.SubmitDocument:
        self._call("clone", job_id=job_id, **wanted)
        return self.submitted

    def delete_job(self, job_id: str, *, reason: str = "") -> doc.JobDeletedDocument:
        self._call("delete_job", job_id=job_id, reason=reason)
        return doc.JobDeletedDocument(job_id=job_id, rounds=3)

    def job(self, job_id: str) -> doc.JobDocument:
        self._call("job", job_id=job_id)
        return self.job_documents[0]

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        on_change: Callable[[doc.JobDocument], None] | None = None,
        on_retry: Callable[[FlprovError, int, float], None] | None = None,
    ) -> doc.JobDocument:
        self._call("wait", job_id=job_id, timeout=timeout)
        for job in self.changes:
            if on_change:
                on_change(job)
        return self.changes[-1]

    def why(self, job_id: str) -> doc.WhyDocument:
        self._call("why", job_id=job_id)
        return self.because

    def logs(
        self,
        job_id: str,
        *,
        site: str = "",
        offset: int = 0,
        tail: int = 0,
        follow: bool = False,
        **_: object,
    ) -> Iterator[LogText]:
        self._call("logs", job_id=job_id, site=site, follow=follow)
        yield from self.parts

    def abort(self, job_id: str, *, reason: str = "") -> doc.JobDocument:
        self._call("abort", job_id=job_id, reason=reason)
        return make_job("aborting")

    def download(
        self, job_id: str, folder: Path, *, progress: Callable[[str, int, int], None]
    ) -> tuple[list[Path], str]:
        self._call("download", job_id=job_id, folder=folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.safetensors"
        path.write_bytes(b"x" * 2048)
        progress("model.safetensors", 2048, 2048)
        return [path], self.no_plot
