# SPDX-License-Identifier: Apache-2.0
"""Remembering: which attributes of a component have changed, and can be kept in a round's state.

FLARE's ModelControllers say nothing of what they remember: best metrics, counters, moments are plain
attributes. Those that are numbers, text, arrays, FLModels, or lists and dicts of them, and are not what
the constructor has made of them, are kept. So a clone with other arguments has those of its own job.yml.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import numpy as np

from flprov.errors import Misuse
from flprov.flare.bridge.codec import encode_value


def take_fingerprints(component: object, but: Collection[str]) -> Mapping[str, str]:
    """The attributes that could be kept, with a digest of each."""
    return {
        name: digest
        for name, value in vars(component).items()
        if name not in but and (digest := _fingerprint(value))
    }


def find_changes(component: object, before: Mapping[str, str], but: Collection[str]) -> dict[str, object]:
    """The attributes that are not any more what they were, by name."""
    now = take_fingerprints(component, but)
    return {name: vars(component)[name] for name, digest in now.items() if digest != before.get(name)}


def _fingerprint(value: object) -> str:
    """Empty for what cannot be kept."""
    try:
        text, tensors = encode_value(value)
    except Misuse:
        return ""
    found = hashlib.blake2b(text.encode(), digest_size=16)
    for name, array in tensors.items():
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
