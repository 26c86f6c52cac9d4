# SPDX-License-Identifier: Apache-2.0
"""NVIDIA FLARE's names over our SDK: replace `nvflare` by `flprov.flare` in import lines.

The module paths below are FLARE's. `convert_job` turns one of its job folders into an app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.flare.migration.converting import Migration, convert_job, write_migration

__all__ = ["Migration", "convert_job", "write_migration"]

__getattr__ = lazy_names(
    __name__, dict.fromkeys(("Migration", "convert_job", "write_migration"), "migration.converting")
)
