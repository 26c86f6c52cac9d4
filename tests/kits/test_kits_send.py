# SPDX-License-Identifier: Apache-2.0
"""Kits over SSH to real sshds: whole or untouched whatever is cut, and nothing to a host without a pin."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT, contents, with_endpoints
from ssh_hosts import Host, make_key, needs_sshd, running_hosts

from flprov.errors import (
    Conflict,
    IdentityRefused,
    KitRefused,
    Misuse,
    NotFound,
    PermissionRefused,
    RemoteError,
    Unavailable,
)
from flprov.kits import Access, DeliveryOutcome, Destination, Service, deliver, load_kit, provision
from flprov.kits.ssh import connect, load_keys
from flprov.pki import fingerprint

pytestmark = needs_sshd
LATER = NOW + timedelta(days=1)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with running_hosts(tmp_path_factory.mktemp("hosts")) as host:
        yield host


@pytest.fixture(scope="module")
def shared(hosts) -> Host:
    """A host that tests share; each has folders of its own."""
    return hosts()


@pytest.fixture
def host(shared):
    shared.cut_after = None
    shared.log.write_bytes(b"")
    yield shared
    shared.cut_after = None


@pytest.fixture
def there(tmp_path) -> Path:
    """The folder at the host that kits go to."""
    folder = tmp_path / "srv"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def moved(provisioned, tmp_path_factory) -> Path:
    """A workspace whose kits are newer: the server's address changed a day later. Not to be changed."""
    folder = tmp_path_factory.mktemp("moved") / "workspace"
    shutil.copytree(provisioned, folder)
    provision(with_endpoints("elsewhere.heart.example:443"), folder, now=LATER)
    return folder


def quiet(destination, what, done, total):
    pass


def send(hosts, *destinations, access=None, progress=quiet, **options):
    access = access or Access(key_files=(hosts.key,), use_agent=False)
    return deliver(destinations, access, now=LATER, progress=progress, **options)


def sent(hosts, *arguments, **options):
    """The one delivery, which succeeded."""
    (delivery,) = send(hosts, *arguments, **options)
    if delivery.error:
        raise delivery.error
    return delivery


def failed(hosts, *arguments, **options):
    """The error of the one delivery, which failed."""
    (delivery,) = send(hosts, *arguments, **options)
    assert delivery.error is not None
    assert delivery.outcome is DeliveryOutcome.FAILED
    return delivery.error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole(folder: Path, *kits: Path) -> Path:
    """Which of `kits` is in `folder`, to the byte; it passes every check."""
    load_kit(folder, now=LATER)
    return next(kit for kit in kits if contents(kit) == contents(folder))


# ---- a kit arrives -----------------------------------------------------------------------------


def test_a_kit_arrives_whole_with_its_modes_and_nothing_beside_it(hosts, host, there, kit):
    delivery = sent(hosts, host.destination(kit, there))
    assert delivery.outcome is DeliveryOutcome.DELIVERED
    assert delivery.path == f"{there}/hospital-a"
    assert delivery.sent == sum(len(data) for data in contents(kit).values())
    assert names(there) == ["hospital-a"]
    whole(there / "hospital-a", kit)
    assert stat.S_IMODE((there / "hospital-a").stat().st_mode) == 0o700
    assert stat.S_IMODE((there / "hospital-a/identity/key.pem").stat().st_mode) == 0o600
    assert os.access(there / "hospital-a/start.sh", os.X_OK)


def test_the_key_is_private_from_its_first_byte_on(hosts, host, there, kit):
    seen = []

    def watch(destination, what, done, total):
        for partial in there.glob(".hospital-a.*.partial"):
            key = partial / "identity/key.pem"
            if key.exists():
                seen.append((stat.S_IMODE(partial.stat().st_mode), stat.S_IMODE(key.stat().st_mode)))

    sent(hosts, host.destination(kit, there), progress=watch)
    assert set(seen) == {(0o700, 0o600)}


