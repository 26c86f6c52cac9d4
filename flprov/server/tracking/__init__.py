# SPDX-License-Identifier: Apache-2.0
"""Receivers: what jobs tell goes to TensorBoard and MLflow too, by processes beside the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.server.tracking.supervision import Tracking

__all__ = ["Tracking"]

__getattr__ = lazy_names(__name__, {"Tracking": "supervision"})
