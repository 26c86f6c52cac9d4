# SPDX-License-Identifier: Apache-2.0
"""Content-addressed files: immutable bytes named by their BLAKE3 digest."""

from flprov.blobs.digests import Watch, digest_file, digest_of, is_digest, verify_digest
from flprov.blobs.disk import disk_errors
from flprov.blobs.folder import BlobStore
from flprov.blobs.spares import Home, give_back
from flprov.blobs.upload import Upload

__all__ = [
    "BlobStore",
    "Home",
    "Upload",
    "Watch",
    "digest_file",
    "digest_of",
    "disk_errors",
    "give_back",
    "is_digest",
    "verify_digest",
]
