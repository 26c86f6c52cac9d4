# SPDX-License-Identifier: Apache-2.0
"""What job code tries, and cannot do: each attempt with the error that it gets."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from launching import EVERY_METHOD, METHODS

from flprov.testing.launcher_conformance import order_for, told
from flprov.workers import Method, ProcessLauncher, confinement_gaps, confinement_method
from flprov.workers.detection import try_private_mounts

# In the job: each line is tried by itself; the answer is `done`, or the error's name.
ATTEMPTS = """
    import ctypes, errno, os, shutil, socket, sys
    libc = ctypes.CDLL(None, use_errno=True)
    X86 = os.uname().machine == "x86_64"

    def call(x86, arm, *arguments):
        arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        if libc.syscall(x86 if X86 else arm, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "")

    def attempt(step):
        try:
            step()
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
        return "done"

    {setup}
    tell({{name: attempt(step) for name, step in {{ {steps} }}.items()}})
    channel.receive()
"""


def attempts(setup: str = "", **steps: str) -> str:
    import textwrap

    lines = ", ".join(f"{name!r}: lambda: {step}" for name, step in steps.items())
    body = textwrap.dedent(ATTEMPTS)
    return body.format(setup=textwrap.dedent(setup).strip(), steps=lines)


async def outcome(folder: Path, script: str, method: Method, **settings):
    unconfined = method is Method.NONE
    order = order_for(folder, script, unconfined=unconfined, **settings)
    process = await ProcessLauncher(method=method).launch(order)
    try:
        assert process.confinement == method.value
        return await told(process)
    finally:
        assert await process.stop(0.5) == ()


@pytest.fixture
def site(tmp_path):
    """A site's folders: kit with its key, state with a database, another job with its data."""
    for name, text in {
        "kit/site.key": "PRIVATE KEY",
        "state/log.db": "rows",
        "state/jobs/other/work/patients.csv": "1,2",
        "state/jobs/other/shim.json": "{}",
        "data/scans/one.npy": "pixels",
        "data/private/two.npy": "pixels",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    return tmp_path


def job_of(site: Path) -> Path:
    return site / "state" / "jobs" / "mine"


ANY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.value)
LANDLOCK_ONLY = pytest.mark.parametrize("method", [Method.LANDLOCK], ids=lambda method: method.value)


def hidden(method: Method) -> str:
    """How a path outside shows: closed under Landlock, not there under bubblewrap."""
    return "EACCES" if method is Method.LANDLOCK else "ENOENT"


# ---- files ---------------------------------------------------------------------------------


@ANY
async def test_job_reads_nothing_of_kit_state_other_jobs_or_home(site, method):
    script = attempts(
        key=f"open('{site}/kit/site.key')",
        kit=f"os.listdir('{site}/kit')",
        state=f"open('{site}/state/log.db')",
        job=f"os.listdir('{site}/state/jobs/other')",
        other=f"open('{site}/state/jobs/other/work/patients.csv')",
        by_link="(os.symlink('%s', 'link'), open('link'))" % (site / "kit/site.key"),
        by_dots="open('../../other/work/patients.csv')",
        dataset_not_given=f"open('{site}/data/private/two.npy')",
        var="os.listdir('/var/log')",
        shadow="open('/etc/shadow')",
        hosts="open('/etc/hosts')",
    )
    scans = site / "data" / "scans"
    found = await outcome(job_of(site), script, method, readable=(scans,), private=(site / "kit",))
    assert found == dict.fromkeys(found, hidden(method))


@LANDLOCK_ONLY
async def test_job_cannot_reach_its_own_record_or_list_what_is_around_it(site, method):
    script = attempts(
        shim_record="open('../shim.json')",
        exit_record="open('../exit.json', 'w')",
        log="open('../log')",
        log_append="open('../log', 'a')",
        swap="os.rename('../log', 'log')",
        folder="os.listdir('..')",
        jobs="os.listdir('../..')",
        home=f"os.listdir('{Path.home()}')",
        shared="os.listdir('/tmp')",
        run="os.listdir('/run')",
    )
    found = await outcome(job_of(site), script, method)
    assert found == dict.fromkeys(found, "EACCES")


