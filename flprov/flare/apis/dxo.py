# SPDX-License-Identifier: Apache-2.0
"""DXO: data with its kind and its meta, inside a Shareable."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterable, Mapping
from typing import Any

from flprov.flare.apis.fl_constant import FLMetaKey
from flprov.flare.apis.shareable import ReservedHeaderKey, Shareable

__all__ = ["DXO", "DataKind", "MetaKey", "from_dict", "from_shareable", "get_leaf_dxos"]

_CONTENT = "DXO"  # both the key of the content and the value of the content type


class DataKind(str, enum.Enum):  # noqa: UP042 - jobs compare it with text
    """What is in a DXO."""

    FL_MODEL = "FL_MODEL"
    WEIGHTS = "WEIGHTS"  # new weights
    WEIGHT_DIFF = "WEIGHT_DIFF"  # new weights minus the received ones
    METRICS = "METRICS"
    ANALYTIC = "ANALYTIC"
    COLLECTION = "COLLECTION"  # a dict of DXOs
    STATISTICS = "STATISTICS"
    PSI = "PSI"
    APP_DEFINED = "APP_DEFINED"


class MetaKey(FLMetaKey):
    """Keys of a DXO's meta."""


class DXO:
    """Data that says what it is.

    Raises:
        ValueError: `data` or `meta` is no dict.
    """

    def __init__(
        self,
        data_kind: str,
        data: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.data_kind = data_kind
        self.data: Any = {} if data is None else data
        self.meta: dict[str, Any] = {} if meta is None else meta
        if problem := self.validate():
            raise ValueError(f"invalid DXO: {problem}")

    def validate(self) -> str:
        """What is wrong with it; empty when nothing is."""
        if self.data is None:
            return "it has no data"
        if self.data_kind != DataKind.APP_DEFINED and not isinstance(self.data, dict):
            return f"data must be a dict, not a {type(self.data).__name__}"
        if self.meta is not None and not isinstance(self.meta, dict):
            return f"meta must be a dict, not a {type(self.meta).__name__}"
        return ""

    def get_meta_prop(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - what a job puts there
        """One entry of the meta, or `default`."""
        return self.meta.get(key, default)

    def set_meta_prop(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Set one entry of the meta."""
        self.meta[key] = value

    def remove_meta_props(self, keys: Iterable[str]) -> None:
        """Take entries out of the meta, where they are there."""
        for key in keys:
            self.meta.pop(key, None)

    def get_meta_props(self) -> dict[str, Any]:
        """The whole meta."""
        return self.meta

    def update_meta_props(self, meta: Mapping[str, Any]) -> None:
        """Add copies of these entries."""
        self.meta.update(copy.deepcopy(dict(meta)))

    def add_filter_history(self, filter_name: str | list[str] | None) -> None:
        """Remember that filters were applied."""
        if filter_name:
            names = [filter_name] if isinstance(filter_name, str) else filter_name
            self.meta.setdefault(MetaKey.FILTER_HISTORY, []).extend(names)

    def get_filter_history(self) -> list[str] | None:
        """The filters that were applied."""
        found: list[str] | None = self.meta.get(MetaKey.FILTER_HISTORY)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Kind, data and meta."""
        return {"kind": self.data_kind, "data": self.data, "meta": self.meta}

    def update_shareable(self, s: Shareable) -> Shareable:
        """Put it into `s`."""
        s.set_header(ReservedHeaderKey.CONTENT_TYPE, _CONTENT)
        s[_CONTENT] = self.to_dict()
        return s

    def to_shareable(self) -> Shareable:
        """A new Shareable with it."""
        return self.update_shareable(Shareable())


def from_shareable(s: Shareable) -> DXO:
    """The DXO in a Shareable.

    Raises:
        ValueError: there is none.
    """
    kind = s.get_header(ReservedHeaderKey.CONTENT_TYPE)
    if kind != _CONTENT or not isinstance(s.get(_CONTENT), dict):
        raise ValueError(f"this Shareable holds no DXO (its content type is {kind!r})")
    return from_dict(s[_CONTENT])


def from_dict(encoded: Mapping[str, Any]) -> DXO:
    """The DXO that `to_dict` describes. Raises ValueError when it is none."""
    if not isinstance(encoded, Mapping):
        raise ValueError(f"a DXO is made of a dict, not of a {type(encoded).__name__}")
    return DXO(encoded.get("kind", ""), encoded.get("data"), encoded.get("meta"))


def get_leaf_dxos(dxo: DXO, root_name: str = "") -> tuple[dict[str, DXO], list[str]]:
    """The DXOs in a collection of collections by their paths (`root.a.b`), and what was no DXO there."""
    if not isinstance(dxo, DXO):
        return {}, [f"{root_name!r} is a {type(dxo).__name__}, not a DXO"]
    if dxo.data_kind != DataKind.COLLECTION:
        return {root_name: dxo}, []
    found: dict[str, DXO] = {}
    problems: list[str] = []
    for name, inner in dxo.data.items():
        leaves, wrong = get_leaf_dxos(inner, f"{root_name}.{name}")
        found |= leaves
        problems += wrong
    return found, problems
