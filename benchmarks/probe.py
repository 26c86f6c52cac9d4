# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at all: TLS between two processes, the disk, memory. Limits beside our figures.

Nothing of flprov's is measured here; from it come only the certificates, so that the handshake is ours:
TLS 1.3 over loopback, both sides showing a certificate.

    python benchmarks/probe.py            all of them, for 100 MB and two sites
"""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flprov.pki import Identity, Kind, create_issuing, create_root, issue_identity

PIECE = 1 << 20
DOMAIN = "probe.example"
TRIES = 3


# ---- TLS ---------------------------------------------------------------------------------------


def tls_round(size: int, sites: int) -> float:
    """Seconds for the bytes of a round: `size` to each of so many sites at once, then as many back."""
    with _peer() as (folder, port):
        return statistics.median(_tls_round(folder, port, size, sites) for _ in range(TRIES))


def tls_trip() -> float:
    """Seconds for one byte there and back over a connection that is warm."""
    with _peer() as (folder, port):
        line = _dial(folder, port)
        taken = []
        for _ in range(200):
            began = time.perf_counter()
            line.sendall((1).to_bytes(8, "little"))
            line.recv(1)
            taken.append(time.perf_counter() - began)
            line.sendall((1).to_bytes(8, "little") + b"x")
            line.recv(1)
        line.close()
        return statistics.median(taken)


def _tls_round(folder: Path, port: int, size: int, sites: int) -> float:
    """What a line says first is how many bytes it wants, and then how many it brings."""
    lines = [_dial(folder, port) for _ in range(sites)]
    announced = size.to_bytes(8, "little")

    def fetch(line: ssl.SSLSocket) -> None:
        line.sendall(announced)
        _drain(line, size)

    def bring(line: ssl.SSLSocket) -> None:
        line.sendall(announced)
        _pour(line, size)
        line.recv(1)

    began = time.perf_counter()
    for step in (fetch, bring):
        threads = [threading.Thread(target=step, args=(line,)) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    taken = time.perf_counter() - began
    for line in lines:
        line.close()
    return taken


def _serve_tls(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "sites.pem")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)

    def answer(plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_side=True) as line:
            while announced := line.recv(8):
                _pour(line, int.from_bytes(announced, "little"))
                _drain(line, int.from_bytes(line.recv(8), "little"))
                line.sendall(b"k")

    while True:
        plain, _ = listener.accept()
        threading.Thread(target=answer, args=(plain,), daemon=True).start()


def _dial(folder: Path, port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "site.pem", folder / "site.key")
    context.load_verify_locations(folder / "servers.pem")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the issuing CA is whom we believe
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost")


def _pour(line: ssl.SSLSocket, size: int) -> None:
    piece = memoryview(os.urandom(min(size, PIECE)))
    while size:
        line.sendall(piece[: min(size, PIECE)])
        size -= min(size, PIECE)


def _drain(line: ssl.SSLSocket, size: int) -> None:
    room = memoryview(bytearray(PIECE))
    while size:
        got = line.recv_into(room[: min(size, PIECE)])
        if not got:
            raise EOFError("the peer went away")
        size -= got


# ---- the other process -------------------------------------------------------------------------


@contextmanager
def _peer() -> Iterator[tuple[Path, int]]:
    """A process that serves, and where."""
    with tempfile.TemporaryDirectory(prefix="probe-") as place:
        folder = Path(place)
        certify(folder)
        command = [sys.executable, __file__, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield folder, int(process.stdout.readline())
            finally:
                process.kill()


def certify(folder: Path) -> None:
    """A server and a site that know each other, as files: `server.pem`, `servers.pem`, `site.key`, ..."""
    now = datetime.now(UTC)
    root = create_root(project="probe", trust_domain=DOMAIN, days=1, now=now)
    for kind, who, names in ((Kind.SERVER, "server", ("localhost",)), (Kind.SITE, "site", ())):
        authority = create_issuing(root, kind=kind, days=1, now=now)
        identity = Identity(
            trust_domain=DOMAIN, kind=kind, name=who, org="" if kind is Kind.SERVER else "org"
        )
        own = issue_identity(authority, identity, names=names, days=1, now=now)
        (folder / f"{who}s.pem").write_bytes(authority.certificate_pem)
        (folder / f"{who}.pem").write_bytes(own.chain_pem)
        (folder / f"{who}.key").write_bytes(own.private_pem)


# ---- disk and memory ---------------------------------------------------------------------------


def disk_write(folder: Path, size: int) -> float:
    """Seconds to write a new file of `size` bytes and bring it to disk."""

    def write() -> None:
        path = folder / "probe.tmp"
        with path.open("wb", buffering=0) as file:
            for _ in range(-(-size // PIECE)):
                file.write(piece)
            os.fdatasync(file.fileno())
        path.unlink()

    piece = os.urandom(min(size, PIECE))
    return _median(write)


def commit(folder: Path) -> float:
    """Seconds for one SQLite transaction of a small row that is on the disk when it returns."""
    path = folder / "probe.db"
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE row (text TEXT)")
        return _median(lambda: database.execute("INSERT INTO row VALUES (?)", ("x" * 200,)), tries=50)
    finally:
        database.close()
        for left in folder.glob("probe.db*"):
            left.unlink()


def memory_copy(size: int) -> float:
    """Seconds to copy `size` bytes in memory that has been used before."""
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    return _median(lambda: np.copyto(target, source), tries=5)


def _median(act: Callable[[], object], *, tries: int = TRIES) -> float:
    act()
    taken = []
    for _ in range(tries):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _print_all(size: int = 100 << 20, sites: int = 2) -> None:
    with tempfile.TemporaryDirectory(prefix="probe-", dir=".") as place:
        folder = Path(place)
        print(f"TLS, {sites} sites, {size >> 20} MiB down and up: {tls_round(size, sites):.3f} s")
        print(f"one byte there and back over TLS: {tls_trip() * 1e6:.0f} us")
        print(f"{size >> 20} MiB to disk: {disk_write(folder, size):.3f} s")
        print(f"a commit: {commit(folder) * 1e3:.2f} ms")
        print(f"{size >> 20} MiB copied in memory: {memory_copy(size) * 1e3:.1f} ms")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _print_all()
    else:
        _serve_tls(Path(sys.argv[1]))
