#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`kit send` to 20 hosts at once: one refuses, one is cut in the middle. Each has a whole kit or its old one.

python benchmarks/identity/delivery.py

Needs OpenSSH's sshd on this machine; the hosts are sshd processes on loopback, those of the tests.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/kits"))

from ssh_hosts import SSHD, Host, running_hosts  # noqa: E402

from flprov.kits import Access, Destination, deliver, load_kit, provision  # noqa: E402
from flprov.project import parse_project  # noqa: E402

HOSTS, FEW = 20, 5
CUTS = (3_000, 9_000, 15_000, 21_000, 27_000)  # bytes from us until the line is cut
PROJECT = """
name: delivery
trust_domain: delivery.example
organisations: [{{name: org-a}}]
server: {{name: server, org: org-a, endpoints: ["{endpoint}:8443"]}}
sites: [{{name: hospital-a, org: org-a}}]
people: [{{name: alice, org: org-a, role: project_admin}}]
"""


def run(folder: Path, *, small: bool = False) -> dict[str, Any]:
    """Several rounds, each with another place for the cut."""
    folder.mkdir(parents=True, exist_ok=True)
    target = "each host has the new kit whole, or is untouched; the refused one saw no file"
    name = f"kit send to {FEW if small else HOSTS} hosts, one refusing and one cut"
    if SSHD is None:
        return {"name": name, "target": target, "measured": "no sshd here", "met": False, "details": {}}
    old, new = _make_kits(folder)
    cuts = CUTS[:2] if small else CUTS
    found = [
        _round(folder / f"round-{n}", old, new, FEW if small else HOSTS, cut) for n, cut in enumerate(cuts)
    ]
    good = sum(not one["wrong"] for one in found)
    measured = f"{good} of {len(found)} rounds; {sum(one['sent'] for one in found)} kits delivered"
    return {"name": name, "target": target, "measured": measured, "met": good == len(found), "details": found}


def _make_kits(folder: Path) -> tuple[Path, Path]:
    """The kit that is there, and its successor."""
    now = datetime.now(UTC)
    kits = []
    for age, endpoint in ((10, "old.example"), (5, "new.example")):
        project = parse_project(PROJECT.format(endpoint=endpoint).encode(), source=folder / "project.yml")
        provision(project, folder / "ws", now=now - timedelta(minutes=age))
        kept = folder / endpoint / "hospital-a"
        kept.parent.mkdir()
        (folder / "ws/kits/hospital-a").rename(kept)
        kits.append(kept)
    return kits[0], kits[1]


def _round(folder: Path, old: Path, new: Path, count: int, cut: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    wrong: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()), running_hosts(folder) as host:
        hosts: list[Host] = [host() for _ in range(count)]
        places = [folder / f"files-{n}" for n in range(count)]
        access = Access(key_files=(host.key,), use_agent=False)
        for place in places:
            place.mkdir(mode=0o700)
        seeded = [one.destination(old, place) for one, place in zip(hosts, places, strict=True)]
        _send(seeded, access)
        refused, cut_off = count // 2, count // 2 + 1
        wishes = [one.destination(new, place) for one, place in zip(hosts, places, strict=True)]
        wishes[refused] = replace(
            wishes[refused], login=replace(hosts[refused].login(), keys=hosts[0].login().keys)
        )
        hosts[cut_off].cut_after = cut
        deliveries = _send(wishes, access)
        for number, delivery in enumerate(deliveries):
            kit = load_kit(places[number] / "hospital-a", now=datetime.now(UTC))
            is_new = kit.endpoints == ("new.example:8443",)
            failed = delivery.error is not None
            if failed == is_new and number != cut_off:
                wrong.append(f"host {number}: failed={failed}, new kit there={is_new}")
            if failed and number not in (refused, cut_off):
                wrong.append(f"host {number}: {delivery.error}")
        if deliveries[refused].error is None:
            wrong.append("the host with another key was not refused")
    sent = sum(delivery.error is None for delivery in deliveries)
    return {"cut_after": cut, "sent": sent, "cut": str(deliveries[cut_off].error), "wrong": wrong}


def _send(destinations: list[Destination], access: Access) -> tuple[Any, ...]:
    return deliver(destinations, access, now=datetime.now(UTC), progress=lambda *_: None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(run(Path(name), small="--small" in sys.argv), indent=2))
