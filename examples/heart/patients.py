# SPDX-License-Identifier: Apache-2.0
"""A hospital's file (processed.*.data of UCI Heart Disease) as features and labels.

Everything is done as FLamby's Fed-Heart-Disease does it (Ogier du Terrail et al., NeurIPS 2022), so that
results can be compared: the three columns that most hospitals leave empty go, then the patients with
gaps; two choices become one column per kind; every hospital scales by what it trains on; the same 66 %
of the patients are for training.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

COLUMNS = 14
DROPPED = (10, 11, 12)  # slope of the ST segment, vessels, thallium scan: empty at three hospitals
CHOICES = {2: (2, 3, 4), 6: (1, 2)}  # chest pain, resting ECG: the kinds that have a column; not the first
LABEL = 13  # 0 healthy, 1-4 disease
FEATURES = (
    "age", "male", "blood_pressure", "cholesterol", "blood_sugar", "heart_rate", "exercise_angina",
    "st_depression", "atypical_angina", "non_anginal_pain", "asymptomatic", "st_t_abnormal", "hypertrophy",
)  # fmt: skip
TRAINING = 0.66
SPLIT = 43  # the seed of FLamby's split


@dataclass(frozen=True, kw_only=True)
class Patients:
    """Features, patients x 13, and labels (1: disease)."""

    features: NDArray[np.float64]
    labels: NDArray[np.float64]


def load_patients(file: Path) -> tuple[Patients, Patients]:
    """What this hospital trains on, and what it holds out to measure the model with; scaled.

    Raises:
        ValueError: the file does not have 14 columns.
    """
    training, test = split_patients(file)
    return scale(training, training), scale(test, training)


def split_patients(file: Path) -> tuple[Patients, Patients]:
    """The same two in the units of the file."""
    features, labels = read_file(file)
    levels, counts = np.unique(labels, return_counts=True)
    stratify = labels if len(levels) > 1 and counts.min() > 2 else None
    parts = train_test_split(
        np.arange(len(labels)),
        train_size=TRAINING,
        test_size=1.0 - TRAINING,
        random_state=SPLIT,
        stratify=stratify,
    )
    training, test = (Patients(features=features[np.sort(p)], labels=labels[np.sort(p)]) for p in parts)
    return training, test


def scale(patients: Patients, reference: Patients) -> Patients:
    """`patients` with each feature's mean over `reference` as 0 and its standard deviation as 1."""
    middle = reference.features.mean(axis=0)
    spread = reference.features.std(axis=0, ddof=1) + 1e-9  # at one hospital nobody's cholesterol is known
    return Patients(features=(patients.features - middle) / spread, labels=patients.labels)


def read_file(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The features, in the order of FEATURES, and the labels of all patients without gaps.

    Raises:
        ValueError: the file does not have 14 columns.
    """
    table = np.genfromtxt(file, delimiter=",")  # "?" and "NaN" become NaN
    if table.ndim != 2 or table.shape[1] != COLUMNS:
        raise ValueError(f"{file.name} is not a processed.*.data file: it must have {COLUMNS} columns")
    kept = [column for column in range(COLUMNS) if column not in DROPPED]
    table = table[~np.isnan(table[:, kept]).any(axis=1)]
    numbers = [table[:, column] for column in kept if column not in (*CHOICES, LABEL)]
    kinds = [table[:, column] == kind for column, known in CHOICES.items() for kind in known]
    return np.stack([*numbers, *kinds], axis=1).astype(float), (table[:, LABEL] > 0).astype(float)
