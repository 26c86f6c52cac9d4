# SPDX-License-Identifier: Apache-2.0
"""Filters that bound what a site can contribute: `clip_norm`, `clip`, `exclude`."""

from __future__ import annotations

import fnmatch
import math

import numpy as np

from flprov.errors import JobFailed
from flprov.messages import Site, Task, Tensors, Update
from flprov.sdk.filters.difference import base_of, leave_at_model, map_difference, mark_sparse, pieces
from flprov.sdk.options import suggest


def clip_norm(update: Update, task: Task, site: Site, *, max_norm: float) -> Update:
    """Scale the difference from the model down to an L2 norm of at most `max_norm`.

    The norm is taken over all floating-point tensors together, as in DP-FedAvg (McMahan, Ramage, Talwar,
    Zhang: "Learning Differentially Private Recurrent Language Models", ICLR 2018).
    """
    base = base_of(update, task, "clip_norm")
    norm = norm_of(update, base, "clip_norm")
    if norm <= max_norm:
        return update
    return map_difference(update, base, lambda piece: piece * (max_norm / norm), site)


def clip(update: Update, task: Task, site: Site, *, limit: float) -> Update:
    """Keep each number's difference from the model within [-limit, limit]."""
    base = base_of(update, task, "clip")
    return map_difference(update, base, lambda piece: np.clip(piece, -limit, limit), site)


def exclude(
    update: Update,
    task: Task,
    site: Site,  # noqa: ARG001 - as every filter
    *,
    names: tuple[str, ...],
    required: bool = True,
) -> Update:
    """Keep the tensors that match one of `names` (with * and ?) at the site.

    The update still has them, so that it fits its task, but with nothing of the site in them: the
    model's own values in a `full` update, zeros in a `diff`. With `required`, a pattern that matches
    nothing is an error.
    """
    base = base_of(update, task, "exclude")
    found: set[str] = set()
    for pattern in names:
        matching = fnmatch.filter(update.params, pattern)
        if not matching and required:
            raise JobFailed(f"filter exclude: no tensor matches {pattern!r}{suggest(pattern, update.params)}")
        found.update(matching)
    return mark_sparse(leave_at_model(update, base, found), found)


def norm_of(update: Update, base: Tensors | None, who: str) -> float:
    """The L2 norm of the difference, over all floating-point tensors."""
    squares = (float(np.square(piece).sum()) for piece in pieces(update, base, who))
    return math.sqrt(math.fsum(squares))
