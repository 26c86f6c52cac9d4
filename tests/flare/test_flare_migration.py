# SPDX-License-Identifier: Apache-2.0
"""`flprov app from-flare`: what of a FLARE job comes along, what is named as missing, and villains."""

import json

import pytest
from click.testing import CliRunner
from flare_jobs import AVERAGING, COMPONENTS, LIBRARY, flare_job

from flprov.cli import root
from flprov.errors import ConfigError, Conflict, Misuse, NotFound
from flprov.flare import convert_job, write_migration
from flprov.jobs import load_job


def migrated_job(tmp_path, **parts):
    """The notes and the loaded job.yml of a converted job."""
    found = convert_job(flare_job(tmp_path / "job", **parts))
    assert write_migration(found, tmp_path / "app") == ()
    return found, load_job(tmp_path / "app")


def test_an_executor_job_becomes_an_app(tmp_path):
    found, spec = migrated_job(tmp_path)
    assert (spec.name, spec.workflow.type, spec.workflow.rounds, spec.quorum(5)) == (
        "hello-pt",
        "fedavg",
        2,
        2,
    )
    assert spec.model == "hello_network:SimpleNetwork"
    assert spec.tasks == {"train": "hello_trainer:HelloTrainer", "evaluate": "hello_trainer:HelloTrainer"}
    assert spec.args == {"lr": 0.05, "epochs": 2}
    assert spec.needs == ("numpy", "torch")
    assert found.notes == ("task submit_model: fedavg never asks for it",)


def test_only_import_lines_change(tmp_path):
    code = {
        "hello_trainer.py": "from nvflare.apis.dxo import (\n    DXO,\n)\n\nNAME = 'nvflare'  # nvflare\n",
        "hello_network.py": "class SimpleNetwork: pass\n",
    }
    found, _ = migrated_job(tmp_path, code=code)
    text = (tmp_path / "app" / "hello_trainer.py").read_text()
    assert text == code["hello_trainer.py"].replace("from nvflare", "from flprov.flare")
    assert found.changed == {"hello_trainer.py": ("1: from flprov.flare.apis.dxo import (",)}


def test_ends_of_lines_that_only_some_know_shift_nothing(tmp_path):
    code = {
        "hello_trainer.py": "NAME = 'a\x0cb\u2028c'\nfrom nvflare.apis.dxo import DXO\nOTHER = 'nvflare'\n",
        "hello_network.py": "class SimpleNetwork: pass\n",
    }
    migrated_job(tmp_path, code=code)
    text = (tmp_path / "app" / "hello_trainer.py").read_bytes().decode()
    assert text == code["hello_trainer.py"].replace("from nvflare", "from flprov.flare")


def test_a_job_cannot_bring_its_own_job_yml_or_report(tmp_path):
    code = {
        "hello_trainer.py": "class HelloTrainer: pass\n",
        "hello_network.py": "class SimpleNetwork: pass\n",
        "job.yml": "name: other\ntasks: {train: other:train}\n",
        "MIGRATION.md": "Everything came along.\n",
    }
    found, spec = migrated_job(tmp_path, code=code)
    assert spec.name == "hello-pt"
    assert "job.yml of the job was left out: the app has its own" in found.notes
    assert "left out" in (tmp_path / "app" / "MIGRATION.md").read_text()


def test_imports_without_counterpart_are_named_with_their_line(tmp_path):
    code = {
        "hello_trainer.py": "import os\nfrom nvflare.app_common.psi.psi_spec import PSI\nimport nvflare\n",
        "hello_network.py": "from nvflare.apis.dxo import DXO, from_file\n",
    }
    found, _ = migrated_job(tmp_path, code=code)
    notes = "\n".join(found.notes)
    assert "hello_trainer.py:2: nvflare.app_common.psi.psi_spec.PSI has no counterpart" in notes
    assert "hello_trainer.py:3: import nvflare: name what the code uses" in notes
    assert "hello_network.py:1: nvflare.apis.dxo.from_file has no counterpart" in notes
    report = (tmp_path / "app" / "MIGRATION.md").read_text()
    assert all(note in report for note in found.notes)


