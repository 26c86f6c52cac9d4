#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `make demo` runs: the sample project as a real network on this machine, and a job on it.

    python examples/demo.py            all of it, then everything is stopped
    python examples/demo.py --keep     the same, but the network goes on

Each step shows the command that does it. Whatever it makes lies in demo/, which a new run makes anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flprov.errors import FlprovError, NotFound
from flprov.poc import Poc, Starter, UpReport

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "examples" / "breast_cancer"
SAMPLE = ROOT / "project.yml"
FLPROV = (sys.executable, "-m", "flprov")
WANTED_PORT = 8443  # as the sample says


class StepFailed(Exception):
    """A command of the demo did not do what it should; it has said why."""


def main() -> int:
    """Run the demo; the exit status."""
    options = read_options()
    began = time.monotonic()
    network = Poc(options.folder.resolve() / "network")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep = False
    try:
        clear(network, options.folder)
        start_network(network)
        run_job(network, options.rounds)
        job = download(network, options.folder / "result")
        show_results(job, options.folder / "result", time.monotonic() - began)
        keep = options.keep
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    except (FlprovError, StepFailed) as error:
        say(f"\nthe demo failed: {error}")
        if hint := getattr(error, "hint", None):
            say(f"next: {hint}")
        return 1
    finally:
        if not keep:
            stop(network)
    show_next(network, running=keep)
    return 0


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A federated network on this machine, and a job on it.")
    parser.add_argument("--keep", action="store_true", help="leave the network running")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo", help="where everything is made")
    return parser.parse_args()


# ---- the steps -----------------------------------------------------------------------------


def clear(network: Poc, folder: Path) -> None:
    """Remove what an earlier run has left, and end what it left running."""
    if network.place.exists():
        say(f"removing the network of an earlier run from {shown(network.place.folder)}")
        network.down(delete=True)
    shutil.rmtree(folder / "result", ignore_errors=True)


def start_network(network: Poc) -> None:
    """Steps 1 to 3: a project, its kits, its processes."""
    title(1, "A project: who takes part, and under which names")
    port = choose_port()
    project = network.place.project
    project.parent.mkdir(parents=True, exist_ok=True)
    project.write_text(localise(SAMPLE.read_text(), port))
    say(f"{shown(SAMPLE)} is the sample: one server, three hospitals, four people.")
    say(f"{shown(project)} is its copy for this machine; the server listens on 127.0.0.1:{port} only.")

    title(2, "Certificates and a kit for each party; server and sites as processes of their own")
    starter = Starter(command=FLPROV, environment=environment())
    report = network.up(starter, on_ready=show_ready)
    explain_kits(network, report)

    title(3, "Everybody found each other, over mutually authenticated TLS")
    run(network, "status")


def show_ready(name: str, seconds: float) -> None:
    """One process of the network says that it is up."""
    say(f"  {name} is ready after {seconds:.1f} s")


def explain_kits(network: Poc, report: UpReport) -> None:
    """Where the kits lie, and what was allowed for the demo."""
    say(f"Kits: {shown(network.place.workspace / 'kits')}. On machines of your own you would type")
    say("  flprov provision project.yml     where the certificate authority is kept")
    say("  flprov server start KIT          on the server's machine")
    say("  flprov site start KIT            at each hospital")
    say("A site without a policy runs nobody's jobs. For this demo these allow everybody of the project:")
    for path in report.written:
        if path.endswith("policy.yml"):
            say(f"  {shown(Path(path))}")


def run_job(network: Poc, rounds: int) -> None:
    """Step 4: an app goes to the server, and a job to the sites."""
    title(4, "A job: PyTorch on real biopsies, a half, a sixth and a twelfth of them at the three sites")
    run(network, "app", "upload", shown(APP))
    settings = [] if rounds == 10 else ["--set", f"rounds={rounds}"]
    run(network, "job", "submit", "breast_cancer", "--wait", *settings)


def download(network: Poc, folder: Path) -> dict[str, Any]:
    """Step 5: what the job has left."""
    title(5, "The results")
    run(network, "job", "download", "last", "-o", shown(folder))
    command = [*FLPROV, "job", "show", "last", "--json"]
    done = subprocess.run(command, env=environment(network), check=True, stdout=subprocess.PIPE)
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def stop(network: Poc) -> None:
    """End every process of the network."""
    try:
        report = network.down()
    except NotFound:  # nothing was made yet
        return
    except FlprovError as error:
        say(f"\nthe network could not be stopped: {error}")
        return
    if report.stopped:
        say(f"\nstopped: {', '.join(report.stopped)}")


