# SPDX-License-Identifier: Apache-2.0
"""A model as ciphertexts: encrypted piece by piece, added piece by piece, opened piece by piece.

All floating-point tensors, one after the other, are cut into pieces of 4096 numbers; each becomes one
ciphertext. Integer and boolean tensors (a counter of batches, a mask) are no numbers to average: they
travel in clear beside. Whatever is longer than a piece lies in a file that has no name and is mapped.
"""

from __future__ import annotations

import itertools
import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Tensors
from flprov.sdk.floats import is_float, narrow, widen
from flprov.sdk.he.ckks import FRESH_BYTES, PIECE, SUM_BYTES, Cipher, Ring
from flprov.wire import dtype_name, numpy_dtype

Array = NDArray[np.generic]
Bytes = NDArray[np.uint8]

_CIPHERTEXTS, _SIZES, _LAYOUT, _TOTAL, _CLEAR = "ciphertexts", "sizes", "layout", "total", "clear/"
_MOST_LAYOUT = 8 << 20  # bytes
_FLOATS = ("F16", "F32", "F64", "BF16")


@dataclass(frozen=True, kw_only=True)
class EncryptedTensor:
    """What is known of a tensor whose numbers are not."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Ciphertexts:
    """A model, or a sum of models, whose floating-point tensors are encrypted."""

    layout: tuple[EncryptedTensor, ...]
    data: Bytes  # one ciphertext after the other
    sizes: NDArray[np.uint32]  # of each, in bytes
    total: float  # of the factors in the sum: what it is divided by, to be a mean
    clear: Tensors  # the integer tensors

    def __iter__(self) -> Iterator[bytes]:
        """The ciphertexts, one by one."""
        end = 0
        for size in self.sizes.tolist():
            start, end = end, end + size
            yield self.data[start:end].tobytes()

    def tensors(self) -> dict[str, Array]:
        """How it travels: named tensors of bytes."""
        layout = np.frombuffer(canonical_json(self.layout), np.uint8)
        total = np.array([self.total])
        found: dict[str, Array] = {
            _CIPHERTEXTS: self.data,
            _SIZES: self.sizes,
            _LAYOUT: layout,
            _TOTAL: total,
        }
        return found | {_CLEAR + name: array for name, array in self.clear.items()}

    def covers(self, number: int) -> str:
        """Which tensors the ciphertext `number` holds numbers of, in words."""
        start, names = 0, []
        for tensor in self.layout:
            if start < (number + 1) * PIECE and start + tensor.size > number * PIECE:
                names.append(repr(tensor.name))
            start += tensor.size
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


Shape = tuple[tuple[EncryptedTensor, ...], Tensors]  # the layout, and the integer tensors


def is_encrypted(tensors: Tensors) -> bool:
    """Whether these are the tensors of `Ciphertexts`."""
    return _CIPHERTEXTS in tensors and _LAYOUT in tensors


def split_model(model: Tensors) -> Shape:
    """The floating-point tensors of a model in clear, as they will be laid out, and its integer ones."""
    layout = tuple(
        EncryptedTensor(name=name, dtype=dtype_name(array.dtype) or "", shape=array.shape)
        for name, array in sorted(model.items())
        if is_float(array, name)
    )
    named = {tensor.name for tensor in layout}
    return layout, {name: array for name, array in model.items() if name not in named}


def count_pieces(layout: Sequence[EncryptedTensor]) -> int:
    """How many ciphertexts a model takes."""
    return -(-sum(tensor.size for tensor in layout) // PIECE)


def read_ciphertexts(tensors: Tensors) -> Ciphertexts:
    """What `Ciphertexts.tensors` gave; whether each ciphertext is one shows when it is read.

    Raises:
        UpdateRefused: names, dtypes, sizes or the layout do not fit together.
    """
    data, sizes = _take(tensors, _CIPHERTEXTS, np.uint8), _take(tensors, _SIZES, np.uint32)
    document, total = _take(tensors, _LAYOUT, np.uint8), _take(tensors, _TOTAL, np.float64)
    if document.size > _MOST_LAYOUT:
        raise UpdateRefused(f"tensor {_LAYOUT!r} has {document.size} bytes; the limit is {_MOST_LAYOUT}")
    try:
        layout = from_document(tuple[EncryptedTensor, ...], parse_json(document.tobytes()), _LAYOUT)
    except ValueError as error:
        raise UpdateRefused(f"tensor {_LAYOUT!r} does not describe a model: {error}") from error
    clear = {name.removeprefix(_CLEAR): array for name, array in tensors.items() if name.startswith(_CLEAR)}
    if total.size != 1 or not (math.isfinite(total[0]) and total[0] >= 0):
        raise UpdateRefused(f"tensor {_TOTAL!r} is not one finite number")
    found = Ciphertexts(layout=layout, data=data, sizes=sizes, total=float(total[0]), clear=clear)
    if strays := sorted(set(tensors) - set(found.tensors())):
        raise UpdateRefused(f"tensor {strays[0]!r} is no part of an encrypted model")
    _verify_layout(layout, clear)
    if sizes.size != count_pieces(layout):
        raise UpdateRefused(f"tensor {_SIZES!r}: {sizes.size} ciphertexts for {count_pieces(layout)} pieces")
    if int(sizes.max(initial=0)) > SUM_BYTES or int(sizes.sum(dtype=np.uint64)) != data.size:
        raise UpdateRefused(f"tensor {_CIPHERTEXTS!r} has {data.size} bytes, which are not its pieces' sizes")
    return found


def most_alike(models: Iterable[Ciphertexts]) -> Shape:
    """The shape that most of these models have, at least one; of as many, the first one's."""
    shapes: dict[frozenset[tuple[str, str]], list[Shape]] = {}
    for found in models:
        form = frozenset(_describe(found.layout, found.clear).items())
        shapes.setdefault(form, []).append((found.layout, found.clear))
    return max(shapes.values(), key=len)[0]


