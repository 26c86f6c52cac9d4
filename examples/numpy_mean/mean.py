# SPDX-License-Identifier: Apache-2.0
"""Each site sends the mean of its own numbers; the server averages the means, weighted by `samples`."""

import argparse
import zlib

import numpy as np

import flprov.client as fl

parser = argparse.ArgumentParser()
parser.add_argument("--count", type=int, default=1000)
count = parser.parse_args().count

fl.init()
seed = zlib.crc32(fl.site_name().encode())  # stands for a file that only this site has
numbers = np.random.default_rng(seed).normal(loc=seed % 10, size=count)

while fl.is_running():
    fl.receive()
    mean = numbers.mean()
    fl.send(fl.Model(params={"mean": mean}, metrics={"mean": mean}, samples=count))