@ANY
async def test_job_reads_its_app_its_input_and_the_datasets_that_it_was_given(site, method):
    (job_of(site) / "in").mkdir(parents=True)
    (job_of(site) / "in" / "model").write_text("weights")
    script = attempts(
        app="open('../app/main.py').read()",
        incoming="open('../in/model').read()",
        dataset=f"open('{site}/data/scans/one.npy').read()",
        dataset_folder=f"os.listdir('{site}/data/scans')",
        self_status="open('/proc/self/status').read()",
        processors="open('/proc/cpuinfo').read()",
        random="open('/dev/urandom', 'rb').read(1)",
        null="open('/dev/null', 'w').write('x')",
        scratch="open('scratch', 'w').write('x')",
        result="open('../out/result', 'w').write('x')",
        moved="os.rename('scratch', '../out/moved')",
        linked="os.link('../out/result', 'linked')",
        copied="shutil.copy2('../app/main.py', 'copy')",
        removed="os.remove('../out/moved')",
    )
    found = await outcome(job_of(site), script, method, readable=(site / "data" / "scans",))
    # bwrap mounts out/ and work/ one by one, so a rename between them is one between devices
    across = {"moved": "EXDEV", "linked": "EXDEV", "removed": "ENOENT"} if method is Method.BUBBLEWRAP else {}
    assert found == dict.fromkeys(found, "done") | across
    assert (job_of(site) / "out" / "result").read_text() == "x"


@ANY
async def test_job_changes_nothing_outside_its_two_folders(site, method):
    (job_of(site) / "in").mkdir(parents=True)
    (job_of(site) / "in" / "model").write_text("weights")
    script = attempts(
        app="open('../app/main.py', 'a')",
        new_in_app="open('../app/evil.py', 'w')",
        model="open('../in/model', 'r+')",
        model_gone="os.remove('../in/model')",
        dataset=f"open('{site}/data/scans/one.npy', 'r+')",
        cut=f"os.truncate('{site}/data/scans/one.npy', 0)",
        new_folder=f"os.mkdir('{site}/data/scans/x')",
        system="open('/usr/evil', 'w')",
        package=f"open('{Path(sys.prefix)}/lib/evil.pth', 'w')",
    )
    found = await outcome(job_of(site), script, method, readable=(site / "data" / "scans",))
    closed = "EACCES" if method is Method.LANDLOCK else "EROFS"
    assert found == dict.fromkeys(found, closed)
    assert (job_of(site) / "in" / "model").read_text() == "weights"
    assert (site / "data" / "scans" / "one.npy").read_text() == "pixels"


@LANDLOCK_ONLY
async def test_job_cannot_change_mode_owner_or_times_of_what_it_cannot_open(site, method):
    key, database = site / "kit" / "site.key", site / "state" / "log.db"
    before = [os.stat(path) for path in (key, database)]
    script = attempts(
        chmod=f"os.chmod('{key}', 0o666)",
        chmod_state=f"os.chmod('{database}', 0)",
        utime=f"os.utime('{key}', (0, 0))",
        chown=f"os.chown('{key}', 65534, 65534)",
        attribute=f"os.setxattr('{key}', 'user.x', b'y')",
        link=f"os.link('{key}', 'key')",
        rename=f"os.rename('{key}', 'key')",
        remove=f"os.remove('{key}')",
        truncate=f"os.truncate('{database}', 0)",
        device="os.mknod('disk', 0o60600, os.makedev(254, 0))",
    )
    found = await outcome(job_of(site), script, method)
    silent = ("chmod", "chmod_state", "utime")  # they claim to work, so that shutil.copy does
    assert {name: found[name] for name in silent} == dict.fromkeys(silent, "done")
    rest = {name: what for name, what in found.items() if name not in silent}
    assert rest == {
        "chown": "EPERM",
        "attribute": "ENOTSUP",
        "link": "EXDEV",
        "rename": "EACCES",
        "remove": "EACCES",
        "truncate": "EACCES",
        "device": "EACCES",
    }
    after = [os.stat(path) for path in (key, database)]
    for old, new in zip(before, after, strict=True):
        assert (old.st_mode, old.st_uid, old.st_mtime_ns, old.st_size) == (
            new.st_mode,
            new.st_uid,
            new.st_mtime_ns,
            new.st_size,
        )


