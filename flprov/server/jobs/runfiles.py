# SPDX-License-Identifier: Apache-2.0
"""The files that we put beside a job's results: its metrics, and the record of the run."""

from __future__ import annotations

import json

from flprov import __version__
from flprov._base import parse_json, to_document
from flprov.server.records import RoundRecord
from flprov.server.sights.jobs import Shown, job_document


def metrics_json(run: Shown, rounds: list[RoundRecord]) -> bytes:
    """Per round: the global metrics, and each site's own with its samples."""
    document = {
        "job_id": run.record.id,
        "name": run.record.name,
        "rounds": [
            {
                "round": record.round,
                "metrics": dict(record.metrics),
                "sites": {
                    line.site: {"samples": line.samples, "metrics": dict(line.metrics)}
                    for line in record.contributors
                },
            }
            for record in rounds
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def record_json(run: Shown, rounds: list[RoundRecord]) -> bytes:
    """Everything that the server recorded of the run, with the submission as it was signed."""
    document = {
        "flprov": __version__,
        "job": to_document(job_document(run, rounds)),
        "causes": to_document(run.record.causes),
        "submission": parse_json(run.record.submission),
        "signature": run.record.signature,
        "certificates": run.record.chain,
    }
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
