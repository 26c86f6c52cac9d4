# SPDX-License-Identifier: Apache-2.0
"""Where kits go: `user@host:dir` as people type it, and a file of many hosts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flprov.config import Section, open_config
from flprov.errors import Misuse
from flprov.kits.hostkeys import HostKey, parse_host_key

_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}"
_LOGIN = re.compile(
    rf"(?:(?P<user>{_USER})@)?(?:\[(?P<six>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>{_HOST}))(?::(?P<rest>.*))?"
)
_LOGIN_HINT = "write user@host:folder, such as flprov@gpu1.hospital-a.example:/srv/flprov"
SSH_PORT = 22


@dataclass(frozen=True, kw_only=True)
class Login:
    """A host, and as whom."""

    user: str
    host: str
    port: int = SSH_PORT
    keys: tuple[HostKey, ...] = ()  # pinned for it; none: known_hosts is asked

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + ("" if self.port == SSH_PORT else f":{self.port}")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where one kit goes: it becomes `folder/<name of the kit>` there."""

    kit: Path
    login: Login
    folder: str  # "" is the folder in which the login begins
    jumps: tuple[Login, ...] = ()  # hosts to go through, in this order


def parse_target(text: str, *, user: str, port: int = SSH_PORT) -> tuple[Login, str]:
    """`[user@]host:[folder]` as a login and a folder; an IPv6 address stands in brackets.

    Raises:
        Misuse: it is not of that form.
    """
    match = _LOGIN.fullmatch(text)
    if match is None or match["rest"] is None:
        raise Misuse(f"{text!r} is not where a kit can go", hint=_LOGIN_HINT)
    _verify_folder(match["rest"])
    login = Login(user=match["user"] or user, host=match["six"] or match["host"], port=port)
    return login, match["rest"]


def parse_jumps(text: str, *, user: str, keys: Iterable[str] = ()) -> tuple[Login, ...]:
    """`[user@]host[:port]`, several with commas between.

    Raises:
        Misuse: it is not of that form.
    """
    pinned = tuple(parse_host_key(key) for key in keys)
    return tuple(_parse_jump(part.strip(), user, pinned) for part in text.split(","))


def _parse_jump(text: str, user: str, keys: tuple[HostKey, ...]) -> Login:
    match = _LOGIN.fullmatch(text)
    port = (match["rest"] if match else None) or str(SSH_PORT)
    if match is None or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise Misuse(f"{text!r} is not a host to jump through", hint="write user@host or user@host:port")
    return Login(user=match["user"] or user, host=match["six"] or match["host"], port=int(port), keys=keys)


def _verify_folder(folder: str) -> None:
    if not folder.isprintable() or (folder.startswith("~") and not folder.startswith("~/")):
        raise Misuse(f"{folder!r} is not a folder that a kit can go to", hint=_LOGIN_HINT)


# ---- a file of hosts ---------------------------------------------------------------------------


def read_hosts(path: Path, *, user: str, kits: Path | None = None) -> tuple[Destination, ...]:
    """A file that says where each kit goes.

    Args:
        user: as whom, where the file does not say.
        kits: the folder of the kits, instead of the one that the file names.

    Raises:
        ConfigError: with every mistake, by line.
        NotFound: there is no such file.
    """
    with open_config(path) as top:
        folder = Path(top.text("kits", "workspace/kits"))
        defaults = top.section("defaults", required=False)
        usual = _read_usual(defaults, user) if defaults else _Usual(user=user)
        hosts = top.section("hosts")
        return _read_all(hosts, kits or path.parent / folder, usual) if hosts else ()


@dataclass(frozen=True, kw_only=True)
class _Usual:
    """What holds for each host that does not say otherwise."""

    user: str
    port: int = SSH_PORT
    folder: str = ""
    jumps: tuple[Login, ...] = ()


def _read_usual(section: Section, user: str) -> _Usual:
    usual = _Usual(user=user)
    return _Usual(
        user=_read_user(section, user),
        port=_read_port(section, usual),
        folder=_read_folder(section, usual),
        jumps=_read_jumps(section, usual),
    )


def _read_all(hosts: Section, kits: Path, usual: _Usual) -> tuple[Destination, ...]:
    found = []
    for name in hosts.keys():  # noqa: SIM118 - a Section is no dict
        if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", name):
            hosts.problem(name, f"{name!r} is not the name of a kit")
        if (section := hosts.section(name)) is not None:
            found.append(_read_destination(section, kits / name, usual))
    if not found:
        hosts.problem(None, "hosts names no kit")
    return tuple(found)


def _read_destination(section: Section, kit: Path, usual: _Usual) -> Destination:
    key = _read_key(section, "host_key")
    login = Login(
        user=_read_user(section, usual.user),
        host=section.text("host", pattern=rf"{_HOST}|[0-9A-Fa-f:.]+", what="a host name or an IP address"),
        port=_read_port(section, usual),
        keys=key,
    )
    return Destination(
        kit=kit, login=login, folder=_read_folder(section, usual), jumps=_read_jumps(section, usual)
    )


def _read_user(section: Section, default: str) -> str:
    return section.text("user", default, pattern=_USER, what="a user's name")


def _read_port(section: Section, usual: _Usual) -> int:
    return section.integer("port", usual.port, minimum=1, maximum=65535)


def _read_folder(section: Section, usual: _Usual) -> str:
    folder = section.text("dir", usual.folder)
    try:
        _verify_folder(folder)
    except Misuse as error:
        section.problem("dir", str(error))
    return folder


def _read_jumps(section: Section, usual: _Usual) -> tuple[Login, ...]:
    text = section.text("jump", "")
    keys = _read_key(section, "jump_key")
    if not text:
        return usual.jumps
    try:
        jumps = parse_jumps(text, user=usual.user)
    except Misuse as error:
        section.problem("jump", str(error))
        return ()
    return tuple(Login(user=jump.user, host=jump.host, port=jump.port, keys=keys) for jump in jumps)


def _read_key(section: Section, name: str) -> tuple[HostKey, ...]:
    text = section.text(name, "")
    if not text:
        return ()
    try:
        return (parse_host_key(text),)
    except Misuse as error:
        section.problem(name, str(error))
        return ()
