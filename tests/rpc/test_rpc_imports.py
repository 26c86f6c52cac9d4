# SPDX-License-Identifier: Apache-2.0
"""What imports grpc, and when."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flprov.rpc


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), **variables},
    )


def test_table_and_types_load_no_grpc():
    found = run(
        "import sys; import flprov.rpc as r; r.METHODS, r.Call, r.Connection, r.methods.CONTROL;"
        "import flprov.testing.inprocess; print('grpc' in sys.modules)"
    )
    assert (found.stdout.strip(), found.stderr) == ("False", "")


def test_what_needs_grpc_loads_it_with_tls_1_3_only():
    found = run(
        "import os, sys; from flprov.rpc import serve; print(os.environ['GRPC_SSL_CIPHER_SUITES'])",
        GRPC_SSL_CIPHER_SUITES="HIGH",
    )
    assert (found.stdout.strip(), found.stderr) == ("ECDHE-RSA-AES256-GCM-SHA384", "")


def test_grpc_that_came_first_is_refused():
    found = run("import grpc; from flprov.rpc import serve")
    assert "grpc was imported before flprov.rpc" in found.stderr


@pytest.mark.parametrize("name", flprov.rpc.__all__)
def test_every_public_name_is_there(name):
    assert getattr(flprov.rpc, name) is not None


def test_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        flprov.rpc.nothing  # noqa: B018