def test_the_same_kit_again_is_not_sent_again(hosts, host, there, kit):
    sent(hosts, host.destination(kit, there))
    again = sent(hosts, host.destination(kit, there))
    assert (again.outcome, again.sent) == (DeliveryOutcome.UNCHANGED, 0)


def test_folders_that_are_missing_are_made(hosts, host, there, kit):
    sent(hosts, host.destination(kit, there / "a/b"))
    whole(there / "a/b/hospital-a", kit)


@pytest.mark.parametrize(("way", "moves"), [("exchange", 1), ("two mv", 2), ("only SFTP", 0)])
def test_a_newer_kit_replaces_the_old_one_and_leaves_the_hosts_own_files(
    hosts, there, kit, moved, tmp_path, way, moves
):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/sh")
    scripts = {"mv": f'echo "$@" >> {tmp_path}/moves\nexec {shutil.which("mv")} "$@"\n'}
    if way == "exchange":
        scripts["python3"] = f'exec {sys.executable} "$@"\n'
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}")
        (programs / name).chmod(0o755)
    host = hosts(path=programs, lines="ForceCommand internal-sftp\n" * (way == "only SFTP"))
    sent(hosts, host.destination(kit, there))
    (there / "hospital-a.local").mkdir()
    (there / "hospital-a.local/policy.yml").write_text("mine")
    delivery = sent(hosts, host.destination(moved / "kits/hospital-a", there))
    assert delivery.outcome is DeliveryOutcome.REPLACED
    assert names(there) == ["hospital-a", "hospital-a.local"]
    assert (there / "hospital-a.local/policy.yml").read_text() == "mine"
    whole(there / "hospital-a", moved / "kits/hospital-a")
    made = (tmp_path / "moves").read_text().splitlines() if moves else []
    assert len(made) == moves


def test_a_damaged_kit_is_put_right(hosts, host, there, kit):
    sent(hosts, host.destination(kit, there))
    (there / "hospital-a/kit.yml").write_text("changed")
    assert sent(hosts, host.destination(kit, there)).outcome is DeliveryOutcome.REPLACED
    whole(there / "hospital-a", kit)


def test_a_new_kit_belongs_to_whom_the_old_one_belonged_to(hosts, host, there, kit, moved):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    sent(hosts, host.destination(kit, there))
    for path in [there / "hospital-a", *(there / "hospital-a").rglob("*")]:
        os.chown(path, 4711, 4712)
    sent(hosts, host.destination(moved / "kits/hospital-a", there))
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (there / "hospital-a").rglob("*")}
    assert owners == {(4711, 4712)}


# ---- what is not overwritten -------------------------------------------------------------------


def test_an_older_kit_does_not_replace_a_newer_one(hosts, host, there, kit, moved):
    sent(hosts, host.destination(moved / "kits/hospital-a", there))
    error = failed(hosts, host.destination(kit, there))
    assert isinstance(error, Conflict)
    assert "after the one that was to be sent" in str(error)
    whole(there / "hospital-a", moved / "kits/hospital-a")


def test_the_kit_of_another_project_is_not_replaced(hosts, host, there, kit, tmp_path):
    provision(replace(PROJECT, name="lung", trust_domain="lung.example"), tmp_path / "lung", now=NOW)
    sent(hosts, host.destination(tmp_path / "lung/kits/hospital-a", there))
    assert "of another project (lung" in str(failed(hosts, host.destination(kit, there)))
    whole(there / "hospital-a", tmp_path / "lung/kits/hospital-a")


