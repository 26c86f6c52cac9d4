# SPDX-License-Identifier: Apache-2.0
"""Free values (headers, meta, DXOs in DXOs) to a JSON tree and tensors, and back: no pickle, no class names.

FLARE sends any Python object that its serialiser knows. Here a value is numbers, text, bytes, arrays,
lists, tuples, dicts, Shareables, DXOs and FLModels of those; anything else is refused where it is sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flprov._base import canonical_json, parse_json
from flprov.errors import Misuse, ProtocolError
from flprov.flare.apis.dxo import DXO, from_dict
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.fl_model import FLModel
from flprov.messages import Tensors
from flprov.sdk import as_tensors, is_torch

PREFIX = "flare/"  # of the names of tensors that are no model's
_DOCUMENT = f"{PREFIX}document"  # the tree itself, as bytes in a tensor
_TAG = "$"  # the key that makes a dict of the tree something else than a dict
_DEEPEST = 32
_MOST_TEXT = 64 << 20  # bytes


def encode_value(value: object, where: str = "it") -> tuple[str, Tensors]:
    """JSON text and the tensors that it refers to.

    Raises:
        Misuse: something in it cannot travel; the message says what and where.
    """
    tensors: dict[str, Any] = {}
    tree = _encode(value, where, tensors, _DEEPEST)
    return canonical_json(tree).decode(), tensors


def decode_value(text: str, tensors: Tensors) -> Any:  # noqa: ANN401 - what was encoded
    """What `encode_value` was given.

    Raises:
        ProtocolError: this is not what it gives.
    """
    try:
        return _decode(parse_json(text), tensors, _DEEPEST)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ProtocolError(f"what should be a value for FLARE's code is not: {error}") from error


def pack_value(value: object, where: str = "it") -> Tensors:
    """Tensors only: the text is one of them."""
    text, tensors = encode_value(value, where)
    return {**tensors, _DOCUMENT: np.frombuffer(text.encode(), dtype=np.uint8)}


def unpack_value(tensors: Tensors) -> Any:  # noqa: ANN401 - what was packed
    """What `pack_value` was given. Raises ProtocolError when these are not its tensors."""
    document = tensors.get(_DOCUMENT)
    if document is None or document.dtype != np.uint8 or document.ndim != 1:
        raise ProtocolError("the opaque update of a site holds nothing that FLARE's code has sent")
    if document.size > _MOST_TEXT:
        raise ProtocolError(
            f"the opaque update of a site has {document.size} bytes of text; the limit is {_MOST_TEXT}",
            hint="send what is large as arrays or bytes",
        )
    try:
        text = document.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the opaque update of a site is damaged: {error}") from error
    return decode_value(text, tensors)


def _encode(value: Any, where: str, tensors: dict[str, Any], depth: int) -> object:  # noqa: ANN401
    if depth == 0:
        raise Misuse(f"{where} is nested too deep to travel")
    if value is None or isinstance(value, bool | str | int):
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if math.isfinite(value) else {_TAG: "float", "v": repr(value)}
    if isinstance(value, np.generic) and not value.dtype.names:
        return _encode(value.item(), where, tensors, depth)
    if isinstance(value, bytes | np.ndarray) or is_torch(value):
        return _encode_array(value, where, tensors)
    if isinstance(value, DXO):
        return {_TAG: "dxo", "v": _encode(value.to_dict(), where, tensors, depth - 1)}
    if isinstance(value, FLModel):
        return {_TAG: "model", "v": _encode(dict(vars(value)), where, tensors, depth - 1)}
    if isinstance(value, Mapping):
        return _encode_mapping(value, where, tensors, depth)
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{where}[{n}]", tensors, depth - 1) for n, item in enumerate(value)]
        return items if isinstance(value, list) else {_TAG: "tuple", "v": items}
    raise Misuse(
        f"{where} is a {type(value).__name__}, which does not travel between server and sites",
        hint="send numbers, text, bytes, arrays, and lists, dicts and DXOs of them",
    )


def _encode_array(value: Any, where: str, tensors: dict[str, Any]) -> object:  # noqa: ANN401
    name = f"{PREFIX}{len(tensors)}"
    if isinstance(value, bytes):
        tensors[name] = np.frombuffer(value, dtype=np.uint8)
        return {_TAG: "bytes", "v": name}
    tensors[name] = as_tensors({where: value})[where]
    return {_TAG: "array", "v": name}


def _encode_mapping(value: Mapping[Any, Any], where: str, tensors: dict[str, Any], depth: int) -> object:
    plain = all(isinstance(key, str) for key in value) and _TAG not in value
    if plain and not isinstance(value, Shareable):
        return {
            str.__str__(key): _encode(inner, f"{where}.{key}", tensors, depth - 1)
            for key, inner in value.items()
        }
    rows = [
        [
            _encode(key, f"a key of {where}", tensors, depth - 1),
            _encode(inner, f"{where}.{key}", tensors, depth - 1),
        ]
        for key, inner in value.items()
    ]
    return {_TAG: "shareable" if isinstance(value, Shareable) else "dict", "v": rows}


def _decode(tree: Any, tensors: Tensors, depth: int) -> Any:  # noqa: ANN401
    if depth == 0:
        raise ValueError("it is nested too deep")
    if isinstance(tree, list):
        return [_decode(item, tensors, depth - 1) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TAG not in tree:
        return {key: _decode(inner, tensors, depth - 1) for key, inner in tree.items()}
    kind, inner = tree[_TAG], tree["v"]
    if kind in ("array", "bytes"):
        return tensors[inner] if kind == "array" else tensors[inner].tobytes()
    if kind == "float":
        return float(inner)
    if kind == "dxo":
        return from_dict(_decode(inner, tensors, depth - 1))
    if kind == "model":
        return FLModel(**_decode(inner, tensors, depth - 1))
    if kind == "tuple":
        return tuple(_decode(item, tensors, depth - 1) for item in inner)
    rows = {_decode(key, tensors, depth - 1): _decode(one, tensors, depth - 1) for key, one in inner}
    if kind == "dict":
        return rows
    if kind != "shareable":
        raise ValueError(f"it holds an unknown kind of value, {kind!r}")
    found = Shareable()
    found.update(rows)
    return found
