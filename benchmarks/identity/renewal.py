#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Certificates of ten seconds while a job runs: no failed call, no lost round, no dropped stream.

    python benchmarks/identity/renewal.py

A server and five sites as real processes on this machine, for three minutes. Each renews its certificate
every 3.3 to 4.3 seconds. The job's model is large enough to travel beside the control stream, so that
transfers are under way whenever a certificate changes; an admin calls over a new connection each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import shutil
import ssl
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/network"))

from harness import Network, write_app  # noqa: E402

from flprov._base import SystemClock  # noqa: E402
from flprov.admin import open_admin  # noqa: E402
from flprov.errors import FlprovError  # noqa: E402
from flprov.pki import serial_number  # noqa: E402
from flprov.store import open_store  # noqa: E402

SITES, FEW = 5, 2
SECONDS, SHORT = 180.0, 15.0
LIFE = 10.0  # seconds that a certificate lasts
PAUSE = 0.1  # seconds between two calls of the admin
WARM = 10.0  # seconds after which memory is read for the first time
DAY = 86_400.0
ROUNDS = 100_000  # more than there is time for

JOB = f"""
name: renewal
workflow: {{type: fedavg, rounds: {ROUNDS}}}
model: model:initial
tasks: train:train
"""
TRAIN = """
import time

import numpy as np

from flprov.messages import Update


def train(task, site):
    time.sleep(0.1)
    return Update(params={"w": task.params["w"] + np.float32(1)}, samples=1)
"""
MODEL = """
import numpy as np


def initial():
    return {"w": np.zeros(100_000, dtype=np.float32)}
"""


def run(folder: Path, *, small: bool = False) -> dict[str, object]:
    """Run the network for three minutes (a quarter of one when small) and count."""
    folder.mkdir(parents=True, exist_ok=True)
    count, seconds = (FEW, SHORT) if small else (SITES, SECONDS)
    name = f"{LIFE:g}-second certificates of {count} sites and a server, {seconds:g} s, a job running"
    target = "no failed call, no lost round, no dropped stream"
    network = make_network(folder, count)
    try:
        found = asyncio.run(_measure(network, seconds))
    except (FlprovError, psutil.Error, AssertionError) as error:
        measured = f"broke off: {type(error).__name__}: {error}"
        details = _describe_ends(network)
        return {"name": name, "target": target, "measured": measured, "met": False, "details": details}
    finally:
        network.close()
    details = found | _read_records(network) | _read_logs(network)
    least = int((seconds - LIFE / 2) / (LIFE * (1 / 3 + 1 / 10)))
    wrong = _judge(details, network.names, least)
    return {
        "name": name,
        "target": target,
        "measured": f"{details['calls_failed']} of {details['calls']} calls failed,"
        f" {details['rounds_lost']} of {details['rounds']} rounds lost,"
        f" {details['streams_dropped']} streams dropped;"
        f" {sum(details['renewals'].values())} renewals",
        "met": not wrong,
        "details": details | {"wrong": wrong},
    }


def _describe_ends(network: Network) -> dict[str, Any]:
    """Who has ended, how, and with which last words."""
    return {
        name: {"exit_code": running.process.poll(), "log": running.log.read_text()[-2000:]}
        for name, running in network.running.items()
    }


def make_network(folder: Path, sites: int) -> Network:
    """A network whose server issues certificates of ten seconds; the kits of the sites begin with 90 days.

    Kits of ten seconds could not be carried to anybody. So the sites have theirs from before the project
    asked for so short a life, as it is whenever the validity changes in a running project.
    """
    network = Network(folder, sites)
    before = folder / "before"
    for name in network.names:
        shutil.copytree(network.kit(name), before / name)
    project = folder / "project.yml"
    life = f"{LIFE / DAY:.9f}"
    project.write_text(f"{project.read_text()}validity: {{site_days: {life}, server_days: {life}}}\n")
    network.provision()
    for name in network.names:
        shutil.rmtree(network.kit(name))
        shutil.copytree(before / name, network.kit(name))
    write_app(folder / "app", train=TRAIN)
    (folder / "app/job.yml").write_text(JOB)
    (folder / "app/model.py").write_text(MODEL)
    return network


