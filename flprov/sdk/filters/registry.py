# SPDX-License-Identifier: Apache-2.0
"""Our own filters by the names that job.yml and policy.yml have for them, and what their options mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flprov.errors import ConfigError
from flprov.messages import Precision, Update
from flprov.sdk.filters.bounds import clip, clip_norm, exclude
from flprov.sdk.filters.noise import describe_noise, gaussian_noise
from flprov.sdk.filters.quantizing import quantize
from flprov.sdk.filters.selection import percentile, svt_privacy


@dataclass(frozen=True, kw_only=True)
class Filter:
    """One of ours: `apply(update, task, site, **options) -> Update`.

    `describe(answers, **options)` says what it does with these options, over so many answers of a site; it
    raises ConfigError where they are out of their range.
    """

    apply: Callable[..., Update]
    describe: Callable[..., str]
    on_tasks: bool = False  # it also works on a task's model: on the numbers themselves


def _describe_clip_norm(answers: int, *, max_norm: float) -> str:  # noqa: ARG001 - as every filter
    _verify_above("max_norm", max_norm)
    return f"the difference from the model is scaled down to an L2 norm of {max_norm:g}"


def _describe_clip(answers: int, *, limit: float) -> str:  # noqa: ARG001
    _verify_above("limit", limit)
    return f"each number's difference from the model is kept within {limit:g}"


def _describe_exclude(answers: int, *, names: Sequence[str], required: bool = True) -> str:  # noqa: ARG001
    if not names:
        raise ConfigError("names is empty; it must name at least one tensor")
    return f"nothing of the tensors {', '.join(names)} passes"


def _describe_percentile(answers: int, *, keep: float, gamma: float | None = None) -> str:  # noqa: ARG001
    if not 0 < keep <= 1:
        raise ConfigError(f"keep is {keep}; it must be above 0 and at most 1")
    if gamma is not None:
        _verify_above("gamma", gamma)
    within = f", each within {gamma:g}" if gamma is not None else ""
    return f"the largest {keep:.3g} of the differences pass{within}; this promises no privacy"


def _describe_svt(
    answers: int, *, fraction: float, epsilon: float, gamma: float, tau: float, seed: int | None = None
) -> str:
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction is {fraction}; it must be above 0 and at most 1")
    _verify_above("epsilon", epsilon)
    _verify_above("gamma", gamma)
    if not 0 <= tau <= gamma:
        raise ConfigError(f"tau is {tau}; it must be from 0 to gamma")
    fixed = " (from a seed: it hides nothing from who knows that)" if seed is not None else ""
    return (
        f"up to {fraction:.3g} of the differences pass, each within {gamma:g} and blurred: one answer is"
        f" {epsilon:g}-differentially private, {answers} answers together are {answers * epsilon:g}{fixed}"
    )


def _describe_quantize(answers: int, *, to: Precision, block: int = 0) -> str:  # noqa: ARG001
    if block and not 16 <= block <= 1 << 16:
        raise ConfigError(f"block is {block}; it must be 0 (one scale for a tensor) or from 16 to 65536")
    if block and to is not Precision.INT8:
        raise ConfigError("block stands with int8 only")
    return f"the numbers are rounded to {to.value}"


def _verify_above(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} is {value}; it must be above 0")


FILTERS: Mapping[str, Filter] = {
    "clip": Filter(apply=clip, describe=_describe_clip, on_tasks=True),
    "clip_norm": Filter(apply=clip_norm, describe=_describe_clip_norm),
    "exclude": Filter(apply=exclude, describe=_describe_exclude, on_tasks=True),
    "gaussian_noise": Filter(apply=gaussian_noise, describe=describe_noise),
    "percentile": Filter(apply=percentile, describe=_describe_percentile),
    "quantize": Filter(apply=quantize, describe=_describe_quantize, on_tasks=True),
    "svt_privacy": Filter(apply=svt_privacy, describe=_describe_svt),
}
