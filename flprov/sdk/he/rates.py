# SPDX-License-Identifier: Apache-2.0
"""How fast this machine is with ciphertexts: measured on a few of them when a job starts."""

from __future__ import annotations

import time

import numpy as np

from flprov.sdk.he.ckks import FRESH_BYTES, PIECE, SUM_BYTES, Cipher, create_secret_key

_SAMPLE = 8  # ciphertexts; some ten milliseconds


def describe_rates(pieces: int, sites: int) -> str:
    """What `pieces` ciphertexts from each of `sites` cost a round, in words, for the job's log."""
    cipher = Cipher(create_secret_key())  # of nobody: it is forgotten when this returns
    values = np.ones(PIECE)
    cipher.encrypt(values)  # the first one pays for what is set up once
    began = time.perf_counter()
    fresh = [cipher.encrypt(values) for _ in range(_SAMPLE)]
    encrypted = time.perf_counter()
    total = cipher.read(fresh[0])
    for data in fresh:
        cipher.add(total, cipher.read(data))
    added = time.perf_counter()
    for data in fresh:
        cipher.decrypt(data)
    seconds = [
        encrypted - began,
        time.perf_counter() - added,
        2 * (added - encrypted),
    ]  # read twice: verified
    encrypt, decrypt, add = (one / _SAMPLE * pieces for one in seconds)
    up, down = (pieces * size / 2**20 for size in (FRESH_BYTES, SUM_BYTES))
    return (
        f"homomorphic encryption: {pieces * PIECE:,} numbers in {pieces:,} ciphertexts; in a round of {sites}"
        f" sites {up:.1f} MiB from each and {down:.1f} MiB to each; at the speed of this machine"
        f" {encrypt:.2f} s to encrypt and {decrypt:.2f} s to decrypt at a site, and {add * sites:.2f} s to"
        " verify and add here"
    )