# ---- what it says --------------------------------------------------------------------------


def show_results(job: dict[str, Any], folder: Path, seconds: float) -> None:
    """The accuracy per round, over all sites and at each, and where the files are."""
    sites = sorted(line["site"] for line in job["sites"])
    say("\nAccuracy of each round's model on biopsies that the sites held out:\n")
    say("  round   all sites   " + "   ".join(f"{site:>10}" for site in sites))
    for record in job["rounds"]:
        own = {line["site"]: line["metrics"]["accuracy"] for line in record["contributors"]}
        cells = "   ".join(f"{own[site]:10.1%}" if site in own else f"{'-':>10}" for site in sites)
        say(f"  {record['round'] + 1:5}   {record['metrics']['accuracy']:9.1%}   {cells}")
    say("")
    for name, what in (
        ("model.safetensors", "the trained model"),
        ("metrics.png", "how it was trained, as a picture"),
        ("metrics.json", "the same as numbers"),
        ("record.json", "who contributed what to each round, and the signed submission"),
        ("logs", "what the job printed at each site"),
    ):
        if (folder / name).exists():
            say(f"  {shown(folder / name):30}  {what}")
    say(f"\nThat took {seconds:.0f} s in all.")


def show_next(network: Poc, *, running: bool) -> None:
    """Commands that work now."""
    flprov = Path(sys.executable).with_name("flprov")
    program = shown(flprov) if flprov.exists() else f"{shown(Path(sys.executable))} -m flprov"
    folder, kit = shown(network.place.folder), shown(network.admin_kit)
    first = (f"{program} use {kit}", "act as alice, the project's admin")
    if not running:
        first = (f"{program} poc up -o {folder}", "start this network again, and act as its admin, alice")
    commands = [
        first,
        (f"{program} status", "every site as it is now"),
        (f"{program} job submit {shown(APP)} --wait --set args.lr=0.2", "the same with another rate"),
        (f"{program} job why last", "what happened, and what to do about it"),
        (f"{program} admin", "the console, with completion"),
        (f"{program} poc down -o {folder}", "stop the network"),
    ]
    say("\nTry next" + (" (the network still runs):\n" if running else ":\n"))
    for command, what in commands:
        say(f"  {command}\n      {what}")


def title(number: int, text: str) -> None:
    """The heading of a step."""
    say(f"\n{number}. {text}\n")


def say(text: str) -> None:
    """A line, at once, also into a pipe."""
    print(text, flush=True)


def shown(path: Path) -> str:
    """A path as one would type it here."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the venv's python
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


# ---- underneath ----------------------------------------------------------------------------


def run(network: Poc, *words: str) -> None:
    """Show a flprov command and run it, as the project's admin.

    Raises:
        StepFailed: it ended with another status than 0.
    """
    say(f"$ flprov {' '.join(words)}")
    status = subprocess.run([*FLPROV, *words], env=environment(network), check=False).returncode
    if status != 0:
        raise StepFailed(f"`flprov {' '.join(words)}` ended with status {status}")


def environment(network: Poc | None = None) -> dict[str, str]:
    """What the demo's processes get; the admin's kit by name, so that `flprov use` stays as it is."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("FLPROV_")}
    return found | {"FLPROV_KIT": str(network.admin_kit)} if network else found


def choose_port() -> int:
    """The sample's port, or a free one where that is taken."""
    for port in (WANTED_PORT, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                say(f"Port {port} is taken on this machine: choosing another.")
                continue
            return int(sock.getsockname()[1])
    raise StepFailed("no port is free on this machine")


def localise(project: str, port: int) -> str:
    """The sample project, with a server that nobody but this machine can reach.

    Raises:
        StepFailed: the sample has changed so that this function does not know it.
    """
    found = project
    for before, after in (
        ("# listen: 0.0.0.0:8443", f"listen: 127.0.0.1:{port}"),
        ("- localhost:8443", f"- localhost:{port}"),
    ):
        if found.count(before) != 1:
            raise StepFailed(f"{SAMPLE.name} does not have {before!r} once")
        found = found.replace(before, after)
    return found


if __name__ == "__main__":
    sys.exit(main())
