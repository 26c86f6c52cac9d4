# SPDX-License-Identifier: Apache-2.0
"""FLARE's client API for PyTorch Lightning: after `patch(trainer)` its `validate` and `fit` are federated.

    import flprov.flare.client.lightning as flare

    flare.patch(trainer)
    while flare.is_running():
        flare.receive()                    # may be left out: fit and validate receive by themselves
        trainer.validate(model, data)      # the received model; its metrics go with the update
        trainer.fit(model, data)           # from the received weights; sends the new ones

What the module logs (`self.log`) is streamed while it trains.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from flprov.errors import Misuse
from flprov.flare.apis.fl_constant import FLMetaKey
from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.client.api import (
    get_job_id,
    get_site_name,
    init,
    is_evaluate,
    is_running,
    is_submit_model,
    is_train,
    log,
    receive,
    send,
    system_info,
)

__all__ = [
    "FLModel",
    "ParamsType",
    "get_job_id",
    "get_site_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "patch",
    "receive",
    "send",
    "system_info",
]


def patch(
    trainer: Any,  # noqa: ANN401 - a Trainer of lightning or of pytorch_lightning, which need not be here
    restore_state: bool = True,
    load_state_dict_strict: bool = True,
    update_fit_loop: bool = True,
) -> None:
    """Make a Trainer's `fit` and `validate` those of a federated job. Doing it twice changes nothing.

    Args:
        trainer: of `lightning` or `pytorch_lightning`.
        restore_state: optimizers and learning rate schedulers go on from round to round.
        load_state_dict_strict: the received model must have just the module's weights.
        update_fit_loop: `max_epochs` and `max_steps` are meant per round.

    Raises:
        Misuse: it is no Trainer, or this is no flprov job.
    """
    init()
    kind = _callback_class(_package(trainer))
    if not any(isinstance(callback, kind) for callback in trainer.callbacks):
        trainer.callbacks.append(
            kind(restore=restore_state, strict=load_state_dict_strict, update_fit_loop=update_fit_loop)
        )


def _package(trainer: object) -> str:
    for kind in type(trainer).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in ("lightning", "pytorch_lightning"):
            return root
    raise Misuse(f"patch takes a Trainer of lightning or pytorch_lightning, not a {type(trainer).__name__}")


@functools.cache
def _callback_class(package: str) -> type[Any]:
    """Our hooks as a Callback of the package that the Trainer is of: it takes no other's."""
    if package == "lightning":
        import lightning.pytorch

        return type("FLCallback", (_Hooks, lightning.pytorch.Callback), {})
    import pytorch_lightning

    return type("FLCallback", (_Hooks, pytorch_lightning.Callback), {})


class _Hooks:
    """What happens around `fit` and `validate`. Only the first process talks to the job."""

    def __init__(self, *, restore: bool, strict: bool, update_fit_loop: bool) -> None:
        self._restore = restore
        self._strict = strict
        self._update_fit_loop = update_fit_loop
        self._received: FLModel | None = None
        self._metrics: dict[str, float] | None = None
        self._began = 0  # the step at which this round's training began
        self._stepped = 0  # the last step that was taken
        self._old: dict[str, object] = {}  # what Lightning still shows of earlier steps
        self._told: dict[str, int] = {}  # the step of what was streamed last
        self._per_round: tuple[int | None, int] | None = (
            None  # max_epochs, max_steps as the script has set them
        )
        self._kept: tuple[list[Any], list[Any]] | None = None  # states of optimizers and schedulers

    # ---- fit -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401 - Lightning's
        """Before the optimizers take the first step: the received weights, and this round's epochs."""
        self._load(pl_module)
        if self._per_round is None:
            self._per_round = (trainer.max_epochs, trainer.max_steps)
        elif self._update_fit_loop:
            epochs, steps = self._per_round
            if epochs is not None and epochs > 0:
                trainer.fit_loop.max_epochs = trainer.current_epoch + epochs
            if steps > 0:
                trainer.fit_loop.epoch_loop.max_steps = trainer.global_step + steps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Go on with the optimizers' own memory."""
        self._began = self._stepped = trainer.global_step
        if self._restore and self._kept is not None:
            optimizers, schedulers = self._kept
            for optimizer, state in zip(trainer.optimizers, optimizers, strict=False):
                optimizer.load_state_dict(state)
            for config, state in zip(trainer.lr_scheduler_configs, schedulers, strict=False):
                config.scheduler.load_state_dict(state)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """What the last epoch has ended with was streamed then."""
        self._old = dict(trainer.logged_metrics)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:  # noqa: ANN401, ARG002
        """Stream what the module has logged, as often as its loggers would be told."""
        step = trainer.global_step
        stepped, self._stepped = step > self._stepped, step  # not where gradients are only added up
        if stepped and trainer.is_global_zero and step % max(1, trainer.log_every_n_steps) == 0:
            shown = dict(trainer.logged_metrics)
            self._stream({n: value for n, value in shown.items() if value is not self._old.get(n)}, step)
            self._old = shown

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Stream what stands at the end of the epoch, validation included."""
        if trainer.is_global_zero:
            self._stream(trainer.callback_metrics, trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Send the new weights."""
        if self._restore:
            self._kept = (
                [optimizer.state_dict() for optimizer in trainer.optimizers],
                [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            )
        if self._received is None or not trainer.is_global_zero:
            return
        metrics = _numbers(trainer.callback_metrics) if self._metrics is None else self._metrics
        meta = dict(getattr(pl_module, "__fl_meta__", {}))
        meta.setdefault(FLMetaKey.NUM_STEPS_CURRENT_ROUND, trainer.global_step - self._began)
        send(FLModel(params=pl_module.state_dict(), metrics=metrics, meta=meta))
        self._received = self._metrics = None

    # ---- validate ------------------------------------------------------------------------

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """`trainer.validate` judges the received model; validation within `fit` is the module's own."""
        if _validating(trainer):
            self._load(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Keep the metrics for the update that follows; a task that asks for nothing else is answered."""
        if not _validating(trainer) or self._received is None:
            return
        self._metrics = _numbers(trainer.callback_metrics)
        if is_evaluate() and trainer.is_global_zero:
            send(FLModel(metrics=self._metrics))
            self._received = self._metrics = None

    # ---- within --------------------------------------------------------------------------

    def _load(self, pl_module: Any) -> None:  # noqa: ANN401
        """The received model into the module, once per task."""
        if self._received is not None:
            return
        self._received = receive()
        if self._received is not None and self._received.params:
            pl_module.load_state_dict(self._received.params, strict=self._strict)

    def _stream(self, metrics: Mapping[str, Any], step: int) -> None:
        fresh = {name: value for name, value in metrics.items() if self._told.get(name) != step}
        if numbers := _numbers(fresh):
            log("metrics", numbers, global_step=step)
        self._told |= dict.fromkeys(fresh, step)


def _validating(trainer: Any) -> bool:  # noqa: ANN401
    return str(getattr(trainer.state.fn, "value", trainer.state.fn)) == "validate"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
