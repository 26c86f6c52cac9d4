# SPDX-License-Identifier: Apache-2.0
"""`flprov kit pack|unpack|send`: kits on their way to those who use them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.output import clean, json_option, on_terminal, print_json, print_table, size, span, talk
from flprov.cli.passphrases import Source, has_passphrase, passphrase_options, read_passphrase
from flprov.cli.person import home_folder, login_name
from flprov.errors import ExitCode, FlprovError, Misuse
from flprov.pki import fingerprint
from flprov.wire import documents as doc

if TYPE_CHECKING:  # these bring paramiko, which only `send` needs
    from flprov.kits import Access, Delivery, Destination, Login, Service

_path = click.Path(path_type=Path)
_PACK = Source(option="--passphrase", variable="FLPROV_PACK_PASSPHRASE", whose="the zip file")
_REDRAW_SECONDS = 0.1
_USUAL_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


# ---- pack and unpack ---------------------------------------------------------------------------


@click.command()
@click.argument("folder", metavar="KIT", type=_path)
@click.option("-o", "--output", type=_path, required=True, metavar="FILE.zip", help="Where the file goes.")
@passphrase_options(_PACK, "zip")
@json_option
def pack(folder: Path, output: Path, zip_file: Path | None, ask_zip: bool, as_json: bool) -> None:
    """Put a kit into a zip file encrypted with AES-256.

    \b
    Examples:
      flprov kit pack workspace/kits/hospital-a -o hospital-a.zip
      flprov kit pack workspace/kits/hospital-a -o hospital-a.zip --passphrase-file secret

    Without a passphrase (--passphrase, --passphrase-file or the environment variable
    FLPROV_PACK_PASSPHRASE) one is made and shown once. Tell it by telephone; never send it the way that
    the file goes. 7-Zip and WinZip open the file, and so does `flprov kit unpack`.
    """
    from flprov.kits import make_passphrase, pack_kit

    given = read_passphrase(_PACK, zip_file, ask=ask_zip, is_new=True)
    secret = given or make_passphrase().encode()
    packed = pack_kit(folder, output, passphrase=secret, now=datetime.now(UTC))
    if as_json:
        print_json(
            doc.KitPackDocument(
                file=str(packed.path), kit=packed.kit.name, bytes=packed.size, files=packed.files
            )
        )
    else:
        click.echo(f"{packed.path}: the kit of {packed.kit.name}, {size(packed.size)}")
    if given is None:
        shown = click.style(secret.decode(), fg="yellow", bold=True)
        talk(f"\nIts passphrase, which is kept nowhere:\n\n    {shown}\n")
    talk("Tell the passphrase by telephone, and the root's fingerprint with it:")
    talk(f"  {fingerprint(packed.kit.anchors['root'].pem)}")
    talk(
        f"There: 7-Zip, or `flprov kit unpack {packed.path.name} -o .`;"
        f" then `flprov kit verify {packed.kit.name}`."
    )


@click.command()
@click.argument("file", metavar="FILE.zip", type=_path)
@click.option(
    "-o", "--output", type=_path, default=Path(), metavar="DIR", help="Where the kit's folder goes."
)
@passphrase_options(_PACK, "zip")
@json_option
def unpack(file: Path, output: Path, zip_file: Path | None, ask_zip: bool, as_json: bool) -> None:
    """Open what `flprov kit pack` made, verify it, and keep it as a kit.

    \b
    Example:
      flprov kit unpack hospital-a.zip -o /srv/flprov

    The passphrase is asked for, or taken from --passphrase-file or from the environment variable
    FLPROV_PACK_PASSPHRASE. A folder that is there is not overwritten.
    """
    from flprov.kits import unpack_kit

    ask_zip = ask_zip or (zip_file is None and not has_passphrase(_PACK))
    secret = read_passphrase(_PACK, zip_file, ask=ask_zip, is_new=False) or b""
    kit = unpack_kit(file, output, passphrase=secret, now=datetime.now(UTC))
    root = fingerprint(kit.anchors["root"].pem)
    if as_json:
        print_json(
            doc.KitUnpackDocument(
                folder=str(kit.folder), kit=kit.name, kind=kit.kind.value, root_fingerprint=root
            )
        )
        return
    click.echo(f"{kit.folder}: {kit.kind.value} {kit.name} of {kit.project}")
    click.echo(f"root  {root}")
    talk(
        f"Ask by telephone whether this is the project's root. Then read {kit.folder / 'README.md'},"
        f" and remove {file} wherever it lies."
    )


# ---- send --------------------------------------------------------------------------------------


@click.command()
@click.argument("words", metavar="KIT USER@HOST:DIR | [KIT...]", nargs=-1)
@click.option("--hosts", type=_path, metavar="FILE", help="Send many kits: a YAML file says where each goes.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=22, help="The host's SSH port.")
@click.option("-i", "--identity", type=_path, multiple=True, help="A private key to log in with.")
@click.option("-J", "--jump", metavar="USER@HOST[:PORT]", help="Go through this host; several with commas.")
@click.option(
    "--host-key", multiple=True, metavar="'TYPE KEY'", help="The host's public key: 'ssh-ed25519 AAAA...'."
)
@click.option(
    "--jump-host-key", multiple=True, metavar="'TYPE KEY'", help="The same of the host to go through."
)
@click.option(
    "--known-hosts",
    type=_path,
    multiple=True,
    help="Where host keys are pinned. Default: ~/.ssh/known_hosts.",
)
@click.option(
    "--agent/--no-agent", "use_agent", default=True, help="Use the keys of ssh-agent. Default: yes."
)
@click.option("--password", "use_password", is_flag=True, help="Ask for a password where no key opens.")
@click.option("--install", is_flag=True, help="Install the kit's systemd service at the host.")
@click.option("--start", is_flag=True, help="Install and start it.")
@click.option(
    "--service-user", default="", help="As whom the service runs. Default: who logs in; `flprov` for root."
)
@click.option("--flprov-bin", default="/opt/flprov/bin/flprov", show_default=True, help="flprov at the host.")
@json_option
def send(words: tuple[str, ...], hosts: Path | None, as_json: bool, **options: object) -> None:
    """Bring kits to their hosts over SSH, whole or not at all.

    \b
    Examples:
      flprov kit send workspace/kits/hospital-a flprov@gpu1.hospital-a.example:/srv/flprov
      flprov kit send KIT USER@HOST:DIR -J me@bastion.example --start
      flprov kit send --hosts hosts.yml
      flprov kit send --hosts hosts.yml hospital-a hospital-b

    The kit becomes DIR/<its name>. Nothing is sent, and nobody logs in, before the host has shown a key
    that was pinned: by --host-key, in the file of hosts, or in known_hosts. When the connection is cut, the
    host keeps the kit that it had; the same command again goes on where it was.
    """
    from flprov.kits import deliver

    destinations = _destinations(words, hosts, options)
    show = DeliveryLines(len(destinations))
    try:
        found = deliver(
            destinations,
            _access(options),
            now=datetime.now(UTC),
            progress=show,
            service=_service(options),
            done=show.finish,
        )
    finally:
        show.close()
    if as_json:
        print_json(doc.KitSendDocument(deliveries=tuple(map(_document, found))))
    else:
        print_table(
            ("KIT", "HOST", "OUTCOME", "SENT", "TIME", "NOTE"), [_row(delivery) for delivery in found]
        )
    _end(found)


def _destinations(
    words: Sequence[str], hosts: Path | None, options: dict[str, object]
) -> tuple[Destination, ...]:
    if hosts is not None:
        return _from_file(hosts, words, options)
    from flprov.kits import Destination, Login, parse_host_key, parse_jumps, parse_target

    if len(words) != 2:
        raise Misuse("which kit goes where?", hint="flprov kit send KIT USER@HOST:DIR, or --hosts FILE")
    user = login_name()
    login, folder = parse_target(words[1], user=user, port=int(str(options["port"])))
    keys = tuple(parse_host_key(text) for text in _texts(options["host_key"]))
    jumps: tuple[Login, ...] = ()
    if options["jump"]:
        jumps = parse_jumps(str(options["jump"]), user=user, keys=_texts(options["jump_host_key"]))
    login = Login(user=login.user, host=login.host, port=login.port, keys=keys)
    return (Destination(kit=Path(words[0]), login=login, folder=folder, jumps=jumps),)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, tuple) else ()


def _from_file(hosts: Path, words: Sequence[str], options: dict[str, object]) -> tuple[Destination, ...]:
    from flprov.kits import read_hosts

    if options["host_key"] or options["jump"] or options["jump_host_key"]:
        raise Misuse("--host-key and -J are about one host", hint=f"write host_key: and jump: into {hosts}")
    found = read_hosts(hosts, user=login_name())
    wanted = {Path(word).name for word in words}
    if missing := wanted - {destination.kit.name for destination in found}:
        raise Misuse(f"{hosts} says nothing of {', '.join(sorted(missing))}")
    return tuple(destination for destination in found if not wanted or destination.kit.name in wanted)


def _access(options: dict[str, object]) -> Access:
    from flprov.kits import Access

    home = home_folder() / ".ssh"
    named = tuple(Path(text) for text in _texts(options["identity"]))
    usual = tuple(home / name for name in _USUAL_KEYS if (home / name).exists())
    return Access(
        known_hosts=tuple(Path(text) for text in _texts(options["known_hosts"])) or (home / "known_hosts",),
        key_files=named,
        usual_key_files=() if named else usual,
        use_agent=bool(options["use_agent"]),
        ask=_ask_unseen if sys.stdin.isatty() else None,
        use_password=bool(options["use_password"]),
    )


def _ask_unseen(question: str) -> str:
    typed: str = click.prompt(question, hide_input=True, default="", show_default=False, err=True)
    return typed


def _service(options: dict[str, object]) -> Service | None:
    if not options["install"] and not options["start"]:
        return None
    from flprov.kits import Service

    return Service(
        start=bool(options["start"]),
        user=str(options["service_user"]),
        program=str(options["flprov_bin"]),
    )


# ---- how it is shown ---------------------------------------------------------------------------


class DeliveryLines:
    """A line per delivery that is under way, drawn again and again; elsewhere a line when one ended."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._ended = 0
        self._lines: dict[str, str] = {}
        self._drawn = 0
        self._last = 0.0
        self._clock = clock
        self._live = on_terminal()
        self._lock = threading.Lock()

    def __call__(self, destination: Destination, what: str, done: int, total: int) -> None:
        """A delivery went on."""
        share = f" {100 * done // total}%" if total and done else ""
        with self._lock:
            self._lines[destination.kit.name] = f"  {destination.kit.name:24} {what}{share}"
            if self._live and self._clock() - self._last > _REDRAW_SECONDS:
                self._last = self._clock()
                self._draw()

    def finish(self, delivery: Delivery) -> None:
        """A delivery ended."""
        name = delivery.destination.kit.name
        with self._lock:
            self._ended += 1
            self._lines.pop(name, None)
            self._erase()
            word = "failed" if delivery.error else delivery.outcome.value
            if self._count > 1:
                talk(f"  {self._ended}/{self._count} {name}: {word}")
            if self._live:
                self._draw()

    def close(self) -> None:
        """Leave the terminal as it was."""
        with self._lock:
            self._erase()

    def _draw(self) -> None:
        self._erase()
        for line in self._lines.values():
            talk(line)
        self._drawn = len(self._lines)

    def _erase(self) -> None:
        if self._drawn:
            click.echo(f"\r\033[{self._drawn}A\033[J", nl=False, err=True)
            self._drawn = 0


