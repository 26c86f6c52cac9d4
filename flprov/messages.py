# SPDX-License-Identifier: Apache-2.0
"""What passes between a workflow and the sites: Task, Update and their parts.

Frozen values, the same at both ends. Tensors are numpy arrays in a mapping from name to array;
an array that came from a file is mapped copy-on-write.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tensors = Mapping[str, "NDArray[np.generic]"]
Scalar = bool | int | float | str


class UpdateKind(enum.Enum):
    """How the tensors of an update relate to the model that its task carried."""

    FULL = "full"  # the new weights: same names, dtypes and shapes as the model
    DIFF = "diff"  # new weights minus the model's: same names, dtypes and shapes
    OPAQUE = "opaque"  # anything else (ciphertexts, statistics): only the limits of size hold


class Precision(enum.Enum):
    """In how few bits the numbers of a tensor can travel once a filter has rounded them so far."""

    FP16 = "fp16"  # IEEE half precision
    INT8 = "int8"  # -127 to 127, times a scale


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a tensor travels where it need not travel whole. It loses nothing: what rounds is a filter.

    A tensor whose numbers are not what they are marked to be travels whole.
    """

    precision: Precision | None = None  # None: as its dtype says
    block: int = 0  # of INT8: how many numbers share a scale; 0: all of the tensor
    sparse: bool = False  # only the numbers that are not zero, and where they stand


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a round asks of one site."""

    name: str  # "train", "evaluate" or whatever job.yml names under `tasks`
    params: Tensors  # the model that came with it; may be empty
    round: int  # 0-based
    rounds: int  # how many the workflow means to run
    job_id: str
    args: Mapping[str, object] = field(default_factory=dict)  # job.yml's `args`
    scalars: Mapping[str, Scalar] = field(default_factory=dict)  # what the workflow adds to this task
    extra: Tensors = field(default_factory=dict)  # tensors beside the model; no update has to fit them
    seed: int = 0  # 32 bits; the same for this site, round and task in every run of the same job.yml
    encoding: Mapping[str, Encoding] = field(default_factory=dict)  # of tensors in `params`; filters set it


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one site gives back for one task.

    `weight` is what the aggregator multiplies by; it defaults to `samples`.
    """

    params: Tensors = field(default_factory=dict)
    kind: UpdateKind = UpdateKind.FULL
    samples: int = 0
    weight: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    site: str = ""  # filled in by the runtime from the certificate, never by the site's code
    encoding: Mapping[str, Encoding] = field(default_factory=dict)  # of tensors in `params`; filters set it

    @property
    def share(self) -> float:
        """The weight that counts: `weight`, or else `samples`."""
        return float(self.samples) if self.weight is None else self.weight


@dataclass(frozen=True, kw_only=True)
class StatisticsRules:
    """What a site gives away when its data are described in numbers; the site's policy has the last word."""

    min_count: int = 10  # fewer values than this, in a feature or in a bin, are not spoken of
    max_bins_percent: float = 10.0  # a histogram has at most so many bins per hundred values
    extremes: str = "noise"  # exact | noise | never: how smallest and largest value may be told


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a task runs, as job code sees it."""

    name: str
    job_id: str
    folder: Path  # private to this job at this site, writable, gone with the job
    datasets: Mapping[str, Path] = field(default_factory=dict)
    statistics: StatisticsRules = field(default_factory=StatisticsRules)
    he_secret: bytes = field(default=b"", repr=False)  # what the site's own secret comes to for this job
    tell: Callable[[Mapping[str, float], int | None], None] | None = field(
        default=None, repr=False, compare=False
    )  # the runtime's: where `log` goes; None: nowhere

    def log(self, name: str, value: float, step: int | None = None) -> None:
        """Show a number to whoever watches the job, while the round goes on."""
        if self.tell is not None:
            self.tell({name: float(value)}, step)

    def data(self, name: str) -> Path:
        """The path that this site's `site.yml` gives to the dataset `name`.

        Raises:
            NotFound: the job did not ask for it under `data`, or the site does not name it.
        """
        from flprov.errors import NotFound

        try:
            return self.datasets[name]
        except KeyError:
            known = ", ".join(sorted(self.datasets)) or "none"
            raise NotFound(
                f"no dataset {name!r} for this job at {self.name} (it has: {known})",
                hint="list it under `data` in job.yml and under `datasets` in the site's site.yml",
            ) from None
