# SPDX-License-Identifier: Apache-2.0
"""Our certificates in real TLS: what OpenSSL and gRPC make of an issuing CA as the only anchor.

The whole separation of servers, sites and people rests on it: no anchor is self-signed, and gRPC must
take it nonetheless. Refusal is proved by the result of a call, because a TLS 1.3 client sees a
successful handshake even when its certificate is refused.
"""

import ssl
from concurrent import futures
from datetime import UTC, datetime

import grpc
import pytest
from villains import PERSON, SERVER, SITE, World, make_world

from flprov.pki import Kind, issue_identity, verify_peer


@pytest.fixture(scope="module")
def today() -> World:
    return make_world(datetime.now(UTC))


def credential(world, identity):
    names = ["localhost", "127.0.0.1"] if identity.kind is Kind.SERVER else []
    return issue_identity(world.of(identity.kind), identity, names=names, days=1, now=datetime.now(UTC))


def context(folder, purpose, credential, anchors):
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=anchors.pem.decode())
    (folder / "chain").write_bytes(credential.chain_pem)
    (folder / "key").write_bytes(credential.private_pem)
    made.load_cert_chain(folder / "chain", folder / "key")
    return made


def handshake(client, server, host="localhost"):
    """Both sides of a TLS handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].getpeercert(binary_form=True)


def test_openssl_shakes_hands_with_issuing_cas_as_anchors(today, tmp_path):
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, credential(today, SITE), today.servers.anchors)
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, credential(today, SERVER), today.clients)
    leaf = ssl.DER_cert_to_PEM_cert(handshake(client, server)).encode()
    assert verify_peer(leaf, today.clients, now=datetime.now(UTC)) == SITE


def test_openssl_refuses_a_server_by_another_name(today, tmp_path):
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, credential(today, SITE), today.servers.anchors)
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, credential(today, SERVER), today.clients)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(client, server, "elsewhere.example")


def test_openssl_refuses_a_site_that_plays_server(today, tmp_path):
    client = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, credential(today, SITE), today.servers.anchors)
    server = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, credential(today, SITE), today.clients)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server)


class Mirror(grpc.GenericRpcHandler):
    """Answers every call with the caller's leaf certificate."""

    def service(self, details):
        def answer(request, call):
            return call.auth_context()["x509_pem_cert"][0]

        return grpc.unary_unary_rpc_method_handler(answer)


def call(world, dialler, *, leaf_only=False, server_anchors=None, client_anchors=None) -> bytes:
    own, served = credential(world, dialler), credential(world, SERVER)
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Mirror()])
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(served.private_pem, served.chain_pem)],
            root_certificates=(server_anchors or world.clients).pem,
            require_client_auth=True,
        ),
    )
    chain = own.certificate_pem if leaf_only else own.chain_pem
    anchors = (client_anchors or world.servers.anchors).pem
    server.start()
    try:
        with grpc.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(anchors, own.private_pem, chain)
        ) as channel:
            return channel.unary_unary("/a/B")(b"", timeout=10)
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("leaf_only", [False, True], ids=["chain", "leaf only"])
@pytest.mark.parametrize("identity", [SITE, PERSON], ids=["site", "person"])
def test_grpc_takes_issuing_cas_as_the_only_anchors(today, identity, leaf_only):
    leaf = call(today, identity, leaf_only=leaf_only)
    assert verify_peer(leaf, today.clients, now=datetime.now(UTC)) == identity


def test_grpc_keeps_sites_from_a_server_that_trusts_only_people(today):
    with pytest.raises(grpc.RpcError):
        call(today, SITE, server_anchors=today.people.anchors)


def test_grpc_keeps_a_client_from_a_server_of_another_ca(today):
    with pytest.raises(grpc.RpcError, match="CERTIFICATE_VERIFY_FAILED"):
        call(today, SITE, client_anchors=today.sites.anchors)


def test_grpc_with_the_root_as_anchor_would_take_everybody(today):
    """Why `load_anchors` refuses the root beside issuing CAs."""
    assert call(today, PERSON, server_anchors=today.root.anchors)
