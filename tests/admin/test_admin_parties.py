# SPDX-License-Identifier: Apache-2.0
"""What an admin's machine makes of a server's lists."""

from __future__ import annotations

import pytest

from flprov.admin import write_crls
from flprov.errors import ProtocolError
from flprov.wire.documents import CRLDocument


def crl(name: str) -> CRLDocument:
    return CRLDocument(name=name, pem="-----BEGIN X509 CRL-----\n", revoked=1, next_update=None)


def test_each_list_goes_into_a_file_of_its_name(tmp_path):
    written = write_crls((crl("sites"), crl("people")), tmp_path / "lists")
    assert [path.name for path in written] == ["sites.crl.pem", "people.crl.pem"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "", "sites\n", "other"])
def test_server_does_not_choose_where_lists_are_written(tmp_path, name):
    with pytest.raises(ProtocolError, match="that has none"):
        write_crls((crl("sites"), crl(name)), tmp_path / "lists")
    assert not list(tmp_path.iterdir())
