# SPDX-License-Identifier: Apache-2.0
"""The one strict YAML loader: every file that a person writes for flprov is read here.

    with open_config(path) as top:
        name = top.text("name")
        rounds = top.integer("rounds", 5, minimum=1)

Nothing is guessed (`no`, `12:30:45` and `1_000` are mistakes), every mistake has its line, and all
of them come at once.
"""

from flprov.config.document import open_config
from flprov.config.listening import OFF, read_metrics
from flprov.config.report import nearest, shown, suggestion
from flprov.config.scalars import parse_duration, parse_size
from flprov.config.section import REQUIRED, Section
from flprov.config.warmth import WARM, read_warm

__all__ = [
    "OFF",
    "REQUIRED",
    "WARM",
    "Section",
    "nearest",
    "open_config",
    "parse_duration",
    "parse_size",
    "read_metrics",
    "read_warm",
    "shown",
    "suggestion",
]
