# SPDX-License-Identifier: Apache-2.0
"""MLflow: an experiment per app, a run per job; metrics `<site or global>/<round or live>/<name>`.

MLflow keeps a metric twice that is logged twice. So it is remembered that a batch is about to be sent; if it
was not marked afterwards, what the run has already is asked first, and only the rest is sent.

A job that MLflow does not take keeps all others waiting. So what people have deleted there is reckoned with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param
from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
from mlflow.exceptions import MlflowException

from flprov.wire import SeriesEnd, SeriesJob, SeriesLine, SeriesPoint

_TAG = "flprov.job_id"
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-. ]")
_ENDS = {"completed": "FINISHED", "degraded": "FINISHED", "aborted": "KILLED"}
_MOST_AT_ONCE = 1000  # metrics in one call, by MLflow's own limit

Key = tuple[str, int, int, float]  # metric, step, timestamp, value


class MLflow:
    """A `Target`."""

    def __init__(self, uri: str) -> None:
        if uri.startswith("file:"):
            MLFLOW_ALLOW_FILE_STORE.set(True)  # type: ignore[no-untyped-call] # the operator has chosen it
        self._client = MlflowClient(tracking_uri=uri)

    def deliver(
        self,
        job: SeriesJob,
        lines: Sequence[SeriesLine],
        memory: Mapping[str, str],
        remember: Callable[[Mapping[str, str]], None],
    ) -> Mapping[str, str]:
        """See `Target.deliver`; remembers the run, and whether a batch is on its way."""
        run_id = memory.get("run") or self._begin(job)
        try:
            self._log(run_id, lines, memory, remember)
        except MlflowException:
            if not self._is_deleted(run_id):
                raise
        return {"run": run_id}

    def _log(
        self,
        run_id: str,
        lines: Sequence[SeriesLine],
        memory: Mapping[str, str],
        remember: Callable[[Mapping[str, str]], None],
    ) -> None:
        metrics = [_metric(line) for line in lines if isinstance(line, SeriesPoint)]
        if metrics and memory.get("sending"):
            known = self._known(run_id, {metric.key for metric in metrics})
            metrics = [metric for metric in metrics if _key(metric) not in known]
        if metrics:
            remember({"run": run_id, "sending": "yes"})
        for start in range(0, len(metrics), _MOST_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + _MOST_AT_ONCE])
        for line in lines:
            if isinstance(line, SeriesEnd):
                self._client.set_tag(run_id, "flprov.state", line.state)
                self._client.set_terminated(run_id, _ENDS.get(line.state, "FAILED"))

    def _is_deleted(self, run_id: str) -> bool:
        """Whether somebody has deleted the run: nothing more of its job is wanted."""
        try:
            stage: str = self._client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
        return stage == LifecycleStage.DELETED

    def _begin(self, job: SeriesJob) -> str:
        """The job's run, with its params: found again if it was made and not marked."""
        experiment_id = self._find_experiment(_safe(job.name))
        known = self._client.search_runs([experiment_id], filter_string=f"tags.`{_TAG}` = '{job.job_id}'")
        if known:
            run_id: str = known[0].info.run_id
        else:
            tags = {
                _TAG: job.job_id,
                "flprov.submitted_by": job.submitted_by,
                "flprov.sites": ", ".join(job.sites)[:5000],
            }
            run_id = self._client.create_run(experiment_id, tags=tags, run_name=job.job_id).info.run_id
        params: dict[str, str] = {}
        for name, value in job.params.items():
            params[_unused(_safe(name), params)] = value
        self._client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
        return run_id

    def _find_experiment(self, name: str) -> str:
        """The app's experiment; where one was deleted, its name stays taken: the next is `name-2`."""
        tried, number = name, 1
        while True:
            found = self._client.get_experiment_by_name(tried)
            if found is None:
                return str(self._client.create_experiment(tried))
            if found.lifecycle_stage == LifecycleStage.ACTIVE:
                return str(found.experiment_id)
            number += 1
            tried = f"{name}-{number}"

    def _known(self, run_id: str, names: set[str]) -> set[Key]:
        return {_key(metric) for name in names for metric in self._client.get_metric_history(run_id, name)}


def _metric(point: SeriesPoint) -> Any:  # noqa: ANN401 - MLflow's Metric, which has no types
    name = f"{_safe(point.site) if point.site else 'global'}/{point.origin}/{_safe(point.name)}"
    return Metric(name, point.value, int(point.at * 1000), point.step)


def _key(metric: Any) -> Key:  # noqa: ANN401
    return (metric.key, metric.step, metric.timestamp, metric.value)


def _safe(name: str) -> str:
    """A name of the characters that MLflow takes, and no way out of a folder."""
    found = _UNSAFE.sub("_", name)[:200].replace("..", "__")
    return f"_{found}" if found in ("", ".") else found


def _unused(name: str, taken: Collection[str]) -> str:
    """Two names may be the same once they are of MLflow's characters."""
    while name in taken:
        name += "_"
    return name
