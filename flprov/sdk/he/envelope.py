# SPDX-License-Identifier: Apache-2.0
"""The last thing that happens to an update at a site, and the first that happens to a task.

A trainer gets and sends weights in clear, as with every workflow; what leaves the site's worker is
ciphertext. Filters of the job and of the site work on the clear side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flprov.errors import JobFailed, Misuse
from flprov.messages import Site, Task, Tensors, Update, UpdateKind
from flprov.sdk.aggregation import weighted_mean
from flprov.sdk.he.ciphertexts import (
    decrypt_tensors,
    encrypt_tensors,
    is_encrypted,
    read_ciphertexts,
    split_model,
    verify_alike,
)
from flprov.sdk.he.ckks import Cipher
from flprov.sdk.he.keys import SiteKeys


class EncryptedEnvelope:
    """Opens the tasks of fedavg_he and closes their updates."""

    def __init__(self) -> None:
        self._held: tuple[bytes, Cipher] | None = None  # the key's id, and what was loaded with it

    def takes(self, expects: Sequence[UpdateKind]) -> tuple[UpdateKind, ...]:
        """What a trainer may send for a task whose update, as it leaves, is one of `expects`."""
        return (UpdateKind.FULL, UpdateKind.DIFF) if UpdateKind.OPAQUE in expects else tuple(expects)

    def open(self, task: Task, site: Site) -> Task:
        """`task` with its model in clear."""
        if not is_encrypted(task.params):
            return task
        return replace(task, params=decrypt_tensors(read_ciphertexts(task.params), self._cipher(site)))

    def close(self, update: Update, task: Task, site: Site) -> Update:
        """`update` with its weights encrypted, times this site's share of the mean.

        Raises:
            JobFailed: a number is not finite, or too large (the message names the tensor), or there is
                nothing to encrypt.
            UpdateRefused: it does not have the tensors of the task's model.
        """
        if not update.params:
            return update
        SiteKeys(site).verify_unopened(task.round)
        factor = update.share / float(task.scalars["he.unit"])
        weights = _weights(update, task.params)
        _verify_some_secret(weights)
        found = encrypt_tensors(
            weights,
            self._cipher(site),
            factor=factor,
            limit=float(task.scalars["he.limit"]),
        )
        if task.params:
            verify_alike(found, *split_model(task.params))
        return replace(update, params=found.tensors(), kind=UpdateKind.OPAQUE, encoding={})

    def _cipher(self, site: Site) -> Cipher:
        key = SiteKeys(site).require()
        if self._held is None or self._held[0] != key.id:
            self._held = key.id, Cipher(key.secret)
        return self._held[1]


def _verify_some_secret(weights: Tensors) -> None:
    """Integers travel in clear. A model of nothing else would go to the server as it is."""
    layout, _ = split_model(weights)
    if not layout:
        raise JobFailed(
            f"none of the model's {len(weights)} tensors has floating-point numbers,"
            " and fedavg_he encrypts nothing else",
            hint="make the weights float32, or use workflow: {type: fedavg}",
        )


def _weights(update: Update, base: Tensors) -> Tensors:
    """The new weights. A mean of ciphertexts has no model in clear that differences could count from."""
    if update.kind is UpdateKind.DIFF:
        if not base:
            raise Misuse("the update is a difference, but its task carried no model")
        return weighted_mean([replace(update, weight=1.0)], base)
    return update.params
