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
