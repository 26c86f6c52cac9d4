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
    params = {name: tensor + step for name, tensor in model.params.items()}
    flare.send(flare.FLModel(params=params, metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
