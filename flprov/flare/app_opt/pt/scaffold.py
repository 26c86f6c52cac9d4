# SPDX-License-Identifier: Apache-2.0
"""PTScaffoldHelper: a site's half of SCAFFOLD (Karimireddy et al., 2020, option II), for an own loop.

helper.load_global_controls(meta["scaffold_c_global"])
c_global, c_local = helper.get_params()
... optimizer.step(); helper.model_update(model, lr, c_global, c_local)
helper.terms_update(model, lr, c_global, c_local, model_global)
meta["scaffold_c_diff"] = helper.get_delta_controls()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flprov.errors import Misuse

_Controls = dict[str, Any]  # tensors of torch by the name of the parameter


def get_lr_values(optimizer: Any) -> list[float]:  # noqa: ANN401 - of torch
    """The learning rate of each group of parameters."""
    return [group["lr"] for group in optimizer.param_groups]


class PTScaffoldHelper:
    """The control variates of a site; they are of parameters that are trained, not of buffers."""

    def __init__(self) -> None:
        self.cnt = 0  # steps of this round
        self.c_global: _Controls = {}
        self.c_local: _Controls = {}
        self.c_delta_para: _Controls | None = None

    def init(self, model: Any) -> None:  # noqa: ANN401 - a torch.nn.Module
        """Begin with control variates of 0."""
        self.c_global = {name: own.detach().clone().zero_() for name, own in model.named_parameters()}
        self.c_local = {name: own.clone() for name, own in self.c_global.items()}

    def load_global_controls(self, weights: Mapping[str, Any]) -> None:
        """The server's control variates of this round.

        Raises:
            Misuse: none of them is of a parameter of the model.
        """
        known = [name for name in self.c_global if name in weights]
        if not known:
            raise Misuse(
                "the server's control variates are of no parameter of the model",
                hint="call init(model) first, with the module that the job's `model` makes",
            )
        for name in known:
            own = self.c_global[name]
            self.c_global[name] = own.new_tensor(weights[name]).reshape(own.shape)

    def get_params(self) -> tuple[_Controls, _Controls]:
        """The server's and the site's, at the start of a round."""
        self.cnt, self.c_delta_para = 0, None
        return dict(self.c_global), dict(self.c_local)

    def model_update(
        self,
        model: Any,  # noqa: ANN401
        curr_lr: float,
        c_global_para: _Controls,
        c_local_para: _Controls,
    ) -> None:
        """Correct the step that the optimizer has just taken."""
        for name, own in _trained(model):
            correction = (c_global_para[name] - c_local_para[name]).to(own.device)
            own.data.add_(correction, alpha=-curr_lr)
        self.cnt += 1

    def terms_update(
        self,
        model: Any,  # noqa: ANN401
        curr_lr: float,
        c_global_para: _Controls,
        c_local_para: _Controls,
        model_global: Any,  # noqa: ANN401
    ) -> None:
        """The site's new control variates, at the end of a round; `model_global` is what it was sent.

        Raises:
            Misuse: no step was taken.
        """
        if not self.cnt:
            raise Misuse("terms_update was called before any model_update")
        start = model_global.state_dict()
        self.c_delta_para = {}
        for name, own in _trained(model):
            old = c_local_para[name].to(own.device)
            moved = (start[name].to(own.device) - own.data) / (self.cnt * curr_lr)
            new = old - c_global_para[name].to(own.device) + moved
            self.c_local[name] = new
            self.c_delta_para[name] = (new - old).cpu().numpy()

    def get_delta_controls(self) -> _Controls:
        """What to send: the change of the site's control variates, as numpy arrays.

        Raises:
            Misuse: the round has no `terms_update` yet.
        """
        if self.c_delta_para is None:
            raise Misuse("there are no control variates to send before terms_update")
        return self.c_delta_para


def _trained(model: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    return [(name, own) for name, own in model.named_parameters() if own.requires_grad]