@ANY
async def test_jobs_do_not_see_each_others_shared_memory(site, method):
    if confinement_gaps(method):
        pytest.skip("; ".join(confinement_gaps(method)))
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as tensor:
        script = attempts(
            theirs=f"open('{tensor.name}')",
            mine="open('/dev/shm/mine', 'w').write('x')",
        )
        found = await outcome(job_of(site), script, method)
    assert found == {"theirs": "ENOENT", "mine": "done"}
    assert not Path("/dev/shm/mine").exists()


async def test_without_confinement_the_same_attempts_succeed(site):
    """The control group: the refusals above come from the confinement and from nothing else."""
    script = attempts(
        key=f"open('{site}/kit/site.key')",
        other="open('../../other/work/patients.csv')",
        log="open('../log')",
        app="open('../app/main.py', 'a')",
        link=f"os.link('{site}/kit/site.key', 'key')",
        tcp="socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        command=f"open('/proc/{os.getpid()}/cmdline', 'rb').read()",
        ask=f"os.kill({os.getpid()}, 0)",
        parents_limit=f"__import__('resource').prlimit({os.getpid()}, 7)",
        home=f"os.listdir('{Path.home()}')",
        chmod=f"os.chmod('{site}/kit/site.key', 0o640)",
    )
    found = await outcome(job_of(site), script, Method.NONE)
    assert found == dict.fromkeys(found, "done")
    assert (site / "kit" / "site.key").stat().st_mode & 0o777 == 0o640


# ---- other processes -------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["private mounts", "no private mounts"])
def mounts(request, monkeypatch):
    """With mounts of the job's own, and as on a machine that does not let us make any."""
    if not request.param:
        monkeypatch.setattr("flprov.workers.plan.try_private_mounts", lambda: None)
    elif not try_private_mounts():
        pytest.skip("this user may not make such mounts here")
    return request.param


async def test_job_learns_nothing_of_its_parent_and_cannot_touch_it(site, mounts):
    agent = os.getpid()
    script = attempts(
        setup=f"agent = {agent}; shim = os.getppid()",
        environ="open(f'/proc/{agent}/environ', 'rb').read()",
        memory="open(f'/proc/{agent}/mem', 'rb')",
        files="os.readlink(f'/proc/{agent}/fd/0')",
        root="open(f'/proc/{agent}/root/etc/shadow')",
        shim_environ="open(f'/proc/{shim}/environ')",
        ask="os.kill(agent, 0)",
        term="os.kill(agent, 15)",
        kill_shim="os.kill(shim, 9)",
        kill_first="os.kill(1, 0)",
        kill_group="os.killpg(os.getpgid(shim), 9)",
        by_pidfd="__import__('signal').pidfd_send_signal(os.pidfd_open(agent), 15)",
        attach="call(101, 117, 16, agent, 0, 0)",
        seize="call(101, 117, 0x4206, agent, 0, 0)",
        read_memory="call(310, 270, agent, 0, 0, 0, 0, 0)",
        write_memory="call(311, 271, agent, 0, 0, 0, 0, 0)",
        steal="call(438, 438, os.pidfd_open(agent), 0, 0)",
        limit="__import__('resource').prlimit(agent, 7, (3, 3))",
        nice="os.setpriority(os.PRIO_PROCESS, agent, 19)",
        nice_user="os.setpriority(os.PRIO_USER, 0, 19)",
        affinity="os.sched_setaffinity(agent, {0})",
    )
    found = await outcome(job_of(site), script, Method.LANDLOCK)
    files = ("environ", "memory", "files", "root", "shim_environ")
    assert {name: found[name] for name in files} == dict.fromkeys(files, "ENOENT" if mounts else "EACCES")
    rest = {name: what for name, what in found.items() if name not in files}
    assert rest == dict.fromkeys(rest, "EPERM")
    assert os.getpriority(os.PRIO_PROCESS, agent) == 0


@ANY
async def test_job_sees_its_own_processes_and_no_others(site, method):
    if "command lines" in " ".join(confinement_gaps(method)):
        pytest.skip("; ".join(confinement_gaps(method)))
    script = """
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        others = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) not in (os.getpid(), child.pid) and open(f"/proc/{pid}/comm").read() != "bwrap\\n":
                others.append(pid)
        status = open(f"/proc/{child.pid}/status").read()
        child.communicate(b"\\n")
        tell([others, "VmRSS" in status])
        channel.receive()
    """
    assert await outcome(job_of(site), script, method) == [[], True]