@pytest.mark.parametrize(
    "executor",
    [
        {
            "path": f"{LIBRARY}.executors.client_api_executor.ClientAPIExecutor",
            "args": {"task_script_path": "train.py", "task_script_args": "--epochs 3 --lr=0.5 --fast"},
        },
        {
            "path": "nvflare.app_opt.pt.client_api_launcher_executor.PTClientAPILauncherExecutor",
            "args": {"launcher_id": "launcher"},
        },
    ],
)
def test_client_api_jobs_keep_their_script_and_its_command_line(tmp_path, executor):
    launcher = {
        "id": "launcher",
        "path": f"{LIBRARY}.launchers.subprocess_launcher.SubprocessLauncher",
        "args": {"script": "python3 -u custom/train.py --epochs 3 --lr 0.5 --fast"},
    }
    client = {"executors": [{"tasks": ["train"], "executor": executor}], "components": [launcher]}
    _, spec = migrated_job(
        tmp_path, client=client, code={"train.py": "import nvflare.client as flare\n", "hello_network.py": ""}
    )
    assert spec.tasks == {"train": "train.py"}
    assert spec.args == {"epochs": 3, "lr": 0.5, "fast": True}
    assert (tmp_path / "app" / "train.py").read_text() == "import flprov.flare.client as flare\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cyclic_ctl.CyclicController", "cyclic"),
        ("scatter_and_gather_scaffold.ScatterAndGatherScaffold", "scaffold"),
        ("fedavg.FedAvg", "fedavg"),
    ],
)
def test_workflows_have_the_types_of_ours(tmp_path, name, kind):
    workflow = {"id": "w", "path": f"{LIBRARY}.workflows.{name}", "args": {"num_rounds": 7, "num_clients": 3}}
    _, spec = migrated_job(tmp_path, server={"workflows": [workflow]})
    assert (spec.workflow.type, spec.workflow.rounds, spec.sites.min) == (kind, 7, 3)


def test_a_second_workflow_is_named(tmp_path):
    evaluation = {
        "id": "e",
        "path": f"{LIBRARY}.workflows.cross_site_model_eval.CrossSiteModelEval",
        "args": {},
    }
    found, spec = migrated_job(tmp_path, server={"workflows": [AVERAGING, evaluation]})
    assert spec.workflow.type == "fedavg"
    assert any("workflow CrossSiteModelEval: a job has one workflow" in note for note in found.notes)


def test_the_servers_optimizer_and_the_best_model_come_along(tmp_path):
    components = [
        COMPONENTS[0],
        {
            "id": "shareable_generator",
            "path": "nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator",
            "args": {"optimizer_args": {"path": "torch.optim.SGD", "args": {"lr": 1.0, "momentum": 0.6}}},
        },
        {
            "id": "model_selector",
            "path": f"{LIBRARY}.widgets.intime_model_selector.IntimeModelSelector",
            "args": {"key_metric": "loss", "negate_key_metric": True},
        },
    ]
    _, spec = migrated_job(tmp_path, server={"components": components})
    assert spec.workflow.type == "fedopt"
    assert spec.workflow.options == {"optimizer": "sgd", "lr": 1.0, "momentum": 0.6}
    assert (spec.workflow.best, spec.workflow.mode) == ("loss", "min")


def test_what_the_aggregator_does_and_no_mean_of_ours_is_named(tmp_path):
    args = {"weigh_by_local_iter": False, "expected_data_kind": {"a": "WEIGHTS", "b": "METRICS"}}
    components = [*COMPONENTS[:2], {**COMPONENTS[2], "args": args}]
    found = convert_job(flare_job(tmp_path / "job", server={"components": components}))
    assert any("aggregator.weigh_by_local_iter" in note for note in found.notes)
    assert any("aggregator.expected_data_kind" in note for note in found.notes)
    plain = convert_job(flare_job(tmp_path / "plain"))
    assert not any("aggregator." in note for note in plain.notes)


