# SPDX-License-Identifier: Apache-2.0
"""Private and public keys: made, read, written, and never shown.

Ours are ECDSA on P-256. Keys that a party brings may be P-384 or RSA of 3,072 bits and more
(NIST SP 800-57 part 1, table 2: 128 bits of strength).
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from flprov.errors import IdentityRefused, Misuse

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

HASHES = ("sha256", "sha384", "sha512")  # under which signatures of certificates and lists are believed

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_FEWEST_RSA_BITS = 3072
_MOST_RSA_BITS = 8192  # a check of one signature stays well under a millisecond
_LARGEST_PEM = 32 * 1024
_ALLOWED = "allowed are P-256, P-384 and RSA from 3072 to 8192 bits"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def create_key() -> bytes:
    """A new P-256 private key as PKCS#8 PEM, for a party that makes its key where it uses it."""
    return write_private_key(new_key())


def public_key_pem(private_pem: bytes) -> bytes:
    """The public half of a private key, as PEM: what `issue_identity` takes as `public_pem`."""
    return (
        read_private_key(private_pem)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def verify_public_key(key: PublicKeyTypes | None) -> PublicKey:
    """`key`, if it is of a type and size that we rely on.

    Raises:
        IdentityRefused: the message says what was found, as the end of a sentence about a key.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, _CURVES):
            return key
        raise IdentityRefused(f"its key is on the curve {key.curve.name}", hint=_ALLOWED)
    if isinstance(key, rsa.RSAPublicKey):
        if _FEWEST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS:
            return key
        raise IdentityRefused(f"its RSA key has {key.key_size} bits", hint=_ALLOWED)
    raise IdentityRefused("its key is of a type that is not used here", hint=_ALLOWED)


def read_public_key(public_pem: bytes) -> PublicKey:
    """The public key in a PEM block.

    Raises:
        IdentityRefused: it is none, or too weak.
    """
    try:
        key = serialization.load_pem_public_key(public_pem[:_LARGEST_PEM])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityRefused("the public key cannot be read: it is not a PEM public key") from error
    try:
        return verify_public_key(key)
    except IdentityRefused as error:
        raise IdentityRefused(f"the public key is refused: {error}", hint=error.hint) from None


def read_private_key(private_pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """The private key in a PEM block.

    Raises:
        Misuse: the passphrase is wrong, missing, or not needed.
        IdentityRefused: it is no private key, or too weak.
    """
    try:
        key = serialization.load_pem_private_key(private_pem[:_LARGEST_PEM], passphrase or None)
    except TypeError as error:
        if passphrase:
            raise Misuse("a passphrase was given, but the private key is not encrypted") from error
        raise Misuse("the private key is encrypted and no passphrase was given") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase and b"ENCRYPTED" in private_pem:
            raise Misuse(
                "the passphrase does not open the private key", hint="check the passphrase and try again"
            ) from error
        raise IdentityRefused("the private key cannot be read: it is not a whole PEM private key") from error
    if not isinstance(key, PrivateKey):
        raise IdentityRefused("the private key is of a type that is not used here", hint=_ALLOWED)
    verify_public_key(key.public_key())
    return key


def write_private_key(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """PKCS#8 PEM, encrypted (PBES2, AES-256) when there is a passphrase.

    Raises:
        Misuse: the passphrase is empty, or longer than the 1,023 bytes that OpenSSL takes.
    """
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        if not 0 < len(passphrase) < 1024:
            raise Misuse(f"a passphrase has 1 to 1023 bytes, this one has {len(passphrase)}")
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def encrypt_key(private_pem: bytes, passphrase: bytes) -> bytes:
    """The same private key, encrypted with `passphrase`.

    Raises:
        Misuse: it is encrypted already, or the passphrase is empty or too long.
        IdentityRefused: it is no private key.
    """
    return write_private_key(read_private_key(private_pem), passphrase)


def decrypt_key(private_pem: bytes, passphrase: bytes) -> bytes:
    """The same private key in clear, for the memory of one process.

    Raises:
        Misuse: the passphrase does not open it, or it is not encrypted.
        IdentityRefused: it is no private key.
    """
    return write_private_key(read_private_key(private_pem, passphrase))


def is_encrypted(private_pem: bytes) -> bool:
    """Whether a passphrase is needed to use this key."""
    return private_pem.lstrip().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
