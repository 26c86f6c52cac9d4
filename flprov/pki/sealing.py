# SPDX-License-Identifier: Apache-2.0
"""Sealing: what one site says to another through a server that must not read it.

X25519 (RFC 7748) between the two, HKDF-SHA256 (RFC 5869) to a key, AES-256-GCM (NIST SP 800-38D) over
the bytes. Whoever carries the public keys could swap them; a `secret` that both sites were given
beforehand, and the carrier was not, closes that: without it nobody comes to the same key.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flprov.errors import IdentityRefused

EXCHANGE_KEY_BYTES = 32  # of either half
_NONCE_BYTES = 12


def create_exchange_key() -> bytes:
    """A new private key for `seal` and `open_sealed`."""
    return X25519PrivateKey.generate().private_bytes_raw()


def exchange_public_key(private: bytes) -> bytes:
    """What others need to seal something for the holder of `private`."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal(data: bytes, *, private: bytes, recipient: bytes, purpose: bytes, secret: bytes = b"") -> bytes:
    """`data` for the holder of the public key `recipient` alone.

    Args:
        data: what to say; at most a few megabytes.
        private: the sender's own key; whoever opens it needs the public half.
        recipient: the other one's public key.
        purpose: what is sealed for whom, e.g. job and site; opening takes the same.
        secret: what both were given beforehand; empty: nothing was.

    Raises:
        IdentityRefused: `recipient` is no public key.
    """
    own = exchange_public_key(private)
    key = _agree(private, recipient, purpose, secret, parties=own + recipient)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, purpose)


def open_sealed(
    sealed: bytes, *, private: bytes, sender: bytes, purpose: bytes, secret: bytes = b""
) -> bytes:
    """What `seal` was given.

    Raises:
        IdentityRefused: it was sealed for somebody else, by somebody else, for another purpose, under
            another secret, or was changed on the way; which of these cannot be told.
    """
    key = _agree(private, sender, purpose, secret, parties=sender + exchange_public_key(private))
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose)
    except (InvalidTag, ValueError) as error:
        raise IdentityRefused(
            "what was sealed for this site does not open: it was changed on the way, or the two sites"
            " do not share the same secret"
        ) from error


def lock(data: bytes, *, secret: bytes, purpose: bytes) -> bytes:
    """`data` for whoever has the 32 bytes `secret`, as `derive_secret` gives them."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(secret).encrypt(nonce, data, purpose)


def unlock(locked: bytes, *, secret: bytes, purpose: bytes) -> bytes:
    """What `lock` was given.

    Raises:
        IdentityRefused: it was locked under another secret or for another purpose, or was changed since.
    """
    try:
        return AESGCM(secret).decrypt(locked[:_NONCE_BYTES], locked[_NONCE_BYTES:], purpose)
    except (InvalidTag, ValueError) as error:
        raise IdentityRefused("the secret does not open what was locked, or it was changed since") from error


def derive_secret(secret: bytes, purpose: bytes) -> bytes:
    """A secret for one purpose, from a longer-lived one that it does not give away."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"flprov secret " + purpose).derive(secret)


def _agree(private: bytes, public: bytes, purpose: bytes, secret: bytes, *, parties: bytes) -> bytes:
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:  # of another length, or a point of low order
        raise IdentityRefused("the other site's public key is none") from error
    # Both public keys are part of what is agreed on (RFC 7748, section 6.1).
    info = b"flprov seal 1 " + parties + purpose
    return HKDF(algorithm=SHA256(), length=32, salt=secret or None, info=info).derive(shared)