async def _measure(network: Network, seconds: float) -> dict[str, Any]:
    await asyncio.to_thread(network.up)
    admin = network.admin()
    for name in network.names:  # from here on they have certificates of ten seconds
        await asyncio.to_thread(admin.renew_certificate, name)
    job = await asyncio.to_thread(admin.submit, network.folder / "app")
    caller = _Caller(network)
    calling = asyncio.create_task(caller.run())
    await asyncio.sleep(min(WARM, seconds / 2))
    before = _look_at_processes(network)
    await asyncio.sleep(seconds - min(WARM, seconds / 2))
    after = _look_at_processes(network)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    ended = await asyncio.to_thread(admin.job, job.job_id)
    rounds = [one for one in ended.rounds if one.finished_at is not None]
    whole = [one for one in rounds if len(one.contributors) == len(network.names) and not one.absent]
    numbers = [one.round for one in rounds]
    await asyncio.to_thread(admin.abort, job.job_id)
    return {
        "seconds": seconds,
        "job_state": ended.state,
        "rounds": len(rounds),
        "rounds_lost": len(rounds) - len(whole) + sum(b - a != 1 for a, b in itertools.pairwise(numbers)),
        "calls": caller.calls,
        "calls_failed": len(caller.failures),
        "failures": caller.failures[:5],
        "server_certificates_shown": len(caller.shown),
        "memory_mib_before": {name: look["memory_mib"] for name, look in before.items()},
        "memory_mib_after": {name: look["memory_mib"] for name, look in after.items()},
        "connections_before": {name: look["connections"] for name, look in before.items()},
        "connections_after": {name: look["connections"] for name, look in after.items()},
    }


class _Caller:
    """An admin who calls again and again, each time over a new connection, and looks at who answers."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.calls = 0
        self.failures: list[str] = []
        self.shown: Counter[str] = Counter()

    async def run(self) -> None:
        while True:
            self.calls += 1
            try:
                await asyncio.to_thread(self._call)
                self.shown[await self._look()] += 1
            except (FlprovError, OSError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(PAUSE)

    def _call(self) -> None:
        with contextlib.closing(open_admin(self._network.kit("ada"))) as admin:
            admin.status()

    async def _look(self) -> str:
        """The serial number of the certificate that the server shows now."""
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", self._network.port, ssl=blind)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return serial_number(ssl.DER_cert_to_PEM_cert(shown).encode())


def _look_at_processes(network: Network) -> dict[str, dict[str, Any]]:
    found = {}
    for name, running in network.running.items():
        process = psutil.Process(running.process.pid)
        connected = [one for one in process.net_connections("tcp") if one.status == "ESTABLISHED"]
        memory = round(process.memory_info().rss / (1 << 20), 1)
        found[name] = {"memory_mib": memory, "connections": len(connected)}
    return found


def _read_records(network: Network) -> dict[str, Any]:
    """What the server wrote down: renewals, denials, streams that ended before it was stopped."""
    store = open_store(network.local("server") / "state", clock=SystemClock())
    rows, start = [], 1
    while part := store.rows(start, 1000):
        rows += [log.row for log in part]
        start = part[-1].index + 1
    asyncio.run(store.close())
    renewed = [row for row in rows if row.what == "cert.renew"]
    ended = next((n for n, row in enumerate(rows) if row.what == "job.abort"), len(rows))
    return {
        "renewals": dict(Counter(row.object for row in renewed)),
        "distinct_serials": len({row.data["serial"] for row in renewed}),
        "calls_denied": [f"{row.object}: {row.reason}" for row in rows[:ended] if row.outcome == "denied"],
        "streams_dropped": sum(row.what == "site.disconnect" for row in rows[:ended]),
    }


def _read_logs(network: Network) -> dict[str, Any]:
    """What the agents said: how often they connected, what had to be tried again."""
    texts = {name: (network.folder / f"{name}.log").read_text() for name in network.names}
    return {
        "connected": {name: text.count("link to the server: connected") for name, text in texts.items()},
        "renewals_tried_again": sum(text.count("could not be renewed") for text in texts.values()),
        "transfers_tried_again": sum(len(re.findall("and goes on", text)) for text in texts.values()),
    }


def _judge(details: dict[str, Any], names: list[str], least: int) -> list[str]:
    """What is not as it should be."""
    server_calls = details["calls_failed"] + len(details["calls_denied"])
    checks = {
        "calls failed": server_calls == 0,
        "renewals or transfers had to be tried again": not (
            details["renewals_tried_again"] or details["transfers_tried_again"]
        ),
        "rounds were lost": details["rounds"] > 0 and details["rounds_lost"] == 0,
        "the job is not running": details["job_state"] == "running",
        "streams were dropped": details["streams_dropped"] == 0,
        "a site connected more than once": set(details["connected"].values()) == {1},
        "somebody did not renew often enough": all(
            details["renewals"].get(name, 0) >= least for name in (*names, "server")
        ),
        "a serial number came twice": details["distinct_serials"] == sum(details["renewals"].values()),
        "the server did not show what it had renewed": details["server_certificates_shown"] >= least,
        "connections pile up": all(
            after <= details["connections_before"][name] + 2
            for name, after in details["connections_after"].items()
        ),
    }
    return [what for what, good in checks.items() if not good]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="flprov-renewal-") as name:
        outcome = run(Path(name), small="--small" in sys.argv)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", time.strftime("%Z"), file=sys.stderr)
    print(json.dumps(outcome, indent=2))
    sys.exit(not outcome["met"])
