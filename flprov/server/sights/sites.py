# SPDX-License-Identifier: Apache-2.0
"""Sites as people see them now."""

from __future__ import annotations

from flprov.server.records import SiteRecord
from flprov.server.sights.ladder import ladder
from flprov.server.sights.scene import Scene, SiteView
from flprov.wire.documents import RefusedDocument, SiteDocument


def site_documents(scene: Scene) -> tuple[SiteDocument, ...]:
    """Every site, by name."""
    warnings, refused, running = scene.warnings(), scene.refused(), scene.running()
    sites = [site for _, site in sorted(scene.registry.sites.items())]
    return tuple(_document(scene.at(site, warnings, running), refused) for site in sites)


def site_document(scene: Scene, site: SiteRecord) -> SiteDocument:
    """One site."""
    return _document(scene.at(site), scene.refused())


def _document(view: SiteView, refused: tuple[RefusedDocument, ...]) -> SiteDocument:
    """What a machine said of itself is not shown once it is away: it would be stale."""
    site, session = view.site, view.session
    vitals = session.vitals if session else None
    return view.scene.complete(
        SiteDocument(
            name=site.name,
            org=site.org,
            state=view.state,
            ladder=ladder(view),
            gpus=vitals.gpus if vitals else (),
            gpu_note=vitals.gpu_note if vitals else "",
            cpu=vitals.cpu if vitals else None,
            memory=vitals.memory if vitals else None,
            disk=vitals.disk if vitals else None,
            jobs=tuple(run.record.id for run in view.runs),
            last_seen=session.last_seen if session else site.last_seen,
            cert_not_after=site.cert_not_after,
            version=session.hello.version if session else site.version,
            host=session.hello.host if session else site.host,
            datasets=vitals.datasets if vitals else (),
            confinement=vitals.confinement if vitals else "",
            warm=vitals.warm if vitals else None,
            notes=vitals.notes if vitals else (),
            refused=tuple(call for call in refused if call.looks_like == site.name),
        )
    )
