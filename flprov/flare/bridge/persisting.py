# SPDX-License-Identifier: Apache-2.0
"""StatePersistor: the committed model, as a FLARE controller's persistor gives and takes it."""

from __future__ import annotations

from flprov.flare.apis.fl_context import FLContext
from flprov.flare.app_common.abstract.learnable_persistor import LearnablePersistor
from flprov.flare.app_common.abstract.model import Learnable, make_model_learnable
from flprov.messages import Tensors


class StatePersistor(LearnablePersistor):
    """Loads what was committed last; what it saves goes into the next commit.

    Attributes:
        saved: what was saved last in this process, or None.
    """

    def __init__(self, model: Tensors) -> None:
        super().__init__()
        self._model = model
        self.saved: Learnable | None = None

    def load(self, fl_ctx: FLContext) -> Learnable:  # noqa: ARG002
        """The model to go on with."""
        return make_model_learnable(dict(self._model), {})

    def save(self, learnable: Learnable, fl_ctx: FLContext) -> None:  # noqa: ARG002
        """Keep this model."""
        self.saved = learnable
