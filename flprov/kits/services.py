# SPDX-License-Identifier: Apache-2.0
"""The kit's systemd service at the far end: installed and started, when that was asked for."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from flprov.errors import Conflict, Misuse, RemoteError
from flprov.kits.kit import Kit
from flprov.kits.parcel import Parcel
from flprov.kits.ssh import Link
from flprov.pki import Kind

_UNIT_FOLDER = "/etc/systemd/system"
_TEMPLATE_PLACE = "/srv/flprov"  # what templates/*/flprov-*.service are written for
_TEMPLATE_PROGRAM = "/opt/flprov/bin/flprov"
_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/-]+")  # a unit file and a shell read these as they stand
_SAFE_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_OTHER = 73  # the exit status that says: the service is another kit's

# $1 unit file, $2 the kit, $3 user ("" when it is the one who runs this), $4 its ExecStart line, $5 flprov
_INSTALL = f"""\
set -eu
unit=$1 kit=$2 user=$3 start=$4 flprov=$5
test -x "$flprov" || {{ echo "there is no $flprov"; exit 1; }}
if test -e "$unit" && ! grep -qxF "$start" "$unit"; then exit {_OTHER}; fi
id "$user" >/dev/null 2>&1 || useradd --system --home-dir "$(dirname "$kit")" --no-create-home "$user"
test -d "$kit.local" || {{ mkdir -m 0700 "$kit.local"; chown "$user:" "$kit.local"; }}
chown -R "$user:" "$kit"
umask 022
cat > "$unit.new"
mv -- "$unit.new" "$unit"
systemctl daemon-reload
systemctl enable "$(basename "$unit")" """
_START = """\
set -eu
systemctl restart "$1"
systemctl is-active --quiet "$1" || { systemctl status --no-pager --lines 5 "$1"; exit 1; }"""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What to do about the service."""

    start: bool = False  # and not only install it
    user: str = ""  # as whom it runs; empty: who logs in, or `flprov` where that is root
    program: str = _TEMPLATE_PROGRAM  # flprov at the host
    unit_folder: str = _UNIT_FOLDER


def verify_service(service: Service, kit: Kit) -> None:
    """Refuse, before anything is sent, what could not be installed.

    Raises:
        Misuse: the kit has no service, or a name that cannot stand in a unit file.
    """
    if kit.kind is Kind.PERSON:
        raise Misuse(
            f"the kit of a person ({kit.name}) has no service to install", hint="leave --install away"
        )
    if not _SAFE_PATH.fullmatch(service.program):
        raise Misuse(f"{service.program!r} is not the absolute path of a program")
    if service.user and not _SAFE_USER.fullmatch(service.user):
        raise Misuse(f"{service.user!r} is not a user's name")


def install_service(link: Link, parcel: Parcel, path: str, service: Service) -> str:
    """Install (and start) the service of the kit at `path`; a word on what was done.

    Raises:
        Conflict: the host has a service of that name for another kit.
        RemoteError: the host refuses; the message is the host's.
    """
    if not _SAFE_PATH.fullmatch(path):
        raise Misuse(f"{path}: a service cannot be installed in a folder with such a name")
    name = f"flprov-{parcel.kit.kind.value}.service"
    unit = posixpath.join(service.unit_folder, name)
    with link.told("installing the service"):
        is_root = link.run('test "$(id -u)" = 0').code == 0
        sudo = () if is_root else ("sudo", "-n")
        user = service.user or ("flprov" if is_root else link.login.user)
        text = unit_text(parcel.files[name][0].decode(), parcel.kit.name, path, user, service.program)
        start = f"ExecStart={path}/start.sh"
        done = link.run(_INSTALL, unit, path, user, start, service.program, stdin=text.encode(), before=sudo)
        if done.code == _OTHER:
            raise Conflict(
                f"the kit is in place; {link.login} has a {name} that starts another kit: it was left alone",
                hint=f"at the host: systemctl cat {name}",
            )
        _verify_done(done.code, done.output, f"{link.login}: the kit is in place; {name} was not installed")
        if not service.start:
            return "installed"
        done = link.run(_START, name, before=sudo)
        _verify_done(done.code, done.output, f"{link.login}: {name} is installed and did not start")
        return "started"


def _verify_done(code: int, output: str, what: str) -> None:
    if code != 0:
        printable = "".join(c if c.isprintable() else " " for c in output[-400:])
        raise RemoteError(f"{what}: {printable or f'exit status {code}'}")


def unit_text(template: str, name: str, path: str, user: str, program: str) -> str:
    """The kit's service file for other places than it was written for: its lines marked (place)."""
    text = template.replace(f"{_TEMPLATE_PLACE}/{name}", path).replace(_TEMPLATE_PROGRAM, program)
    text = re.sub(r"^User=.*$", f"User={user}", text, flags=re.MULTILINE)
    return re.sub(r"^Group=.*\n", "", text, flags=re.MULTILINE)  # the user's own
