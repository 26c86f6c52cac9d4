# SPDX-License-Identifier: Apache-2.0
"""The tasks: one more boosting round on this site's biopsies, and how good the ensemble is on others."""

import re

import numpy as np
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from flprov.sdk import Site, Task, Update, UpdateKind

SHUFFLE = 7  # seed; the same at every site
HELD_OUT = 4  # every fourth biopsy of a site is for measuring, not for training


def train(task: Task, site: Site, depth: int, eta: float) -> Update:
    """The trees of one more round; their leaves are scaled by the server."""
    matrix, _ = load(site.name)
    parameters = {
        "objective": "binary:logistic",
        "max_depth": depth,
        "eta": eta,
        "base_score": 0.5,  # else every site starts from a score of its own
        "nthread": 1,
        "seed": task.seed,
    }
    booster = xgb.Booster(parameters, [matrix])
    if task.params:
        booster.load_model(bytearray(task.params["booster"].tobytes()))
        booster.set_param(parameters)
    rounds = booster.num_boosted_rounds()
    booster.update(matrix, rounds)
    grown = booster[rounds : rounds + 1].save_raw("json")
    return Update(
        params={"booster": np.frombuffer(grown, dtype=np.uint8)},
        kind=UpdateKind.OPAQUE,
        samples=matrix.num_row(),
    )


def evaluate(task: Task, site: Site) -> Update:
    """The area under the ROC curve, on what this site holds out."""
    _, matrix = load(site.name)
    booster = xgb.Booster(model_file=bytearray(task.params["booster"].tobytes()))
    auc = roc_auc_score(matrix.get_label(), booster.predict(matrix))
    return Update(metrics={"auc": float(auc)}, samples=matrix.num_row())


def load(site: str) -> tuple[xgb.DMatrix, xgb.DMatrix]:
    """This site's part of the 569 biopsies: what it trains on, and what it holds out."""
    everything = load_breast_cancer()
    order = np.random.default_rng(SHUFFLE).permutation(len(everything.target))
    digits = re.search(r"[0-9]+$", site)
    k = int(digits[0]) if digits else ord(site[-1].lower()) - ord("a") + 1
    mine = order[len(order) * (k - 1) // k : len(order) * k // (k + 1)]
    test = np.arange(len(mine)) % HELD_OUT == 0
    rows, labels = everything.data[mine], everything.target[mine]
    return xgb.DMatrix(rows[~test], labels[~test]), xgb.DMatrix(rows[test], labels[test])
