# SPDX-License-Identifier: Apache-2.0
"""A server whose disk is full, for real: what it refuses, what it serves, and that it recovers by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

PROGRAM = """
import asyncio, sys
from datetime import datetime
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from server_network import WireSite
from server_parties import site
from server_running import running
from server_world import hello
from flprov.errors import RemoteError
from flprov.kits import load_kit
from flprov.rpc import methods as m
from flprov.server import load_server_config
from flprov.wire import pb

disk, kits, made_at = Path(sys.argv[2]), Path(sys.argv[3]), datetime.fromisoformat(sys.argv[4])
ballast = disk / "ballast"


def fill():
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


async def until_refused(admin, log):
    # Uses up what was left in files that are there already.
    while True:
        try:
            await admin.unary(m.ADD_SITE, pb.PartyChange(name=f"site-{log.head + 100}", org="org-a"))
        except RemoteError as error:
            return str(error)


async def play():
    config = load_server_config(disk / "server", now=made_at)
    async with running(config, transport="grpc") as server:
        admin = server.connect(load_kit(kits / "ada", now=made_at))
        reads = (m.STATUS, m.LIST_SITES, m.LIST_JOBS, m.LIST_PEOPLE, m.LIST_CERTIFICATES, m.LIST_INVITES)
        await admin.unary(m.STATUS, pb.Query(), timeout=20)
        log = server.server._store
        await log.wait_beyond(1)
        fill()
        why = await until_refused(admin, log)
        print("refused:", why.partition("cannot")[2])
        for method in reads:
            await admin.unary(method, pb.Query(), timeout=20)
        rows = [reply async for reply in admin.download(m.READ_AUDIT, pb.EventsRequest(last=5))]
        assert rows, "the audit is served"
        # A site can come: how else would it hear of an abort?
        control = server.connect(load_kit(kits / "site-1", now=made_at))
        said = asyncio.Queue()
        said.put_nowait(pb.FromSite(hello=hello("site-1")))

        async def speak():
            while (message := await said.get()) is not None:
                yield message

        replies = control.stream(m.CONTROL, speak())
        assert (await anext(replies)).WhichOneof("body") == "welcome"
        for method, request in (
            (m.LOCK_SITE, pb.PartyChange(name="site-2", reason="stolen", key="1")),
            (m.DRAIN_SITE, pb.PartyChange(name="site-3", reason="update", key="2")),
            (m.DRAIN_SERVER, pb.PartyChange(reason="update", key="3")),
            (m.REVOKE_CERTIFICATE, pb.CertificateChange(target="lea", reason="key-compromise", key="4")),
            (m.REMOVE_SITE, pb.PartyChange(name="site-2", key="5")),
        ):
            await admin.unary(method, request, timeout=20)
            print("served:", method.path.rpartition("/")[2])
        assert log.get("enrolment", "site-2")["removed"]
        ballast.unlink()
        await admin.unary(m.ADD_SITE, pb.PartyChange(name="site-9", org="org-a", key="6"), timeout=20)
        print("recovered")
        fill()
        said.put_nowait(None)
    print("stopped")
    async with running(config, transport="grpc") as server:  # still full
        admin = server.connect(load_kit(kits / "ada", now=made_at))
        await admin.unary(m.STATUS, pb.Query(), timeout=20)
        await until_refused(admin, server.server._store)
        print("started")


asyncio.run(play())
"""


def on_a_small_disk(disk: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run something with `disk` as a file system of 32 MiB that it alone sees."""
    mount = 'mount -t tmpfs -o size=32m flprov-test "$0" && cp -r "$1" "$0/server" && shift && exec "$@"'
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    return subprocess.run(
        [*shell, str(disk), *words], capture_output=True, text=True, check=False, timeout=100
    )


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory: pytest.TempPathFactory, kit_folder: Path) -> None:
    tried = tmp_path_factory.mktemp("disk")
    if (
        shutil.which("unshare") is None
        or on_a_small_disk(tried, str(kit_folder / "server"), "true").returncode
    ):
        pytest.skip("this machine does not let us mount a small disk")


@pytest.mark.usefixtures("small_disks")
def test_full_disk_refuses_changes_serves_the_rest_and_recovers(tmp_path, kit_folder, made_at):
    words = [str(HERE), str(tmp_path), str(kit_folder), made_at.isoformat()]
    found = on_a_small_disk(tmp_path, str(kit_folder / "server"), sys.executable, "-c", PROGRAM, *words)
    assert found.stdout.splitlines() == [
        "refused:  be written: the disk is full",
        "served: LockSite",
        "served: DrainSite",
        "served: DrainServer",
        "served: RevokeCertificate",
        "served: RemoveSite",
        "recovered",
        "stopped",
        "started",
    ], found.stderr[-3000:]
