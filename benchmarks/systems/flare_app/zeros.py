# SPDX-License-Identifier: Apache-2.0
"""The first model of the workload, for FLARE: ten tensors, which its own numpy persistor cannot hold."""

import os

import numpy as np
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.np.np_model_persistor import NPModelPersistor


class Zeros(NPModelPersistor):
    """Loads zeros; saves when and how often its parent does: once a round, without a sync."""

    def __init__(self, size=0):
        super().__init__()
        self.size = size

    def load_model(self, _context):
        """Tensors of float32, `size` bytes in all."""
        count = 10 if self.size else 1
        each = self.size // 40 or 10
        weights = {f"layer{number}": np.zeros(each, dtype=np.float32) for number in range(count)}
        return make_model_learnable(weights=weights, meta_props={})

    def save_model(self, model_learnable, context):
        """All tensors in one file, as numpy writes them."""
        folder = context.get_workspace().get_result_root(context.get_job_id())
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        np.savez(os.path.join(folder, "server.npz"), **model_learnable["weights"])  # noqa: PTH118
