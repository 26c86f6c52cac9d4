# SPDX-License-Identifier: Apache-2.0
"""A real network on this machine: server and sites as processes of their own, for trials and tests.

Start reading at `network.py`; `processes.py` and `readiness.py` are how it starts, waits and ends.
"""

from flprov.poc.network import Poc, Starter
from flprov.poc.sitefiles import Dataset, parse_dataset
from flprov.poc.states import DownReport, NetworkState, PartyState, UpReport

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