def _row(delivery: Delivery) -> tuple[str, ...]:
    error = delivery.error
    notes = [f"service {delivery.service}" if delivery.service else "", delivery.note]
    notes += [f"{delivery.kept} files were there" if delivery.kept and delivery.sent else ""]
    notes += [error.code if error else ""]
    return (
        delivery.destination.kit.name,
        str(delivery.destination.login),
        delivery.outcome.value,
        size(delivery.sent) if delivery.sent else "-",
        span(delivery.seconds),
        clean("; ".join(note for note in notes if note)),
    )


def _document(delivery: Delivery) -> doc.KitDelivery:
    login = delivery.destination.login
    return doc.KitDelivery(
        kit=delivery.destination.kit.name,
        folder=str(delivery.destination.kit),
        user=login.user,
        host=login.host,
        port=login.port,
        path=delivery.path or None,
        outcome=delivery.outcome.value,
        service=delivery.service or None,
        bytes_sent=delivery.sent,
        files_kept=delivery.kept,
        seconds=round(delivery.seconds, 3),
        note=delivery.note,
        error=problem_document(delivery.error),
    )


def problem_document(error: FlprovError | None) -> doc.Problem | None:
    """An error as documents show it."""
    return None if error is None else doc.Problem(code=error.code, message=str(error), hint=error.hint)


def _end(found: Sequence[Delivery]) -> None:
    """Say what went wrong; end with 1 if anything did, or with the one delivery's own code."""
    errors = [(delivery, delivery.error) for delivery in found if delivery.error is not None]
    if len(found) == 1 and errors:
        raise errors[0][1]
    for delivery, error in errors:
        _report(delivery.destination.kit.name, error)
    if errors:
        again = ", ".join(delivery.destination.kit.name for delivery, _ in errors)
        talk(
            f"{len(errors)} of {len(found)} failed; once that is put right, the same command"
            f" sends {again} again"
        )
        raise SystemExit(ExitCode.FAILED)
    if any(delivery.outcome.value == "replaced" and delivery.service != "started" for delivery in found):
        talk("A process that runs with the old kit goes on with it: start it again.")


def _report(name: str, error: FlprovError) -> None:
    from flprov.cli import report

    shown = type(error)(f"{name}: {clean(str(error))}", hint=error.hint)
    report(shown)
