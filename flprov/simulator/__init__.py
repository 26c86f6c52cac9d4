# SPDX-License-Identifier: Apache-2.0
"""Simulation: an app over many sites on one machine, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.simulator.simulation import Simulation, simulate

__all__ = ["Simulation", "simulate"]

# Late: the processes of simulated sites need none of it.
__getattr__ = lazy_names(__name__, {"Simulation": "simulation", "simulate": "simulation"})
