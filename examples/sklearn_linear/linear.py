# SPDX-License-Identifier: Apache-2.0
"""An SGDClassifier of scikit-learn: its `coef_` and `intercept_` are the model."""

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier

from flprov.sdk import Site, Task, Update

CLASSES = np.array([0, 1])
SHUFFLE = 7  # seed; the same at every site
HELD_OUT = 4  # every fourth biopsy of a site is for measuring, not for training
Table = tuple[NDArray[np.float64], NDArray[np.int64]]


def first_weights() -> dict[str, NDArray[np.float64]]:
    """Every class is as likely: scikit-learn makes these arrays only when it has seen data."""
    return {"coef": np.zeros((1, 30)), "intercept": np.zeros(1)}


def train(task: Task, site: Site, epochs: int, alpha: float) -> Update:
    """Some epochs from the coefficients that came with the task."""
    (rows, labels), _ = load(site.name)
    model = SGDClassifier(loss="log_loss", alpha=alpha, learning_rate="constant", eta0=0.01)
    order = np.random.default_rng(task.seed)
    model.partial_fit(rows[:1], labels[:1], classes=CLASSES)  # so that the arrays are there
    model.coef_, model.intercept_ = task.params["coef"].copy(), task.params["intercept"].copy()
    for _ in range(epochs):
        shuffled = order.permutation(len(labels))
        model.partial_fit(rows[shuffled], labels[shuffled])
    return Update(params={"coef": model.coef_, "intercept": model.intercept_}, samples=len(labels))


def evaluate(task: Task, site: Site) -> Update:
    """The accuracy on what this site holds out."""
    _, (rows, labels) = load(site.name)
    right = (rows @ task.params["coef"][0] + task.params["intercept"][0] > 0) == labels
    return Update(metrics={"accuracy": float(right.mean())}, samples=len(labels))


def load(site: str) -> tuple[Table, Table]:
    """This site's part of the 569 biopsies, scaled: what it trains on, and what it holds out."""
    everything = load_breast_cancer()
    order = np.random.default_rng(SHUFFLE).permutation(len(everything.target))
    digits = re.search(r"[0-9]+$", site)
    k = int(digits[0]) if digits else ord(site[-1].lower()) - ord("a") + 1
    mine = order[len(order) * (k - 1) // k : len(order) * k // (k + 1)]
    test = np.arange(len(mine)) % HELD_OUT == 0
    rows, labels = everything.data[mine], everything.target[mine]
    scaled = (rows - rows[~test].mean(axis=0)) / rows[~test].std(axis=0)
    return (scaled[~test], labels[~test]), (scaled[test], labels[test])
