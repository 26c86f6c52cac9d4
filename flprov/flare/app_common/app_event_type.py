# SPDX-License-Identifier: Apache-2.0
"""Events of FLARE's application layer. ROUND_DONE is the one that means something here: it ends a round."""

from __future__ import annotations


class AppEventType:
    """Fired by controllers; heard by the components of the same process."""

    BEFORE_AGGREGATION = "_before_aggregation"
    END_AGGREGATION = "_end_aggregation"
    AFTER_AGGREGATION = "_after_aggregation"
    BEFORE_CONTRIBUTION_ACCEPT = "_before_contribution_accept"
    AFTER_CONTRIBUTION_ACCEPT = "_after_contribution_accept"
    RECEIVE_CONTRIBUTION = "_receive_contribution"
    BEFORE_TRAIN = "_before_train"
    AFTER_TRAIN = "_after_train"
    BEFORE_TRAIN_TASK = "_before_train_task"
    BEFORE_SHAREABLE_TO_LEARNABLE = "_before_model_update"
    AFTER_SHAREABLE_TO_LEARNABLE = "_after_model_update"
    BEFORE_LEARNABLE_PERSIST = "_before_save_model"
    AFTER_LEARNABLE_PERSIST = "_after_save_model"
    INITIAL_MODEL_LOADED = "_initial_model_loaded"
    GLOBAL_WEIGHTS_UPDATED = "_global_weights_updated"
    GLOBAL_BEST_MODEL_AVAILABLE = "_global_best_model_available"
    LOCAL_BEST_MODEL_AVAILABLE = "_local_best_model_available"
    VALIDATION_RESULT_RECEIVED = "_validation_result_received"
    ROUND_STARTED = "_round_started"
    ROUND_DONE = "_round_done"
    TRAINING_STARTED = "_training_started"
    TRAINING_FINISHED = "_training_finished"
    TRAIN_DONE = "_train_done"
