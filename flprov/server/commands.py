# SPDX-License-Identifier: Apache-2.0
"""Commands come late, and come twice: what is too old is refused, what was done already is not redone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from flprov._base import Clock, from_document, from_iso, to_document
from flprov.errors import Misuse
from flprov.rpc import Call
from flprov.server.durable import commit_through
from flprov.store import Change, Delete, Put, Store

KIND = "command"
_KEPT = timedelta(hours=1)  # how long a key is remembered, and how far ahead a not_after may lie
_LONGEST_KEY = 64


class Keyed(Protocol):
    """A request that changes something."""

    key: str
    not_after: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that was carried out."""

    id: str  # the caller and the key; empty: it came without one, and nothing is remembered
    until: datetime  # after which a repetition is too late anyway
    what: str = ""  # the method, and whom it was about


class Commands:
    """The keys of the last hour, in memory and in the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._done: dict[str, Command] = {}

    def load(self) -> None:
        """Read what was done before the last stop."""
        self._done = {key: from_document(Command, value) for key, value in self._store.load(KIND).items()}

    def verify_fresh(self, call: Call, request: Keyed, about: str) -> Command | None:
        """What to remember with the change; None when it was carried out before.

        Raises:
            Misuse: it came after its not_after, or its key is none, or was another command's.
        """
        now = self._clock.now()
        until = read_not_after(request.not_after, now)
        id_ = f"{call.caller.uri}|{verify_key(request.key)}" if request.key else ""
        what = f"{call.method.path} {about}"
        done = self._done.get(id_)
        if done is None:
            return Command(id=id_, until=until, what=what)
        if done.what not in ("", what):
            raise used_for_another()
        return None

    def changes(self, command: Command) -> list[Change]:
        """To commit with what the command does; the oldest keys go."""
        now = self._clock.now()
        gone = [Delete(KIND, done.id) for done in self._done.values() if done.until < now]
        kept = [Put(KIND, command.id, to_document(command))] if command.id else []
        return [*gone, *kept]

    async def remember(self, command: Command) -> None:
        """After a change that has no second effect anyway, and so need not be one commit with its key.

        Raises:
            LocalError: it could not be written; the change stands, and the key will not be known.
        """
        if command.id:
            await commit_through(self._store, self.changes(command), None, urgent=True)
        self.add(command)

    def add(self, command: Command) -> None:
        """It was carried out: after the commit of `changes`."""
        now = self._clock.now()
        self._done = {id_: done for id_, done in self._done.items() if done.until >= now}
        if command.id:
            self._done[command.id] = command


def verify_key(key: str) -> str:
    """The key of a command, if it is one. Raises Misuse."""
    if len(key) > _LONGEST_KEY or not key.isascii():
        raise Misuse(f"the key of a command has at most {_LONGEST_KEY} ASCII characters")
    return key


def used_for_another() -> Misuse:
    """What is said to a key that comes again with something else."""
    return Misuse(
        "the key of this command was used for another one, so it was not carried out",
        hint="each command needs a key of its own",
    )


def read_not_after(text: str, now: datetime) -> datetime:
    """Until when a command may be carried out; an hour when it does not say.

    Raises:
        Misuse: that moment has passed, is no time, or lies further ahead than keys are remembered.
    """
    if not text:
        return now + _KEPT
    try:
        limit = from_iso(text)
    except (ValueError, OverflowError) as error:
        raise Misuse(f"not_after is not a time: {text[:40]!r}") from error
    if limit < now:
        raise Misuse("the command came after its not_after and was not carried out", hint="send it again")
    if limit > now + _KEPT:
        raise Misuse(
            "the command's not_after lies more than an hour ahead", hint="is the clock of your machine right?"
        )
    return limit
