# SPDX-License-Identifier: Apache-2.0
"""How the sites of a job come to one secret key through a server that never has it.

Each site makes an X25519 key pair; one of them makes the secret key and seals it for every other. The
workflow relays. This happens at the start of every round, so that a site that came later, or whose
folder was made anew, takes part in the next one; when all have the key it costs one short task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flprov.errors import JobFailed
from flprov.messages import Update, UpdateKind
from flprov.sdk.sites import Sites

HELLO, SHARE, TAKE, OPEN = (f"flprov.he.{word}" for word in ("hello", "share", "take", "open"))


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """The sites that have the job's secret key."""

    key: str  # its id, hex
    sites: tuple[str, ...]


def share_key(sites: Sites, key: str) -> Keyed:
    """Give the secret key to every site that answers; those that have it then.

    Args:
        sites: the sites of the job, in an open round.
        key: the id of the key under which the model is encrypted; empty: nothing is encrypted yet.

    Raises:
        JobFailed: nobody has that key any more.
    """
    hellos = sites.broadcast(HELLO, {}, expects=(UpdateKind.OPAQUE,))
    wanted = key or next((held for hello in hellos if (held := _text(hello, "key"))), "")
    having = [hello.site for hello in hellos if wanted and _text(hello, "key") == wanted]
    if key and not having:
        raise JobFailed(
            "no site has the job's secret key any more, so its model can never be opened",
            hint="submit the job again; its sites' folders were removed while it ran",
        )
    lacking = {hello.site: hello.params["public"] for hello in hellos if hello.site not in having}
    holder = having[0] if having else hellos[0].site
    lacking.pop(holder, None)
    if having and not lacking:
        return Keyed(key=wanted, sites=tuple(having))
    (shared,) = sites.broadcast(SHARE, lacking, to=[holder], expects=(UpdateKind.OPAQUE,))
    taken: Sequence[Update] = ()
    if lacking:
        taken = sites.broadcast(TAKE, shared.params, to=list(lacking), expects=())
    found = {holder, *having, *(update.site for update in taken)}
    return Keyed(key=_text(shared, "key"), sites=tuple(sorted(found)))


def _text(update: Update, name: str) -> str:
    return np.asarray(update.params.get(name, np.empty(0)), np.uint8).tobytes().hex()
