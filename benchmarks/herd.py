#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A thousand sites on one server: its memory, `status`, an empty round, and all back after SIGKILL.

    python benchmarks/herd.py [--sites 1000] [--runs 3] [-o benchmarks/results]

The server is a real process, and so many real agents, each with its own kit, run in a few processes beside it
(see drove.py). They share the machine's cores with the server, so every time here holds the sites' part too:
on their own machines they would take none of it. Their state lies in memory (/dev/shm): a thousand sites have
a thousand disks, and this machine has one, which is the server's here.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from report import Measure, repeat, write_report
from trial import FLPROV, large_project

HERE = Path(__file__).resolve().parent
ROUNDS_APP = HERE / "apps" / "rounds"
DROVE = HERE / "drove.py"
SITES = 1000
DROVES = 4  # processes that the agents are spread over
ROUNDS = 8
IDLE = 20.0  # seconds over which an idle server is watched
# Of strangers. All of them at once have to fit into this process's own limit of open files.
SILENT, HALF_SAID, SILENT_TLS = 10_000, 1_000, 1_000
HALF_HELLO = bytes.fromhex("160301020001")  # the head of what a TLS client says first


class Memory(NamedTuple):
    """Of one process, in MB."""

    rss: float
    own: float  # RssAnon: not shared, and not a file's