def test_filters_come_along_where_there_are_such(tmp_path):
    def rows(*filters):
        return [{"tasks": ["train"], "filters": list(filters)}]

    where = f"{LIBRARY}.filters"
    client = {
        "task_result_filters": rows(
            {
                "path": f"{where}.percentile_privacy.PercentilePrivacy",
                "args": {"percentile": 10, "gamma": 0.5},
            },
            {"path": f"{where}.exclude_vars.ExcludeVars", "args": {"exclude_vars": ["fc2.bias"]}},
            {"name": "SVTPrivacy", "args": {"fraction": 0.2}},
            {"path": "hello_trainer.MyFilter", "args": {"scale": 2}},
        )
    }
    server = {"task_result_filters": rows({"path": "nvflare.app_opt.he.model_decryptor.HEModelDecryptor"})}
    found, spec = migrated_job(tmp_path, client=client, server=server)
    assert [dict(row) for row in spec.filters.result_site] == [
        {"type": "percentile", "keep": 0.9, "gamma": 0.5},
        {"type": "exclude", "names": ["fc2.bias"]},
        {"type": "svt_privacy", "fraction": 0.2, "epsilon": 0.1, "gamma": 1e-5, "tau": 1e-6},
        {"type": "hello_trainer:MyFilter", "scale": 2},
    ]
    assert any("HEModelDecryptor (result at the server) was left out: encryption" in n for n in found.notes)


def test_a_controller_of_the_jobs_own_with_components_gets_a_factory(tmp_path):
    workflow = {"id": "w", "path": "hello_controller.HelloController", "args": {"num_rounds": 4}}
    components = [*COMPONENTS, {"id": "mine", "path": "hello_trainer.HelloTrainer", "args": {"lr": 0.5}}]
    _, spec = migrated_job(tmp_path, server={"workflows": [workflow], "components": components})
    assert (spec.workflow.entry, spec.workflow.rounds) == ("flare_workflow:workflow", 4)
    assert {"train", "validate", "submit_model"} == set(spec.tasks)
    text = (tmp_path / "app" / "flare_workflow.py").read_text()
    assert "controller = hello_controller.HelloController(**{'num_rounds': 4})" in text
    assert "controller.add_component(\"mine\", hello_trainer.HelloTrainer(**{'lr': 0.5}))" in text
    compile(text, "flare_workflow.py", "exec")


def test_a_controller_of_the_jobs_own_alone_is_the_entry(tmp_path):
    workflow = {"id": "w", "path": "hello_controller.HelloController", "args": {"num_rounds": 4}}
    _, spec = migrated_job(tmp_path, server={"workflows": [workflow]})
    assert spec.workflow.entry == "hello_controller:HelloController"
    assert spec.workflow.options == {"num_rounds": 4}


def test_a_model_with_arguments_gets_a_function(tmp_path):
    persistor = {**COMPONENTS[0], "args": {"model": "net"}}
    net = {"id": "net", "path": "hello_network.SimpleNetwork", "args": {"width": 3}}
    _, spec = migrated_job(tmp_path, server={"components": [persistor, net]})
    assert spec.model == "flare_model:model"
    assert (
        "return hello_network.SimpleNetwork(**{'width': 3})" in (tmp_path / "app/flare_model.py").read_text()
    )


def test_learners_and_their_components_come_along(tmp_path):
    executor = {
        "path": f"{LIBRARY}.executors.model_learner_executor.ModelLearnerExecutor",
        "args": {"learner_id": "learner"},
    }
    learner = {"id": "learner", "path": "hello_trainer.Learner", "args": {"lr": 0.1}}
    client = {"executors": [{"tasks": ["*"], "executor": executor}], "components": [learner]}
    _, spec = migrated_job(tmp_path, client=client)
    entry = "flprov.flare.app_common.executors.model_learner_executor:ModelLearnerExecutor"
    assert spec.tasks == {"train": entry, "evaluate": entry}
    assert spec.args["components"] == {"learner": {"path": "hello_trainer.Learner", "args": {"lr": 0.1}}}


