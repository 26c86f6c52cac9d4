# SPDX-License-Identifier: Apache-2.0
"""A hospital's file (processed.*.data of UCI Heart Disease) as features and labels, gaps and all.

Much is missing: Switzerland recorded no cholesterol, Hungary hardly any vessel or thallium scan. A
number that is missing becomes 0, which is the middle of its scale, with a 1 in a column that says so; a
choice that is missing is none of its kinds. The scales are fixed: no hospital tells another its means.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

NUMBERS = {  # column: (name, middle, spread); roughly those of the published Cleveland patients
    0: ("age", 54.0, 9.0),
    3: ("resting blood pressure", 132.0, 18.0),
    4: ("cholesterol", 247.0, 52.0),
    7: ("highest heart rate", 150.0, 23.0),
    9: ("ST depression", 1.0, 1.2),
    11: ("vessels coloured by fluoroscopy", 0.7, 0.9),
}
CHOICES = {  # column: (name, kinds)
    1: ("male", (1,)),
    2: ("chest pain", (1, 2, 3, 4)),
    5: ("fasting blood sugar above 120 mg/dl", (1,)),
    6: ("resting ECG", (0, 1, 2)),
    8: ("angina by exercise", (1,)),
    10: ("slope of the ST segment", (1, 2, 3)),
    12: ("thallium scan", (3, 6, 7)),
}
NEVER_ZERO = (3, 4)  # nobody has a blood pressure or cholesterol of 0: some files write 0 for missing
LABEL = 13  # 0 healthy, 1-4 disease
COLUMNS = 14
WIDTH = 2 * len(NUMBERS) + sum(len(kinds) for _, kinds in CHOICES.values())
HELD_OUT = 4  # every fourth patient is for measuring, not for training


@dataclass(frozen=True, kw_only=True)
class Patients:
    """Features (patients x WIDTH) and labels (1.0: disease), both float32."""

    features: torch.Tensor
    labels: torch.Tensor


def load_patients(file: Path) -> tuple[Patients, Patients]:
    """What this hospital trains on, and what it holds out to measure the model with.

    Raises:
        ValueError: the file does not have 14 columns.
    """
    table = np.genfromtxt(file, delimiter=",")  # "?" and "NaN" become NaN
    if table.ndim != 2 or table.shape[1] != COLUMNS:
        raise ValueError(f"{file.name} is not a processed.*.data file: it must have {COLUMNS} columns")
    features = torch.tensor(encode(table), dtype=torch.float32)
    labels = torch.tensor(table[:, LABEL] > 0, dtype=torch.float32)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    test = order % HELD_OUT == 0
    return (
        Patients(features=features[~test], labels=labels[~test]),
        Patients(features=features[test], labels=labels[test]),
    )


def encode(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows of a file as rows of WIDTH finite numbers."""
    found = []
    for column, (_, middle, spread) in NUMBERS.items():
        values = table[:, column]
        missing = np.isnan(values) | ((values == 0) & (column in NEVER_ZERO))
        found.append(np.where(missing, 0.0, (values - middle) / spread))
        found.append(missing.astype(float))
    for column, (_, kinds) in CHOICES.items():
        found += [(table[:, column] == kind).astype(float) for kind in kinds]
    return np.stack(found, axis=1)
