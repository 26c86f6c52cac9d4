# SPDX-License-Identifier: Apache-2.0
"""DXOFilter: a filter that is handed the DXOs of certain kinds, also those inside collections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from flprov.flare.apis.dxo import DXO, DataKind, from_shareable
from flprov.flare.apis.filter import Filter
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable

__all__ = ["DXO", "DXOFilter", "DataKind", "FLContext", "Shareable"]


class DXOFilter(Filter):
    """Filters `data_kinds_to_filter`, or all that it supports.

    Raises:
        ValueError: it is to filter what it does not support.
    """

    def __init__(
        self,
        supported_data_kinds: Sequence[str] | None = None,
        data_kinds_to_filter: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        strange = set(data_kinds_to_filter or ()) - set(supported_data_kinds or data_kinds_to_filter or ())
        if strange:
            raise ValueError(f"{self.name} does not filter {', '.join(sorted(map(str, strange)))}")
        self.data_kinds = list(data_kinds_to_filter or supported_data_kinds or ())

    @abstractmethod
    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        """The DXO that goes on instead of this one; None: it goes on as it is."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """See `Filter.process`."""
        if shareable.get_return_code() != ReturnCode.OK:
            return shareable
        try:
            dxo = from_shareable(shareable)
        except ValueError:
            return shareable
        return self._filter(dxo, shareable, fl_ctx).update_shareable(shareable)

    def _filter(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        if dxo.data_kind == DataKind.COLLECTION:
            for name, inner in dxo.data.items():
                dxo.data[name] = self._filter(inner, shareable, fl_ctx)
            return dxo
        if not dxo.data or (self.data_kinds and dxo.data_kind not in self.data_kinds):
            return dxo
        filtered = self.process_dxo(dxo, shareable, fl_ctx)
        if filtered is None:
            return dxo
        if not isinstance(filtered, DXO):
            raise TypeError(f"{self.name}.process_dxo returned a {type(filtered).__name__}, not a DXO")
        if filtered is not dxo:
            filtered.add_filter_history(dxo.get_filter_history())
        filtered.add_filter_history(self.name)
        return filtered
