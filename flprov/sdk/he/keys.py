# SPDX-License-Identifier: Apache-2.0
"""What a site holds for one job: its half of the exchange, and the secret key that all sites share.

Both lie in the job's folder at the site, readable by its owner alone, and go with the job. They are
made once: a task that is done again after a kill finds them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flprov._base import write_private
from flprov.errors import JobFailed
from flprov.messages import Site
from flprov.pki import create_exchange_key, exchange_public_key, lock, open_sealed, seal
from flprov.sdk.he.ckks import Cipher, create_secret_key

_FOLDER = "flprov-he"
_ID_BYTES = 16
_OPENED = "opened"
_MOST_OPENED = 4  # the last one and the best one; both again, where a killed round had other updates


@dataclass(frozen=True, kw_only=True)
class SharedKey:
    """The secret key of a job, the same at all its sites."""

    id: bytes  # random; tells keys apart and says nothing about them
    secret: bytes = field(repr=False)


def read_key(data: bytes) -> SharedKey:
    """The key in the bytes that one site gives another."""
    return SharedKey(id=data[:_ID_BYTES], secret=data[_ID_BYTES:])


def lock_purpose(job_id: str) -> bytes:
    """What `SiteKeys.locked` locks for."""
    return f"the CKKS key of job {job_id} beside its result".encode()


class SiteKeys:
    """The keys of one job at one site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._folder = site.folder / _FOLDER

    @property
    def public(self) -> bytes:
        """This site's public half of the exchange."""
        return exchange_public_key(self._exchange())

    def shared(self) -> SharedKey | None:
        """The key of the job, if this site has it."""
        path = self._folder / "secret.key"
        if not path.exists():
            return None
        data = path.read_bytes()
        return read_key(data)

    def require(self) -> SharedKey:
        """The key of the job.

        Raises:
            JobFailed: this site has none (any more).
        """
        key = self.shared()
        if key is None:
            raise JobFailed(
                f"{self._site.name} has no key for this job: its folder was made anew since the round began",
                hint="nothing to do: the site is given the key at the start of the next round",
            )
        return key

    def make(self) -> SharedKey:
        """The key of the job; a new one, if this site has none."""
        key = self.shared()
        if key is None:
            key = SharedKey(id=secrets.token_bytes(_ID_BYTES), secret=create_secret_key())
            self._keep(key)
        return key

    def seal_for(self, site: str, public: bytes) -> bytes:
        """The key of the job, for another site alone. Raises IdentityRefused when `public` is no key."""
        key = self.require()
        return seal(
            key.id + key.secret,
            private=self._exchange(),
            recipient=public,
            purpose=self._purpose(site),
            secret=self._site.he_secret,
        )

    def take(self, sealed: bytes, sender: bytes) -> SharedKey:
        """Keep the key that another site has sealed for this one.

        Raises:
            IdentityRefused: it was not sealed for this site and job, or was changed on the way.
        """
        data = open_sealed(
            sealed,
            private=self._exchange(),
            sender=sender,
            purpose=self._purpose(self._site.name),
            secret=self._site.he_secret,
        )
        key = read_key(data)
        Cipher(key.secret)  # raises where it is none
        self._keep(key)
        return key

    def locked(self) -> bytes:
        """The key of the job, under what the sites' own secret comes to for this job.

        Raises:
            JobFailed: this site has no such secret, or no key.
        """
        if not self._site.he_secret:
            raise JobFailed(f"{self._site.name} has no he_secret in its site.yml")
        key = self.require()
        purpose = lock_purpose(self._site.job_id)
        return lock(key.id + key.secret, secret=self._site.he_secret, purpose=purpose)

    def note_opened(self, number: int, digest: bytes) -> None:
        """This site is about to open a model in round `number`: the last one, or the best one.

        Raises:
            JobFailed: it has opened others, in another round, or more than a job needs.
        """
        opened = self._opened()
        if any(line[0] != number for line in opened):
            raise JobFailed(
                f"{self._site.name} has opened a model in round {opened[0][0]}; a job is opened once"
            )
        if (number, digest.hex()) in opened:
            return
        if len(opened) >= _MOST_OPENED:
            raise JobFailed(
                f"{self._site.name} has opened {_MOST_OPENED} models of this job; it opens no more"
            )
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lines = [*opened, (number, digest.hex())]
        write_private(self._folder / _OPENED, "".join(f"{at} {text}\n" for at, text in lines).encode())

    def verify_unopened(self, number: int) -> None:
        """Check that nothing is encrypted any more after a model was opened.

        Raises:
            JobFailed: this site has opened one in a round before `number`.
        """
        opened = self._opened()
        if opened and number > opened[0][0]:
            raise JobFailed(
                f"{self._site.name} has opened a model of this job in round {opened[0][0]},"
                " which ends it here",
                hint="the last round opens the result; submit another job to go on from it",
            )

    def _opened(self) -> list[tuple[int, str]]:
        """Round and digest of each model that this site has opened."""
        path = self._folder / _OPENED
        if not path.exists():
            return []
        rows = [line.split() for line in path.read_text().splitlines()]
        return [(int(number), digest) for number, digest in rows]

    def _purpose(self, site: str) -> bytes:
        return f"the CKKS key of job {self._site.job_id} for {site}".encode()

    def _exchange(self) -> bytes:
        return self._once("exchange.key", create_exchange_key)

    def _keep(self, key: SharedKey) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self._folder / "secret.key", key.id + key.secret)

    def _once(self, name: str, create: Callable[[], bytes]) -> bytes:
        path: Path = self._folder / name
        if not path.exists():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_private(path, create())
        return path.read_bytes()
