# SPDX-License-Identifier: Apache-2.0
"""The words of FLARE's application layer that jobs use: headers, properties, task names."""

from __future__ import annotations


class AppConstants:
    """Keys of headers and properties, and the names of tasks and components."""

    START_ROUND = "start_round"
    CURRENT_ROUND = "current_round"
    CONTRIBUTION_ROUND = "contribution_round"
    CONTRIBUTION_CLIENT = "contribution_client"
    NUM_ROUNDS = "num_rounds"
    NUM_TOTAL_STEPS = "num_total_steps"
    NUM_EPOCHS_CURRENT_ROUND = "num_epochs_current_round"
    LOCAL_EPOCHS = "local_epochs"
    IS_FIRST_ROUND = "is_first_round"
    GLOBAL_MODEL = "global_model"
    MODEL_NAME = "model_name"
    MODEL_WEIGHTS = "_model_weights_"
    MODEL_OWNER = "_model_owner_"
    SUBMIT_MODEL_NAME = "submit_model_name"
    VALIDATE_TYPE = "_validate_type"
    ROUND = "_round_"
    PHASE = "_phase_"
    PHASE_INIT = "_init_"
    PHASE_TRAIN = "train"
    PHASE_MODEL_VALIDATION = "model_validation"
    PHASE_FINISHED = "_finished_"
    TASK_TRAIN = "train"
    TASK_VALIDATION = "validate"
    TASK_SUBMIT_MODEL = "submit_model"
    TASK_CONFIGURE = "configure"
    TASK_GET_WEIGHTS = "get_weights"
    TASK_END_RUN = "_end_run_"
    DEFAULT_AGGREGATOR_ID = "aggregator"
    DEFAULT_PERSISTOR_ID = "persistor"
    DEFAULT_SHAREABLE_GENERATOR_ID = "shareable_generator"
    AGGREGATION_RESULT = "_aggregation_result"
    AGGREGATION_TRIGGERED = "_aggregation_triggered"
    AGGREGATION_ACCEPTED = "_aggregation_accepted"
    TRAIN_SHAREABLE = "_train_shareable_"
    TRAINING_RESULT = "_training_result_"
    VALIDATION_RESULT = "_validation_result_"
    DATA_CLIENT = "_data_client_"
    DXO = "DXO"
    DEFAULT_MODEL_DIR = "models"
    CLIENT_UNKNOWN = "unknown"


class ValidateType:
    """Why a model is to be validated."""

    BEFORE_TRAIN_VALIDATE = "before_train_validate"
    MODEL_VALIDATE = "model_validate"


class ModelName:
    """Which of its models a site is asked for."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"


class DefaultCheckpointFileName:
    """The files that FLARE's persistors write; here the model comes as model.safetensors."""

    GLOBAL_MODEL = "FL_global_model.pt"
    BEST_GLOBAL_MODEL = "best_FL_global_model.pt"


class AlgorithmConstants:
    """Keys under which algorithms send what is not a weight."""

    FEDPROX_MU = "fedprox_mu"
    SCAFFOLD_CTRL_DIFF = "scaffold_c_diff"
    SCAFFOLD_CTRL_GLOBAL = "scaffold_c_global"