@pytest.mark.parametrize("method", METHODS[1:], ids=["bubblewrap"])
async def test_job_in_bubblewrap_has_process_numbers_of_its_own(site, method):
    script = attempts(
        agent="os.kill(99999, 0)",
        attach=f"call(101, 117, 16, {os.getpid()}, 0, 0)",
    )
    assert await outcome(job_of(site), script, method) == {
        "agent": "ESRCH",
        "attach": "EPERM",
    }


@pytest.mark.parametrize("method", EVERY_METHOD, ids=lambda method: method.value)
async def test_job_holds_no_capability_and_gains_none(site, method):
    script = """
        import resource, subprocess
        wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
        def fields(text):
            pairs = (line.split(":") for line in text.splitlines() if ":" in line)
            return {name: int(value, 16) for name, value in pairs if name in wanted}
        own = fields(open("/proc/self/status").read())
        tell([own, resource.getrlimit(resource.RLIMIT_CORE)])
        channel.receive()
    """
    found, core = await outcome(job_of(site), script, method)
    assert core == [0, 0]
    assert found.pop("NoNewPrivs") == 1
    assert found.pop("Seccomp") == (0 if method is Method.NONE else 2)
    assert found == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)


# ---- the network ---------------------------------------------------------------------------


@ANY
async def test_job_gets_no_network_socket_of_any_kind(site, method):
    kinds = {
        "tcp": "socket.AF_INET, socket.SOCK_STREAM",
        "udp": "socket.AF_INET, socket.SOCK_DGRAM",
        "raw": "socket.AF_INET, socket.SOCK_RAW",
        "tcp6": "socket.AF_INET6, socket.SOCK_STREAM",
        "udp6": "socket.AF_INET6, socket.SOCK_DGRAM",
        "netlink": "socket.AF_NETLINK, socket.SOCK_RAW",
        "packet": "socket.AF_PACKET, socket.SOCK_RAW",
        "vsock": "socket.AF_VSOCK, socket.SOCK_STREAM",
        "crypto": "38, socket.SOCK_SEQPACKET",
        "unix_datagram": "socket.AF_UNIX, socket.SOCK_DGRAM",
    }
    steps = {name: f"socket.socket({kind})" for name, kind in kinds.items()}
    steps["pair"] = "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)"
    found = await outcome(job_of(site), attempts(**steps), method)
    assert found == dict.fromkeys(found, "EACCES")


@LANDLOCK_ONLY
async def test_job_cannot_use_a_listening_port_even_with_a_socket_that_it_was_handed(site, method):
    """Landlock's own rule for TCP: were a socket to slip through seccomp, it leads nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"""
            import array, errno, socket
            channel_socket = channel._sock
            data, extra, _, _ = channel_socket.recvmsg(1, socket.CMSG_SPACE(4))
            handed = socket.socket(fileno=array.array("i", extra[0][2][:4])[0])
            try:
                handed.connect(("127.0.0.1", {server.getsockname()[1]}))
                tell("done")
            except OSError as error:
                tell(errno.errorcode[error.errno])
            channel.receive()
        """
        process = await ProcessLauncher(method=method).launch(order_for(job_of(site), script))
        ours = process.channel._sending
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as handed,
            socket.socket(fileno=os.dup(ours.fileno())) as raw,
        ):
            socket.send_fds(raw, [b"x"], [handed.fileno()])
            assert await told(process) == "EACCES"
        assert await process.stop(0.5) == ()


@contextlib.contextmanager
def unix_server(address):
    """A UNIX socket outside of the job, as Docker's or D-Bus's: closed to it, whoever it is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen(8)
        server.setblocking(False)  # noqa: FBT003
        yield server


