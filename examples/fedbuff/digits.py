# SPDX-License-Identifier: Apache-2.0
"""The two tasks of a site: train a softmax regression on its own digits, and measure one.

The data are scikit-learn's 1797 digits of 8 x 8 pixels. Site k holds every tenth of them, from the k-th
on; a fifth of that is held out to measure with.
"""

import re
import time

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from flprov.sdk import Site, Task, Tensors, Update, UpdateKind

Numbers = NDArray[np.float64]
SITES = 10
BATCH = 10


def first_weights() -> Tensors:
    """All zero: every digit is as likely."""
    return {"weights": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}


def train(task: Task, site: Site, epochs: int, lr: float, pause: float) -> Update:
    """The difference that some epochs of gradient descent make to the model that came."""
    number = site_number(site.name)
    time.sleep(pause * number)
    pixels, labels = load_part(number, held_out=False)
    weights, bias = (task.params[name].astype(np.float64) for name in ("weights", "bias"))
    # A site may train several times in a round, from models of different versions.
    source = np.random.default_rng([task.seed, int(task.scalars["version"])])
    for _ in range(epochs):
        order = source.permutation(len(labels))
        for rows in np.array_split(order, len(order) // BATCH):
            error = (softmax(pixels[rows] @ weights + bias) - np.eye(10)[labels[rows]]) / len(rows)
            weights -= lr * pixels[rows].T @ error
            bias -= lr * error.sum(axis=0)
    new = {"weights": weights, "bias": bias}
    change = {name: (new[name] - task.params[name]).astype(np.float32) for name in new}
    return Update(params=change, kind=UpdateKind.DIFF, samples=len(labels))


def measure(task: Task, site: Site) -> Update:
    """How many of the digits that the site holds out the model can read."""
    pixels, labels = load_part(site_number(site.name), held_out=True)
    guesses = (pixels @ task.params["weights"] + task.params["bias"]).argmax(axis=1)
    return Update(metrics={"accuracy": float((guesses == labels).mean())}, samples=len(labels))


def load_part(number: int, *, held_out: bool) -> tuple[Numbers, NDArray[np.int64]]:
    """The digits of the site with this number: pixels from 0 to 1, and what they show."""
    data = load_digits()
    mine = np.arange(number - 1, len(data.target), SITES)
    mine = mine[(np.arange(len(mine)) % 5 == 0) == held_out]
    return data.data[mine] / 16, data.target[mine]


def site_number(name: str) -> int:
    """1 for `site-1`, and for `site-11` too: there are ten parts."""
    digits = re.search(r"[0-9]+$", name)
    if digits is None:
        raise ValueError(f"the name of site {name!r} must end with a number")
    return (int(digits[0]) - 1) % SITES + 1


def softmax(scores: Numbers) -> Numbers:
    """Rows of probabilities."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
