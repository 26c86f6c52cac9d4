# SPDX-License-Identifier: Apache-2.0
"""TBWriter: what executors and scripts log to; see `flprov.flare.client.tracking`."""

from __future__ import annotations

from flprov.flare.client.tracking import SummaryWriter

__all__ = ["TBWriter"]


class TBWriter(SummaryWriter):
    """TensorBoard's writer. `event_type` is FLARE's, and nothing here."""

    def __init__(self, event_type: str = "") -> None:
        super().__init__()
        self.event_type = event_type
