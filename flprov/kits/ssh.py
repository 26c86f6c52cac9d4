# SPDX-License-Identifier: Apache-2.0
"""SSH connections to hosts whose keys are pinned. The only door to `paramiko`.

The order is fixed: TCP (or a channel of the host before), key exchange, the host key against the pins,
and only then a user's name, a signature or a password. A host that fails the third step has received
nothing but our half of a key exchange.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import paramiko
from paramiko.sftp import CMD_CLOSE, CMD_HANDLE, CMD_NAME, CMD_OPENDIR, CMD_READDIR, SFTPError

from flprov.errors import FlprovError, Misuse, NotFound, PermissionRefused, RemoteError, Unavailable
from flprov.kits.hostkeys import HostKey, Pins, read_pins, verify_host_key
from flprov.kits.hosts import Login

# paramiko's threads log what they also raise; without a handler Python would print it to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_CONNECT_SECONDS = 20.0
_SILENCE_SECONDS = 60.0  # without a single byte; a slow line is not silent
_LARGEST_ANSWER = 1 << 16
_MOST_NAMES = 100_000  # in one folder
_NO_SFTP = "does this host allow SFTP? A login that prints something (~/.bashrc) breaks it"
_AGAIN = "run the same command again: what has arrived is kept"

_NO_KEY = (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType)
SSH_ERRORS = (paramiko.SSHException, SFTPError, EOFError, OSError, UnicodeError)

Ask = Callable[[str], str]  # a question -> what the person typed, unseen


@dataclass(frozen=True, kw_only=True)
class Access:
    """How one gets in: which host keys are believed, and what is shown to the hosts."""

    known_hosts: tuple[Path, ...] = ()
    key_files: tuple[Path, ...] = ()
    usual_key_files: tuple[Path, ...] = ()  # tried last, and passed over where they cannot be opened
    use_agent: bool = True
    ask: Ask | None = None  # None: nobody is there to be asked
    use_password: bool = False  # ask for one where keys do not open


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that ended at the far end."""

    code: int
    output: str  # both streams, as they came


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Private keys out of files."""

    named: tuple[paramiko.PKey, ...] = field(repr=False)
    usual: tuple[paramiko.PKey, ...] = field(default=(), repr=False)


def load_keys(access: Access) -> Keys:
    """The private keys of `access`; passphrases of those that were named are asked for.

    Raises:
        NotFound, Misuse: a file that is not there, or is no key, or stays shut.
    """
    usual = []
    for path in access.usual_key_files:
        with contextlib.suppress(FlprovError):
            usual.append(_load_key(path, None))
    return Keys(named=tuple(_load_key(path, access.ask) for path in access.key_files), usual=tuple(usual))


def _load_key(path: Path, ask: Ask | None) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError:
        raise NotFound(f"there is no key file {path}") from None
    except (TypeError, paramiko.PasswordRequiredException):  # it is encrypted
        return _open_key(path, ask)
    except _NO_KEY as error:
        raise Misuse(f"{path} cannot be read as an SSH private key") from error


def _open_key(path: Path, ask: Ask | None) -> paramiko.PKey:
    if ask is None:
        raise Misuse(
            f"{path} needs a passphrase, and there is no terminal", hint="put the key into ssh-agent"
        )
    typed = ask(f"Passphrase of {path}")
    try:
        return paramiko.PKey.from_path(path, typed.encode())  # type: ignore[arg-type]  # bytes, whatever it says
    except (*_NO_KEY, TypeError) as error:
        raise Misuse(f"the passphrase does not open {path}") from error


@dataclass(kw_only=True)
class Link:
    """A connection to a host, logged in."""

    login: Login
    _transports: list[paramiko.Transport] = field(default_factory=list, repr=False)
    _sftp: paramiko.SFTPClient | None = field(default=None, repr=False)
    _closed: bool = field(default=False, repr=False)

    def add(self, hop: paramiko.Transport) -> None:
        """One hop more; of a link that was closed meanwhile, it is closed too."""
        self._transports.append(hop)
        if self._closed:
            hop.close()

    @property
    def is_open(self) -> bool:
        """Whether every hop still stands."""
        return bool(self._transports) and all(hop.is_active() for hop in self._transports)

    @property
    def sftp(self) -> paramiko.SFTPClient:
        """The host's files."""
        if self._sftp is None:
            channel = self._transports[-1].open_session(timeout=_CONNECT_SECONDS)
            channel.settimeout(_SILENCE_SECONDS)
            channel.invoke_subsystem("sftp")
            self._sftp = _Files(channel)
        return self._sftp

    def run(self, script: str, *arguments: str, stdin: bytes = b"", before: Sequence[str] = ()) -> Ran:
        """Run a script with the host's `sh`; `before` is put in front of it, such as `sudo`.

        Raises:
            TimeoutError: not a byte came, nor the end of it, for as long as a line may be silent.
            OSError: it says more than anybody reads.
        """
        words = [*before, "sh", "-c", script, "sh", *arguments]
        with contextlib.closing(self._transports[-1].open_session(timeout=_CONNECT_SECONDS)) as channel:
            channel.settimeout(_SILENCE_SECONDS)
            channel.set_combine_stderr(True)
            channel.exec_command(shlex.join(words))
            channel.sendall(stdin)
            channel.shutdown_write()
            output = channel.makefile("rb").read(_LARGEST_ANSWER + 1)
            if len(output) > _LARGEST_ANSWER:  # it would wait for us to read on, and we for its end
                raise OSError(f"the command says more than {_LARGEST_ANSWER >> 10} KiB")
            if not channel.status_event.wait(_SILENCE_SECONDS):
                raise TimeoutError("the command closed its output and does not end")
            return Ran(code=channel.recv_exit_status(), output=output.decode("utf-8", "replace").strip())

    def close(self) -> None:
        """Hang up. From any thread."""
        self._closed = True
        for hop in reversed(self._transports):
            hop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def told(self, doing: str) -> Iterator[None]:
        """Make what goes wrong inside one of our errors: the line was cut, or the host says no."""
        try:
            yield
        except FlprovError:
            raise
        except SSH_ERRORS as error:
            said = str(getattr(error, "strerror", None) or error) or type(error).__name__
            if self.is_open and not isinstance(error, TimeoutError):
                hint = None if isinstance(error, OSError) else _NO_SFTP
                raise RemoteError(f"{self.login}, {doing}: {said}", hint=hint) from error
            raise Unavailable(f"the connection to {self.login} ended while {doing}", hint=_AGAIN) from error


