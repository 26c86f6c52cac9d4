# SPDX-License-Identifier: Apache-2.0
"""The rules themselves: the seccomp program on both architectures, Landlock on old kernels, the view."""

import errno
import json
import re
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flprov import errors
from flprov.testing.launcher_conformance import order_for
from flprov.workers import landlock, seccomp
from flprov.workers.bubblewrap import bubblewrap_command
from flprov.workers.gpus import gpu_devices
from flprov.workers.interpreter import interpreter_folders
from flprov.workers.view import plan_view

ROOT = Path(__file__).resolve().parents[2]

# ---- the seccomp program, run by an interpreter of our own -------------------------------------

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
ALLOW, ASK = 0x7FFF0000, 0x7FC00000


def verdict(program: bytes, number: int, architecture: int, arguments=()) -> int:
    """What a seccomp program answers, by the rules of classic BPF."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(value & (1 << 64) - 1 for value in padded))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, position = 0, 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: accumulator & value != 0}
            position += if_true if holds[operation] else if_false


def refused(code: int) -> int:
    return 0x00050000 | code


@pytest.fixture(params=MACHINES)
def ask(request):
    """Asks the full program of one architecture about a call by name."""
    column, architecture = MACHINES[request.param]
    program = seccomp.program(ask_connect=True, files=True, truncate=True, machine=request.param)

    def ask(name, *arguments):
        number = seccomp._NUMBERS[name][column]
        if number is None:
            pytest.skip(f"{request.param} has no {name}")
        return verdict(program, number, architecture, arguments)

    ask.number = lambda number: verdict(program, number, architecture)
    ask.foreign = lambda other: verdict(program, 0, other)
    return ask


STREAM, DATAGRAM, PACKETS = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


@pytest.mark.parametrize("name", ["socket", "socketpair"])
def test_only_unix_sockets_with_connections(ask, name):
    for kind in (STREAM, PACKETS, STREAM | FLAGS):
        assert ask(name, socket.AF_UNIX, kind) == ALLOW
    for family in (*range(46), 0xFFFFFFFF):
        for kind in (STREAM, DATAGRAM, socket.SOCK_RAW, PACKETS, 0, 10):
            if (family, kind) not in ((1, STREAM), (1, PACKETS)):
                assert ask(name, family, kind) == refused(errno.EACCES)


def test_upper_half_of_an_argument_changes_nothing(ask):
    """The kernel reads these arguments as 32 bits, so the filter must look at the same 32."""
    high = 1 << 32
    assert ask("socket", high | socket.AF_INET, STREAM) == refused(errno.EACCES)
    assert ask("socket", high | socket.AF_UNIX, high | DATAGRAM) == refused(errno.EACCES)
    assert ask("clone", high | 0x10000000) == refused(errno.EPERM)
    assert ask("prlimit64", high) == ALLOW
    assert ask("prlimit64", high | 7) == refused(errno.EPERM)


def test_clone_makes_processes_and_threads_but_no_namespaces(ask):
    for flags in (17, 0x3D0F00, 0x01200011):  # fork, pthread_create, glibc's fork
        assert ask("clone", flags) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", bit | 17) == refused(errno.EPERM)


def test_calls_on_other_processes_name_only_the_caller(ask):
    for name in ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        assert ask(name, 0, 7) == ALLOW
        for pid in (1, 4242, -1):
            assert ask(name, pid, 7) == refused(errno.EPERM)
    assert ask("setpriority", 0, 0) == ALLOW
    for which, who in ((0, 1), (1, 0), (2, 0)):
        assert ask("setpriority", which, who) == refused(errno.EPERM)


@pytest.mark.parametrize("name", sorted(seccomp._REFUSED))
def test_refused_calls(ask, name):
    assert ask(name) == refused(errno.EPERM)


def test_calls_on_files_that_landlock_leaves_open(ask):
    for name in ("fchmod", "fchmodat", "fchmodat2", "utimensat"):
        assert ask(name) == refused(0)
    for name in ("fchown", "fchownat", "file_setattr"):
        assert ask(name) == refused(errno.EPERM)
    for name in ("setxattr", "fsetxattr", "setxattrat", "removexattr"):
        assert ask(name) == refused(errno.EOPNOTSUPP)
    assert ask("truncate") == refused(errno.EACCES)
    assert ask("connect") == ASK


def test_unknown_calls_and_foreign_architectures_are_missing(ask):
    for number in (470, 999, 0x40000000, 0x40000000 | 41, 0x7FFFFFFF, 0xFFFFFFFF - (1 << 32)):
        assert ask.number(number) == refused(errno.ENOSYS)
    for other in (0x40000003, 0x40000028, 0):  # i386, arm, none
        assert ask.foreign(other) == refused(errno.ENOSYS)


def test_ordinary_calls_are_allowed(ask):
    named = {number for numbers in seccomp._NUMBERS.values() for number in numbers}
    ordinary = [number for number in range(425) if number not in named]
    assert {ask.number(number) for number in ordinary} == {ALLOW}


def test_every_call_in_a_rule_has_numbers_and_every_number_a_rule():
    rules = seccomp._REFUSED | seccomp._MISSING | set(seccomp._SELF_ONLY) | seccomp._DO_NOTHING
    rules |= seccomp._NOT_PERMITTED | seccomp._NOT_SUPPORTED
    rules |= {"clone", "connect", "socket", "socketpair", "truncate"}
    assert rules == set(seccomp._NUMBERS)


HEADERS = {
    "x86_64": (0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": (1, "/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_the_kernels(machine):
    column, header = HEADERS[machine]
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    known = {name: int(number) for name, number in pairs}
    ours = {name: numbers[column] for name, numbers in seccomp._NUMBERS.items()}
    compared = {name: number for name, number in ours.items() if name in known}
    assert len(compared) > 70
    assert compared == {name: known[name] for name in compared}
    lacking = [name for name, number in ours.items() if number is None]
    assert not [name for name in lacking if name in known]


# ---- Landlock on older kernels -----------------------------------------------------------------

OLDER = """
    import errno, os, sys
    sys.path.append(sys.argv[1])
    from flprov.workers import landlock
    version, allowed, closed = int(sys.argv[2]), sys.argv[3], sys.argv[4]
    landlock.abi = lambda: version
    landlock.restrict([("read", "/usr"), ("write", allowed), ("device", "/dev/null")])
    open(allowed + "/new", "w").write("x")
    open("/dev/null", "w").write("x")
    for step in (lambda: open(closed), lambda: os.listdir("/"), lambda: open("/usr/x", "w")):
        try:
            step()
        except PermissionError:
            continue
        sys.exit("open")
