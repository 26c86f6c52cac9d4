# SPDX-License-Identifier: Apache-2.0
"""Adds a constant to every number of the model."""

import os
import signal
import threading
import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

_weights: dict[int, np.ndarray] = {}  # a trainer's own: a network keeps its memory from round to round


@app.train()
def train(message: Message, _context: Context) -> Message:
    """All tensors, changed; the moment at which it began goes to a file."""
    config = message.content["config"]
    if config["torch"]:
        import torch  # noqa: F401
    began = time.time()
    with open(os.environ["BENCHMARK_MARKS"], "a") as marks:
        marks.write(f"{config['server-round']} {began}\n")
    if config["stubborn"]:
        sleep_on()
    step = np.float32(np.random.default_rng().random())  # no two sites send the same bytes
    for number, tensor in enumerate(message.content["arrays"].to_numpy_ndarrays()):
        _weights[number] = np.add(tensor, step, out=_weights.get(number))
    content = {
        "arrays": ArrayRecord(numpy_ndarrays=list(_weights.values())),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)


def sleep_on() -> None:
    """Whatever is asked."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)