@LANDLOCK_ONLY
async def test_job_connects_to_no_unix_socket_but_its_own(site, method):
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as run,
        unix_server(f"{run}/docker.sock") as docker,
        unix_server("\0flprov-test-abstract") as abstract,
    ):
        script = attempts(
            setup=f"""
    def connect(address):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(address)
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    own.bind("own"); own.listen(8)
    os.symlink("{run}/docker.sock", "link")
    os.symlink("{run}", "folder")
    open("file", "w").close()
            """,
            outside=f"connect('{run}/docker.sock')",
            through_link="connect('link')",
            through_folder="connect('folder/docker.sock')",
            through_root=f"connect('/proc/self/root{run}/docker.sock')",
            abstract="connect('\\0flprov-test-abstract')",
            no_socket="connect('file')",
            missing="connect('missing')",
            relative="connect('own')",
            absolute="connect(os.path.abspath('own'))",
        )
        found = await outcome(job_of(site), script, method)
        for server in (docker, abstract):
            with pytest.raises(BlockingIOError):
                server.accept()
    assert found == {
        "outside": "EACCES",
        "through_link": "EACCES",
        "through_folder": "EACCES",
        "through_root": "EACCES",
        "abstract": "EACCES",
        "no_socket": "EACCES",
        "missing": "ENOENT",
        "relative": "done",
        "absolute": "done",
    }


@LANDLOCK_ONLY
async def test_address_that_changes_while_it_is_checked_leads_nowhere_else(site, method):
    """The check and the connection use one copy: threads that rewrite the path gain nothing."""
    with tempfile.TemporaryDirectory(dir="/tmp") as run, unix_server(f"{run}/evil") as outside:
        script = f"""
            import ctypes, os, socket, threading
            own = socket.socket(socket.AF_UNIX); own.bind("good"); own.listen(4096)
            good, evil = [b"\\x01\\x00" + os.path.abspath(p).encode().ljust(108, b"\\0")[:108]
                          for p in ("good", "{run}/evil")]
            address = ctypes.create_string_buffer(good, 110)
            ended = False
            def flip():
                while not ended:
                    ctypes.memmove(address, evil, 110)
                    ctypes.memmove(address, good, 110)
            def swap():
                while not ended:
                    os.symlink("{run}/evil", "swap"); os.replace("swap", "good2")
                    os.link("good", "swap"); os.replace("swap", "good2")
            threads = [threading.Thread(target=flip), threading.Thread(target=swap)]
            [t.start() for t in threads]
            libc = ctypes.CDLL(None, use_errno=True)
            codes = {{}}
            for n in range(400):
                with socket.socket(socket.AF_UNIX) as sock:
                    if n % 2:
                        result = libc.connect(sock.fileno(), address, 110)
                        code = ctypes.get_errno() if result else 0
                    else:
                        code = sock.connect_ex("good2")
                codes[code] = codes.get(code, 0) + 1
            ended = True
            [t.join() for t in threads]
            tell(codes)
            channel.receive()
        """
        codes = await outcome(job_of(site), script, method)
        with pytest.raises(BlockingIOError):
            outside.accept()
    assert set(codes) <= {"0", "13", "2"}
    assert codes["0"] > 0


@LANDLOCK_ONLY
async def test_connection_that_nobody_accepts_does_not_hold_up_the_stop(site, method):
    script = """
        import socket, threading
        own = socket.socket(socket.AF_UNIX); own.bind("own"); own.listen(0)
        held = []
        def connect():
            sock = socket.socket(socket.AF_UNIX); held.append(sock); sock.connect("own")
        for _ in range(5):
            threading.Thread(target=connect, daemon=True).start()
        import time; time.sleep(0.2)
        tell("ready")
        channel.receive()
    """
    process = await ProcessLauncher(method=method).launch(order_for(job_of(site), script))
    assert await told(process) == "ready"
    assert await asyncio.wait_for(process.stop(0.2), 5) == ()


# ---- the kernel's corners ----------------------------------------------------------------------


@ANY
async def test_calls_that_job_code_never_needs_are_refused(site, method):
    script = attempts(
        new_user="call(272, 97, 0x10000000)",
        new_mounts="call(272, 97, 0x20000)",
        clone_user="call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)",
        enter="call(308, 268, 0, 0)",
        mount="libc.mount(b'x', b'work', b'tmpfs', 0, None) and call(165, 40, 0, 0, 0, 0, 0)",
        unmount="call(166, 39, 0, 0)",
        pivot="call(155, 41, 0, 0)",
        chroot="os.chroot('.')",
        open_tree="call(428, 428, -100, 0, 0)",
        fsopen="call(430, 430, 0, 0)",
        bpf="call(321, 280, 0, 0, 0)",
        perf="call(298, 241, 0, 0, -1, -1, 0)",
        faults="call(323, 282, 0)",
        keys="call(250, 219, 0, 0, 0, 0, 0)",
        add_key="call(248, 217, 0, 0, 0, 0, 0)",
        module="call(313, 273, 0, 0, 0)",
        kexec="call(246, 104, 0, 0, 0, 0)",
        reboot="call(169, 142, 0, 0, 0, 0)",
        handle="call(304, 265, 0, 0, 0)",
        shared="call(29, 194, 0, 4096, 0o1600)",
        queue="call(240, 180, 0, 0, 0, 0)",
        clock="call(227, 112, 0, 0)",
        log="call(103, 116, 3, 0, 0)",
    )
    found = await outcome(job_of(site), script, method)
    assert found == dict.fromkeys(found, "EPERM")


