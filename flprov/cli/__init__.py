# SPDX-License-Identifier: Apache-2.0
"""What people type. Each command parses, calls one function of a lower layer, and prints."""

from __future__ import annotations

import io
import os
import sys

import click

from flprov import __version__
from flprov.cli.garbage import collect_rarely, leave_uncollected
from flprov.cli.lazy import Entry, LazyGroup
from flprov.errors import ExitCode, FlprovError, LocalError, Misuse

__all__ = ["as_told", "main", "report", "root"]

_HELP = """Provision, start and operate federated-learning networks, and run the jobs on them.

\b
Examples:
  flprov poc up                          a real network on this machine, to try things
  flprov provision project.yml           identities and a startup kit for each party
  flprov server start KIT                at the server;  flprov site start KIT  at a site
  flprov use KIT                         act as the person whose kit this is
  flprov status                          the true state of every site
  flprov job submit APP --wait           run an app; then: flprov job download last
"""

ENTRIES = {
    "init": Entry(target="init:init", help="Write a commented project.yml."),
    "plan": Entry(target="plan:plan", help="What provision would change; writes nothing."),
    "provision": Entry(target="provision:provision", help="Make or update the kits of a project."),
    "ca": Entry(target="ca:ca", help="Show the CAs of a project; replace them while it works."),
    "kit": Entry(target="kit:kit", help="Look at kits, verify, send and pack them."),
    "server": Entry(target="server:server", help="Run the server; ask it how it is."),
    "site": Entry(target="site:site", help="Run a site; list and show the project's sites."),
    "invite": Entry(target="invite:invite", help="Invite sites; approve and take back invites."),
    "join": Entry(target="join:join", help="Join with an invite: make this site's kit here."),
    "cert": Entry(target="cert:cert", help="What expires when; revoke certificates, export CRLs."),
    "user": Entry(target="user:user", help="List people; throw one out."),
    "poc": Entry(target="poc:poc", help="A real network on this machine."),
    "simulate": Entry(target="simulate:simulate", help="Run an app over sites inside one process."),
    "doctor": Entry(target="doctor:doctor", help="What does not work here, and what to do about it."),
    "use": Entry(target="use:use", help="Choose the admin kit that later commands act with."),
    "admin": Entry(target="console:admin", help="The interactive console."),
    "status": Entry(target="status:status", help="The server and every site, as they are now."),
    "events": Entry(target="events:events", help="What happened to jobs and sites; --follow: as it happens."),
    "audit": Entry(target="audit:audit", help="Every row of the log; verify it, keep a copy."),
    "app": Entry(target="app:app", help="Build, upload and list apps."),
    "job": Entry(target="job:job", help="Submit, watch, abort and download jobs."),
}


@click.group(
    cls=LazyGroup, entries=ENTRIES, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="flprov")
@click.option(
    "--kit",
    "kit",
    envvar="FLPROV_KIT",
    metavar="PATH",
    help="The admin kit to act with; else FLPROV_KIT, else `flprov use`.",
)
@click.pass_context
def root(ctx: click.Context, kit: str | None) -> None:
    """The `flprov` command."""
    ctx.obj = kit


def report(error: FlprovError) -> None:
    """An error and what to do about it, for a person. Its words may come from elsewhere."""
    from flprov.cli.output import clean

    click.echo(click.style("error: ", fg="red", bold=True) + clean(str(error)), err=True)
    if error.hint:
        click.echo(click.style("next:  ", fg="cyan") + clean(error.hint), err=True)


def main() -> None:
    """Run a command; exit with one of the documented codes (docs/exit-codes.md)."""
    collect_rarely()
    _open_what_was_closed()
    _spell_what_cannot_be_shown()
    try:
        sys.exit(_run())
    finally:
        leave_uncollected()


def _open_what_was_closed() -> None:
    """`flprov ... >&-`: a socket or a database that got the number of stdout would be written into."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: that one
            os.set_inheritable(nothing, nothing == number)
            setattr(sys, name, os.fdopen(nothing, mode))


def _spell_what_cannot_be_shown() -> None:
    """A name in Japanese at a Latin-1 terminal, or a folder's that is no UTF-8: escaped, as on stderr."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=errors)  # what is read is then as it would be in an argument


def as_told(error: OSError | UnicodeEncodeError) -> FlprovError:
    """What this machine has against a command, as an error for a person."""
    if isinstance(error, UnicodeEncodeError):  # its text may be a passphrase
        return Misuse("something that was typed is no UTF-8", hint="which encoding has this terminal? locale")
    return LocalError(f"{error.filename or 'this machine'}: {error.strerror or error}")


def _run() -> int:
    try:
        code = root.main(prog_name="flprov", standalone_mode=False)
    except FlprovError as error:
        report(error)
        code = error.exit_code
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        code = 130
    except click.ClickException as error:
        error.show()
        code = ExitCode.MISUSE
    except BrokenPipeError:
        sys.stderr.close()
        code = ExitCode.FAILED
    except (OSError, UnicodeEncodeError) as error:  # a disk that is full, a folder that is not ours
        told = as_told(error)
        report(told)
        code = told.exit_code
    return int(code or 0)
