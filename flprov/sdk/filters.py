# SPDX-License-Identifier: Apache-2.0
"""Filters that come with flprov: what bounds, blurs or leaves out part of an update.

They take a `full` or a `diff` and give the same kind back; what they look at is always the difference
from the model that the task carried. `flprov.sdk.filtering` finds them by the names in job.yml.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Site, Task, Tensors, Update, UpdateKind
from flprov.sdk.floats import is_float, narrow, widen
from flprov.sdk.options import suggest

Array = NDArray[np.generic]
_PIECE = 1 << 16  # elements


def clip_norm(update: Update, task: Task, site: Site, *, max_norm: float) -> Update:  # noqa: ARG001
    """Scale the difference from the model down to an L2 norm of at most `max_norm`.

    The norm is taken over all floating-point tensors together, as in DP-FedAvg (McMahan, Ramage, Talwar,
    Zhang: "Learning Differentially Private Recurrent Language Models", ICLR 2018).
    """
    if not max_norm > 0:
        raise ConfigError(f"filter clip_norm: max_norm is {max_norm}; it must be above 0")
    base = _base(update, task, "clip_norm")
    squares = (np.square(piece).sum() for name in _floats(update) for _, piece in _pieces(name, update, base))
    norm = math.sqrt(math.fsum(float(square) for square in squares))
    if norm <= max_norm:
        return update
    return _map(update, base, lambda piece: piece * (max_norm / norm))


def gaussian_noise(
    update: Update, task: Task, site: Site, *, sigma: float, seed: int | None = None
) -> Update:
    """Add independent noise N(0, sigma²) to every floating-point number.

    With a `seed` the noise of a site and round is the same in every run (for tests: whoever knows the
    seed can take the noise off again); without, it comes from the machine's own entropy.
    """
    if not sigma >= 0:
        raise ConfigError(f"filter gaussian_noise: sigma is {sigma}; it must not be negative")
    _verify_weights(update, "gaussian_noise")
    place = hashlib.blake2b(f"{site.name}/{task.round}/{task.name}".encode(), digest_size=16).digest()
    source = np.random.default_rng(None if seed is None else [seed, *place])
    return _map(update, None, lambda piece: piece + source.normal(0.0, sigma, piece.size))


def exclude(update: Update, task: Task, site: Site, *, names: tuple[str, ...]) -> Update:  # noqa: ARG001
    """Keep the tensors that match one of `names` (with * and ?) at the site.

    The update still has them, so that it fits its task, but with nothing of the site in them: the
    model's own values in a `full` update, zeros in a `diff`.
    """
    base = _base(update, task, "exclude")
    kept: dict[str, Array] = dict(update.params)
    for pattern in names:
        matching = fnmatch.filter(kept, pattern)
        if not matching:
            raise JobFailed(f"filter exclude: no tensor matches {pattern!r}{suggest(pattern, kept)}")
        for name in matching:
            kept[name] = np.zeros_like(kept[name]) if base is None else base[name]
    return replace(update, params=kept)


def _verify_weights(update: Update, who: str) -> None:
    if update.kind is UpdateKind.OPAQUE:
        raise JobFailed(f"filter {who} takes full and diff updates, not opaque ones")


def _base(update: Update, task: Task, who: str) -> Tensors | None:
    """What a `full` update is to be compared with; None for a `diff`, which is the difference."""
    _verify_weights(update, who)
    if update.kind is UpdateKind.DIFF:
        return None
    shapes = {name: array.shape for name, array in update.params.items()}
    if shapes != {name: array.shape for name, array in task.params.items()}:
        raise JobFailed(
            f"filter {who} compares an update with the model of its task, which has other tensors or none",
            hint="set `model` in job.yml, so that the first round has one",
        )
    return task.params


def _floats(update: Update) -> list[str]:
    return [name for name, array in sorted(update.params.items()) if is_float(array, name)]


def _pieces(name: str, update: Update, base: Tensors | None) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """One tensor in float64, piece by piece, less `base`."""
    flat = update.params[name].reshape(-1)
    for start in range(0, flat.size, _PIECE):
        where = slice(start, min(start + _PIECE, flat.size))
        piece = widen(flat[where], np.empty(where.stop - start))
        if base is not None:
            piece -= widen(base[name].reshape(-1)[where], np.empty(where.stop - start))
        yield where, piece


def _map(
    update: Update, base: Tensors | None, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Update:
    """`update` with `change` made to its difference from `base`."""
    changed: dict[str, Array] = dict(update.params)
    for name in _floats(update):
        changed[name] = np.empty_like(update.params[name], order="C", subok=False)
        flat = changed[name].reshape(-1)
        for where, piece in _pieces(name, update, base):
            piece = change(piece)
            if base is not None:
                piece += widen(base[name].reshape(-1)[where], np.empty(piece.size))
            narrow(piece, flat[where])
    return replace(update, params=changed)
