# SPDX-License-Identifier: Apache-2.0
"""What a workflow costs beyond the model itself, in words, for whoever is about to submit the job.

The rates are those of benchmarks/results/he.md, on one core; a job measures its own when it starts, and
writes them into its log.
"""

from __future__ import annotations

from flprov.jobs.job import JobSpec
from flprov.jobs.room import show_size

ENCRYPTED = "fedavg_he"  # the type of the workflow that averages ciphertexts
FRESH_BYTES = 8.1  # for each number of the model, as a site sends it
SUM_BYTES = 16.1  # as the server keeps it and sends it back
_ENCRYPT, _DECRYPT, _ADD = 1.6e-7, 6.4e-8, 8.4e-8  # seconds for each number; to add: also for each site
_FLOAT32 = 4


def describe_cost(spec: JobSpec, model: int, sites: int) -> str:
    """What encryption costs a job whose model has `model` bytes in clear; empty where nothing is encrypted.

    Args:
        spec: the job.
        model: of the file that it begins with; 0: its code makes the model, and nobody knows.
        sites: how many it is sent to.
    """
    if spec.workflow.type != ENCRYPTED:
        return ""
    numbers = model // _FLOAT32 or 1_000_000
    what = f"about {numbers:,} numbers" if model else "a model that code makes; for each million numbers"
    return (
        f"homomorphic encryption, {what}: each site sends {_size(FRESH_BYTES, numbers)} and gets"
        f" {_size(SUM_BYTES, numbers)} in a round (in clear {_size(_FLOAT32, numbers)} each), and takes about"
        f" {numbers * _ENCRYPT:.2g} s to encrypt and {numbers * _DECRYPT:.2g} s to decrypt; the server takes"
        f" about {numbers * _ADD * sites:.2g} s to add"
    )


def update_size(spec: JobSpec, model: int) -> int:
    """Bytes of a site's update, of a model that has `model` bytes in clear."""
    return int(model * FRESH_BYTES / _FLOAT32) if spec.workflow.type == ENCRYPTED else model


def state_size(spec: JobSpec, model: int, sites: int) -> int:
    """Bytes of what the workflow remembers between two rounds: the model, and what goes with it.

    Args:
        spec: the job.
        model: bytes in clear.
        sites: how many the job has.
    """
    own = int(model * SUM_BYTES / _FLOAT32) if spec.workflow.type == ENCRYPTED else model
    return own * (1 + _remembered(spec, sites) + (spec.workflow.best is not None))


def beside_size(spec: JobSpec, model: int, sites: int) -> int:
    """Bytes that the sites get in a round beside the model, all of them together."""
    return sites * model if spec.workflow.type == "scaffold" else 0


def _remembered(spec: JobSpec, sites: int) -> int:
    """How many models' worth a workflow remembers beside the model: moments, variates, the sites' models."""
    match spec.workflow.type:
        case "scaffold":
            return sites + 1
        case "cross_site_evaluation":
            return sites
        case "fedopt":
            options = spec.workflow.options
            if options.get("optimizer", "sgd") != "sgd":
                return 2
            return int(options.get("momentum") != 0)
    return 0


def _size(each: float, numbers: int) -> str:
    return show_size(int(each * numbers))
