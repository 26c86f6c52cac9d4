# SPDX-License-Identifier: Apache-2.0
"""`gaussian_noise`: of a given sigma, or of as much as (epsilon, delta) take."""

from __future__ import annotations

import math

from flprov.errors import ConfigError
from flprov.messages import Site, Task, Update
from flprov.sdk.filters.bounds import norm_of
from flprov.sdk.filters.difference import base_of, float_names, leave_at_model, map_difference, verify_weights
from flprov.sdk.filters.privacy import gaussian_epsilon, gaussian_sigma
from flprov.sdk.filters.randomness import noise_for


def gaussian_noise(
    update: Update,
    task: Task,
    site: Site,
    *,
    sigma: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    max_norm: float | None = None,
    seed: int | None = None,
) -> Update:
    """Add independent noise N(0, sigma²) to every floating-point number.

    With `sigma`, that is all. With `epsilon`, `delta` and `max_norm` the difference from the model is first
    scaled down to an L2 norm of `max_norm`; whatever the site's data are, two such differences are at most
    2 max_norm apart, and sigma is what the analytic Gaussian mechanism (privacy.py) needs for that
    sensitivity. Integer tensors are then left at the model's values, as there is no noise for them.

    With a `seed` the noise of a site and round is the same in every run (for tests: whoever knows the
    seed can take the noise off again); without, it comes from the operating system's generator.
    """
    noise = noise_for(task, site, seed)
    if sigma is not None:
        verify_weights(update, "gaussian_noise")
        return map_difference(update, None, lambda piece: piece + sigma * noise.normal(piece.size), site)
    assert epsilon is not None and delta is not None and max_norm is not None  # noqa: PT018 - verified
    base = base_of(update, task, "gaussian_noise")
    norm = norm_of(update, base, "gaussian_noise")
    factor = min(1.0, max_norm / norm) if norm else 1.0
    wanted = gaussian_sigma(epsilon, delta, 2 * max_norm)
    update = leave_at_model(update, base, update.params.keys() - float_names(update))
    return map_difference(
        update, base, lambda piece: piece * factor + wanted * noise.normal(piece.size), site
    )


def describe_noise(
    answers: int,
    *,
    sigma: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    max_norm: float | None = None,
    seed: int | None = None,
) -> str:
    """What the noise is worth, after one answer and after all. Raises ConfigError."""
    fixed = " (from a seed: it hides nothing from who knows that)" if seed is not None else ""
    if sigma is not None:
        if not (sigma >= 0 and epsilon is None and delta is None and max_norm is None):
            raise ConfigError(
                f"sigma is {sigma}; it must not be negative, and stands without epsilon, delta and max_norm"
            )
        return f"N(0, {sigma:g}²) is added to every number, which promises no epsilon{fixed}"
    if epsilon is None or delta is None or max_norm is None:
        raise ConfigError("either sigma must be given, or all of epsilon, delta and max_norm")
    if not (epsilon > 0 and 0 < delta < 1 and max_norm > 0):
        raise ConfigError(
            f"epsilon is {epsilon}, delta {delta}, max_norm {max_norm};"
            " epsilon and max_norm must be above 0, delta between 0 and 1"
        )
    needed = gaussian_sigma(epsilon, delta, 2 * max_norm)
    if not 0 < needed < math.inf:
        raise ConfigError(f"epsilon {epsilon}, delta {delta} and max_norm {max_norm} take noise of {needed}")
    total = gaussian_epsilon(needed, delta, 2 * max_norm, answers)
    return (
        f"the difference is clipped to a norm of {max_norm:g} and N(0, {needed:.4g}²) added: one answer is"
        f" ({epsilon:g}, {delta:g})-differentially private, {answers} answers together are"
        f" ({total:.4g}, {delta:g}){fixed}"
    )
