# SPDX-License-Identifier: Apache-2.0
"""The way to the server: each stage has its row, an interceptor its name, and nothing hangs."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
import time

import pytest
from doctor_parties import BOX, free_port, furnish, intercepting, make_kits, serving

from flprov._base import to_document
from flprov.doctor import examine
from flprov.errors import IdentityRefused
from flprov.project import Route, parse_proxy

STAGES = ("name", "tcp", "proxy", "tls", "server")


def rows_of(found, endpoint: str):
    return {row.name: row for row in found.rows if row.subject == endpoint}


def verdicts(found, endpoint: str):
    return {name: row.verdict for name, row in rows_of(found, endpoint).items()}


@pytest.fixture
def kit_for(tmp_path):
    """kit_for("localhost:1", ...) -> the kit of a site that has these endpoints."""

    def make(*endpoints: str, proxy: str = ""):
        kit = make_kits(tmp_path, *endpoints) / "hospital-a"
        furnish(kit, proxy=proxy)
        return kit

    return make


@pytest.mark.usefixtures("server")
def test_a_way_that_works(kit, port):
    found = examine(kit)
    rows = rows_of(found, f"localhost:{port}")
    assert verdicts(found, f"localhost:{port}") == dict.fromkeys(("name", "tcp", "tls", "server"), "ok")
    assert "127.0.0.1" in rows["name"].found
    assert f":{port}" in rows["tcp"].found
    assert "TLS 1.3; the certificate of spiffe://heart.example/server/server" in rows["tls"].found
    assert "takes the certificate of spiffe://heart.example/site/org-a/hospital-a" in rows["server"].found


def test_who_was_revoked_hears_it_though_the_handshake_goes_well(kit_for):
    port = free_port()
    kit = kit_for(f"localhost:{port}").with_name("alice")
    revoked = IdentityRefused("the certificate of person alice was revoked", hint="ask for a new kit")
    with serving(kit.with_name("server"), port, refusal=revoked):
        found = examine(kit)
    row = rows_of(found, f"localhost:{port}")["server"]
    assert (row.verdict, row.found, row.next) == ("problem", str(revoked), "ask for a new kit")
    assert rows_of(found, f"localhost:{port}")["tls"].verdict == "ok"


def test_nothing_listens_and_what_is_behind_is_not_reached(kit_for):
    endpoint = f"localhost:{free_port()}"
    found = examine(kit_for(endpoint))
    assert verdicts(found, endpoint) == {
        "name": "ok",
        "tcp": "problem",
        "tls": "skipped",
        "server": "skipped",
    }
    assert rows_of(found, endpoint)["tcp"].found == f"nothing listens at {endpoint}"
    assert found.verdict == "problem"


def test_a_name_that_does_not_resolve(kit_for):
    found = examine(kit_for("no-such-host.invalid:1"))
    row = rows_of(found, "no-such-host.invalid:1")["name"]
    assert row.verdict == "problem"
    assert "no-such-host.invalid does not resolve" in row.found
    assert "getent hosts no-such-host.invalid" in row.next


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_who_opens_tls_is_named_and_learns_nothing(tmp_path, kit_for, version):
    with intercepting(tmp_path, version=version) as box:
        endpoint = f"localhost:{box.port}"
        found = examine(kit_for(endpoint))
    row = rows_of(found, endpoint)["tls"]
    assert row.verdict == "problem"
    assert f"issued by {BOX!r}" in row.found
    assert "if that issuer is a proxy that opens TLS" in row.next
    assert rows_of(found, endpoint)["server"].verdict == "skipped"
    assert b"".join(box.inside) == b""


def test_a_proxy_that_opens_tls_is_named(tmp_path, kit_for):
    with intercepting(tmp_path) as box:
        found = examine(kit_for("localhost:8443", proxy=f"http://127.0.0.1:{box.port}"))
    row = rows_of(found, "localhost:8443")["tls"]
    assert BOX in row.found
    assert f"(through the proxy http://127.0.0.1:{box.port})" in row.found
    assert verdicts(found, "localhost:8443")["proxy"] == "ok"
    assert b"".join(box.inside) == b""
    assert all(head.startswith(b"CONNECT localhost:8443 ") for head in box.tunnels)


@pytest.mark.parametrize("through", [True, False])
def test_silence_is_bounded_and_named(kit_for, through):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        kit = kit_for("localhost:8443", proxy=f"http://{place}") if through else kit_for(place)
        began = time.monotonic()
        found = examine(kit, limit=2.0)
        assert time.monotonic() - began < 3.5
    row = rows_of(found, "localhost:8443" if through else place)["proxy" if through else "tls"]
    assert row.verdict == "problem"
    assert "does not answer: no " in row.found


def test_one_endpoint_that_works_makes_the_others_warnings(tmp_path, kit_for):
    port, dead = free_port(), free_port()
    kit = kit_for(f"localhost:{dead}", f"localhost:{port}")
    with serving(kit.with_name("server"), port):
        found = examine(kit)
    assert verdicts(found, f"localhost:{dead}")["tcp"] == "warning"
    assert f"(localhost:{port} works)" in rows_of(found, f"localhost:{dead}")["tcp"].found
    assert verdicts(found, f"localhost:{port}")["server"] == "ok"


def test_a_proxy_that_wants_a_login_is_said_without_its_password(kit_for):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        kit = kit_for("fl.example.org:8443", proxy=f"http://kim:s3cret@{place}")

        def refuse() -> None:
            with listening.accept()[0] as near:
                near.recv(4096)
                near.sendall(b"HTTP/1.1 407 x\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        found = examine(kit)
        thread.join()
    rows = rows_of(found, "fl.example.org:8443")
    assert rows["proxy"].verdict == "problem"
    assert "does not take the user name and password" in rows["proxy"].found
    route = next(row for row in found.rows if row.name == "proxy" and not row.subject)
    assert route.found == f"http://{place} (from site.yml, with a password)"
    assert "s3cret" not in json.dumps(to_document(found))


def test_the_environment_s_proxy_is_used_where_nobody_else_names_one(kit_for):
    gone = free_port()
    route = Route(proxy=parse_proxy(f"http://127.0.0.1:{gone}"), source="HTTPS_PROXY")
    found = examine(kit_for("fl.example.org:8443"), environment=route)
    row = rows_of(found, "fl.example.org:8443")["tcp"]
    assert row.found == f"nothing listens at the proxy http://127.0.0.1:{gone}"


@pytest.mark.usefixtures("server")
def test_the_server_s_own_kit_shows_no_certificate_and_judges_mildly(provisioned, port, tmp_path):
    folder = tmp_path / "server"
    shutil.copytree(provisioned / "server", folder)
    found = examine(folder)
    assert verdicts(found, f"localhost:{port}") == {
        "name": "ok",
        "tcp": "ok",
        "tls": "ok",
        "server": "skipped",
    }


def test_the_server_s_own_kit_before_its_first_start(kit_for):
    endpoint = f"localhost:{free_port()}"
    found = examine(kit_for(endpoint).with_name("server"))
    assert verdicts(found, endpoint)["tcp"] == "warning"
    assert "seen from the server's own machine" in rows_of(found, endpoint)["tcp"].found
    assert next(row for row in found.rows if row.name == "port").verdict == "ok"