class Herd:
    """A server and its sites, all of them connected once `up` has returned."""

    def __init__(self, folder: Path, *, sites: int, droves: int = DROVES, drove: Sequence[str] = ()) -> None:
        self.sites = sites
        self._program = [sys.executable, *(drove or (str(DROVE),))]
        self._folder = folder
        self._states = Path(tempfile.mkdtemp(prefix="flprov-herd-", dir="/dev/shm"))
        self._droves = droves
        self._drove: list[subprocess.Popen[str]] = []
        self._server: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self._kits = folder / "workspace" / "kits"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("FLPROV_")}
        self._environment["XDG_CONFIG_HOME"] = str(folder / "config")
        self._environment["FLPROV_KIT"] = str(self._kits / "admin")

    def up(self) -> float:
        """Provision and start; the seconds from the start of the sites until the last is connected."""
        self._provision()
        self.start_server()
        began = time.time()
        names = [f"site-{number}" for number in range(1, self.sites + 1)]
        for first in range(self._droves):
            command = [*self._program, str(self._kits), str(self._states), *names[first :: self._droves]]
            self._drove.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        return self.wait_connected(began)

    def _provision(self) -> None:
        project = self._folder / "project.yml"
        project.write_text(large_project(self.sites).replace("8443", str(self.port)))
        self.command("provision", str(project), "-o", str(self._folder / "workspace"))
        settings = self._kits / "server.local" / "server.yml"
        settings.parent.mkdir(mode=0o700)
        settings.write_text(f"listen: 127.0.0.1:{self.port}\nmetrics: off\n")
        for number in range(1, self.sites + 1):
            local = self._kits / f"site-{number}.local"
            local.mkdir(mode=0o700)
            (local / "policy.yml").write_text("allow: {organisations: [org-1]}\n")

    def command(self, *words: str) -> str:
        """Run `flprov ...`; what it printed."""
        done = subprocess.run(
            [*FLPROV, *words], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"flprov {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def run(self, app: Path, *options: str) -> dict[str, Any]:
        """Submit, wait for its end, and return what `job show --json` says, however it ended."""
        job = json.loads(self.command("job", "submit", str(app), "--json", *options))["job_id"]
        self.command("job", "logs", job, "--follow")  # ends with the job; nobody watches its rounds
        found: dict[str, Any] = json.loads(self.command("job", "show", job, "--json"))
        return found

    # ---- the server ----------------------------------------------------------------------

    def start_server(self) -> None:
        """And return at once."""
        with (self._folder / "server.log").open("ab") as log:
            command = [*FLPROV, "server", "start", str(self._kits / "server")]
            self._server = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def kill_server(self) -> None:
        """SIGKILL."""
        assert self._server is not None
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def memory(self) -> Memory:
        """What the server has resident now."""
        assert self._server is not None
        text = Path(f"/proc/{self._server.pid}/status").read_text()
        rss, own = (re.search(rf"^{name}:\s+(\d+) kB$", text, re.M) for name in ("VmRSS", "RssAnon"))
        assert rss is not None
        assert own is not None
        return Memory(int(rss[1]) * 1.024e-3, int(own[1]) * 1.024e-3)

    def server(self) -> psutil.Process:
        """Its process."""
        assert self._server is not None
        return psutil.Process(self._server.pid)

    def cpu(self) -> float:
        """Seconds of processor that the server has taken."""
        times = self.server().cpu_times()
        return float(times.user + times.system)

    # ---- the sites -----------------------------------------------------------------------

    def wait_connected(self, after: float) -> float:
        """Until every site has a link that came up after this time of day; how long after it the last did."""
        for drove in self._drove:
            assert drove.stdin is not None
            drove.stdin.write(json.dumps({"connected_after": after}) + "\n")
            drove.stdin.flush()
        links = []
        for drove in self._drove:
            assert drove.stdout is not None
            links += json.loads(drove.stdout.readline())["links"]
        return float(max(links)) - after

    def cpu_of_sites(self) -> float:
        """Seconds of processor that all sites together have taken."""
        times = [psutil.Process(drove.pid).cpu_times() for drove in self._drove]
        return float(sum(each.user + each.system for each in times))

    def down(self) -> None:
        """End everything, and remove what the sites have written."""
        for process in (self._server, *self._drove):
            if process is not None:
                with process:  # closes its pipes, and waits for its end
                    process.kill()
        shutil.rmtree(self._states)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def herd(folder: Path, sites: int, droves: int = DROVES, drove: Sequence[str] = ()) -> Iterator[Herd]:
    """One that is not up yet, and that is gone afterwards; `drove`: another program than drove.py."""
    made = Herd(folder, sites=sites, droves=droves, drove=drove)
    try:
        yield made
    finally:
        made.down()


# ---- what is measured ----------------------------------------------------------------------


def measure(folder: Path, *, sites: int = SITES, runs: int = 1) -> Sequence[Measure]:
    """A network of that many sites in `folder`, and all of it again after each SIGKILL.

    Args:
        folder: on the disk that the server is to be measured with.
        sites: how many.
        runs: how often the server is killed, and `status` asked for three times.
    """
    with herd(folder, sites) as made:
        ready = made.up()
        return [
            _connecting(ready, sites),
            *_asking(made, 3 * runs),
            _idling(made),
            *_rounds(made),
            _coming_back(made, runs),
            _besieged(made, 3 * runs),
        ]


def _connecting(seconds: float, sites: int) -> Measure:
    return Measure(
        name=f"{sites:,} sites connected",
        definition="From the start of the sites' processes until the last site is welcomed; their kits are "
        "read, their stores made, and each shakes hands twice.",
        values=(seconds,),
    )


def _asking(made: Herd, runs: int) -> list[Measure]:
    def timed(*words: str) -> float:
        began = time.monotonic()
        made.command(*words)
        return time.monotonic() - began

    status = repeat("status", runs, lambda: timed("status"))
    listing = repeat("site ls", runs, lambda: timed("site", "ls"))
    what = "Wall time of the command, with every site connected."
    return [
        Measure(name=f"`flprov status`, {made.sites:,} sites", definition=what, values=status, target=0.5),
        Measure(name=f"`flprov site ls`, {made.sites:,} sites", definition=what, values=listing),
    ]


def _idling(made: Herd) -> Measure:
    before = made.cpu()
    time.sleep(IDLE)
    return Measure(
        name=f"processor of an idle server, {made.sites:,} sites, a minute",
        definition=f"User and system time over {IDLE:g} s in which nothing but heartbeats comes, times "
        f"{60 / IDLE:g}.",
        values=((made.cpu() - before) * 60 / IDLE,),
    )


def _rounds(made: Herd) -> list[Measure]:
    connected = made.memory()
    before, sites_before = made.cpu(), made.cpu_of_sites()
    job = made.run(ROUNDS_APP, "--set", f"rounds={ROUNDS}")
    cpu, of_sites = made.cpu() - before, made.cpu_of_sites() - sites_before
    ends = [datetime.fromisoformat(record["finished_at"]).timestamp() for record in job["rounds"]]
    rounds = tuple(after - end for end, after in itertools.pairwise(ends))
    lacking = sum(made.sites - len(record["contributors"]) for record in job["rounds"])
    grown = made.memory()
    return [
        Measure(
            name=f"a durable round without work, {made.sites:,} sites",
            definition="From the end of one round to the end of the next; ten float32 each way. The "
            "sites' part is in it: each writes its answer to its own disk, and all share the machine with "
            "the server.",
            values=rounds,
            target=1.0,
            notes=(
                f"The whole job ended as {job['state']}; {lacking} contributions were missing.",
                f"Processor for it: the server {cpu:.1f} s, the sites {of_sites:.1f} s, which is "
                f"{of_sites / made.sites / ROUNDS * 1000:.1f} ms for each site and round.",
            ),
        ),
        Measure(
            name=f"memory of the server, {made.sites:,} sites",
            definition="Its resident memory (VmRSS) after that job; all of it, also what it shares "
            "with other processes.",
            values=(grown.rss,),
            target=250.0,
            notes=(
                f"Of its own (RssAnon): {grown.own:.0f} MB. Before the first job: {connected.rss:.0f} MB, of "
                f"its own {connected.own:.0f} MB.",
            ),
            unit="MB",
        ),
    ]


def _coming_back(made: Herd, runs: int) -> Measure:
    def once() -> float:
        made.kill_server()
        killed = time.time()
        made.start_server()
        return made.wait_connected(killed)

    return Measure(
        name=f"all {made.sites:,} sites back after SIGKILL",
        definition="From the end of the server's process, which is started again at once, until the last "
        "site has its welcome.",
        values=repeat("back", runs, once),
        target=8.0,
    )


def _besieged(made: Herd, runs: int) -> Measure:
    """Connections that say nothing, and some that say half a word."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with contextlib.ExitStack() as siege:
        for number in range(SILENT + HALF_SAID):
            silent = siege.enter_context(socket.create_connection(("127.0.0.1", made.port)))
            if number >= SILENT:
                silent.sendall(HALF_HELLO)
        for _ in range(SILENT_TLS):
            _shake_hands(siege.enter_context(socket.create_connection(("127.0.0.1", made.port))))
        values = repeat("status, besieged", runs, lambda: _timed_status(made))
        document = json.loads(made.command("status", "--json"))
    lost = sum(site["state"] != "connected" for site in document["sites"])
    return Measure(
        name=f"`flprov status` under a siege, {made.sites:,} sites",
        definition=f"Wall time of the command after {SILENT:,} connections that say nothing, {HALF_SAID:,} "
        f"that sent half of a TLS hello, and {SILENT_TLS:,} that sent a whole one, had the server's "
        "certificate and signature for it, and fell silent.",
        values=values,
        target=1.0,
        notes=(f"Sites that were not connected at its end: {lost}.",),
    )


def _timed_status(made: Herd) -> float:
    began = time.monotonic()
    made.command("status")
    return time.monotonic() - began


def _shake_hands(raw: socket.socket) -> None:
    """Begin: the server shows its certificate, signs, and waits for a certificate that never comes."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    blind.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = blind.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    raw.sendall(outgoing.read())


def main() -> int:
    """Measure and write; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="A thousand sites on one server.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="flprov-herd-") as folder:
        measures = measure(Path(folder), sites=options.sites, runs=options.runs)
    command = " ".join(["python benchmarks/herd.py", *sys.argv[1:]])
    title = f"{options.sites:,} sites on one server, all on one machine"
    table = write_report(options.output, "herd", title=title, command=command, measures=measures, load=load)
    print(f"\n{table.read_text()}\n{table}")
    return int(any(found.verdict == "MISSED" for found in measures))


if __name__ == "__main__":
    sys.exit(main())
