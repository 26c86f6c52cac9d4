# SPDX-License-Identifier: Apache-2.0
"""A real network on this machine: server and sites as processes of their own, for trials and tests.

Start reading at `network.py`; `processes.py` and `readiness.py` are how it starts, waits and ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.poc.network import Poc, Starter
from flprov.poc.states import DownReport, NetworkState, PartyState, UpReport

if TYPE_CHECKING:
    from flprov.poc.sitefiles import Dataset, parse_dataset

__all__ = [
    "Dataset",
    "DownReport",
    "NetworkState",
    "PartyState",
    "Poc",
    "Starter",
    "UpReport",
    "parse_dataset",
]

# With cryptography and yaml; only `up` writes files.
__getattr__ = lazy_names(__name__, {"Dataset": "sitefiles", "parse_dataset": "sitefiles"})