class _Files(paramiko.SFTPClient):
    """Whose folders may hold names that are no UTF-8: paramiko's own listing fails on the first of them."""

    def listdir_attr(self, path: str = ".") -> list[paramiko.SFTPAttributes]:
        """What is in a folder; in a name, U+FFFD stands for what cannot be read."""
        kind, message = self._request(CMD_OPENDIR, path)  # type: ignore[attr-defined]
        if kind != CMD_HANDLE:
            raise SFTPError("Expected handle")
        handle, found = message.get_binary(), list[paramiko.SFTPAttributes]()
        with contextlib.suppress(EOFError):  # how it says that there are no more
            while more := self._read_names(handle, path, _MOST_NAMES - len(found)):
                found += more
        self._request(CMD_CLOSE, handle)  # type: ignore[attr-defined]
        return [entry for entry in found if entry.filename not in (".", "..")]

    def _read_names(self, handle: bytes, path: str, most: int) -> list[paramiko.SFTPAttributes]:
        kind, message = self._request(CMD_READDIR, handle)  # type: ignore[attr-defined]
        if kind != CMD_NAME:
            raise SFTPError("Expected name response")
        count = message.get_int()
        if count > most:
            raise OSError(f"{path} holds more than {_MOST_NAMES:,} names")
        found = []
        for _ in range(count):
            name, _long = (message.get_string().decode("utf-8", "replace") for _ in range(2))
            found.append(paramiko.SFTPAttributes._from_msg(message, name))  # type: ignore[attr-defined]
        return found


def connect(
    login: Login,
    jumps: Sequence[Login],
    access: Access,
    keys: Keys,
    *,
    opened: Callable[[Link], None],
) -> Link:
    """Connect to a host, through others, each verified before anything is shown to it.

    Args:
        opened: gets the link as soon as there is something to close.

    Raises:
        Unavailable: it cannot be reached.
        IdentityRefused: its host key is not pinned.
        PermissionRefused: it does not let us in.
    """
    link = Link(login=login)
    opened(link)
    try:
        _connect_hops(link, (*jumps, login), access, keys)
    except BaseException:
        link.close()
        raise
    return link


