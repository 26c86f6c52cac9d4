# SPDX-License-Identifier: Apache-2.0
"""Federated evaluation: how good a model is at every site, without a site showing its data.

The model is the job's `model`: a file of the app, for instance another job's `model.safetensors`, or a
callable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flprov.errors import JobFailed
from flprov.messages import Update
from flprov.sdk.aggregation import mean_metrics
from flprov.sdk.sites import Sites
from flprov.sdk.state import State

RESULT = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class FederatedEvaluation:
    """One round of the task "evaluate", whatever `rounds` says; the sites' metrics and their mean.

    The mean of a metric is that over the sites which report it, weighted by their samples: for an
    accuracy, that of all their samples together.
    """

    def run(self, sites: Sites, state: State) -> None:
        """Measure the model once, everywhere."""
        if not state.model:
            raise JobFailed(
                "there is no model to evaluate",
                hint="let `model` in job.yml name a .safetensors file of the app, or a callable",
            )
        for state in sites.rounds(state, 1):  # noqa: B020 - each round starts with what the last committed
            updates = sites.evaluate(state.model)
            mean = mean_metrics(updates)
            document = {
                "mean": mean,
                "samples": sum(update.samples for update in updates),
                "sites": tabulate(updates),
                "absent": dict(sites.absent),
            }
            sites.commit(state.next(metrics=mean, results={RESULT: document}))


def tabulate(updates: Sequence[Update]) -> Mapping[str, object]:
    """What each site says of one model."""
    return {
        update.site: {"samples": update.samples, "metrics": dict(sorted(update.metrics.items()))}
        for update in updates
    }
