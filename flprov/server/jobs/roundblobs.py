# SPDX-License-Identifier: Apache-2.0
"""The blobs that sites send in a round, from their announcement to the update that names them."""

from __future__ import annotations

from flprov.errors import ProtocolError

_SPARE = 64  # blobs that a site may send in a round beyond one for each broadcast: late and refused ones


class RoundBlobs:
    """Which site has announced and sent what."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._announced: dict[str, set[str]] = {}  # site -> digests that it began to send in this round
        self._sent: dict[str, set[str]] = {}  # site -> digests that it sent whole

    def announce(self, site: str, digest: str, broadcasts: int) -> None:
        """The site is about to send this blob, in a round of so many broadcasts.

        Raises:
            ProtocolError: it has announced more blobs than a round has tasks.
        """
        announced = self._announced.setdefault(site, set())
        most = broadcasts + _SPARE
        if digest not in announced and len(announced) >= most:
            raise ProtocolError(f"{site} has announced {most} blobs in one round of job {self._job_id}")
        announced.add(digest)

    def note_sent(self, site: str, digest: str) -> None:
        """The site has sent this blob whole; its update may name it."""
        self._sent.setdefault(site, set()).add(digest)

    def sent_by(self, site: str, digest: str) -> bool:
        """Whether the site has sent this blob whole in this round."""
        return digest in self._sent.get(site, ())

    @property
    def all(self) -> set[str]:
        """Digests of everything that was sent, or is on its way: it may be here already, of another job."""
        return set[str]().union(*self._announced.values(), *self._sent.values())

    def drop(self) -> None:
        """Forget the round."""
        self._announced.clear()
        self._sent.clear()
