# SPDX-License-Identifier: Apache-2.0
"""What sites answer to workflows that are not about weights: statistics and boosters, small ones."""

import json
from pathlib import Path

import numpy as np

from flprov.messages import Site, StatisticsRules, Task, Update, UpdateKind
from flprov.sdk import summarise

OPEN = StatisticsRules(min_count=1, max_bins_percent=100.0, extremes="exact")


def ask_site(ask, site, data, rules=OPEN, ranges=None):
    """What `summarise` answers at a site with these data."""
    task = Task(
        name=ask.name,
        params=ask.model,
        round=ask.round,
        rounds=ask.rounds,
        job_id="job",
        scalars=ask.scalars,
        extra=ask.extra,
    )
    place = Site(name=site, job_id="job", folder=Path("/nowhere"), statistics=rules)
    return summarise(task, place, data, ranges=ranges)


def describe_digits(ask, site):
    """A hundred values, other ones at every site."""
    values = np.random.default_rng(sum(site.encode())).normal(size=100)
    return ask_site(ask, site, {"x": values}, StatisticsRules())


def stump(left, right, *, threshold=1.0):
    """One tree over two features that gives `left` below the threshold of feature 1, else `right`."""
    return {
        "base_weights": [0.0, left, right],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [0, 0, 0],
        "id": 0,
        "left_children": [1, -1, -1],
        "loss_changes": [1.0, 0.0, 0.0],
        "parents": [2**31 - 1, 0, 0],
        "right_children": [2, -1, -1],
        "split_conditions": [threshold, left, right],
        "split_indices": [1, 0, 0],
        "split_type": [0, 0, 0],
        "sum_hessian": [4.0, 2.0, 2.0],
        "tree_param": {"num_deleted": "0", "num_feature": "2", "num_nodes": "3", "size_leaf_vector": "1"},
    }


def booster(*trees):
    """The JSON of these trees, as XGBoost writes it."""
    model = {
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": [0, len(trees)],
        "tree_info": [0] * len(trees),
        "trees": list(trees),
    }
    return {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {
                "base_score": "[5E-1]",
                "boost_from_average": "0",
                "num_class": "0",
                "num_feature": "2",
                "num_target": "1",
            },
            "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": [3, 2, 0],
    }


def send_booster(document, samples=1):
    """A site's answer with this booster."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Update(
        params={"booster": np.frombuffer(data, dtype=np.uint8)}, kind=UpdateKind.OPAQUE, samples=samples
    )


def bag_stumps(ask, site):
    """Site a sends one stump of one sample, the others another of three."""
    return send_booster(
        booster(stump(4.0, 8.0) if site == "a" else stump(-4.0, 0.0)), 1 if site == "a" else 3
    )
