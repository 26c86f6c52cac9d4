# SPDX-License-Identifier: Apache-2.0
"""Cross-site evaluation: every site's own model, and the job's, measured at every site.

The diagonal says how well a site does on its own data alone, the rest of its row how far that carries;
FLARE calls it CrossSiteModelEval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Tensors, Update, UpdateKind
from flprov.sdk.aggregation import mean_metrics, weighted_mean
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.federated_evaluation import tabulate

RESULT = "cross_site.json"
SUBMIT = "submit_model"  # the task that asks a site for its model, where job.yml names it; else "train"


@dataclass(frozen=True, kw_only=True)
class CrossSiteEvaluation:
    """Round 1 collects the sites' models, round 2 sends each of them to all, as the task "evaluate".

    A site's model is what it answers to the task "submit_model", or where job.yml names none, what it
    trains from the job's `model` in one task "train". A site that gives none is listed as declined, with
    its reason, and still measures the others' models.
    """

    private: str = ""  # sites that are not asked for their models, with commas between

    def run(self, sites: Sites, state: State) -> None:
        """Collect once, measure once, whatever `rounds` says."""
        private = self._read_private(sites)
        for state in sites.rounds(state, 2):  # noqa: B020 - each round starts with what the last committed
            if state.round == 0:
                sites.commit(_collect(sites, state, private))
            else:
                sites.commit(_measure(sites, state))

    def _read_private(self, sites: Sites) -> frozenset[str]:
        names = frozenset(name.strip() for name in self.private.split(",") if name.strip())
        strangers = sorted(names - set(sites.names))
        if strangers:
            raise ConfigError(
                f"workflow.private names {strangers[0]!r}, which is no site of this job"
                f" (there are: {', '.join(sites.names)})"
            )
        return names


def _collect(sites: Sites, state: State, private: frozenset[str]) -> State:
    """The state with every site's model among its tensors, as "site/name"."""
    asked = [name for name in sites.names if name not in private]
    declined = dict.fromkeys(sorted(private), "the job does not ask for it")
    updates: list[Update] = []
    if asked:
        gathering = sites.start(SUBMIT if sites.has(SUBMIT) else "train", state.model, to=asked)
        updates = sorted(gathering, key=lambda update: update.site)
        declined |= gathering.absent
    if not (updates or state.model):
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(declined.items()))
        raise JobFailed(f"there is no model to evaluate: the job has none, and no site gave one ({reasons})")
    tensors = {
        f"{update.site}/{name}": array
        for update in updates
        for name, array in _whole(update, state.model).items()
    }
    return state.next(tensors=tensors, results={RESULT: {"declined": dict(sorted(declined.items()))}})


def _measure(sites: Sites, state: State) -> State:
    """The state with the matrix; the models of the sites are not in it any more."""
    absent: dict[str, object] = {}
    table: dict[str, object] = {}

    def measure(whose: str, model: Tensors) -> tuple[object, dict[str, float]]:
        updates = sites.evaluate(model)
        if sites.absent:
            absent[whose] = dict(sites.absent)
        return tabulate(updates), mean_metrics(updates)

    document: dict[str, object] = {**_mapping(state.results[RESULT])}
    metrics: dict[str, float] = {}
    if state.model:
        document["global"], metrics = measure("the job's model", state.model)
    for site, model in _models(state.tensors):
        table[site], _ = measure(site, model)
    document |= {"models": table, "absent": absent}
    return state.next(tensors={}, metrics=metrics, results={RESULT: document})


def _whole(update: Update, base: Tensors) -> Tensors:
    """A site's model: what it sent, or `base` and the difference that it sent."""
    if update.kind is UpdateKind.FULL:
        return update.params
    return weighted_mean([replace(update, weight=1.0)], base)


def _models(tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """Each site and its model, in canonical order."""
    found: dict[str, dict[str, object]] = defaultdict(dict)
    for name, array in tensors.items():
        site, _, own = name.partition("/")
        found[site][own] = array
    for site in sorted(found):
        yield site, found[site]  # type: ignore[misc]  # arrays, sorted by their sites


def _mapping(document: object) -> dict[str, object]:
    assert isinstance(document, dict)
    return document
