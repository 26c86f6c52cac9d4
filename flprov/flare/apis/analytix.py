# SPDX-License-Identifier: Apache-2.0
"""The kinds of things that are logged; only numbers travel, and `log` finds out by itself."""

from __future__ import annotations

import enum

ANALYTIC_EVENT_TYPE = "analytix_log_stats"


class LogWriterName(enum.Enum):
    """Whose syntax a writer has."""

    TORCH_TB = "TORCH_TENSORBOARD"
    MLFLOW = "MLFLOW"
    WANDB = "WEIGHTS_AND_BIASES"


class AnalyticsDataType(enum.Enum):
    """What a value is."""

    SCALARS = "SCALARS"
    SCALAR = "SCALAR"
    IMAGE = "IMAGE"
    TEXT = "TEXT"
    LOG_RECORD = "LOG_RECORD"
    PARAMETER = "PARAMETER"
    PARAMETERS = "PARAMETERS"
    METRIC = "METRIC"
    METRICS = "METRICS"
    MODEL = "MODEL"
    TAG = "TAG"
    TAGS = "TAGS"
    INIT_DATA = "INIT_DATA"
