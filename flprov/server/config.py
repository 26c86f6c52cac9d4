# SPDX-License-Identifier: Apache-2.0
"""What a server is started with: its kit, and this machine's own settings beside it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov.config import open_config
from flprov.kits import Kit, load_kit
from flprov.pki import Kind


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


def load_server_config(folder: Path, *, now: datetime, ca_passphrase: bytes | None = None) -> ServerConfig:
    """The kit in `folder` and, if there is one, `<kit>.local/server.yml`.

    Raises:
        KitRefused: the kit is not what the provisioner made, or is not a server's.
        ConfigError: server.yml has mistakes.
    """
    kit = load_kit(folder, now=now, kind=Kind.SERVER)
    listen, unconfined, python = kit.listen, False, Path(sys.executable)
    settings = kit.local / "server.yml"
    if settings.exists():
        with open_config(settings) as section:
            listen = section.text("listen", listen)
            unconfined = section.flag("unconfined", unconfined)
            python = Path(section.text("python", str(python)))
    return ServerConfig(
        kit=kit,
        state=kit.local / "state",
        listen=listen,
        python=python,
        ca_passphrase=ca_passphrase,
        unconfined=unconfined,
    )