@pytest.mark.parametrize(
    ("looks", "tasks"), [("", {"train"}), ("flare.is_evaluate()", {"train", "evaluate"})]
)
def test_a_script_for_every_task_evaluates_only_where_it_can(tmp_path, looks, tasks):
    args = {"task_script_path": "src/net.py", "task_script_args": "--lr 0.1"}
    executor = {"path": f"{LIBRARY}.executors.client_api_executor.ClientAPIExecutor", "args": args}
    code = {"src/net.py": f"import nvflare.client as flare\nflare.init()\n{looks}\n"}
    client = {"executors": [{"tasks": ["*"], "executor": executor}]}
    _, spec = migrated_job(tmp_path, client=client, server={"components": []}, code=code)
    assert spec.tasks == dict.fromkeys(tasks, "src/net.py")
    assert ("task evaluate was left out" in (tmp_path / "app/MIGRATION.md").read_text()) == (not looks)


def test_sites_with_apps_of_their_own_are_named(tmp_path):
    job = flare_job(tmp_path / "job")
    (job / "app_2" / "config").mkdir(parents=True)
    (job / "app_2/config/config_fed_client.json").write_text('{"executors": []}')
    deploy = {"deploy_map": {"app": ["server", "site-1"], "app_2": ["site-2"]}}
    (job / "meta.json").write_text(json.dumps(deploy))
    assert any("sites site-2 ran another app (app_2)" in note for note in convert_job(job).notes)


# ---- what cannot be read, and villains ---------------------------------------------------------


def test_hocon_is_refused_with_the_way_to_json(tmp_path):
    job = flare_job(tmp_path / "job")
    config = job / "app" / "config" / "config_fed_client.json"
    config.rename(config.with_suffix(".conf"))
    assert convert_job(job).name == "hello-pt"  # JSON by another name
    config.with_suffix(".conf").write_text("{\n  format_version = 2\n}\n")
    with pytest.raises(Misuse, match="is HOCON, which is not read") as caught:
        convert_job(job)
    assert "pyhocon -i" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["../secrets", "/etc", "a/b", ".."])
def test_an_app_outside_the_job_is_not_read(tmp_path, name):
    job = flare_job(tmp_path / "job", meta={"deploy_map": {name: ["@ALL"]}})
    with pytest.raises(ConfigError, match="no plain folder's name"):
        convert_job(job)


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not take me along")
    job = flare_job(tmp_path / "job")
    (job / "app/custom/link.txt").symlink_to(secret)
    (job / "app/custom/folder").symlink_to(tmp_path)
    found = convert_job(job)
    assert not any(name.startswith(("link", "folder")) for name in found.files)
    assert sum("a link is not followed" in note for note in found.notes) == 2


def test_code_that_does_not_parse_is_copied_and_named(tmp_path):
    code = {"hello_trainer.py": "print 'python 2'\n", "hello_network.py": ""}
    found, _ = migrated_job(tmp_path, code=code)
    assert any("hello_trainer.py:1: copied as it is" in note for note in found.notes)


@pytest.mark.parametrize(
    "path", ["os.system('id')", "a; import os", "__import__('os').system", "x.y\nimport os", "../x.Y"]
)
def test_a_path_that_is_no_name_never_becomes_code(tmp_path, path):
    server = {
        "workflows": [{"id": "w", "path": "hello_controller.HelloController", "args": {"num_rounds": 1}}],
        "components": [
            {"id": "c", "path": path},
            {"id": "p", "name": "PTFileModelPersistor", "args": {"model": path}},
        ],
    }
    found = convert_job(flare_job(tmp_path / "job", server=server))
    assert path not in b"\n".join(data for name, data in found.files.items() if name.endswith(".py")).decode()
    assert b"import os\n" not in found.files.get("flare_workflow.py", b"")


