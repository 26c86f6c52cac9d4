# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of the blobs."""

import pytest

from flprov.blobs import BlobStore

pytest.register_assert_rewrite("flprov.testing.blob_conformance")


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")
