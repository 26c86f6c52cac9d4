# SPDX-License-Identifier: Apache-2.0
"""FLARE's client API: a script written for it runs after `nvflare` becomes `flprov.flare` in its imports.

import flprov.flare.client as flare

flare.init()
while flare.is_running():
    input_model = flare.receive()
    ...
    flare.send(flare.FLModel(params=new, metrics={"accuracy": 0.9}))
"""

from __future__ import annotations

from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.client.api import (
    clear,
    get_config,
    get_job_id,
    get_site_name,
    get_task_name,
    init,
    is_evaluate,
    is_running,
    is_submit_model,
    is_train,
    log,
    receive,
    send,
    shutdown,
    system_info,
)

__all__ = [
    "FLModel",
    "ParamsType",
    "clear",
    "get_config",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "receive",
    "send",
    "shutdown",
    "system_info",
]
