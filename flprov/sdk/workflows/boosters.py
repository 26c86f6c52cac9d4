# SPDX-License-Identifier: Apache-2.0
"""An XGBoost booster as JSON, read by our own code: nothing of it is taken on trust.

XGBoost's loader believes the child and feature numbers in a file; a wrong one is memory that is not its
own, at every site that gets the ensemble. So each tree is looked at node by node, what is not known is
refused, and what goes on is written anew. The format: XGBoost's documentation, "Introduction to Model IO".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flprov._base import canonical_json, parse_json

MOST_BYTES = 64 << 20
MOST_TREES = 100_000
MOST_NODES = 1 << 16  # of one tree
_MOST_ITEMS = 100 * MOST_TREES
_NO_PARENT = 2**31 - 1
_LARGEST = float(np.finfo(np.float32).max)
_NUMBER = r"[-+]?\d{1,9}(\.\d{1,9})?([eE][-+]?\d{1,3})?"
_MODEL = {"cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees"}
_LEARNER = {
    "attributes",
    "feature_names",
    "feature_types",
    "gradient_booster",
    "learner_model_param",
    "objective",
}
_PARAMETERS = {"base_score", "boost_from_average", "num_class", "num_feature", "num_target"}
_TYPES = {"float", "int", "i", "q"}
_FLOATS = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
_WHOLES = ("default_left", "left_children", "parents", "right_children", "split_indices", "split_type")
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_TREE = {*_FLOATS, *_WHOLES, *_CATEGORIES, "id", "tree_param"}

Document = dict[str, Any]  # a JSON object that has been looked at


@dataclass(frozen=True, kw_only=True)
class Booster:
    """Trees that belong together."""

    head: Mapping[str, Any]  # what boosters must have in common to be one
    parallel: str  # num_parallel_tree of whoever trained it first
    version: Sequence[int]
    trees: tuple[Document, ...] = ()
    groups: tuple[int, ...] = ()  # of each tree: the class it speaks for
    bounds: tuple[int, ...] = (0,)  # how many trees there are before each boosting round, and at the end


def read_booster(data: bytes) -> Booster:
    """The booster that `booster.save_raw("json")` gives as `data`.

    Raises:
        ValueError: it is no such thing, or one that is not supported; the message says what is wrong.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has {len(data)} bytes; the limit is {MOST_BYTES}")
    # Python takes up to 30 bytes for one of "[[],[],..."; a tree has 20 lists and texts, however large it is.
    if data.count(b"[") + data.count(b"{") + data.count(b'"') > _MOST_ITEMS:
        raise ValueError(f"it has more than {_MOST_ITEMS} lists, objects and names")
    top = _mapping(parse_json(data), {"learner", "version"}, "the booster")
    learner = _mapping(top["learner"], _LEARNER, "learner")
    booster = _mapping(learner["gradient_booster"], {"model", "name"}, "gradient_booster")
    if booster["name"] != "gbtree":
        raise ValueError("it is no gbtree booster, the only kind that can be bagged")
    head = _read_head(learner)
    model = _mapping(booster["model"], _MODEL, "model", may_lack={"cats"})
    if any(_mapping(model.get("cats", {}), set(model.get("cats", {})), "cats").values()):
        raise ValueError("it has categories; encode them as numbers")
    rows = _list(model["trees"], MOST_TREES, "trees")
    features = int(head["learner_model_param"]["num_feature"])
    classes = max(int(head["learner_model_param"]["num_class"]), 1)
    trees = tuple(_read_tree(row, f"tree {number}", features) for number, row in enumerate(rows))
    groups = _wholes(model["tree_info"], len(trees), 0, classes - 1, "tree_info")
    parameters = _mapping(
        model["gbtree_model_param"], {"num_parallel_tree", "num_trees"}, "gbtree_model_param"
    )
    return Booster(
        head=head,
        parallel=str(_count(parameters["num_parallel_tree"], 0, MOST_TREES, "num_parallel_tree")),
        version=_wholes(top["version"], 3, 0, 10_000, "version"),
        trees=trees,
        groups=tuple(groups),
        bounds=_read_bounds(model["iteration_indptr"], len(trees)),
    )


