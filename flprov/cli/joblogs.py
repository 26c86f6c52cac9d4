# SPDX-License-Identifier: Apache-2.0
"""`flprov job logs`: what a job's processes printed, live, from any byte on."""

from __future__ import annotations

import json

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_job, complete_party
from flprov.cli.output import clean, talk
from flprov.errors import FlprovError, Misuse

_MOST_TAIL = 1_000_000


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option(
    "--site",
    default="",
    shell_complete=complete_party,
    help="Only this site's, or `server` for the workflow's.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended, also after a break.")
@click.option(
    "--from", "offset", type=click.IntRange(0, 2**63 - 1), metavar="OFFSET", help="Begin at this byte."
)
@click.option("--tail", type=click.IntRange(1, _MOST_TAIL), metavar="N", help="Begin N lines before the end.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object per line, with party and offset.")
def logs(job_id: str, site: str, follow: bool, offset: int | None, tail: int | None, as_json: bool) -> None:
    """What the job's processes printed, at all sites and beside the server.

    A site masks and limits what leaves it (`logs` in its policy.yml). Where old output was dropped, a line
    says how much.

    \b
    Examples:
      flprov job logs last -f
      flprov job logs last --site hospital-a --tail 50
      flprov job logs last --site hospital-a --from 1048576 --json
    """
    if offset is not None and tail is not None:
        raise Misuse("--from and --tail both say where to begin", hint="leave one of them out")
    printer = _Printer(alone=bool(site), as_json=as_json)
    with acting() as admin:
        parts = admin.logs(
            job_id, site=site, offset=offset or 0, tail=tail or 0, follow=follow, on_retry=_say_retry
        )
        for part in parts:
            printer.take(part.party, part.offset, part.data, begun_at=None if tail else offset or 0)
    printer.finish()


def _say_retry(error: FlprovError, tries: int, seconds: float) -> None:
    talk(f"{clean(str(error))}; it goes on where it was; try {tries}, next in {seconds:.0f} s")


class _Printer:
    """Puts lines together again. Each party's come in order."""

    def __init__(self, *, alone: bool, as_json: bool) -> None:
        self._alone = alone
        self._as_json = as_json
        self._rest: dict[str, tuple[int, bytearray]] = {}  # by party: where its unfinished line begins

    def take(self, party: str, offset: int, data: bytes, *, begun_at: int | None) -> None:
        expected = offset if begun_at is None else begun_at
        start, rest = self._rest.get(party, (expected, bytearray()))
        if offset > start + len(rest):
            if rest:
                self._print(party, start, rest)
            gap = offset - start - len(rest)
            self._print(party, start + len(rest), f"[flprov: {gap} bytes were dropped]".encode())
            start, rest = offset, bytearray()
        rest += data  # in place: a progress bar of megabytes may never end its line
        if b"\n" in data:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                self._print(party, start, line)
                start += len(line) + 1
        self._rest[party] = (start, rest)

    def finish(self) -> None:
        for party, (start, rest) in self._rest.items():
            if rest:
                self._print(party, start, rest)

    def _print(self, party: str, offset: int, line: bytes | bytearray) -> None:
        text = line.decode(errors="replace")
        if self._as_json:
            click.echo(json.dumps({"party": party, "offset": offset, "text": text}))
        elif self._alone:
            click.echo(clean(text))
        else:
            click.echo(f"{click.style(clean(party), fg='cyan')} | {clean(text)}")
