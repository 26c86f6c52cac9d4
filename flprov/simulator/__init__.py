# SPDX-License-Identifier: Apache-2.0
"""Simulation: an app over many sites on one machine, without a network."""

from flprov.simulator.simulation import Simulation, simulate

__all__ = ["Simulation", "simulate"]
