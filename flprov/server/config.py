# SPDX-License-Identifier: Apache-2.0
"""What a server is started with: its kit, and this machine's own settings beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from flprov.config import WARM, Section, open_config, read_metrics, read_warm
from flprov.kits import Kit, load_kit
from flprov.pki import Kind
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.quotas import read_quotas
from flprov.server.tracking.settings import read_tracking

METRICS = "127.0.0.1:9464"

_LEAST_RETENTION = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Frozen; nothing below reads a file or the environment to find these again."""

    kit: Kit
    state: Path  # everything that survives lies here
    listen: str
    python: Path  # runs the workflows
    ca_passphrase: bytes | None = field(default=None, repr=False)  # opens the CA keys in the kit
    unconfined: bool = False  # server.yml: run workflows without confinement where none works
    heartbeat_seconds: float = 5.0
    checkpoints: Retention = Retention()  # of the saved states of each job
    keep_jobs: timedelta | None = None  # how long after its end a job is deleted; None: never
    metrics: str = METRICS  # where /metrics and /health are, or "off"
    warm: tuple[str, ...] | None = None  # what is imported ahead of workflows; None: nothing
    tracking: Mapping[str, str] = field(
        default_factory=dict, repr=False
    )  # receiver -> target, may hold a password
    settings: Path | None = None  # server.yml, whose quotas are read again when it changes


def load_server_config(folder: Path, *, now: datetime, ca_passphrase: bytes | None = None) -> ServerConfig:
    """The kit in `folder` and, if there is one, `<kit>.local/server.yml`.

    Raises:
        KitRefused: the kit is not what the provisioner made, or is not a server's.
        ConfigError: server.yml has mistakes.
    """
    kit = load_kit(folder, now=now, kind=Kind.SERVER)
    listen, unconfined, python = kit.listen, False, Path(sys.executable)
    checkpoints, keep_jobs, metrics = Retention(), None, METRICS
    tracking: Mapping[str, str] = {}
    warm: tuple[str, ...] | None = WARM
    settings = kit.local / "server.yml"
    if settings.exists():
        with open_config(settings) as section:
            listen = section.text("listen", listen)
            unconfined = section.flag("unconfined", unconfined)
            python = Path(section.text("python", str(python)))
            most = section.integer("checkpoints", None, minimum=0, maximum=1_000_000)
            checkpoints = checkpoints if most is None else Retention(most=most, room=0)
            keep_jobs = _read_retention(section)
            metrics = read_metrics(section, metrics)
            warm = read_warm(section)
            tracking = read_tracking(section, kit.local)
            read_quotas(section)
    return ServerConfig(
        kit=kit,
        state=kit.local / "state",
        listen=listen,
        python=python,
        ca_passphrase=ca_passphrase,
        unconfined=unconfined,
        checkpoints=checkpoints,
        keep_jobs=keep_jobs,
        metrics=metrics,
        warm=warm,
        tracking=tracking,
        settings=settings,
    )


def _read_retention(section: Section) -> timedelta | None:
    retention = section.section("retention", required=False)
    if retention is None:
        return None
    found = retention.duration("jobs", None)
    if found is not None and found < _LEAST_RETENTION:
        retention.problem("jobs", "'jobs' must be at least 1h: what has just ended is still to be downloaded")
    return found
