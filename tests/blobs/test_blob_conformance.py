# SPDX-License-Identifier: Apache-2.0
"""The blob store passes the suite that every blob store must pass."""

from flprov.testing.blob_conformance import BlobConformance


class TestBlobStore(BlobConformance):
    pass
