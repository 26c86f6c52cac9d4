# SPDX-License-Identifier: Apache-2.0
"""Learnable: what a controller improves from round to round; a dict."""

from __future__ import annotations

from typing import Any


class Learnable(dict[str, Any]):
    """Any keys and values."""

    def is_empty(self) -> bool:
        """Whether there is nothing to go on with."""
        return False
