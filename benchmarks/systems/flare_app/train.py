# SPDX-License-Identifier: Apache-2.0
"""The workload as a script of FLARE's client API."""

import os
import signal
import sys
import threading
import time

import numpy as np
import nvflare.client as flare

if "torch" in sys.argv:
    import torch  # noqa: F401

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else signal.SIG_DFL)

weights: dict[str, np.ndarray] = {}  # a trainer's own: a network keeps its memory from round to round

flare.init()
while flare.is_running():
    model = flare.receive()
    began = time.time()
    if model is None:
        break
    with open(os.environ["BENCHMARK_MARKS"], "a") as marks:
        marks.write(f"{model.current_round} {began}\n")
    while "stubborn" in sys.argv:
        time.sleep(3600)
    step = np.float32(np.random.default_rng().random())  # no two sites send the same bytes
    for name, tensor in model.params.items():
        weights[name] = np.add(tensor, step, out=weights.get(name))
    flare.send(
        flare.FLModel(params=dict(weights), metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 1})
    )
