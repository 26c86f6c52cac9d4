# SPDX-License-Identifier: Apache-2.0
"""FedAvg over all sites, without its round of evaluation, which no other system of the benchmark has."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """As the run's configuration says."""
    config = context.run_config
    average(
        grid,
        rounds=int(config["rounds"]),
        size=int(config["size"]),
        sites=int(config["sites"]),
        options={"torch": bool(config["torch"]), "stubborn": bool(config["stubborn"])},
    )


def average(grid, *, rounds, size, sites, options):
    """Rounds over a first model of zeros, in ten tensors if `size` is not 0."""
    tensors = [np.zeros(size // 40 or 10, dtype=np.float32) for _ in range(10 if size else 1)]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(numpy_ndarrays=tensors),
        num_rounds=rounds,
        train_config=ConfigRecord(options),
    )
