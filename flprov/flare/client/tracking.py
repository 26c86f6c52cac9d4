# SPDX-License-Identifier: Apache-2.0
"""Writers that look like TensorBoard's, MLflow's and Weights & Biases': what they get streams to the server.

There it is in `flprov job plot`, and in TensorBoard or MLflow where the operator has set these up. Numbers
travel; text, params and tags are printed to the job's log.
"""

from __future__ import annotations

from collections.abc import Mapping

from flprov.flare.client.api import log

__all__ = ["MLflowWriter", "SummaryWriter", "WandBWriter"]


class _Writer:
    def __init__(self, ctx: object = None) -> None:
        self.ctx = ctx

    def flush(self) -> None:
        """Nothing: what was logged is on its way."""

    def close(self) -> None:
        """Nothing is open."""


class SummaryWriter(_Writer):
    """TensorBoard's. Without `global_step` the values of each tag are counted."""

    def add_scalar(self, tag: str, scalar: float, global_step: int | None = None, **kwargs: object) -> None:  # noqa: ARG002
        """One number."""
        log(tag, scalar, global_step=global_step)

    def add_scalars(
        self,
        tag: str,
        scalars: Mapping[str, float],
        global_step: int | None = None,
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Several, as `tag/name`."""
        log(tag, {f"{tag}/{name}": value for name, value in scalars.items()}, global_step=global_step)


class WandBWriter(_Writer):
    """Weights & Biases'."""

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Several numbers of one step."""
        log("metrics", metrics, global_step=step)


class MLflowWriter(_Writer):
    """MLflow's. The params of a run are the job's own: `args` and `workflow` of its job.yml."""

    def log_metric(self, key: str, value: float, step: int | None = None) -> None:
        """One number."""
        log(key, value, global_step=step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Several numbers of one step."""
        log("metrics", metrics, global_step=step)

    def log_param(self, key: str, value: object) -> None:
        """To the job's log."""
        print(f"param {key} = {value}")

    def log_params(self, values: Mapping[str, object]) -> None:
        """To the job's log."""
        for key, value in values.items():
            self.log_param(key, value)

    def log_text(self, text: str, artifact_file_path: str) -> None:
        """To the job's log."""
        print(f"{artifact_file_path}: {text}")

    def set_tag(self, key: str, tag: object) -> None:
        """To the job's log."""
        print(f"tag {key} = {tag}")

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """To the job's log."""
        for key, tag in tags.items():
            self.set_tag(key, tag)