"""


@pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
@pytest.mark.parametrize("version", range(1, 8))
def test_every_landlock_version_closes_files(version, tmp_path):
    if version > landlock.abi():
        pytest.skip(f"this kernel's Landlock is version {landlock.abi()}")
    (tmp_path / "allowed").mkdir()
    (tmp_path / "closed").write_text("x")
    words = [str(ROOT), str(version), str(tmp_path / "allowed"), str(tmp_path / "closed")]
    command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(OLDER), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_path_of_a_rule_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not-here"):
        landlock.restrict([("read", str(tmp_path / "not-here"))])


# ---- the view --------------------------------------------------------------------------------


@pytest.fixture
def order(tmp_path):
    order = order_for(tmp_path / "jobs" / "mine", "")
    for name in ("in", "out", "work", "lib"):
        (order.folder / name).mkdir()
    return order


def test_view_opens_no_home_no_root_and_no_state(order):
    rules = plan_view(order).rules()
    paths = {path for _, path in rules}
    never = {"/", "/root", "/home", "/etc", "/var", "/run", "/tmp", "/sys", "/dev", sys.prefix}
    assert not paths & never
    assert not paths & {str(order.folder), str(order.folder.parent), sys.base_prefix}
    writable = {path for rights, path in rules if rights == "write"}
    assert writable == {str(order.folder / "out"), str(order.folder / "work"), "/dev/shm"}


def test_interpreters_folders_are_below_its_prefixes_and_not_the_prefixes():
    folders = interpreter_folders(Path(sys.executable))
    assert Path(sys.prefix) not in folders
    assert Path(sys.base_prefix) not in folders
    assert any(Path(folder).joinpath("encodings").exists() for folder in folders)


def test_interpreters_folders_are_those_that_are_there_now(tmp_path):
    program, lib, share = (tmp_path / name for name in ("python", "lib", "share"))
    said = json.dumps({"folders": [], "prefixes": [str(tmp_path)]})
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    lib.mkdir()
    assert interpreter_folders(program) == (lib,)
    lib.rmdir()
    share.mkdir()
    assert interpreter_folders(program) == (share,)


def test_private_folder_reached_by_a_link_is_still_private(order, tmp_path):
    import dataclasses

    (tmp_path / "kit").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path)
    order = dataclasses.replace(order, readable=(tmp_path / "alias",), private=(tmp_path / "kit",))
    with pytest.raises(errors.ConfinementRefused, match="job code would see"):
        plan_view(order)


@pytest.fixture
def driver(tmp_path):
    """An NVIDIA driver's listing of two GPUs, and its device files."""
    for minor, uuid in enumerate(("GPU-aaaa", "GPU-bbbb")):
        folder = tmp_path / "proc" / "gpus" / f"0000:0{minor}:00.0"
        folder.mkdir(parents=True)
        lines = ["Model: \t NVIDIA A100", f"GPU UUID: \t {uuid}", f"Device Minor: \t {minor}", "IRQ: 16:2"]
        (folder / "information").write_text("\n".join(lines))
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    return {"proc": tmp_path / "proc", "dev": tmp_path}


def test_job_gets_the_devices_of_its_gpus_and_no_others(driver):
    names = [path.name for path in gpu_devices(["GPU-bbbb"], **driver)]
    assert names == ["nvidia-uvm", "nvidia1", "nvidiactl"]
    assert gpu_devices([], **driver) == ()
    with pytest.raises(errors.LocalError, match=r"no GPU GPU-cccc \(it has: GPU-aaaa, GPU-bbbb\)"):
        gpu_devices(["GPU-cccc"], **driver)


@pytest.mark.skipif(not Path("/usr/bin/bwrap").exists(), reason="bwrap is not installed")
def test_bubblewrap_mounts_the_outer_folder_before_what_lies_in_it(order, tmp_path):
    import dataclasses

    inner = tmp_path / "data" / "inner"
    inner.mkdir(parents=True)
    order = dataclasses.replace(order, readable=(inner, tmp_path / "data"))
    command = bubblewrap_command(plan_view(order), work=order.folder / "work", short_work="/dev/shm/w")
    assert command.index(str(tmp_path / "data")) < command.index(str(inner))
    assert "--unshare-all" in command
    assert command[-1] == "--"
