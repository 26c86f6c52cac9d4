# SPDX-License-Identifier: Apache-2.0
"""The system calls that job code does not get, as a seccomp-bpf program.

Landlock closes files, TCP, signals and ptrace; this closes what it leaves open: every other kind
of socket, calls that act on a process or file without opening it, and the corners of the kernel
where escapes are found. A call younger than this table answers ENOSYS, as on an old kernel.

Layout of the program: seccomp(2), Documentation/userspace-api/seccomp_filter.rst.
"""

# ruff: noqa: SIM905 - a table in words is easier to check than one name per line

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from flprov.workers import linux

_LAST_KNOWN = 469  # file_setattr, Linux 6.17
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Numbers on x86_64 and aarch64; None: the architecture has no such call.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    "finit_module": (313, 273),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lchown": (94, None),
    "lookup_dcookie": (212, 18),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vhangup": (153, 58),
}

# The kernel's corners, other processes, namespaces, IPC that files do not govern.
_REFUSED = frozenset(
    """acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init
    finit_module fsconfig fsmount fsopen fspick init_module ioperm iopl ioprio_set kcmp
    kexec_file_load kexec_load keyctl lookup_dcookie migrate_pages mount mount_setattr move_mount
    move_pages mq_open mq_unlink msgctl msgget msgrcv msgsnd nfsservctl open_by_handle_at open_tree
    open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise process_mrelease
    process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key semctl semget
    semop semtimedop setdomainname sethostname setns settimeofday shmat shmctl shmget swapoff swapon
    syslog umount2 unshare userfaultfd vhangup""".split()
)
# Missing rather than forbidden: libraries then use the older call by themselves.
_MISSING = frozenset(["clone3", "io_uring_enter", "io_uring_register", "io_uring_setup"])
# They name a process by number; only 0, the caller itself, is allowed (in these arguments).
_SELF_ONLY = {
    "prlimit64": (0,),
    "sched_setaffinity": (0,),
    "sched_setattr": (0,),
    "sched_setparam": (0,),
    "sched_setscheduler": (0,),
    "setpriority": (0, 1),  # the first says whether the second is a process (0), a group or a user
}
# Landlock does not govern a file's mode, owner and times: the job could make a key world-readable
# or lock the agent out of its own state. These do nothing and say so with success, because
# shutil.copy fails otherwise.
_DO_NOTHING = frozenset("chmod fchmod fchmodat fchmodat2 futimesat utime utimensat utimes".split())
_NOT_PERMITTED = frozenset("chown fchown fchownat lchown file_setattr".split())
_NOT_SUPPORTED = frozenset(
    """fremovexattr fsetxattr lremovexattr lsetxattr removexattr removexattrat setxattr
    setxattrat""".split()
)

_ALLOW, _ERRNO, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_SOCKET_TYPE_MASK = 0xF

Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jump if true, jump if false, value


def available() -> bool:
    """Whether this machine's system calls are in the table."""
    return linux.machine() in _ARCHITECTURES


def program(*, ask_connect: bool, files: bool, truncate: bool, machine: str | None = None) -> bytes:
    """The filter, as an array of struct sock_filter.

    Args:
        ask_connect: connect(2) asks whoever holds the filter's listener (see `broker`).
        files: neutralise the calls on mode, owner and times of files that Landlock leaves open.
        truncate: refuse truncate(2), for Landlock before ABI 3.
        machine: another architecture than this one's.
    """
    machine = machine or linux.machine()
    column = list(_ARCHITECTURES).index(machine)
    rules = {name: _refuse(errno.EPERM) for name in _REFUSED}
    rules |= {name: _refuse(errno.ENOSYS) for name in _MISSING}
    rules |= {name: _only_zero(indexes) for name, indexes in _SELF_ONLY.items()}
    rules |= {"clone": _no_namespaces(), "socket": _only_unix(), "socketpair": _only_unix()}
    if files:
        rules |= {name: _refuse(0) for name in _DO_NOTHING}
        rules |= {name: _refuse(errno.EPERM) for name in _NOT_PERMITTED}
        rules |= {name: _refuse(errno.EOPNOTSUPP) for name in _NOT_SUPPORTED}
    if truncate:
        rules["truncate"] = _refuse(errno.EACCES)
    if ask_connect:
        rules["connect"] = [(_RETURN, 0, 0, _ASK)]
    code = _preamble(_ARCHITECTURES[machine])
    for name in sorted(rules):
        number = _NUMBERS[name][column]
        if number is not None:
            code += [(_EQUAL, 0, len(rules[name]), number), *rules[name]]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(filter_program: bytes, *, listener: bool) -> int:
    """Put the filter on this thread and all that it starts; needs no_new_privs.

    Returns:
        The listener's descriptor, or 0 when none was asked for.

    Raises:
        OSError: the kernel has no seccomp filters.
    """
    set_mode_filter, new_listener = 1, 1 << 3
    array = ctypes.create_string_buffer(filter_program, len(filter_program))
    prog = struct.pack("@HP", len(filter_program) // 8, ctypes.addressof(array))
    holder = ctypes.create_string_buffer(prog, len(prog))
    return linux.call("seccomp", set_mode_filter, new_listener if listener else 0, ctypes.addressof(holder))


def _preamble(architecture: int) -> list[Instruction]:
    """Only this architecture's own calls (no i386, no x32), none that is younger than the table."""
    return [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_GREATER, 0, 1, _LAST_KNOWN),  # x32 calls have bit 30 set, so they are greater too
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]


def _refuse(code: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, _ERRNO | code)]


def _load_argument(index: int) -> Instruction:
    """The low 32 bits: the kernel takes these arguments as int. Both architectures are little-endian."""
    return (_LOAD, 0, 0, _AT_ARGUMENTS + 8 * index)


def _only_zero(indexes: tuple[int, ...]) -> list[Instruction]:
    code: list[Instruction] = []
    for index in indexes:
        code += [_load_argument(index), (_EQUAL, 1, 0, 0), *_refuse(errno.EPERM)]
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _no_namespaces() -> list[Instruction]:
    return [
        _load_argument(0),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        *_refuse(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _only_unix() -> list[Instruction]:
    """AF_UNIX with connections. A datagram socket could name any peer in sendmsg, unseen by a filter."""
    return [
        _load_argument(0),
        (_EQUAL, 0, 4, socket.AF_UNIX),
        _load_argument(1),
        (_AND, 0, 0, _SOCKET_TYPE_MASK),
        (_EQUAL, 2, 0, socket.SOCK_STREAM),
        (_EQUAL, 1, 0, socket.SOCK_SEQPACKET),
        *_refuse(errno.EACCES),
        (_RETURN, 0, 0, _ALLOW),
    ]