def encode_booster(booster: Booster) -> bytes:
    """The JSON that XGBoost loads; the same booster gives the same bytes."""
    trees = [{**tree, "id": number} for number, tree in enumerate(booster.trees)]
    model = {
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
        "gbtree_model_param": {"num_parallel_tree": booster.parallel, "num_trees": str(len(trees))},
        "iteration_indptr": list(booster.bounds),
        "tree_info": list(booster.groups),
        "trees": trees,
    }
    learner = {**booster.head, "attributes": {}, "gradient_booster": {"model": model, "name": "gbtree"}}
    return canonical_json({"learner": learner, "version": list(booster.version)})


def add_round(ensemble: Booster, parts: Sequence[tuple[Booster, float]]) -> Booster:
    """`ensemble` with one more boosting round: all trees of the parts, in order, their leaves scaled."""
    trees = [_scale(tree, factor) for part, factor in parts for tree in part.trees]
    total = len(ensemble.trees) + len(trees)
    if total > MOST_TREES:
        raise ValueError(f"the ensemble would have {total} trees; the limit is {MOST_TREES}")
    return replace(
        ensemble,
        trees=(*ensemble.trees, *trees),
        groups=(*ensemble.groups, *(group for part, _ in parts for group in part.groups)),
        bounds=(*ensemble.bounds, total),
    )


def _scale(tree: Document, factor: float) -> Document:
    """The tree with its leaves' values times `factor`, rounded once to float32."""
    leaf = [child < 0 for child in tree["left_children"]]

    def scaled(values: Sequence[float]) -> list[float]:
        return [
            float(np.float32(value * factor)) if at else value for value, at in zip(values, leaf, strict=True)
        ]

    return {
        **tree,
        "base_weights": scaled(tree["base_weights"]),
        "split_conditions": scaled(tree["split_conditions"]),
    }


def _read_head(learner: Document) -> Document:
    parameters = _mapping(learner["learner_model_param"], _PARAMETERS, "learner_model_param")
    features = _count(parameters["num_feature"], 1, 1 << 20, "num_feature")
    classes = _count(parameters["num_class"], 0, 10_000, "num_class")
    _count(parameters["boost_from_average"], 0, 1, "boost_from_average")
    score = parameters["base_score"]  # "5E-1", and since XGBoost 3.1 "[5E-1,5E-1]", one for each class
    scores = score.removeprefix("[").removesuffix("]").split(",") if isinstance(score, str) else []
    if len(scores) not in {1, classes} or not all(re.fullmatch(_NUMBER, one) for one in scores):
        raise ValueError(f"base_score is {ascii(score)[:40]}, which is not a number in quotes")
    if len(set(scores)) == 1 and len(scores) > 1:  # XGBoost writes both for the same booster
        parameters = {**parameters, "base_score": f"[{scores[0]}]"}
    if _count(parameters["num_target"], 0, 1 << 20, "num_target") > 1:
        raise ValueError("it has several targets, which is not supported")
    names = _list(learner["feature_names"], features, "feature_names")
    types = _list(learner["feature_types"], features, "feature_types")
    if not all(isinstance(name, str) and len(name) <= 256 for name in names):
        raise ValueError("feature_names holds something else than names")
    if not all(isinstance(kind, str) and kind in _TYPES for kind in types):
        raise ValueError("feature_types holds something else than float, int, i and q")
    objective = learner["objective"]
    if not isinstance(objective, dict) or not _is_plain(objective, depth=3):
        raise ValueError("objective is not what it should be")
    return {
        "feature_names": names,
        "feature_types": types,
        "learner_model_param": parameters,
        "objective": objective,
    }


def _is_plain(value: object, depth: int) -> bool:
    """Whether it is short texts in mappings, a few deep."""
    if isinstance(value, str):
        return len(value) <= 256
    inside = isinstance(value, dict) and depth > 0 and len(value) <= 64
    return inside and all(_is_plain(child, depth - 1) for child in value.values())  # type: ignore[attr-defined]


