# SPDX-License-Identifier: Apache-2.0
"""What the filters look at: an update's difference from the model of its task, piece by piece.

They take a `full` or a `diff` and give the same kind back. New tensors lie in a file without a name where
they are large, so that a filter needs no memory for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed
from flprov.messages import Encoding, Site, Task, Tensors, Update, UpdateKind
from flprov.sdk.floats import is_float, narrow, widen
from flprov.wire import make_room

Array = NDArray[np.generic]
Doubles = NDArray[np.float64]
_PIECE = 1 << 16  # elements


def verify_weights(update: Update, who: str) -> None:
    """Raise JobFailed if `update` is of no kind that filter `who` can read."""
    if update.kind is UpdateKind.OPAQUE:
        raise JobFailed(f"filter {who} takes full and diff updates, not opaque ones")


def base_of(update: Update, task: Task, who: str) -> Tensors | None:
    """What a `full` update is to be compared with; None for a `diff`, which is the difference.

    Raises:
        JobFailed: the update is opaque, or its task carried no such model.
    """
    verify_weights(update, who)
    if update.kind is UpdateKind.DIFF:
        return None
    shapes = {name: array.shape for name, array in update.params.items()}
    if shapes != {name: array.shape for name, array in task.params.items()}:
        raise JobFailed(
            f"filter {who} compares an update with the model of its task, which has other tensors or none",
            hint="set `model` in job.yml, so that the first round has one",
        )
    return task.params


def float_names(update: Update) -> list[str]:
    """The tensors with real numbers, in the order in which every filter takes them."""
    return [name for name, array in sorted(update.params.items()) if is_float(array, name)]


def float_count(update: Update) -> int:
    """How many real numbers it has in all."""
    return sum(update.params[name].size for name in float_names(update))


def pieces(update: Update, base: Tensors | None, who: str) -> Iterator[Doubles]:
    """Every real number's difference from `base`, in float64.

    Raises:
        JobFailed: one of them is NaN or infinite; the message names the tensor.
    """
    for name in float_names(update):
        for _, piece in _of_tensor(name, update, base):
            if not np.isfinite(piece).all():
                raise JobFailed(f"filter {who}: tensor {name!r} holds NaN or infinity")
            yield piece


def map_difference(
    update: Update, base: Tensors | None, change: Callable[[Doubles], Doubles], site: Site
) -> Update:
    """`update` with `change` made to its difference from `base`, in the order of `pieces`."""
    names = float_names(update)
    changed: dict[str, Array] = dict(update.params) | room_for(update.params, names, site)
    for name in names:
        flat = changed[name].reshape(-1)
        for where, piece in _of_tensor(name, update, base):
            piece = change(piece)
            if base is not None:
                piece += widen(base[name].reshape(-1)[where], np.empty(piece.size))
            narrow(piece, flat[where])
    return replace(update, params=changed)


def leave_at_model(update: Update, base: Tensors | None, names: Iterable[str]) -> Update:
    """`update` with nothing of the site in the tensors `names`: no difference from the model."""
    kept: dict[str, Array] = dict(update.params)
    for name in names:
        kept[name] = np.zeros_like(kept[name], subok=False) if base is None else base[name]
    return replace(update, params=kept)


def mark_sparse(update: Update, names: Iterable[str]) -> Update:
    """Let the tensors `names` of a difference, which are mostly zero, travel as what is not."""
    if update.kind is not UpdateKind.DIFF:
        return update
    marks = dict(update.encoding)
    for name in names:
        marks[name] = replace(marks.get(name, Encoding()), sparse=True)
    return replace(update, encoding=marks)


def room_for(tensors: Tensors, names: Iterable[str], site: Site) -> dict[str, Array]:
    """New tensors of zeros, like those of `tensors` that are named."""
    folder = site.folder if site.folder.is_dir() else None
    return make_room({name: (tensors[name].dtype, tensors[name].shape) for name in names}, folder)


def _of_tensor(name: str, update: Update, base: Tensors | None) -> Iterator[tuple[slice, Doubles]]:
    flat = update.params[name].reshape(-1)
    for start in range(0, flat.size, _PIECE):
        where = slice(start, min(start + _PIECE, flat.size))
        piece = widen(flat[where], np.empty(where.stop - start))
        if base is not None:
            piece -= widen(base[name].reshape(-1)[where], np.empty(where.stop - start))
        yield where, piece
