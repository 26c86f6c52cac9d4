# SPDX-License-Identifier: Apache-2.0
"""CKKS (Cheon, Kim, Kim, Song: "Homomorphic Encryption for Arithmetic of Approximate Numbers", ASIACRYPT
2017) through TenSEAL: 4096 real numbers to one ciphertext, sums of ciphertexts, and back.

Federated averaging needs sums only, so the ring is the smallest that carries them: degree 4096 and one
prime of 60 bits, where SEAL's table (128 bits of security against classical attacks, ternary secret)
would allow 109 bits; there are no keys for multiplication or rotation at all. A slot holds a complex
number, which is two parameters. A fresh ciphertext is one polynomial and the seed of the other (8 bytes
a parameter), a sum is two polynomials (16 bytes).

TenSEAL's own vectors take a chain of at least two primes, real slots and no seeds (32 bytes a parameter),
so this talks to `tenseal.sealapi`, the binding to SEAL below them. It reads and writes files only; here
these are memory (memfd), so that no secret touches a disk.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import LocalError, Misuse, UpdateRefused

DEGREE = 4096  # of the ring
MODULUS_BITS = 60  # of its one prime
PIECE = DEGREE  # real numbers in one ciphertext: two to each of DEGREE / 2 complex slots
SCALE = 2.0**43  # what a value is multiplied by before it is rounded to an integer
# The sum of the magnitudes, over all sites, that a slot has room for: half of the 60-bit modulus, less
# one bit for noise and rounding; a slot of two parameters may be sqrt(2) times as large as each.
LIMIT = 2.0**58 / SCALE / math.sqrt(2)
NOISE = 2.0**-35.5  # of one fresh ciphertext, standard deviation after decryption: measured, rounded up
FLOOD_BITS = 15  # how much larger the noise is that hides NOISE in what is released
FRESH_BYTES = 33_100  # of a fresh ciphertext, at most
SUM_BYTES = 65_900  # of a sum

Array = NDArray[np.float64]


class Ring:
    """What can be done without the secret key: read a ciphertext, add, write."""

    def __init__(self) -> None:
        self._seal = _load_sealapi()
        parameters = self._seal.EncryptionParameters(self._seal.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(DEGREE)
        parameters.set_coeff_modulus(self._seal.CoeffModulus.Create(DEGREE, [MODULUS_BITS]))
        # SEAL itself refuses parameters below this level.
        level = self._seal.SEC_LEVEL_TYPE.TC128
        self._context = self._seal.SEALContext(parameters, True, level)  # noqa: FBT003 - SEAL takes no names
        self._evaluator = self._seal.Evaluator(self._context)
        self._memory = _Memory()

    def read(self, data: bytes) -> Any:  # noqa: ANN401 - SEAL's objects have no types
        """The ciphertext in `data`, if it is one of this ring.

        Raises:
            UpdateRefused: it is not; the message is the end of a sentence about it.
        """
        found = self._seal.Ciphertext()
        try:
            found.load(self._context, self._memory.write(data))  # checks every coefficient against the ring
        except (RuntimeError, ValueError, IndexError) as error:
            raise UpdateRefused("is no ciphertext of this job's parameters") from error
        if found.size() != 2 or found.scale != SCALE or not found.is_ntt_form():
            raise UpdateRefused("is a ciphertext of another form than this job's")
        if found.is_transparent():
            raise UpdateRefused("is not encrypted")
        return found

    def add(self, total: Any, term: Any) -> None:  # noqa: ANN401
        """Add `term` to `total`, in place. Exact: sums of ciphertexts do not depend on their order."""
        self._evaluator.add_inplace(total, term)

    def write(self, ciphertext: Any) -> bytes:  # noqa: ANN401
        """The bytes of a ciphertext."""
        return self._memory.take(ciphertext)


class Cipher(Ring):
    """What the holder of the secret key can do: also encrypt and decrypt. `repr` shows no key."""

    def __init__(self, secret: bytes) -> None:
        """Take the secret key that `create_secret_key` gave. Raises LocalError when it is none."""
        super().__init__()
        key = self._seal.SecretKey()
        try:
            key.load(self._context, self._memory.write(secret))
        except (RuntimeError, ValueError, IndexError) as error:
            raise LocalError("the secret key of this job cannot be read at this site") from error
        self._encoder = self._seal.CKKSEncoder(self._context)
        self._encryptor = self._seal.Encryptor(self._context, key)
        self._decryptor = self._seal.Decryptor(self._context, key)

    def encrypt(self, values: Array) -> bytes:
        """At most PIECE numbers as one ciphertext; the same numbers never give the same bytes again.

        Raises:
            Misuse: one is not finite, or beyond LIMIT. After this nobody could see it.
        """
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LIMIT:  # also true of NaN
            raise Misuse(f"{largest} cannot be encrypted: numbers are finite and at most {LIMIT:.0f}")
        full = np.zeros(PIECE)
        full[: values.size] = values
        plain = self._seal.Plaintext()
        self._encoder.encode(full.view(np.complex128).tolist(), SCALE, plain)
        return self._memory.take(self._encryptor.encrypt_symmetric(plain))

    def decrypt(self, data: bytes) -> Array:
        """The PIECE numbers in a ciphertext, each with an error of about NOISE for every term of its sum.

        Raises:
            UpdateRefused: it is no ciphertext of this ring.
        """
        plain = self._seal.Plaintext()
        self._decryptor.decrypt(self.read(data), plain)
        return np.array(self._encoder.decode_complex(plain), dtype=np.complex128).view(np.float64)


def create_secret_key() -> bytes:
    """A new secret key."""
    ring = Ring()
    generator = ring._seal.KeyGenerator(ring._context)
    return ring._memory.take(generator.secret_key())


class _Memory:
    """A file in memory, for a library that reads and writes files only."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("flprov-he", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._descriptor}"

    def __del__(self) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> str:
        """The path of a file that holds `data`, until the next call."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        return self._path

    def take(self, thing: Any) -> bytes:  # noqa: ANN401
        """What `thing` writes when it is told to save itself."""
        os.ftruncate(self._descriptor, 0)
        thing.save(self._path)
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)


def _load_sealapi() -> Any:  # noqa: ANN401
    try:
        import tenseal.sealapi as seal
    except ImportError as error:
        raise LocalError(
            "this job averages ciphertexts, and TenSEAL is not installed here",
            hint="install it beside flprov: pip install 'flprov[he]'",
        ) from error
    return seal
