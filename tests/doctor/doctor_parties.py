# SPDX-License-Identifier: Apache-2.0
"""For the doctor's tests: a provisioned project, its server in a thread, and a box that opens TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flprov.errors import FlprovError
from flprov.kits import Kit, load_kit, provision
from flprov.pki import join_anchors
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty, Validity
from flprov.rpc import METHODS, Shape, serve

BOX = "ACME Web Security CA"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def make_kits(
    folder: Path,
    *endpoints: str,
    now: datetime | None = None,
    passphrase: bytes | None = None,
    **validity: float,
) -> Path:
    """The folder of the kits: server, hospital-a, alice."""
    project = Project(
        name="heart",
        trust_domain="heart.example",
        organisations=(Organisation(name="org-a"),),
        server=ServerParty(name="server", org="org-a", listen="127.0.0.1:0", endpoints=endpoints),
        sites=(SiteParty(name="hospital-a", org="org-a"),),
        people=(Person(name="alice", org="org-a", role="project_admin"),),
        validity=Validity(**validity),
        source=Path("project.yml"),
    )
    options: dict[str, Any] = {"people_passphrase": passphrase} if passphrase else {}
    provision(project, folder / "ws", now=now or datetime.now(UTC), **options)
    return folder / "ws" / "kits"


def furnish(kit: Path, *, proxy: str = "") -> None:
    """What a site adds: a policy, a dataset, maybe a proxy."""
    local = kit.with_name(f"{kit.name}.local")
    (local / "data").mkdir(parents=True)
    (local / "data" / "scan.csv").write_text("1\n")
    (local / "policy.yml").write_text("allow: {organisations: [org-a]}\n")
    (local / "site.yml").write_text("datasets: {heart: data}\n" + (f"proxy: {proxy}\n" if proxy else ""))
    (local / "site.yml").chmod(0o600)


async def _unary(call: Any, request: Any) -> Any:
    return call.method.reply()


async def _download(call: Any, request: Any) -> AsyncIterator[Any]:
    yield call.method.reply()


async def _stream(call: Any, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for _ in requests:
        yield call.method.reply()


_ANSWERS: dict[Shape, Any] = {Shape.UNARY: _unary, Shape.DOWNLOAD: _download, Shape.STREAM: _stream}


@contextlib.contextmanager
def serving(folder: Path, port: int, refusal: FlprovError | None = None) -> Iterator[None]:
    """The project's server, with nothing behind it, in a thread of its own; it says `refusal` to calls."""
    kit: Kit = load_kit(folder, now=datetime.now(UTC))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def refuse(call: Any, request: Any) -> Any:
        raise refusal

    answers = _ANSWERS if refusal is None else {**_ANSWERS, Shape.UNARY: refuse}

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    try:
        listener = run(
            serve(
                {method: answers[method.shape] for method in METHODS},
                chain_pem=kit.chain_pem,
                private_pem=kit.private_pem,
                listen=f"127.0.0.1:{port}",
                anchors=join_anchors(kit.anchors["sites"], kit.anchors["people"]),
            )
        )
        yield
        run(listener.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(kw_only=True)
class Seen:
    """What came to a box: requests for tunnels, and whatever was said inside TLS."""

    port: int
    tunnels: list[bytes] = field(default_factory=list)
    inside: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def intercepting(folder: Path, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[Seen]:
    """A box that ends TLS itself, with a certificate of its own CA; also where a tunnel is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_box_certificate(folder))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    listening = socket.create_server(("127.0.0.1", 0))
    seen = Seen(port=listening.getsockname()[1])

    def serve_one(plain: socket.socket) -> None:
        plain.settimeout(5)
        with plain, contextlib.suppress(OSError):
            if plain.recv(1, socket.MSG_PEEK) == b"C":
                seen.tunnels.append(plain.recv(4096))
                plain.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with context.wrap_socket(plain, server_side=True) as secure:
                seen.inside.append(secure.recv(4096))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                serve_one(listening.accept()[0])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _box_certificate(folder: Path) -> Path:
    key, ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, BOX)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    path = folder / "box.pem"
    path.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
