# SPDX-License-Identifier: Apache-2.0
"""The name of the one weight of FLARE's numpy examples."""

from __future__ import annotations


class NPConstants:
    """That name."""

    NUMPY_KEY = "numpy_key"
