# SPDX-License-Identifier: Apache-2.0
"""What Gaussian noise is worth: sigma, epsilon and delta of the analytic Gaussian mechanism.

Theorem 8 of Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy" (ICML 2018): with
sensitivity S, noise N(0, sigma²) gives (epsilon, delta) if and only if, for mu = S / sigma,

    Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu) <= delta.

Unlike the classical sigma = S sqrt(2 ln(1.25/delta)) / epsilon it is exact, and holds for epsilon above 1.
n answers with independent noise are together as one answer with mu sqrt(n), whatever each depends on of
those before it (Dong, Roth, Su: "Gaussian Differential Privacy", JRSS-B 2022, Corollary 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable

_HALVINGS = 200


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The least delta, for noise of a standard deviation of 1/mu sensitivities."""
    far = math.erfc((mu / 2 + epsilon / mu) / math.sqrt(2)) / 2
    near = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
    return near - (math.exp(epsilon + math.log(far)) if far else 0.0)  # leaving it out errs on the safe side


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """The least standard deviation that gives (epsilon, delta)."""
    reciprocal = _least(lambda scale: gaussian_delta(1 / scale, epsilon) <= delta, 1.0)
    return sensitivity * reciprocal


def gaussian_epsilon(sigma: float, delta: float, sensitivity: float, answers: int = 1) -> float:
    """The least epsilon at this delta, of so many answers together."""
    mu = sensitivity / sigma * math.sqrt(answers)
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    return _least(lambda epsilon: gaussian_delta(mu, epsilon) <= delta, 1.0)


def _least(holds: Callable[[float], bool], start: float) -> float:
    """The least positive number from which on `holds`, to the last bits, from above; infinity: none."""
    high = start
    while not holds(high):
        high *= 2
        if math.isinf(high):
            return high
    low = high / 2
    while holds(low) and low > 1e-300:
        high, low = low, low / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
