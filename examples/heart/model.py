# SPDX-License-Identifier: Apache-2.0
"""The model: logistic regression, a weight per feature and one for all."""

import numpy as np
from numpy.typing import NDArray
from patients import FEATURES

Weights = dict[str, NDArray[np.float32]]


def first_weights() -> Weights:
    """Small random numbers, as torch's Linear starts; they follow from the job's seed."""
    bound = 1 / np.sqrt(len(FEATURES))
    return {
        "weight": np.random.uniform(-bound, bound, len(FEATURES)).astype(np.float32),
        "bias": np.random.uniform(-bound, bound, 1).astype(np.float32),
    }


def predict(weights: Weights, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """How likely each patient is ill, from 0 to 1."""
    return 1 / (1 + np.exp(-(features @ weights["weight"] + weights["bias"])))
