# SPDX-License-Identifier: Apache-2.0
"""The workload in Flower's simulation: `python simulate.py SITES ROUNDS SIZE`."""

import sys

from adding.client import app as client
from adding.server import average
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

sites, rounds, size = map(int, sys.argv[1:])
server = ServerApp()


@server.main()
def main(grid: Grid, _context: Context) -> None:
    """The rounds."""
    average(grid, rounds=rounds, size=size, sites=sites, options={"torch": False, "stubborn": False})


# One core for each virtual site; by default it is two, so that one site would run at a time here.
run_simulation(server, client, num_supernodes=sites, backend_config={"client_resources": {"num_cpus": 1}})
