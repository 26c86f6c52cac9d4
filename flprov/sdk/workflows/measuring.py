# SPDX-License-Identifier: Apache-2.0
"""What a round is judged by: the metrics of its training, and of its new model where the app measures."""

from __future__ import annotations

from collections.abc import Sequence

from flprov.messages import Tensors, Update
from flprov.sdk.aggregation import mean_metrics
from flprov.sdk.sites import Sites


def measure_round(sites: Sites, updates: Sequence[Update], model: Tensors) -> dict[str, float]:
    """The means of what the trainers report, and of what the task "evaluate" says of `model`.

    Where job.yml names an "evaluate", every site of the job measures, also those that did not train in
    this round; a metric of that name replaces the trainers' own.
    """
    metrics = mean_metrics(updates)
    if sites.has("evaluate"):
        metrics |= mean_metrics(sites.evaluate(model))
    return metrics