@ANY
async def test_new_or_foreign_calls_are_missing(site, method):
    script = attempts(
        uring="call(425, 425, 8, 0)",
        uring_enter="call(426, 426, 0, 0, 0, 0, 0, 0)",
        clone3="call(435, 435, 0, 0)",
        not_yet_invented="call(999, 999)",
        x32="call(0x40000000 | 39, 999)",
    )
    found = await outcome(job_of(site), script, method)
    assert found == dict.fromkeys(found, "ENOSYS")


# ---- the work itself -------------------------------------------------------------------------


TRAIN = """
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    x = torch.randn(64, 3)
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16, num_workers=1)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        for inputs, wanted in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), wanted)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.save(model.state_dict(), "../out/model.pt")
    tell([losses[0], losses[-1], float(np.linalg.norm(np.ones((50, 50)) @ np.ones((50, 50))))])
    channel.receive()
"""


@ANY
async def test_numpy_and_torch_train_with_a_data_loader_process(site, method):
    first, last, norm = await outcome(job_of(site), TRAIN, method)
    assert last < first / 2
    assert norm == 2500
    assert (job_of(site) / "out" / "model.pt").stat().st_size > 500


MULTIPROCESSING = """
    import concurrent.futures, multiprocessing, queue, subprocess, threading

    def square(n):
        return n * n

    with multiprocessing.Pool(2) as pool:
        squares = pool.map(square, range(5))
    with multiprocessing.Manager() as manager:
        shared = manager.list([1]); shared.append(2); listed = list(shared)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        threaded = list(threads.map(square, range(5)))
    lock = multiprocessing.Lock()
    with lock:
        ran = subprocess.run(["sh", "-c", "echo $((6 * 7)) | tr 4 5"], capture_output=True, text=True)
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=100); block.close(); block.unlink()
    tell([squares, listed, threaded, ran.stdout])
    channel.receive()
"""


@ANY
async def test_processes_threads_and_pipes_of_a_job_work(site, method):
    squares = [n * n for n in range(5)]
    assert await outcome(job_of(site), MULTIPROCESSING, method) == [squares, [1, 2], squares, "52\n"]


# ---- an agent that is not root ---------------------------------------------------------------

UNPRIVILEGED = """
    import json, os, sys
    sys.path.append(sys.argv[1])
    from flprov.workers import confinement, linux
    open("/dev/null", encoding="ascii").close()  # what is imported late can no longer be read
    os.chdir("/")
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    linux.prctl(4, 1)  # PR_SET_DUMPABLE: as a process that has been this user from its start
    rules = [("read", "/usr"), ("read", "/proc/self"), ("write", "/dev/shm"), ("device", "/dev/null")]
    confinement.make_private_mounts()
    confinement.enter_landlock(rules)
    found = {"user": os.getuid(), "shm": os.listdir("/dev/shm")}
    status = dict(l.split(":") for l in open("/proc/self/status").read().splitlines() if ":" in l)
    found["rights"] = int(status["CapEff"], 16)
    try:
        os.listdir("/tmp")
    except PermissionError:
        found["tmp"] = "closed"
    print(json.dumps(found))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_confinement_needs_no_privilege():
    import json
    import subprocess
    import textwrap

    if "/dev/shm" in " ".join(confinement_gaps(Method.LANDLOCK)):
        pytest.skip("no mount namespaces here")
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.NamedTemporaryFile(dir="/dev/shm"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", textwrap.dedent(UNPRIVILEGED), root],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"user": 65534, "shm": [], "rights": 0, "tmp": "closed"}


def test_the_method_is_named():
    assert confinement_method() in {"landlock", "bubblewrap", "none"}
    assert confinement_gaps(Method.NONE) == ("job code runs with every right of the agent's own user",)