def _connect_hops(link: Link, hops: Sequence[Login], access: Access, keys: Keys) -> None:
    before: tuple[paramiko.Transport, Login] | None = None
    for hop in hops:
        pins = _pins_of(hop, access)
        transport = paramiko.Transport(_dial(hop) if before is None else _dial_through(*before, hop))
        link.add(transport)
        _shake_hands(transport, hop, pins)
        _log_in(transport, hop, access, keys)
        before = transport, hop


def _dial(login: Login) -> socket.socket:
    try:
        return socket.create_connection((login.host, login.port), timeout=_CONNECT_SECONDS)
    except socket.gaierror as error:
        raise Unavailable(
            f"{login}: this name leads nowhere ({error.strerror})", hint="is it written right?"
        ) from error
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror
        raise Unavailable(
            f"{login} cannot be reached: {why}", hint="is SSH open there? a jump host: -J"
        ) from error


def _dial_through(transport: paramiko.Transport, hop: Login, after: Login) -> paramiko.Channel:
    try:
        return transport.open_channel(
            "direct-tcpip", (after.host, after.port), ("127.0.0.1", 0), timeout=_CONNECT_SECONDS
        )
    except SSH_ERRORS as error:
        raise Unavailable(f"{after} cannot be reached from {hop}: {error}") from error


def _shake_hands(transport: paramiko.Transport, login: Login, pins: Pins) -> None:
    transport.banner_timeout = transport.auth_timeout = _CONNECT_SECONDS
    _prefer(transport, pins)
    try:
        transport.start_client(timeout=_CONNECT_SECONDS)
        shown = transport.get_remote_server_key()
    except SSH_ERRORS as error:
        why = str(error) or "it hung up"
        raise Unavailable(f"{login} answers, but not as an SSH server should: {why}") from error
    verify_host_key(HostKey(type=shown.get_name(), blob=shown.asbytes()), pins, where=_place(login))
    transport.set_keepalive(15)


def _pins_of(login: Login, access: Access) -> Pins:
    if not login.keys:
        return read_pins(access.known_hosts, login.host, login.port)
    known = read_pins(access.known_hosts, login.host, login.port)
    return Pins(keys=login.keys, revoked=known.revoked, source="what was asked for")


def _place(login: Login) -> str:
    return str(login).partition("@")[2]


def _prefer(transport: paramiko.Transport, pins: Pins) -> None:
    """Ask for a key of a pinned type first; a host with three keys would show any of them."""
    wanted = {
        name
        for kind in pins.types
        for name in (("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,))
    }
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda name: name not in wanted)


def _log_in(transport: paramiko.Transport, login: Login, access: Access, keys: Keys) -> None:
    tried = []
    try:
        for name, key in _offers(access, keys):
            tried.append(name)
            with contextlib.suppress(paramiko.AuthenticationException):
                transport.auth_publickey(login.user, key)
            if transport.is_authenticated():
                return
        if access.use_password and access.ask is not None:
            tried.append("password")
            with contextlib.suppress(paramiko.AuthenticationException):
                transport.auth_password(login.user, _ask_in_turn(access.ask, f"Password of {login}"))
    except SSH_ERRORS as error:
        raise _not_let_in(login, [*tried, "then it hung up"]) from error
    if not transport.is_authenticated():
        raise _not_let_in(login, tried)


def _offers(access: Access, keys: Keys) -> Iterator[tuple[str, paramiko.PKey]]:
    yield from (("key file", key) for key in keys.named)
    yield from _agent_keys(access)
    yield from (("usual key file", key) for key in keys.usual)


def _agent_keys(access: Access) -> Iterator[tuple[str, paramiko.PKey]]:
    if not access.use_agent:
        return
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError):
        return
    try:
        yield from (("key of the agent", key) for key in agent.get_keys())
    finally:
        agent.close()


_one_question = threading.Lock()


def _ask_in_turn(ask: Ask, question: str) -> str:
    with _one_question:
        return ask(question)


def _not_let_in(login: Login, tried: Sequence[str]) -> PermissionRefused:
    what = ", ".join(dict.fromkeys(tried)) or "nothing: there was no key to try"
    return PermissionRefused(
        f"{login} does not let us in (tried: {what})",
        hint=f"does `ssh {login.user}@{login.host}` work? give a key with -i, put one into ssh-agent, or"
        " --password",
    )
