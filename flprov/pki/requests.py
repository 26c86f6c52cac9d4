# SPDX-License-Identifier: Apache-2.0
"""Certificate requests, for a party that makes its key where it uses it.

A request (PKCS#10, RFC 2986) proves that the sender holds the key, and says nothing else: whom the
certificate will name is decided by the one who issues it, from its own records.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from flprov.errors import IdentityRefused
from flprov.pki.keys import read_private_key, read_public_key

_LARGEST = 32 * 1024


def create_request(private_pem: bytes) -> bytes:
    """The request of the party that holds this private key, as PEM.

    Raises:
        IdentityRefused: the private key cannot be read.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(read_private_key(private_pem), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def verify_request(request_pem: bytes) -> bytes:
    """The public key of a request whose sender holds the private half: `public_pem` for `issue_identity`.

    Raises:
        IdentityRefused: it is no request, its signature is not by its key, or the key is too weak.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem[:_LARGEST])
        signed = request.is_signature_valid
        public_pem = request.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise IdentityRefused("the certificate request cannot be read: it is not a PEM PKCS#10") from error
    if not signed:
        raise IdentityRefused("the certificate request is not signed by the key that it holds")
    read_public_key(public_pem)
    return public_pem
