# SPDX-License-Identifier: Apache-2.0
"""What a site does for the workflow fedavg_he besides the job's own tasks: our code, whatever job.yml names.

flprov.he.hello   say the public key of this site, and which secret key it has
flprov.he.share   seal the secret key for other sites; make it, if nobody has one
flprov.he.take    open what was sealed for this site
flprov.he.open    decrypt the final model, for its release
flprov.he.lock    or give the secret key for those who have the sites' own secret, to keep beside that model
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk.he.ciphertexts import decrypt_tensors, read_ciphertexts
from flprov.sdk.he.ckks import FLOOD_BITS, NOISE, Cipher
from flprov.sdk.he.keys import SiteKeys


def say_hello(task: Task, site: Site) -> Update:  # noqa: ARG001 - as every task is called
    """This site's public key, and the id of the secret key that it has, if it has one."""
    keys = SiteKeys(site)
    key = keys.shared()
    return _answer(
        public=keys.public,
        key=b"" if key is None else key.id,
        secret=b"yes" if site.he_secret else b"",  # that it has one, and nothing of it
    )


def share_key(task: Task, site: Site) -> Update:
    """The secret key, sealed for each site whose public key the task carries under the site's name."""
    keys = SiteKeys(site)
    key = keys.make()
    sealed = {f"for/{name}": keys.seal_for(name, half.tobytes()) for name, half in task.params.items()}
    return _answer(**{"from": keys.public, "key": key.id}, **sealed)


def take_key(task: Task, site: Site) -> Update:
    """Keep the secret key that another site has sealed for this one."""
    sealed = task.extra.get(f"for/{site.name}")
    if sealed is None:
        raise JobFailed(f"no key was sealed for {site.name}")
    SiteKeys(site).take(sealed.tobytes(), task.extra["from"].tobytes())
    return Update()


def open_model(task: Task, site: Site) -> Update:
    """The task's model in clear, for everybody who may see the job's result.

    The exact decryption of a ciphertext that the server has would give the secret key away (Li,
    Micciancio: "On the Security of Homomorphic Encryption on Approximate Numbers", EUROCRYPT 2021): the
    error in it is a linear equation in the key. So noise is added that drowns it, 2^FLOOD_BITS times as
    large: as Li, Micciancio, Schultz, Sorrell ("Securing Approximate Homomorphic Encryption Using
    Differential Privacy", CRYPTO 2022) take for 30 bits of statistical security. In the weights that is
    a few millionths.

    A server that lies could send whatever it likes to be opened. So this is done only where the job that
    the site was sent says that its result is released, and for the models of one round; see `SiteKeys`.
    """
    found = read_ciphertexts(task.params)
    SiteKeys(site).note_opened(task.round, hashlib.sha256(found.data.data).digest())
    terms = max(int(task.scalars["he.terms"]), 1)
    flood = 2.0**FLOOD_BITS * NOISE * math.sqrt(terms) / found.total
    cipher = Cipher(SiteKeys(site).require().secret)
    return Update(params=decrypt_tensors(found, cipher, flood=flood), kind=UpdateKind.OPAQUE)


def lock_key(task: Task, site: Site) -> Update:  # noqa: ARG001 - as every task is called
    """The secret key, for whoever has the secret that the sites' IT gave each other."""
    return _answer(locked=SiteKeys(site).locked())


def _answer(**parts: bytes) -> Update:
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.frombuffer(data, np.uint8) for name, data in parts.items()
    }
    return Update(params=arrays, kind=UpdateKind.OPAQUE)
