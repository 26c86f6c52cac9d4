# SPDX-License-Identifier: Apache-2.0
"""Arithmetic over several tensors of one shape, in float64 and in pieces, so that it takes no room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed
from flprov.messages import Tensors
from flprov.sdk.floats import all_finite, narrow, widen
from flprov.sdk.results import Results, open_results
from flprov.wire import PIECE, each_span, give_back, pieces

Array = NDArray[np.generic]
Wide = NDArray[np.float64]
Dtypes = Mapping[str, np.dtype[Any]]


def calculate(
    rule: Callable[..., Sequence[Wide]], inputs: Sequence[Mapping[str, Array | float]], *outputs: Dtypes
) -> list[Tensors]:
    """The tensors that `rule` makes of `inputs`, element by element.

    Args:
        rule: gets a piece of each input in float64, gives a piece of each output.
        inputs: floating-point tensors by name; those of one name have one shape. A number stands for a
            tensor that has it everywhere; not in the first one.
        outputs: name -> dtype, for each output in the order in which `rule` gives them.

    Raises:
        JobFailed: a result leaves the range of its dtype.
    """
    names = list(outputs[0])
    first = {name: np.asarray(inputs[0][name]) for name in names}
    flats = {name: [_flat(one[name]) for one in inputs] for name in names}
    with ExitStack() as stack:
        rooms = [
            stack.enter_context(open_results({name: (one[name], first[name].shape) for name in names}))
            for one in outputs
        ]

        def do(name: str, where: slice) -> None:
            _calculate_span(name, rule, flats[name], [(room, one[name]) for room, one in places], where)

        places = list(zip(rooms, outputs, strict=True))
        each_span({name: array.size for name, array in first.items()}, do)
    return [room.tensors for room in rooms]


def _calculate_span(
    name: str,
    rule: Callable[..., Sequence[Wide]],
    inputs: Sequence[Array | float],
    outputs: Sequence[tuple[Results, np.dtype[Any]]],
    where: slice,
) -> None:
    rounded = [np.empty(PIECE, dtype) for _, dtype in outputs]
    for at in pieces(where):
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            made = rule(*(_wide(one, at) for one in inputs))
        for piece, buffer, (room, dtype) in zip(made, rounded, outputs, strict=True):
            narrow(piece, small := buffer[: piece.size])
            if not all_finite(small):
                raise JobFailed(
                    f"tensor {name!r} leaves the range of {dtype} in this round",
                    hint="the run diverges: try a smaller learning rate",
                )
            room.put(name, at.start, small)
    give_back(*(one[where] for one in inputs if isinstance(one, np.ndarray)))


def _flat(one: Array | float) -> Array | float:
    return one.reshape(-1) if isinstance(one, np.ndarray) else one


def _wide(one: Array | float, at: slice) -> Wide:
    piece = np.empty(at.stop - at.start)
    if isinstance(one, np.ndarray):
        return widen(one[at], piece)
    piece.fill(one)
    return piece
