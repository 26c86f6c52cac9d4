# SPDX-License-Identifier: Apache-2.0
"""What FLARE's own classes are called here, by their last name, or why they are nothing here."""

from __future__ import annotations

# Workflows. A job has one here; those that only prepare or end a run need no counterpart.
WORKFLOWS = {
    "ScatterAndGather": "fedavg",
    "FedAvg": "fedavg",
    "PTFedAvg": "fedavg",
    "PTFedAvgEarlyStopping": "fedavg",
    "BaseFedAvg": "fedavg",
    "FedOpt": "fedopt",
    "PTFedOpt": "fedopt",
    "ScatterAndGatherScaffold": "scaffold",
    "Scaffold": "scaffold",
    "PTScaffold": "scaffold",
    "CyclicController": "cyclic",
    "Cyclic": "cyclic",
    "CrossSiteModelEval": "cross_site_evaluation",
    "CrossSiteEval": "cross_site_evaluation",
    "GlobalModelEval": "federated_evaluation",
    "StatisticsController": "federated_statistics",
}
NOT_NEEDED = {
    "InitializeGlobalWeights": "without `model` the first round averages what the sites start with",
}
EVALUATIONS = ("cross_site_evaluation", "federated_evaluation")

# Workflows of which there is an adapter, and the arguments that ours of the same type does not have.
ADAPTERS = {
    "ScatterAndGather": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "CyclicController": "nvflare.app_common.workflows.cyclic_ctl.CyclicController",
    "FedAvg": "nvflare.app_common.workflows.fedavg.FedAvg",
    "PTFedAvg": "nvflare.app_common.workflows.fedavg.FedAvg",
    "PTFedAvgEarlyStopping": "nvflare.app_common.workflows.fedavg.FedAvg",
}
ADAPTED_ARGS = ("stop_cond", "patience", "aggregator", "exclude_vars", "aggregation_weights", "fedprox_mu")

# What takes the place of modules that have no counterpart.
_JOB = "job.yml says what a recipe or FedJob says; export the job and convert that folder"
_MODEL = "`model` in job.yml names the model"
ADVICE = {
    "nvflare.FedJob": _JOB,
    "nvflare.job_config": _JOB,
    "nvflare.recipe": _JOB,
    "nvflare.app_opt.pt.job_config": _JOB,
    "nvflare.app_opt.pt.recipes": _JOB,
    "nvflare.app_opt.tf.recipes": _JOB,
    "nvflare.app_common.np.recipes": _JOB,
    "nvflare.app_opt.pt.file_model_persistor": _MODEL,
    "nvflare.app_opt.tf.model_persistor": _MODEL,
    "nvflare.app_common.np.np_model_persistor": _MODEL,
    "nvflare.app_common.abstract.model_persistor": _MODEL,
    "nvflare.app_common.workflows.cross_site": "workflow: {type: cross_site_evaluation}",
    "nvflare.app_common.workflows.global_model_eval": "workflow: {type: federated_evaluation}",
    "nvflare.app_common.workflows.statistics": "workflow: {type: federated_statistics}",
    "nvflare.app_common.abstract.statistics_spec": "docs/workflows/federated_statistics.md",
    "nvflare.app_common.ccwf": "a server coordinates every workflow here",
    "nvflare.app_opt.xgboost": "workflow: {type: xgboost_bagging}",
    "nvflare.app_opt.sklearn": "docs/frameworks.md has scikit-learn",
    "nvflare.app_opt.he": "workflow: {type: fedavg_he}",
    "nvflare.app_opt.lightning": "import flprov.flare.client.lightning",
    "nvflare.app_opt.pt.fedavg_early_stopping": "app_common.workflows.fedavg.FedAvg has stop_cond",
    "nvflare.app_common.executors": "a script runs by `tasks` of job.yml",
}

# Executors that run a script with the client API; where the script's name is.
SCRIPT_EXECUTORS = {
    "ClientAPIExecutor",
    "ClientAPILauncherExecutor",
    "PTClientAPILauncherExecutor",
    "InProcessClientAPIExecutor",
    "PTInProcessClientAPIExecutor",
    "TFInProcessClientAPIExecutor",
    "TFClientAPILauncherExecutor",
    "TaskScriptRunner",
    "ScriptRunner",
}
LEARNER_EXECUTORS = {
    "LearnerExecutor": "flprov.flare.app_common.executors.learner_executor:LearnerExecutor",
    "ModelLearnerExecutor": "flprov.flare.app_common.executors.model_learner_executor:ModelLearnerExecutor",
}

# Components whose work the runtime does, and those that have no counterpart.
COMPONENTS = {
    "PTFileModelPersistor": "",
    "PTModelPersistor": "",
    "NPModelPersistor": "",
    "FullModelShareableGenerator": "",
    "InTimeAccumulateWeightedAggregator": "",
    "AccumulateWeightedAggregator": "",
    "PTFedOptModelShareableGenerator": "",
    "SubprocessLauncher": "",
    "IntimeModelSelector": "",
    "SimpleModelSelector": "",
    "PTFileModelLocator": "the workflows of evaluation have the models already",
    "ValidationJsonGenerator": "results come with `flprov job download`",
    "ConvertToFedEvent": "numbers that a trainer logs are shown live: fl.log(name, value), or SummaryWriter",
    "MetricRelay": "numbers that a trainer logs are shown live: fl.log(name, value), or SummaryWriter",
    "TBAnalyticsReceiver": "`flprov job plot` draws them; docs/tracking.md has the receivers at the server",
    "MLflowReceiver": "docs/tracking.md has the receivers at the server",
    "WandBReceiver": "there is no receiver for it",
    "CellPipe": "a script talks to its own process's parent",
    "FilePipe": "a script talks to its own process's parent",
    "ExternalConfigurator": "a script is given no configuration file",
    "TensorDecomposer": "tensors travel as safetensors",
    "JobStatsReporter": "`flprov job show` has what a job took",
}

_ENCRYPTION = "encryption is a workflow of its own here, with a key of the sites; see docs/workflows"
FILTERS_LEFT_OUT = {
    "HEModelEncryptor": _ENCRYPTION,
    "HEModelDecryptor": _ENCRYPTION,
    "HEModelShareableGenerator": _ENCRYPTION,
    "StatisticsPrivacyFilter": "federated statistics have a minimum count of their own",
    "DXOBlocker": "what a task takes is checked by its kind already",
    "ConvertWeights": "full weights and differences may be mixed",
}

# Keys of meta.json that say nothing here, or have their own place.
META_TAKEN = {"name", "deploy_map", "min_clients", "mandatory_clients", "resource_spec"}
META_LEFT_OUT = {
    "launcher_spec": "a site's policy and interpreter are its own business",
    "scope": "there are no privacy scopes; each site has its policy.yml",
    "study": "there is one project in a network",
}