@pytest.mark.parametrize("thing", ["folder", "file", "link"])
def test_what_is_no_kit_is_not_replaced(hosts, host, there, kit, tmp_path, thing):
    place = there / "hospital-a"
    if thing == "folder":
        place.mkdir()
        (place / "thesis.tex").write_text("years")
    elif thing == "file":
        place.write_text("years")
    else:
        shutil.copytree(kit, tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    error = failed(hosts, host.destination(kit, there))
    assert isinstance(error, Conflict)
    assert "is not overwritten" in str(error)
    assert names(there) == ["hospital-a"]


def test_files_that_somebody_put_into_a_kit_are_not_thrown_away(hosts, host, there, kit, moved):
    sent(hosts, host.destination(kit, there))
    (there / "hospital-a/policy.yml").write_text("mine")
    error = failed(hosts, host.destination(moved / "kits/hospital-a", there))
    assert "holds what is not part of the kit: policy.yml" in str(error)
    assert (there / "hospital-a/policy.yml").read_text() == "mine"


def test_a_folder_that_everybody_may_write_to_is_refused(hosts, host, there, kit):
    there.chmod(0o777)
    assert "everybody at that host may write" in str(failed(hosts, host.destination(kit, there)))
    there.chmod(0o1777)  # as /tmp: nobody can move what is somebody else's
    sent(hosts, host.destination(kit, there))


def test_a_kit_that_was_changed_is_refused_before_anybody_is_dialled(hosts, host, there, kit):
    (kit / "kit.yml").write_text("changed")
    dialled = host.connections
    assert isinstance(failed(hosts, host.destination(kit, there)), KitRefused)
    assert isinstance(failed(hosts, host.destination(kit / "nothing", there)), NotFound)
    assert host.connections == dialled


# ---- the host's key ----------------------------------------------------------------------------


def nothing_was_shown_to(host: Host) -> bool:
    """Whether its sshd saw a key exchange at most, and no attempt to log in."""
    host.close()
    log = host.log.read_text()
    return "Local version string" in log and "userauth" not in log.replace("ssh-userauth", "")


def test_a_host_that_nobody_pinned_gets_neither_a_login_nor_a_file(hosts, there, kit, tmp_path):
    host = hosts()
    error = failed(hosts, host.destination(kit, there, pinned=False))
    assert isinstance(error, IdentityRefused)
    printed = subprocess.run(
        ["ssh-keygen", "-lf", host.keys[0].with_suffix(".pub")], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split()[1] in str(error)
    assert f"--host-key '{host.public_key}'" in error.hint
    assert nothing_was_shown_to(host)
    assert names(there) == []


def test_a_host_with_another_key_gets_neither_a_login_nor_a_file(hosts, host, there, kit):
    other = hosts()
    wrong = replace(other.login(), keys=host.login().keys)
    error = failed(hosts, Destination(kit=kit, login=wrong, folder=str(there)))
    assert isinstance(error, IdentityRefused)
    assert "pinned in what was asked for is ssh-ed25519 SHA256:" in str(error)
    assert nothing_was_shown_to(other)
    assert names(there) == []


def test_known_hosts_pin_and_revoke(hosts, host, there, kit, tmp_path):
    known = tmp_path / "known_hosts"
    access = Access(key_files=(hosts.key,), use_agent=False, known_hosts=(known,))
    known.write_text(f"[127.0.0.1]:{host.port} {host.public_key}\n")
    sent(hosts, host.destination(kit, there, pinned=False), access=access)
    known.write_text(known.read_text() + f"@revoked * {host.public_key}\n")
    for pinned in (True, False):
        error = failed(hosts, host.destination(kit, there, pinned=pinned), access=access)
        assert "marks as revoked" in str(error)


def test_a_host_with_several_keys_is_asked_for_the_pinned_one(hosts, there, kit):
    host = hosts(kinds=("rsa", "ed25519", "ecdsa"))
    sent(hosts, host.destination(kit, there))  # pinned is the RSA key, which nobody would choose first


# ---- logging in --------------------------------------------------------------------------------


def test_a_stranger_is_not_let_in(hosts, host, there, kit, tmp_path):
    stranger = make_key(tmp_path / "stranger")
    error = failed(hosts, host.destination(kit, there), access=Access(key_files=(stranger,), use_agent=False))
    assert isinstance(error, PermissionRefused)
    assert "tried: key file" in str(error)
    assert names(there) == []


def test_a_key_with_a_passphrase_is_opened_by_asking(hosts, there, kit, tmp_path):
    locked = make_key(tmp_path / "locked", passphrase="open sesame")
    host = Host(tmp_path / "host", locked)
    try:
        asked = []

        def answer(question):
            asked.append(question)
            return "open sesame"

        sent(
            hosts,
            host.destination(kit, there),
            access=Access(key_files=(locked,), use_agent=False, ask=answer),
        )
        assert asked == [f"Passphrase of {locked}"]
        access = Access(key_files=(locked,), use_agent=False, ask=lambda question: "wrong")
        with pytest.raises(Misuse, match="does not open"):
            send(hosts, host.destination(kit, there), access=access)
        with pytest.raises(Misuse, match="there is no terminal"):
            send(hosts, host.destination(kit, there), access=Access(key_files=(locked,)))
    finally:
        host.close()


def test_a_file_that_is_no_key_is_named(hosts, host, there, kit, tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(Misuse, match="cannot be read as an SSH private key"):
        send(hosts, host.destination(kit, there), access=Access(key_files=(tmp_path / "text",)))
    with pytest.raises(NotFound):
        send(hosts, host.destination(kit, there), access=Access(key_files=(tmp_path / "nothing",)))


def test_keys_of_the_agent_open(hosts, host, there, kit, tmp_path, monkeypatch):
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed here")
    address = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", address], stdout=subprocess.PIPE, text=True)
    try:
        assert address in agent.stdout.readline()  # it listens
        monkeypatch.setenv("SSH_AUTH_SOCK", address)
        shut = failed(hosts, host.destination(kit, there), access=Access())
        assert "there was no key to try" in str(shut)
        subprocess.run(["ssh-add", "-q", hosts.key], check=True)
        sent(hosts, host.destination(kit, there), access=Access())
    finally:
        agent.terminate()
        agent.communicate()


def test_through_a_jump_host_that_is_pinned_too(hosts, host, there, kit):
    jump, other = hosts(), hosts()
    through = replace(host.destination(kit, there), jumps=(jump.login(),))
    sent(hosts, through)
    assert jump.connections == 1
    before = host.connections
    wrong = replace(through, jumps=(replace(other.login(), keys=host.login().keys),))
    assert isinstance(failed(hosts, wrong), IdentityRefused)
    assert host.connections == before
    assert nothing_was_shown_to(other)


def test_a_host_behind_a_jump_host_is_verified_itself(hosts, host, there, kit):
    jump, other = hosts(), hosts()
    login = replace(other.login(), keys=host.login().keys)
    through = Destination(kit=kit, login=login, folder=str(there), jumps=(jump.login(),))
    assert isinstance(failed(hosts, through), IdentityRefused)
    assert nothing_was_shown_to(other)


def test_hosts_that_cannot_be_reached(hosts, host, there, kit, tmp_path):
    gone = Host(tmp_path / "gone", hosts.key)
    gone.close()
    login = replace(host.login(), port=1)
    for error in (
        failed(hosts, Destination(kit=kit, login=login, folder=str(there))),
        failed(hosts, Destination(kit=kit, login=login, folder=str(there), jumps=(host.login(),))),
        failed(hosts, Destination(kit=kit, login=replace(login, host="nowhere.invalid"), folder="")),
    ):
        assert isinstance(error, Unavailable)


# ---- cuts --------------------------------------------------------------------------------------


def test_a_line_that_is_cut_anywhere_leaves_the_old_kit_or_the_new_one(hosts, host, there, kit, moved):
    """The relay cuts after ever more bytes; each run goes on where the one before was cut."""
    new = moved / "kits/hospital-a"
    sent(hosts, host.destination(kit, there))
    kept, outcomes = [], []
    for cut in [600, 3_000, *range(5_000, 60_000, 2_500)]:
        host.cut_after = cut
        (delivery,) = send(hosts, host.destination(new, there))
        found = whole(there / "hospital-a", kit, new)
        outcomes.append(delivery.outcome)
        if delivery.error is None:
            break
        assert isinstance(delivery.error, Unavailable), delivery.error
        assert found == kit or cut > 5_000
        assert all(name.startswith((".hospital-a.", "hospital-a")) for name in names(there))
        kept.append(sum(1 for path in there.glob(".hospital-a.*.partial/**/*") if path.is_file()))
    assert len(outcomes) > 3
    assert max(kept) > 0
    host.cut_after = None
    sent(hosts, host.destination(new, there))
    whole(there / "hospital-a", new)
    assert names(there) == ["hospital-a"]


def killing(host: Host, stage: str, *, after: int = 0):
    """A progress that kills the host's sshd once, when `stage` has passed so many bytes."""
    done_to = []

    def watch(destination, what, done, total):
        if what == stage and done >= after and not done_to:
            done_to.append(what)
            host.kill()

    return watch


def test_an_upload_that_was_killed_is_taken_up_again(hosts, there, kit):
    host = hosts()
    size = sum(len(data) for data in contents(kit).values())
    error = failed(hosts, host.destination(kit, there), progress=killing(host, "uploading", after=size // 2))
    assert isinstance(error, Unavailable)
    assert "run the same command again" in error.hint
    (partial,) = there.iterdir()
    assert partial.name.startswith(".hospital-a.")
    assert partial.name.endswith(".partial")
    arrived = contents(partial)
    delivery = sent(hosts, host.destination(kit, there))
    assert delivery.kept >= len(arrived) - 1 > 0
    assert delivery.sent < size
    assert names(there) == ["hospital-a"]
    whole(there / "hospital-a", kit)


@pytest.mark.parametrize("stage", ["verifying", "putting into place"])
def test_a_kill_near_the_end_leaves_the_old_kit_whole(hosts, there, kit, moved, stage):
    host = hosts()
    sent(hosts, host.destination(kit, there))
    new = host.destination(moved / "kits/hospital-a", there)
    assert isinstance(failed(hosts, new, progress=killing(host, stage)), Unavailable)
    assert whole(there / "hospital-a", kit, new.kit) == kit
    assert sent(hosts, new).sent == 0  # all was there


def test_what_arrived_torn_or_changed_is_sent_again(hosts, host, there, kit):
    sent(hosts, host.destination(kit, there))
    partial = there / f".hospital-a.{'0' * 16}.partial"
    (there / "hospital-a").rename(partial)
    (partial / "kit.yml").write_bytes((partial / "kit.yml").read_bytes()[:-3] + b"???")
    (partial / "start.sh").write_bytes(b"")
    (partial / "stray").write_text("?")
    delivery = sent(hosts, host.destination(kit, there))
    assert delivery.kept == len(contents(kit)) - 2
    whole(there / "hospital-a", kit)


def test_a_partial_that_others_can_write_to_is_not_used(hosts, host, there, kit):
    shutil.copytree(kit, there / f".hospital-a.{'0' * 16}.partial")
    (there / f".hospital-a.{'0' * 16}.partial").chmod(0o777)
    assert sent(hosts, host.destination(kit, there)).kept == 0
    whole(there / "hospital-a", kit)


def test_a_cut_between_two_renames_is_undone_before_anything_else(hosts, host, there, kit, moved):
    old = there / f".hospital-a.{'0' * 16}.old"
    shutil.copytree(kit, old)
    wrong = replace(host.login(), keys=())
    assert failed(hosts, Destination(kit=kit, login=wrong, folder=str(there)))
    new = moved / "kits/hospital-a"
    with_kill = killing(host, "uploading")
    assert failed(hosts, host.destination(new, there), progress=with_kill)
    whole(there / "hospital-a", kit)
    sent(hosts, host.destination(new, there))
    assert names(there) == ["hospital-a"]


def test_two_who_send_at_once_leave_one_whole_kit(hosts, host, there, kit, tmp_path):
    twin = tmp_path / "twin/hospital-a"
    shutil.copytree(kit, twin)
    found = send(hosts, *(host.destination(path, there) for path in (kit, twin, kit, twin)))
    assert any(delivery.error is None for delivery in found)
    whole(there / "hospital-a", kit)
    sent(hosts, host.destination(kit, there))
    assert names(there) == ["hospital-a"]


def test_a_host_that_does_not_let_us_write(hosts, host, there, kit):
    (there / "file").write_text("")
    error = failed(hosts, host.destination(kit, there / "file/below"))
    assert isinstance(error, RemoteError | Conflict)


# ---- many --------------------------------------------------------------------------------------


def test_names_at_the_host_that_are_no_utf8_are_in_nobodys_way(hosts, host, there, kit, moved):
    latin = os.fsdecode(b"M\xfcller.txt")
    (there / latin).write_text("somebody's")
    sent(hosts, host.destination(kit, there))
    assert sent(hosts, host.destination(moved / "kits/hospital-a", there)).outcome is DeliveryOutcome.REPLACED
    assert names(there) == sorted([latin, "hospital-a"])
    (there / "hospital-a" / latin).write_text("somebody's")
    error = failed(hosts, host.destination(kit, there))
    assert isinstance(error, Conflict)


def test_a_folder_with_more_names_than_anybody_has_is_not_read_to_its_end(
    hosts, host, there, kit, monkeypatch
):
    monkeypatch.setattr("flprov.kits.ssh._MOST_NAMES", 5)
    for number in range(6):
        (there / f"own-{number}").touch()
    assert "holds more than 5 names" in str(failed(hosts, host.destination(kit, there)))


def test_a_login_that_prints_is_named_and_disturbs_no_other_delivery(hosts, host, there, kit):
    talkative = hosts(lines="ForceCommand echo Welcome to gpu1\n")
    bad, good = send(hosts, talkative.destination(kit, there), host.destination(kit, there))
    assert isinstance(bad.error, RemoteError)
    assert "Garbage packet" in str(bad.error)
    assert "prints" in bad.error.hint
    assert good.outcome is DeliveryOutcome.DELIVERED


def test_twenty_hosts_one_failing_and_one_cut(hosts, host, there, kit, moved):
    new = moved / "kits/hospital-a"
    others = [host, hosts(), hosts()]
    stranger, cut = hosts(), hosts()
    sent(hosts, cut.destination(kit, there / "cut"))
    cut.cut_after = 15_000
    good = [others[n % 3].destination(new, there / f"host-{n}") for n in range(18)]
    refused = Destination(
        kit=new, login=replace(stranger.login(), keys=host.login().keys), folder=f"{there}/no"
    )
    everything = [*good[:9], refused, cut.destination(new, there / "cut"), *good[9:]]
    ended = []
    found = send(hosts, *everything, done=ended.append)
    assert sorted(map(id, ended)) == sorted(map(id, found))
    assert [delivery.destination for delivery in found] == everything
    assert [type(delivery.error) for delivery in found if delivery.error] == [IdentityRefused, Unavailable]
    for n in range(18):
        whole(there / f"host-{n}/hospital-a", new)
        assert names(there / f"host-{n}") == ["hospital-a"]
    assert not (there / "no").exists()
    whole(there / "cut/hospital-a", kit)


# ---- the service -------------------------------------------------------------------------------


@pytest.fixture
def machine(hosts, tmp_path):
    """A host whose `systemctl` writes down what it was told, and whose flprov is a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script = '#!/bin/sh\necho "$@" >> {log}\ntest "$1" != is-active || test ! -e {log}.dead\n'
    (programs / "systemctl").write_text(script.format(log=tmp_path / "systemctl.log"))
    (programs / "flprov").write_text("#!/bin/sh\n")
    for path in programs.iterdir():
        path.chmod(0o755)
    host = hosts(path=f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")
    host.service = Service(
        user=os.environ.get("USER", "root") if os.geteuid() else "root",
        program=str(programs / "flprov"),
        unit_folder=str(tmp_path),
    )
    return host


@pytest.fixture
def only_root():
    if os.geteuid() != 0:
        pytest.skip("installing a service takes root at the host")


def test_the_service_is_installed_and_started_when_asked(hosts, machine, there, kit, tmp_path, only_root):
    sent(hosts, machine.destination(kit, there))
    assert not (tmp_path / "systemctl.log").exists()
    delivery = sent(hosts, machine.destination(kit, there), service=machine.service)
    assert delivery.service == "installed"
    log = (tmp_path / "systemctl.log").read_text().splitlines()
    assert log == ["daemon-reload", "enable flprov-site.service"]
    unit = (tmp_path / "flprov-site.service").read_text()
    for line in (
        f"ExecStart={there}/hospital-a/start.sh",
        f"ReadWritePaths={there}/hospital-a.local",
        f"WorkingDirectory={there}/hospital-a.local",
        f"Environment=FLPROV_BIN={tmp_path}/bin/flprov",
        "User=root",
    ):
        assert line in unit.splitlines()
    assert "/srv/flprov" not in unit.split("[Unit]")[1]
    assert (there / "hospital-a.local").is_dir()
    started = sent(hosts, machine.destination(kit, there), service=replace(machine.service, start=True))
    assert started.service == "started"
    assert "restart flprov-site.service" in (tmp_path / "systemctl.log").read_text()


def test_a_service_that_does_not_start_is_said_and_the_kit_stays(
    hosts, machine, there, kit, tmp_path, only_root
):
    (tmp_path / "systemctl.log.dead").touch()
    service = replace(machine.service, start=True)
    (delivery,) = send(hosts, machine.destination(kit, there), service=service)
    assert "is installed and did not start" in str(delivery.error)
    assert delivery.outcome is DeliveryOutcome.DELIVERED
    whole(there / "hospital-a", kit)


def test_the_service_of_another_kit_is_left_alone(hosts, machine, there, kit, tmp_path, only_root):
    (tmp_path / "flprov-site.service").write_text("ExecStart=/elsewhere/start.sh\n")
    (delivery,) = send(hosts, machine.destination(kit, there), service=machine.service)
    assert isinstance(delivery.error, Conflict)
    assert (tmp_path / "flprov-site.service").read_text() == "ExecStart=/elsewhere/start.sh\n"


def test_a_host_without_flprov_gets_no_service(hosts, machine, there, kit, tmp_path, only_root):
    service = replace(machine.service, program="/nowhere/flprov")
    (delivery,) = send(hosts, machine.destination(kit, there), service=service)
    assert "there is no /nowhere/flprov" in str(delivery.error)
    assert not (tmp_path / "flprov-site.service").exists()


@pytest.mark.parametrize(
    ("change", "name"),
    [({}, "alice"), ({"program": "flprov; reboot"}, "hospital-a"), ({"user": "a b"}, "hospital-a")],
)
def test_a_service_that_cannot_be_is_refused_before_anything_is_sent(
    hosts, host, there, workspace, change, name
):
    dialled = host.connections
    service = replace(Service(), **change)
    error = failed(hosts, host.destination(workspace / "kits" / name, there), service=service)
    assert isinstance(error, Misuse)
    assert host.connections == dialled


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("exec >&- 2>&-; sleep 30", Unavailable, "ended while asking"),
        ("yes | head -c 10000000", RemoteError, "says more than 64 KiB"),
    ],
)
def test_a_command_that_neither_speaks_nor_ends_is_not_waited_for(
    hosts, host, monkeypatch, script, error, said
):
    monkeypatch.setattr("flprov.kits.ssh._SILENCE_SECONDS", 0.5)
    access = Access(key_files=(hosts.key,), use_agent=False)
    with connect(host.login(), (), access, load_keys(access), opened=lambda _: None) as link:
        with pytest.raises(error, match=said), link.told("asking"):
            link.run(script)
        assert link.run("exec >&- 2>&-; sleep 0.1; exit 3").code == 3


def test_the_root_that_arrives_is_the_root_that_was_sent(hosts, host, there, kit):
    sent(hosts, host.destination(kit, there))
    ours, theirs = (load_kit(path, now=NOW) for path in (kit, there / "hospital-a"))
    assert fingerprint(ours.anchors["root"].pem) == fingerprint(theirs.anchors["root"].pem)
    assert json.loads((there / "hospital-a/manifest.json").read_text())["name"] == "hospital-a"
