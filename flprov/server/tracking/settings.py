# SPDX-License-Identifier: Apache-2.0
"""`tracking` in server.yml: where else the numbers of jobs go; the operator says so, never a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flprov.config import Section

KINDS = ("tensorboard", "mlflow")
_SCHEMES = ("http://", "https://", "file://")


def read_tracking(section: Section, beside: Path) -> Mapping[str, str]:
    """Receiver -> its target: a folder for TensorBoard, a tracking URI for MLflow. Mistakes are noted.

    Args:
        section: the whole of server.yml.
        beside: what a relative folder is relative to.
    """
    tracking = section.section("tracking", required=False)
    if tracking is None:
        return {}
    found = {}
    if folder := tracking.text("tensorboard", ""):
        found["tensorboard"] = str((beside / folder).resolve())
    if uri := tracking.text("mlflow", ""):
        if "://" not in uri:
            uri = f"file://{(beside / uri).resolve()}"
        elif not uri.startswith((*_SCHEMES, "sqlite:", "postgresql", "mysql", "databricks")):
            tracking.problem(
                "mlflow",
                f"'mlflow' is {uri!r}; write a tracking server's URI, as http://127.0.0.1:5000, or a folder",
            )
        found["mlflow"] = uri
    return found