def verify_alike(found: Ciphertexts, layout: Sequence[EncryptedTensor], clear: Tensors) -> None:
    """Check that `found` is an encryption of a model with these tensors.

    Raises:
        UpdateRefused: it is not; the message names the tensor.
    """
    _verify_same(_describe(found.layout, found.clear), _describe(layout, clear))


def verify_opened(opened: Tensors, found: Ciphertexts) -> None:
    """Check that `opened` could be what is in `found`: the same tensors, and finite.

    Raises:
        UpdateRefused: it is not; the message names the tensor.
    """
    _verify_same(_describe(*split_model(opened)), _describe(found.layout, found.clear))
    for tensor in found.layout:
        _verify_finite(tensor.name, opened[tensor.name])


def _describe(layout: Sequence[EncryptedTensor], clear: Tensors) -> dict[str, str]:
    found = {tensor.name: f"{tensor.dtype}{list(tensor.shape)}" for tensor in layout}
    return found | {name: f"{dtype_name(array.dtype)}{list(array.shape)}" for name, array in clear.items()}


def _verify_same(own: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name in sorted(wanted.keys() | own.keys()):
        if name not in own:
            raise UpdateRefused(f"tensor {name!r} is missing")
        if name not in wanted:
            raise UpdateRefused(f"tensor {name!r} is not in the model")
        if own[name] != wanted[name]:
            raise UpdateRefused(f"tensor {name!r} is {own[name]}, the model's is {wanted[name]}")


def verify_readable(found: Ciphertexts, ring: Ring) -> None:
    """Read every ciphertext once, before any of them is used.

    Raises:
        UpdateRefused: one is none of this job; the message names what it should hold.
    """
    for number, data in enumerate(found):
        try:
            if len(data) > FRESH_BYTES:
                raise UpdateRefused("is longer than a fresh ciphertext")
            ring.read(data)
        except UpdateRefused as error:
            raise UpdateRefused(f"tensor {found.covers(number)}: ciphertext {number} {error}") from error


def encrypt_tensors(tensors: Tensors, cipher: Cipher, *, factor: float, limit: float) -> Ciphertexts:
    """`factor` times the floating-point tensors, encrypted.

    Args:
        tensors: the model in clear.
        cipher: whoever holds the secret key.
        factor: the weight in the sum to come.
        limit: how large a number may be after that.

    Raises:
        JobFailed: a number is not finite or beyond the limit; the message names the tensor. In the sum
            nobody could see it any more.
    """
    layout, clear = split_model(tensors)
    sizes: list[int] = []

    def pieces() -> Iterator[bytes]:
        for values in _cut(tensors, layout, factor, limit):
            data = cipher.encrypt(values)
            sizes.append(len(data))
            yield data

    data = _spool(pieces())
    return Ciphertexts(layout=layout, data=data, sizes=np.array(sizes, np.uint32), total=factor, clear=clear)


def decrypt_tensors(found: Ciphertexts, cipher: Cipher, *, flood: float = 0.0) -> Tensors:
    """The tensors of `found`, each number divided by the total of the factors, in clear.

    Args:
        found: a sum, or one model.
        cipher: whoever holds the secret key.
        flood: standard deviation of the noise to add; see `flprov.sdk.he.tasks.open_model` for why.

    Raises:
        UpdateRefused: a ciphertext is none of this key's ring, or a number leaves the range of its dtype;
            the message names the tensor.
    """
    tensors: dict[str, Array] = {
        tensor.name: np.empty(tensor.shape, numpy_dtype(tensor.dtype)) for tensor in found.layout
    }
    source = np.random.default_rng()  # from the machine's own entropy
    places = _places(tensors, found.layout)
    for data in found:
        values = cipher.decrypt(data) / found.total
        if flood:
            values += source.normal(0.0, flood, values.size)
        _lay_out(values, places)
    for name, array in tensors.items():
        _verify_finite(name, array)
    return tensors | dict(found.clear)


def add_ciphertexts(terms: Sequence[Ciphertexts], clear: Tensors, ring: Ring) -> Ciphertexts:
    """The sum of models that are laid out alike; `clear` are its integer tensors.

    The result has the same bits whatever the order of the terms.
    """
    sizes: list[int] = []

    def pieces() -> Iterator[bytes]:
        for first, *others in zip(*terms, strict=True):
            total = ring.read(first)
            for data in others:
                ring.add(total, ring.read(data))
            written = ring.write(total)
            sizes.append(len(written))
            yield written

    data = _spool(pieces())
    total = math.fsum(term.total for term in terms)
    return Ciphertexts(
        layout=terms[0].layout, data=data, sizes=np.array(sizes, np.uint32), total=total, clear=clear
    )


def _verify_finite(name: str, array: Array) -> None:
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        part = flat[start : start + PIECE]
        if not np.isfinite(widen(part, np.empty(part.size))).all():
            raise UpdateRefused(
                f"tensor {name!r} holds NaN or infinity, or leaves the range of {array.dtype}"
            )


def _take(tensors: Tensors, name: str, dtype: Any) -> Any:  # noqa: ANN401 - numpy's own
    array = tensors.get(name)
    if array is None or array.dtype != dtype or array.ndim != 1:
        raise UpdateRefused(f"tensor {name!r} is missing, or of another dtype or shape: it is not encrypted")
    return array


def _verify_layout(layout: Sequence[EncryptedTensor], clear: Mapping[str, object]) -> None:
    seen = set(clear)
    for before, tensor in itertools.pairwise(layout):
        if tensor.name < before.name:  # numbers are added place by place, whatever their names are
            raise UpdateRefused(
                f"tensor {tensor.name!r} comes after {before.name!r}; they are laid out by name"
            )
    for tensor in layout:
        if tensor.name in seen:
            raise UpdateRefused(f"tensor {tensor.name!r} is there twice")
        if tensor.dtype not in _FLOATS or any(length < 0 for length in tensor.shape):
            raise UpdateRefused(f"tensor {tensor.name!r} cannot be {tensor.dtype}{list(tensor.shape)}")
        seen.add(tensor.name)


def _cut(
    tensors: Tensors, layout: Sequence[EncryptedTensor], factor: float, limit: float
) -> Iterator[NDArray[np.float64]]:
    """`factor` times all numbers, in pieces; the last may be shorter."""
    piece, filled = np.empty(PIECE), 0
    for tensor in layout:
        flat, start = tensors[tensor.name].reshape(-1), 0
        while start < flat.size:
            take = min(PIECE - filled, flat.size - start)
            part = widen(flat[start : start + take], piece[filled : filled + take])
            part *= factor
            _verify_range(tensor.name, part, factor, limit)
            start, filled = start + take, filled + take
            if filled == PIECE:
                yield piece
                filled = 0
    if filled:
        yield piece[:filled]


def _verify_range(name: str, values: NDArray[np.float64], factor: float, limit: float) -> None:
    largest = float(np.abs(values).max())
    if math.isfinite(largest) and largest <= limit:
        return
    if not math.isfinite(largest):
        raise JobFailed(f"tensor {name!r} holds NaN or infinity; it is not encrypted")
    raise JobFailed(
        f"tensor {name!r} holds a number beyond the {limit / factor:g} that have room in a ciphertext at this"
        " site's weight",  # not which one: the server reads this
        hint="scale the model's inputs, or raise workflow.samples in job.yml where it is too low",
    )


def _places(
    tensors: Mapping[str, Array], layout: Sequence[EncryptedTensor]
) -> Iterator[tuple[Array, slice, slice]]:
    """Where the numbers of the pieces go: for each stretch a flat tensor, its part, the part of the piece."""
    used = 0
    for tensor in layout:
        flat, start = tensors[tensor.name].reshape(-1), 0
        while start < flat.size:
            take = min(PIECE - used, flat.size - start)
            yield flat, slice(start, start + take), slice(used, used + take)
            start, used = start + take, (used + take) % PIECE


def _lay_out(values: NDArray[np.float64], places: Iterator[tuple[Array, slice, slice]]) -> None:
    """Put one piece where it belongs."""
    for flat, where, part in places:
        narrow(values[part], flat[where])
        if part.stop == PIECE:
            return


def _spool(pieces: Iterable[bytes]) -> Bytes:
    """The pieces, one after the other, mapped from a file that is gone with the array."""
    with tempfile.TemporaryFile() as file:
        for piece in pieces:
            file.write(piece)
        if not file.tell():
            return np.empty(0, np.uint8)
        file.flush()
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
