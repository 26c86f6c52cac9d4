# SPDX-License-Identifier: Apache-2.0
"""Opening a result that was not released: for a site's IT, who have the sites' own secret."""

from __future__ import annotations

from pathlib import Path

from flprov._base import from_document, parse_json
from flprov.errors import ProtocolError
from flprov.messages import Tensors
from flprov.pki import derive_secret, unlock
from flprov.sdk.he.ciphertexts import decrypt_tensors, read_ciphertexts
from flprov.sdk.he.ckks import Cipher
from flprov.sdk.he.keys import lock_purpose, read_key
from flprov.wire import read_tensors

KEY_FILE = "he-key.json"  # beside model.safetensors


def open_result(folder: Path, *, job_id: str, secret: bytes) -> Tensors:
    """The model of a job that ran with `release: false`, in clear. It is not for the server: see the docs.

    Args:
        folder: what `flprov job download` has made.
        job_id: the job.
        secret: what is in the file that site.yml names as `he_secret`.

    Raises:
        IdentityRefused: the secret is another one than the job's, or the files are of another job.
        ProtocolError: the files are not such a result.
        UpdateRefused: a ciphertext was damaged.
    """
    try:
        document = from_document(dict[str, str], parse_json((folder / KEY_FILE).read_bytes()))
        locked = bytes.fromhex(document["key"])
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"{KEY_FILE} holds no key") from error
    own = derive_secret(secret.strip(), f"he {job_id}".encode())
    key = read_key(unlock(locked, secret=own, purpose=lock_purpose(job_id)))
    return decrypt_tensors(read_ciphertexts(read_tensors(folder / "model.safetensors")), Cipher(key.secret))
