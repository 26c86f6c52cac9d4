# SPDX-License-Identifier: Apache-2.0
"""What a site's agent is started with: its kit, and this machine's own files beside it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flprov.kits import Kit, load_kit
from flprov.pki import Kind
from flprov.policy import METRICS, load_site_settings
from flprov.project import DIRECT, Route


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Frozen. `policy` and `settings` are paths: the site may edit them while the agent runs."""

    kit: Kit
    state: Path
    policy: Path
    settings: Path
    python: Path  # runs the jobs, unless site.yml names another
    route: Route = DIRECT  # how the server is dialled
    metrics: str = METRICS  # where /metrics and /health are, or "off"
    warm: tuple[str, ...] | None = None  # what is imported ahead of jobs; None: nothing


def load_agent_config(folder: Path, *, now: datetime, route: Route | None = None) -> AgentConfig:
    """The kit in `folder`, with `<kit>.local/` for everything that is this machine's own.

    Args:
        route: the proxy that the environment names; `site.yml` and the kit go before it.

    Raises:
        KitRefused: the kit is not what the provisioner made, or is not a site's.
        ConfigError: `site.yml` has mistakes, so that nobody knows whether it names a proxy.
    """
    kit = load_kit(folder, now=now, kind=Kind.SITE)
    settings = load_site_settings(kit.local / "site.yml")
    return AgentConfig(
        kit=kit,
        state=kit.local / "state",
        policy=kit.local / "policy.yml",
        settings=kit.local / "site.yml",
        python=Path(sys.executable),
        route=settings.route or kit.route or route or DIRECT,
        metrics=settings.metrics,
        warm=settings.warm,
    )
