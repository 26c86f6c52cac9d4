# SPDX-License-Identifier: Apache-2.0
"""The two tasks of a hospital, in function style: a task and a site in, an update out."""

import functools
from collections.abc import Iterator

import numpy as np
from model import predict
from numpy.typing import NDArray
from patients import Patients, load_patients

from flprov.sdk import Correction, Site, Task, Update

load = functools.cache(load_patients)  # a process serves all rounds: read the file once


def train(task: Task, site: Site, steps: int, batch: int, lr: float) -> Update:
    """Go `steps` steps of gradient descent from the model that came, on this hospital's patients."""
    patients, _ = load(site.data("heart"))
    weights = {name: array.astype(np.float64) for name, array in task.params.items()}
    correction = Correction(task)  # what fedprox and scaffold add to a gradient; nothing under fedavg
    for rows in draw_batches(len(patients.labels), batch, steps, task.seed):
        gradients = correction.apply(slope(weights, patients, rows), weights, lr=lr)
        weights = {name: array - lr * gradients[name] for name, array in weights.items()}
    new = {name: array.astype(np.float32) for name, array in weights.items()}
    return Update(params=new, samples=len(patients.labels), metrics=correction.metrics)


def evaluate(task: Task, site: Site) -> Update:
    """Measure the model on the patients that this hospital holds out."""
    _, patients = load(site.data("heart"))
    return Update(metrics=measure(task.params, patients), samples=len(patients.labels))


def slope(
    weights: dict[str, NDArray[np.float64]], patients: Patients, rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """The gradient of the mean cross-entropy over these patients."""
    features = patients.features[rows]
    error = predict(weights, features) - patients.labels[rows]
    return {"weight": features.T @ error / len(rows), "bias": error.mean(keepdims=True)}


def draw_batches(patients: int, batch: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers for `steps` batches: everybody once, in a new order, then everybody again."""
    source = np.random.default_rng(seed)
    while steps > 0:
        order = source.permutation(patients)
        for start in range(0, patients, batch)[:steps]:
            yield order[start : start + batch]
        steps -= -(-patients // batch)


def measure(weights: dict[str, NDArray[np.float32]], patients: Patients) -> dict[str, float]:
    """Accuracy, cross-entropy and, where both ill and healthy are there, the area under the ROC curve."""
    likely = np.clip(predict(weights, patients.features), 1e-12, 1 - 1e-12)
    ill = patients.labels > 0
    entropy = -np.where(ill, np.log(likely), np.log(1 - likely)).mean()
    found = {"accuracy": float(((likely > 0.5) == ill).mean()), "loss": float(entropy)}
    if 0 < ill.sum() < len(ill):
        above = likely[ill][:, None] - likely[~ill][None, :]  # each ill one against each healthy one
        found["auc"] = float(((above > 0) + 0.5 * (above == 0)).mean())
    return found
