# SPDX-License-Identifier: Apache-2.0
"""The kits' Dockerfile, compose file and Kubernetes manifests: hardened, right, and enough to work.

No test here has a container runtime. What the manifest of Kubernetes says is carried out by bubblewrap:
its mounts, its user, its init container, its command and its probes, on a kit that came as a secret.
`benchmarks/identity/containers.py` has the files judged by hadolint and the published schemas.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kit_parties import PROJECT
from sandboxes import UID, Boxed, BoxedProject, Mount, Sandbox, needs_sandboxes

from flprov.cli import root
from flprov.kits import load_kit, provision
from flprov.project import SiteParty

NAMES = {"server": "server", "hospital-a": "site"}
FILES = ("Dockerfile", "Dockerfile.dockerignore", "compose.yml", "kubernetes.yml")


def text_of(workspace, name, file):
    return (workspace / "kits" / name / "containers" / file).read_text()


def uncommented(text, *keys):
    """The text with the commented blocks that begin with these keys made part of it."""
    for key in keys:
        block = re.search(rf"^( *)# {re.escape(key)}.*\n(\1#  .*\n)*", text, flags=re.MULTILINE)
        assert block, key
        text = text.replace(block[0], re.sub(r"^( *)# ", r"\1", block[0], flags=re.MULTILINE))
    return text


def stateful_set(text):
    [found] = [one for one in yaml.safe_load_all(text) if one["kind"] == "StatefulSet"]
    return found


def pod_of(text):
    return stateful_set(text)["spec"]["template"]["spec"]


def verify_command(words):
    """The words are a command that flprov has, with options that it has."""
    done = CliRunner().invoke(root, [*words, "--help"])
    assert done.exit_code == 0, done.output
    for option in [word for word in words if word.startswith("--")]:
        assert option in done.output


def test_only_kits_of_servers_and_sites_have_containers(workspace):
    for name in ("server", "hospital-a", "hospital-b"):
        assert {path.name for path in (workspace / "kits" / name / "containers").iterdir()} == {*FILES}
    assert not (workspace / "kits/alice/containers").exists()


# ---- Dockerfile --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_kit_and_runs_as_nobody_special(workspace, name):
    lines = text_of(workspace, name, "Dockerfile").splitlines()
    words = [line.split(None, 1) for line in lines if re.match(r"[A-Z]+ ", line)]
    assert [rest for word, rest in words if word in ("COPY", "ADD")] == ["flprov-*.whl /tmp/wheels/"]
    users = [rest for word, rest in words if word == "USER"]
    assert users == [f"{UID}:{UID}"]  # a number: `runAsNonRoot` cannot judge a name
    [(_, start)] = [pair for pair in words if pair[0] == "CMD"]
    assert json.loads(start) == [NAMES[name], "start", f"/flprov/{name}"]
    verify_command(json.loads(start)[:2])


@pytest.mark.parametrize("name", NAMES)
def test_the_builder_is_shown_the_wheel_and_nothing_else(workspace, name):
    rules = [
        line for line in text_of(workspace, name, "Dockerfile.dockerignore").splitlines() if line[0] != "#"
    ]
    assert rules == ["*", "!flprov-*.whl"]


# ---- compose -----------------------------------------------------------------------------------


def service_of(text):
    [service] = yaml.safe_load(text)["services"].values()
    return service


@pytest.mark.parametrize("name", NAMES)
def test_compose_gives_nothing_away(workspace, name):
    service = service_of(text_of(workspace, name, "compose.yml"))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "network_mode", "ipc", "devices"} & service.keys()
    assert re.fullmatch(r"\$\{FLPROV_UID:\?.*\}:\$\{FLPROV_GID:\?.*\}", service["user"])
    assert service["stop_grace_period"] == "120s"
    assert ("ports" in service) == (name == "server")


@pytest.mark.parametrize("name", NAMES)
def test_compose_mounts_the_kit_to_read_and_its_local_folder_to_write(workspace, name):
    service = service_of(text_of(workspace, name, "compose.yml"))
    here = workspace / "kits" / name / "containers"
    kit, local = service["volumes"]
    assert ((here / kit["source"]).resolve(), kit["read_only"]) == (workspace / "kits" / name, True)
    assert (here / local["source"]).resolve() == workspace / "kits" / f"{name}.local"
    assert "read_only" not in local
    assert local["target"] == f"{kit['target']}.local"
    assert service["command"] == [NAMES[name], "start", kit["target"]]
    assert not kit["bind"]["create_host_path"]
    test = service["healthcheck"]["test"]
    assert test == ["CMD", "flprov", NAMES[name], "status", kit["target"], "--health"]
    verify_command(["site", "status", "--health"])


def test_compose_publishes_the_port_that_is_dialled_and_leads_to_the_one_that_listens(tmp_path):
    server = replace(PROJECT.server, endpoints=("a.example:443", "b.example:443", "[::1]:8000"))
    project = replace(PROJECT, server=replace(server, listen="[::]:8443"))
    provision(project, tmp_path, now=datetime(2026, 3, 1, tzinfo=UTC))
    assert service_of(text_of(tmp_path, "server", "compose.yml"))["ports"] == ["443:8443", "8000:8443"]


@pytest.mark.parametrize(
    ("name", "keys", "there"),
    [
        ("hospital-a", ("deploy:",), ("deploy",)),
        ("hospital-a", ("cap_add:",), ("cap_add",)),
        ("server", ("secrets: [",), ("secrets",)),
    ],
)
def test_what_compose_has_in_comments_is_right_when_it_is_uncommented(workspace, name, keys, there):
    service = service_of(uncommented(text_of(workspace, name, "compose.yml"), *keys))
    assert {*there} <= service.keys()


def test_composes_lines_for_gpus_ask_for_gpus(workspace):
    service = service_of(uncommented(text_of(workspace, "hospital-a", "compose.yml"), "deploy:"))
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


# ---- Kubernetes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pods_meet_the_restricted_pod_security_standard(workspace, name):
    pod = pod_of(text_of(workspace, name, "kubernetes.yml"))
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == UID
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds <= {"secret", "emptyDir", "configMap"}


@pytest.mark.parametrize("name", NAMES)
def test_there_is_never_a_second_pod_with_the_same_state(workspace, name):
    spec = stateful_set(text_of(workspace, name, "kubernetes.yml"))["spec"]
    assert spec["replicas"] == 1
    assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["local"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", NAMES)
def test_probes_are_commands_that_flprov_has(workspace, name):
    [container] = pod_of(text_of(workspace, name, "kubernetes.yml"))["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        program, *words = container[probe]["exec"]["command"]
        assert program == "flprov"
        verify_command([word for word in words if not word.startswith("/")])


def test_a_site_that_lost_its_server_is_not_killed_for_it(workspace):
    [site] = pod_of(text_of(workspace, "hospital-a", "kubernetes.yml"))["containers"]
    assert site["livenessProbe"]["exec"]["command"][-1] == "--alive"
    assert site["startupProbe"]["exec"]["command"][-1] == "--alive"
    assert site["readinessProbe"]["exec"]["command"][-1] == "--health"


def test_a_server_that_waits_for_an_admin_is_not_taken_off_the_network_for_it(workspace):
    [server] = pod_of(text_of(workspace, "server", "kubernetes.yml"))["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert server[probe]["exec"]["command"][-1] == "--alive"


def test_the_service_leads_from_the_port_that_is_dialled_to_the_server(workspace):
    service, *_ = yaml.safe_load_all(text_of(workspace, "server", "kubernetes.yml"))
    [port] = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8443, "flprov")
    text = text_of(workspace, "server", "kubernetes.yml")
    assert pod_of(text)["containers"][0]["ports"] == [
        {"name": "flprov", "containerPort": 8443, "protocol": "TCP"}
    ]
    labels = stateful_set(text)["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_names_of_any_length_fit_into_kubernetes_labels(tmp_path):
    long = "a" * 44 + "-" + "b" * 18
    project = replace(PROJECT, sites=(SiteParty(name=long, org="org-a"),))
    provision(project, tmp_path, now=datetime(2026, 3, 1, tzinfo=UTC))
    name = stateful_set(text_of(tmp_path, long, "kubernetes.yml"))["metadata"]["name"]
    assert len(f"{name}-5d4f8c7b9d") <= 63  # the label controller-revision-hash
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)


def test_a_port_below_1024_is_opened_to_who_is_not_root(tmp_path):
    project = replace(PROJECT, server=replace(PROJECT.server, listen="0.0.0.0:443"))
    provision(project, tmp_path, now=datetime(2026, 3, 1, tzinfo=UTC))
    context = pod_of(text_of(tmp_path, "server", "kubernetes.yml"))["securityContext"]
    assert context["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "443"}]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_manifests_have_in_comments_is_right_when_it_is_uncommented(workspace, name):
    text = uncommented(text_of(workspace, name, "kubernetes.yml"), "resources:")
    [container] = pod_of(text)["containers"]
    assert {"requests", "limits"} == container["resources"].keys()
    if name == "hospital-a":
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    extra = "- {name: data," if name == "hospital-a" else "- {name: ca,"
    pod = pod_of(uncommented(text, f"{extra} mountPath", extra))
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    claimed = {"local"}
    assert mounted <= claimed | {volume["name"] for volume in pod["volumes"]}
    assert extra.split()[2].rstrip(",") in mounted


# ---- from the secret to a job ------------------------------------------------------------------


class Cluster:
    """Carries out one manifest: volumes as folders, containers as sandboxes."""

    def __init__(self, project: BoxedProject, name: str) -> None:
        self.project, self.name = project, name
        text = (project.kit(name) / "containers/kubernetes.yml").read_text()
        self.pod = pod_of(text)
        [self.container] = self.pod["containers"]
        self.folder = project.folder / f"cluster-{name}"
        self.volumes = {"local": self._make("local")}
        for volume in self.pod["volumes"]:
            self.volumes[volume["name"]] = self._make(volume["name"])
        self._fill_secret(text)
        for file in ("policy.yml", "site.yml"):
            if "own" in self.volumes:
                shutil.copy(project.local(name) / file, self.volumes["own"])
                (self.volumes["local"] / file).touch()  # the runtime makes what a mount covers

    def _make(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True)
        return path

    def _fill_secret(self, text: str) -> None:
        """By the line that stands in the manifest; a mounted secret is a link into a hidden folder."""
        [line] = re.findall(r"^#  +(tar .*kubectl create secret.*)$", text, flags=re.MULTILINE)
        command, _, create = line.partition(" | kubectl ")
        [(file, source)] = re.findall(r"--from-file=([^= ]+)=(\S+)", create)
        assert source == "/dev/stdin"
        made = subprocess.run(
            ["sh", "-c", command], cwd=self.project.kits, capture_output=True, check=True, timeout=20
        )
        hidden = self.volumes["secret"] / "..data"
        hidden.mkdir()
        (hidden / file).write_bytes(made.stdout)
        (hidden / file).chmod(0o440)
        (self.volumes["secret"] / file).symlink_to(f"..data/{file}")

    def sandbox(self, container: dict[str, object]) -> Sandbox:
        mounts, scratch = [], []
        kinds = {volume["name"]: volume for volume in self.pod["volumes"]}
        for mount in container["volumeMounts"]:
            name, target = mount["name"], mount["mountPath"]
            if "emptyDir" in kinds.get(name, {}) and name != "kits":
                scratch.append(target)
                continue
            source = self.volumes[name] / mount.get("subPath", "")
            mounts.append(Mount(source=source, target=target, read_only=mount.get("readOnly", False)))
        return Sandbox(mounts=mounts, scratch=scratch)

    def unpack(self) -> subprocess.CompletedProcess[str]:
        """The init container."""
        [container] = self.pod["initContainers"]
        return self.sandbox(container).run(*container["command"])

    def start(self) -> Boxed:
        init = shutil.which("tini")  # the image's entry point; without one, flprov is process 1 itself
        before = [init, "--"] if init else []
        return self.project.start(
            self.name, self.sandbox(self.container), [*before, "flprov", *self.container["args"]]
        )

    def probe(self, which: str) -> int:
        return self.sandbox(self.container).run(*self.container[which]["exec"]["command"]).returncode


@pytest.fixture
def boxed_project(tmp_path):
    project = BoxedProject(tmp_path)
    yield project
    project.close()


@needs_sandboxes
def test_the_init_container_gives_the_kit_the_owner_and_modes_that_a_kit_must_have(boxed_project):
    cluster = Cluster(boxed_project, "hospital-a")
    old = os.umask(0)
    try:
        assert cluster.unpack().stderr == ""
    finally:
        os.umask(old)
    unpacked = cluster.volumes["kits"] / "hospital-a"
    assert (unpacked / "identity/key.pem").stat().st_mode & 0o777 == 0o600
    assert load_kit(unpacked, now=datetime.now(UTC)).name == "hospital-a"
    shown = cluster.sandbox(cluster.container).run("flprov", "kit", "verify", "/flprov/hospital-a")
    assert (shown.returncode, shown.stdout[:4]) == (0, "good")


@needs_sandboxes
def test_a_secret_that_is_mounted_as_the_kit_itself_would_be_refused(boxed_project):
    """Why there is an init container: the kit's files would be links that everybody can read."""
    cluster = Cluster(boxed_project, "hospital-a")
    linked = cluster.folder / "linked"
    shutil.copytree(boxed_project.kit("hospital-a"), linked / "..data")
    (linked / "kit").mkdir()
    for path in (linked / "..data").iterdir():
        (linked / "kit" / path.name).symlink_to(f"../..data/{path.name}")
    sandbox = Sandbox(mounts=[Mount(source=linked, target="/flprov")])
    done = sandbox.run("flprov", "kit", "verify", "/flprov/kit")
    assert done.returncode == 3
    assert "symbolic link" in done.stderr


@needs_sandboxes
@pytest.mark.network
def test_from_the_secret_to_a_job_as_the_manifests_say(boxed_project):
    server, site = Cluster(boxed_project, "server"), Cluster(boxed_project, "hospital-a")
    for cluster in (server, site):
        done = cluster.unpack()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.probe("livenessProbe") == 4  # nothing runs yet
    running = server.start()
    running.wait_ready()
    assert {server.probe(which) for which in ("startupProbe", "livenessProbe", "readinessProbe")} == {0}
    agent = site.start()
    agent.wait_ready()
    assert {site.probe("livenessProbe"), site.probe("readinessProbe")} == {0}
    assert boxed_project.run_a_job() == "completed after 2 rounds"
    assert running.stop() == 0
    assert server.probe("livenessProbe") == 4
    assert site.probe("livenessProbe") == 0  # it goes on trying
    assert agent.stop() == 0