def test_arguments_in_generated_code_are_literals(tmp_path):
    villain = "'}); __import__('os').system('id'); ({'"
    net = {"path": "hello_network.SimpleNetwork", "args": {villain: villain}}
    server = {"components": [{**COMPONENTS[0], "args": {"model": net}}]}
    text = convert_job(flare_job(tmp_path / "job", server=server)).files["flare_model.py"].decode()
    assert repr({villain: villain}) in text


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000])
def test_broken_json_is_an_error_with_the_files_name(tmp_path, text):
    job = flare_job(tmp_path / "job")
    (job / "app/config/config_fed_server.json").write_text(text)
    with pytest.raises(ConfigError, match="config_fed_server"):
        convert_job(job)


@pytest.mark.parametrize(
    "server",
    [
        {"workflows": None, "components": "x"},
        {"workflows": [1, {"path": 3}], "components": [{"id": [], "path": {}}]},
        {"workflows": [{"path": "nvflare.x.Nothing", "args": []}], "components": [{}]},
    ],
)
def test_odd_values_are_notes_not_crashes(tmp_path, server):
    assert convert_job(flare_job(tmp_path / "job", server=server)).notes


def test_a_folder_without_a_job_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="is not a folder"):
        convert_job(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no deploy_map"):
        convert_job(tmp_path)


def test_nothing_is_overwritten(tmp_path):
    found = convert_job(flare_job(tmp_path / "job"))
    (tmp_path / "app").mkdir()
    with pytest.raises(Conflict, match="is there already"):
        write_migration(found, tmp_path / "app")


def test_the_command_says_what_it_wrote_and_what_is_missing(tmp_path):
    job = flare_job(tmp_path / "job")
    done = CliRunner().invoke(root, ["app", "from-flare", str(job), "-o", str(tmp_path / "app")])
    assert done.exit_code == 0, done.output
    assert "hello_trainer.py: 9 import lines changed" in done.stdout
    assert "task submit_model: fedavg never asks for it" in done.stderr
    assert f"flprov simulate {tmp_path / 'app'} -n 2" in done.stderr
    again = CliRunner().invoke(root, ["app", "from-flare", str(job), "-o", str(tmp_path / "app")])
    assert again.exit_code == 2 or isinstance(again.exception, Conflict)


def test_fedavg_that_may_end_early_becomes_flares_class(tmp_path):
    args = {
        "num_clients": 2,
        "num_rounds": 4,
        "stop_cond": "accuracy >= 80",
        "initial_model": {"path": "hello_network.SimpleNetwork"},
    }
    workflow = {"path": f"{LIBRARY}.workflows.fedavg.FedAvg", "args": args}
    found, spec = migrated_job(tmp_path, server={"workflows": [workflow], "components": []})
    assert spec.workflow.entry == "flprov.flare.app_common.workflows.fedavg:FedAvg"
    assert spec.workflow.options == {"num_clients": 2, "num_rounds": 4, "stop_cond": "accuracy >= 80"}
    assert (spec.workflow.rounds, spec.model) == (4, "hello_network:SimpleNetwork")
    assert any("as it has stop_cond" in note for note in found.notes)


def test_scatter_and_gather_with_a_persistor_and_an_aggregator_of_the_jobs_own_keeps_them(tmp_path):
    components = [
        {"id": "persistor", "path": "keep.Keeper", "args": {"name": "x"}},
        {"id": "aggregator", "path": "keep.Median"},
        COMPONENTS[1],
    ]
    _, spec = migrated_job(
        tmp_path,
        server={"components": components},
        code={
            "keep.py": "class Keeper: ...\nclass Median: ...\n",
            "hello_trainer.py": "class HelloTrainer: ...\n",
        },
    )
    assert spec.workflow.entry == "flare_workflow:workflow"
    text = (tmp_path / "app" / "flare_workflow.py").read_text()
    assert "import flprov.flare.app_common.workflows.scatter_and_gather\nimport keep\n" in text
    assert "controller.add_component(\"persistor\", keep.Keeper(**{'name': 'x'}))" in text


def test_a_program_of_the_job_api_is_not_run_and_the_next_step_is_named(tmp_path):
    (tmp_path / "job.py").write_text("from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe\n")
    with pytest.raises(ConfigError) as caught:
        convert_job(tmp_path)
    assert "job.py makes a FLARE job: let it call export_job" in caught.value.hint