def _read_bounds(document: object, trees: int) -> tuple[int, ...]:
    found = _wholes(document, None, 0, trees, "iteration_indptr")
    if not found or found[0] != 0 or found[-1] != trees or found != sorted(found):
        raise ValueError("iteration_indptr does not divide the trees into rounds")
    return tuple(found)


def _read_tree(document: object, where: str, features: int) -> Document:
    tree = _mapping(document, _TREE, where)
    nodes = len(_list(tree["left_children"], MOST_NODES, f"{where}.left_children"))
    if any(_list(tree[name], 0, f"{where}.{name}") for name in _CATEGORIES):
        raise ValueError(f"{where} splits by categories; encode them as numbers")
    low = {"left_children": -1, "right_children": -1}
    high = {"default_left": 1, "split_indices": features - 1, "split_type": 0, "parents": _NO_PARENT}
    found: Document = {name: [] for name in _CATEGORIES}
    for name in _WHOLES:
        limits = low.get(name, 0), high.get(name, nodes - 1)
        found[name] = _wholes(tree[name], nodes, *limits, f"{where}.{name}")
    for name in _FLOATS:
        found[name] = _floats(tree[name], nodes, f"{where}.{name}")
    _verify_shape(found, nodes, where)
    parameters = tree["tree_param"]
    wanted = {"num_deleted": "0", "num_feature": str(features), "num_nodes": str(nodes)}
    leaf = parameters.get("size_leaf_vector", "1") if isinstance(parameters, dict) else ""
    if leaf not in ("0", "1") or {**parameters, "size_leaf_vector": leaf} != {
        **wanted,
        "size_leaf_vector": leaf,
    }:
        raise ValueError(f"{where}.tree_param does not fit its nodes")
    return {**found, "tree_param": {**wanted, "size_leaf_vector": leaf}}


def _verify_shape(tree: Document, nodes: int, where: str) -> None:
    """Every node is reached from the first, over one way: what is walked down ends at a leaf."""
    left, right, parents = tree["left_children"], tree["right_children"], tree["parents"]
    seen, waiting = 0, [(0, _NO_PARENT)] if nodes else []
    reached = [False] * nodes
    while waiting:
        node, parent = waiting.pop()
        if reached[node] or parents[node] != parent:
            raise ValueError(f"node {node} of {where} has not the one parent that it should have")
        reached[node] = True
        seen += 1
        if (left[node] < 0) != (right[node] < 0):
            raise ValueError(f"node {node} of {where} has one child")
        if left[node] >= 0:
            waiting += [(left[node], node), (right[node], node)]
    if not nodes or seen != nodes:
        raise ValueError(f"{where} has {nodes} nodes, of which {seen} can be reached")


def _mapping(
    value: object,
    known: set[str],
    where: str,
    may_lack: Set[str] = frozenset(),
) -> Document:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    for name in sorted(set(value) - known):
        raise ValueError(f"{where} has {ascii(name)[:40]}, which is not known here")
    for name in sorted(known - set(value) - may_lack):
        raise ValueError(f"{where} lacks {name!r}")
    return value


def _list(value: object, most: int, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{where} is not a list of at most {most}")
    return value


def _wholes(value: object, length: int | None, low: int, high: int, where: str) -> list[int]:
    found = _list(value, MOST_TREES if length is None else length, where)
    fits = all(type(one) is int and low <= one <= high for one in found)
    if not fits or (length is not None and len(found) != length):
        raise ValueError(f"{where} is not {length or 'some'} whole numbers from {low} to {high}")
    return found


def _floats(value: object, length: int, where: str) -> list[float]:
    found = _list(value, length, where)
    fits = all(type(one) in (int, float) and abs(one) <= _LARGEST for one in found)
    if not fits or len(found) != length:
        raise ValueError(f"{where} is not {length} numbers")
    return found


def _count(value: object, low: int, high: int, where: str) -> int:
    if not (isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) and low <= int(value) <= high):
        raise ValueError(f"{where} is not a whole number from {low} to {high}, in quotes")
    return int(value)
