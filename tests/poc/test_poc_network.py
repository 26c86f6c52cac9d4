# SPDX-License-Identifier: Apache-2.0
"""A network from `up` to `down`, with stand-ins for the processes and everything else real."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace

import fake_flprov
import pytest

from flprov.errors import ConfigError, Conflict, LocalError, NotFound, StateDamaged, TimedOut
from flprov.kits import load_kit
from flprov.pki import Kind
from flprov.poc import Poc, parse_dataset
from flprov.poc import network as poc_network
from flprov.poc.processes import find_commands, mark
from flprov.poc.projectfile import render
from flprov.policy import load_policy, load_site_settings

ALL = ("server", "site-1", "site-2")


def pids(network: Poc) -> dict[str, int | None]:
    return {party.name: party.pid for party in network.state().parties}


def states(network: Poc) -> dict[str, str]:
    return {party.name: party.state for party in network.state().parties}


def test_up_makes_a_network_and_starts_all_of_it(network, starter):
    told = []
    report = network.up(starter(), on_ready=lambda name, seconds: told.append((name, seconds)))
    assert report.created
    assert report.started == ALL
    assert sorted(name for name, _ in told) == sorted(ALL)
    assert all(0 < round(seconds, 3) <= report.ready_after for _, seconds in told)
    assert states(network) == {"server": "serving", "site-1": "connected", "site-2": "connected"}
    assert network.state().state == "running"


def test_every_process_is_on_its_own(network, starter):
    network.up(starter())
    for pid in pids(network).values():
        assert os.getsid(pid) == pid
        assert os.getsid(pid) != os.getsid(0)


def test_the_number_of_sites_can_be_chosen(network, starter):
    assert network.up(starter(), sites=1).started == ("server", "site-1")


def test_the_admin_kit_is_a_project_admins(network, starter, now):
    report = network.up(starter(), sites=1)
    kit = load_kit(network.admin_kit, now=now, kind=Kind.PERSON)
    assert str(network.admin_kit) == report.admin_kit
    assert kit.role.value == "project_admin"


def test_keys_are_for_the_owner_alone(network, starter):
    network.up(starter(), sites=1)
    assert stat.S_IMODE(network.place.folder.stat().st_mode) == 0o700


def test_policies_are_permissive_and_it_says_so(network, starter):
    report = network.up(starter(), sites=1)
    path = network.place.local("site-1") / "policy.yml"
    assert str(path) in report.written
    assert load_policy(path).organisations == {"org-1"}


def test_up_on_a_running_network_changes_nothing(network, starter):
    network.up(starter())
    before = pids(network)
    report = network.up(starter())
    assert report.started == ()
    assert not report.created
    assert report.written == ()
    assert pids(network) == before


def test_up_starts_what_has_ended_and_nothing_else(network, starter):
    network.up(starter())
    before = pids(network)
    os.kill(before["site-1"], signal.SIGKILL)
    wait_for_end(before["site-1"])
    assert network.state().state == "partial"
    assert network.up(starter()).started == ("site-1",)
    after = pids(network)
    assert after["site-1"] != before["site-1"]
    assert {name: after[name] for name in ("server", "site-2")} == {
        name: before[name] for name in ("server", "site-2")
    }


def wait_for_end(pid: int) -> None:
    handle = os.pidfd_open(pid)
    os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)
    os.close(handle)


def test_a_stopped_network_comes_back_with_its_identities_and_files(network, starter):
    network.up(starter())
    kept = {path: path.read_bytes() for path in network.place.workspace.rglob("*.pem")}
    (network.place.local("site-1") / "policy.yml").write_text("allow: {people: [lead]}\n")
    network.down()
    report = network.up(starter())
    assert report.started == ALL
    assert not report.created
    assert report.written == ()
    assert {path: path.read_bytes() for path in network.place.workspace.rglob("*.pem")} == kept
    assert (network.place.local("site-1") / "policy.yml").read_text() == "allow: {people: [lead]}\n"


def test_a_stopped_network_can_grow(network, starter):
    network.up(starter(), sites=1)
    key = (network.place.kit("site-1") / "identity" / "key.pem").read_bytes()
    network.down()
    assert network.up(starter(), sites=3).started == ("server", "site-1", "site-2", "site-3")
    assert (network.place.kit("site-1") / "identity" / "key.pem").read_bytes() == key


def test_a_running_network_does_not_grow(network, starter):
    network.up(starter(), sites=1)
    with pytest.raises(Conflict, match="runs with 1 sites, not 3"):
        network.up(starter(), sites=3)
    assert network.state().state == "running"


def test_a_port_that_was_taken_meanwhile_is_given_up(network, starter, listening):
    network.up(starter(), sites=1)
    network.down()
    network.place.project.write_bytes(render(sites=1, port=listening))
    report = network.up(starter())
    assert not report.endpoint.endswith(f":{listening}")
    assert report.endpoint in network.place.project.read_text()


@pytest.fixture
def listening():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_folder_with_a_project_in_it_is_taken_as_it_is(network, starter):
    network.place.folder.mkdir()
    text = render(sites=1, port=1).decode().replace("name: poc\n", "name: heart-study\n")
    network.place.project.write_text(text.replace(':1"', ':18443"'))
    report = network.up(starter())
    assert report.created
    assert report.project == "heart-study"


def test_a_folder_with_other_things_is_refused(network, starter):
    network.place.folder.mkdir()
    (network.place.folder / "thesis.txt").write_text("mine")
    with pytest.raises(Conflict, match=r"holds other things \(thesis.txt\)"):
        network.up(starter())
    assert sorted(path.name for path in network.place.folder.iterdir()) == ["thesis.txt"]


def test_an_up_that_found_the_disk_full_is_no_hindrance(network, starter, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(network.place), "write", full)
        with pytest.raises(LocalError, match="cannot be used: No space left on device"):
            network.up(starter())
    assert network.up(starter()).started == ALL


def test_a_network_whose_logs_were_tidied_away_starts(network, starter):
    network.up(starter(), sites=1)
    network.down()
    shutil.rmtree(network.place.logs)
    assert network.up(starter()).started == ("server", "site-1")


def test_a_network_that_was_never_provisioned_can_be_deleted(network, starter):
    network.place.folder.mkdir()
    network.place.project.write_text("nmae: x\n")
    with pytest.raises(ConfigError):
        network.up(starter())
    network.down(delete=True)
    assert [path.name for path in network.place.folder.iterdir()] == ["project.yml"]


def test_delete_keeps_a_project_that_somebody_wrote(network, starter):
    network.place.folder.mkdir()
    network.place.project.write_bytes(render(sites=1, port=18443) + b"# mine\n")
    network.up(starter())
    network.down(delete=True)
    assert [path.name for path in network.place.folder.iterdir()] == ["project.yml"]
    assert network.place.project.read_bytes().endswith(b"# mine\n")


def test_a_folder_that_is_a_link_to_itself_is_refused(tmp_path, starter):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LocalError, match="loop cannot be used"):
        Poc(tmp_path / "loop").up(starter())


def test_mistakes_in_an_edited_project_are_named(network, starter):
    network.place.folder.mkdir()
    network.place.project.write_text("nmae: x\n")
    with pytest.raises(ConfigError, match="unknown key 'nmae'"):
        network.up(starter())


def test_datasets_go_to_all_sites_or_to_one(network, starter, tmp_path):
    wanted = [parse_dataset(f"all={tmp_path}"), parse_dataset(f"site-2:one={tmp_path}")]
    network.up(starter(), datasets=wanted)
    found = {
        name: dict(load_site_settings(network.place.local(name) / "site.yml").datasets)
        for name in ("site-1", "site-2")
    }
    assert found == {"site-1": {"all": tmp_path}, "site-2": {"all": tmp_path, "one": tmp_path}}


def test_a_dataset_can_be_added_while_it_runs(network, starter, tmp_path):
    network.up(starter(), sites=1)
    report = network.up(starter(), datasets=[parse_dataset(f"late={tmp_path}")])
    path = network.place.local("site-1") / "site.yml"
    assert report.started == ()
    assert report.written == (str(path),)
    assert dict(load_site_settings(path).datasets) == {"late": tmp_path}


def test_a_dataset_for_a_site_that_is_not_here_is_refused_before_anything_starts(network, starter, tmp_path):
    with pytest.raises(NotFound, match=r"no site site-9 here \(there are: site-1, site-2\)"):
        network.up(starter(), datasets=[parse_dataset(f"site-9:x={tmp_path}")])
    assert network.place.read().processes == {}


def test_when_one_does_not_come_up_none_stays(network, starter):
    with pytest.raises(LocalError) as caught:
        network.up(starter(site_2="die"))
    assert str(caught.value) == (
        "site-2 ended with status 3 before the network was ready; it said:\n"
        "  site site-2 begins\n"
        "  error: something is wrong here"
    )
    assert network.state().state == "stopped"
    assert network.up(starter()).started == ALL


def test_what_ran_before_stays_when_another_does_not_come_up(network, starter):
    network.up(starter())
    before = pids(network)
    os.kill(before["site-2"], signal.SIGKILL)
    wait_for_end(before["site-2"])
    with pytest.raises(LocalError):
        network.up(starter(site_2="die"))
    assert states(network) == {"server": "serving", "site-1": "connected", "site-2": "stopped"}


def test_when_one_says_nothing_it_is_given_up(network, starter):
    with pytest.raises(TimedOut, match=r"not ready after 0\.5 s: site-1"):
        network.up(starter(site_1="silent"), timeout=0.5)
    assert network.state().state == "stopped"


def test_ctrl_c_leaves_no_half_network(network, starter):
    def interrupt(name: str, seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        network.up(starter(), on_ready=interrupt)
    assert network.state().state == "stopped"


def test_a_program_that_is_missing_is_named(network, starter):
    with pytest.raises(LocalError, match="/no/such/flprov could not be started: No such file"):
        network.up(replace(starter(), command=("/no/such/flprov",)))


def test_a_site_that_lost_its_server_is_not_called_connected(network, starter):
    network.up(starter(site_1="lonely"))
    [site] = [party for party in network.state().parties if party.name == "site-1"]
    assert (site.state, site.reason) == ("connecting", "nothing listens")
    assert network.state().state == "partial"


def test_there_is_no_state_of_no_network(network):
    with pytest.raises(NotFound, match="no network"):
        network.state()
    with pytest.raises(NotFound, match="no network"):
        network.down()


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 99}', "[]", '{"format": 1, "processes": {"server": {"pid": "x"}}}']
)
def test_a_damaged_record_is_named(network, starter, text):
    network.up(starter(), sites=1)
    kept = network.place.record.read_bytes()
    network.place.record.write_text(text)
    with pytest.raises(StateDamaged, match=r"network\.json cannot be read"):
        network.state()
    network.place.record.write_bytes(kept)


def test_down_ends_everything_and_keeps_the_data(network, starter):
    network.up(starter())
    numbers = pids(network)
    report = network.down()
    assert report.stopped == ALL
    assert report.killed == ()
    assert report.job_processes == ()
    assert [mark(pid) for pid in numbers.values()] == [None, None, None]
    assert states(network) == dict.fromkeys(ALL, "stopped")
    assert network.place.kit("site-1").is_dir()


def test_down_twice_finds_nothing_to_do(network, starter):
    network.up(starter(), sites=1)
    network.down()
    assert network.down().stopped == ()


def test_what_does_not_end_is_killed_and_named(network, starter):
    network.up(starter(site_1="stubborn"))
    number = pids(network)["site-1"]
    report = network.down(grace=0.2)
    assert report.killed == ("site-1",)
    assert mark(number) is None


def test_what_a_process_left_behind_is_ended(network, starter):
    network.up(starter(site_1="family"), sites=1)
    [child] = children(pids(network)["site-1"])
    report = network.down()
    assert report.job_processes == (child,)
    assert mark(child) is None


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


def test_a_site_that_was_started_by_hand_is_ended_too(network, starter):
    network.up(starter(), sites=1)
    network.down()
    kit = str(network.place.kit("site-1"))
    command = [sys.executable, "-I", "-S", fake_flprov.__file__, "site", "start", kit]
    environment = {**os.environ, "NOTIFY_SOCKET": "@nobody", "FAKE_SITE_1": "silent"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert network.down().stopped == ("site-1",)
        process.wait()


def test_a_number_that_the_kernel_gave_to_another_is_left_alone(network, starter):
    network.up(starter(), sites=1)
    network.down()
    with subprocess.Popen(["sleep", "600"]) as stranger:
        record = json.loads(network.place.record.read_text())
        record["processes"]["server"]["pid"] = stranger.pid
        network.place.record.write_text(json.dumps(record))
        assert states(network)["server"] == "stopped"
        assert network.down().stopped == ()
        assert stranger.poll() is None
        stranger.kill()


def test_delete_removes_what_was_made_and_nothing_else(network, starter):
    network.up(starter(), sites=1)
    (network.place.folder / "notes.txt").write_text("mine")
    assert network.down(delete=True).deleted
    assert [path.name for path in network.place.folder.iterdir()] == ["notes.txt"]


def test_delete_leaves_no_folder_of_its_own(network, starter):
    network.up(starter(), sites=1)
    network.down(delete=True)
    assert not network.place.folder.exists()
    assert not network.place.exists()


def test_two_commands_do_not_work_on_one_network_at_once(network, starter):
    from flprov._base import hold_lock

    network.up(starter(), sites=1)
    with hold_lock(network.place.lock):
        for change in (lambda: network.up(starter()), network.down):
            with pytest.raises(Conflict, match="another `flprov poc` is at work"):
                change()


def test_ctrl_c_in_the_moment_in_which_a_process_starts_ends_that_one_too(network, starter, monkeypatch):
    started = []
    start = poc_network.start_detached

    def start_one(*words, **options):
        started.append(start(*words, **options))
        if len(started) == 2:
            raise KeyboardInterrupt
        return started[-1]

    monkeypatch.setattr(poc_network, "start_detached", start_one)
    with pytest.raises(KeyboardInterrupt):
        network.up(starter())
    assert not any(process.alive for process in started)


def test_what_was_started_by_an_up_that_was_killed_is_taken_down(network, starter, monkeypatch):
    """In its first moment: it has not written down a process, and ends none."""
    started = []
    start = poc_network.start_detached

    def start_one(*words, **options):
        if started:
            raise KeyboardInterrupt
        started.append(start(*words, **options))
        return started[0]

    monkeypatch.setattr(poc_network, "start_detached", start_one)
    monkeypatch.setattr(poc_network, "end_all", lambda _processes, *, grace: None)
    with pytest.raises(KeyboardInterrupt):
        network.up(starter())
    assert started[0].alive
    assert network.down(grace=5).stopped == ("server",)


def test_no_process_of_a_test_is_left(network, starter):
    network.up(starter(), sites=1)
    tail = ["site", "start", str(network.place.kit("site-1"))]
    assert len(find_commands(tail)) == 1
    network.down()
    assert find_commands(tail) == []
