# SPDX-License-Identifier: Apache-2.0
"""How the sites of a job come to one secret key through a server that never has it.

Each site makes an X25519 key pair; one of them makes the secret key and seals it for every other. The
workflow relays. This happens at the start of every round, so that a site that came later, or whose
folder was made anew, takes part in the next one; when all have the key it costs one short task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.he.ciphertexts import is_encrypted
from flprov.sdk.judging import judge
from flprov.sdk.sites import Sites
from flprov.sdk.state import State

HELLO, SHARE, TAKE = "flprov.he.hello", "flprov.he.share", "flprov.he.take"
OPAQUE = (UpdateKind.OPAQUE,)

_GUARDED = "secret key: sealed under the sites' own secret; a server that swaps public keys cannot open it"
_TRUSTING = (
    "secret key: sealed for each site's public key, which the server hands on unchanged or not: give the"
    " sites a secret of their own (he_secret in site.yml) where it is not trusted with that"
)


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """The sites that have the job's secret key."""

    key: str  # its id, hex
    sites: tuple[str, ...]
    guarded: bool  # each of them has a secret from beforehand, which the server has not


def share_key(sites: Sites, state: State, *, needs_secret: bool = False) -> Keyed:
    """Give the secret key to every site that answers; those that have it then.

    Args:
        sites: the sites of the job, in an open round.
        state: the round's, which names the key if its model is encrypted.
        needs_secret: the sites must have a secret of their own.

    Raises:
        JobFailed: nobody has that key any more, or not every site has a secret.
    """
    key = str(state.scalars["he.key"]) if is_encrypted(state.model) else ""
    said = sites.broadcast(HELLO, {}, expects=OPAQUE)
    hellos, _ = judge(said, lambda hello: _verify_texts(hello, ("public", "key", "secret")), sites.refuse)
    wanted = key or next((held for hello in hellos if (held := _text(hello, "key"))), "")
    having = [hello.site for hello in hellos if wanted and _text(hello, "key") == wanted]
    if key and not having:
        raise JobFailed(
            "no site has the secret key under which the model is encrypted, so it can never be opened",
            hint="a job's key goes with its folders at the sites: submit the job again from the start",
        )
    guarded = all(hello.params["secret"].size for hello in hellos)
    if needs_secret and not guarded:
        raise JobFailed(
            "workflow.release is false, and not every site has a he_secret: the key would go with the job,"
            " and nobody could ever open the result",
            hint="leave out `release`, or add `he_secret` to each site's site.yml",
        )
    lacking = {hello.site: hello.params["public"] for hello in hellos if hello.site not in having}
    if having and not lacking:
        return Keyed(key=wanted, sites=tuple(having), guarded=guarded)
    gives = ("from", "key", *(f"for/{site}" for site in lacking))
    makers = [] if key else list(lacking)  # nothing is encrypted yet: any site may make another key
    shared = ask_any(sites, [*having, *makers], SHARE, lacking, gives=gives)
    if shared.site not in having:
        having = []  # theirs is not the one that the others get
    own = {site: {name: shared.params[name] for name in ("from", f"for/{site}")} for site in lacking}
    own.pop(shared.site, None)
    taken: list[Update] = []
    if own:
        taken += sites.start(TAKE, {}, to=list(own), extra_of=own, expects=(), optional=True)
    found = {shared.site, *having, *(update.site for update in taken)}
    print(_GUARDED if guarded else _TRUSTING, flush=True)
    return Keyed(key=_text(shared, "key"), sites=tuple(sorted(found)), guarded=guarded)


def ask_any(
    sites: Sites,
    among: Sequence[str],
    name: str,
    model: Tensors,
    *,
    scalars: Mapping[str, Scalar] = MappingProxyType({}),
    gives: Sequence[str] = (),
) -> Update:
    """What the first of these sites answers that does; each is asked when the one before has failed.

    Args:
        sites: of the job.
        among: who can do it, in turn.
        name: the task.
        model: what goes with it.
        scalars: likewise.
        gives: texts of bytes that the answer must have; one without them is refused.

    Raises:
        JobFailed: none does.
    """
    reasons: dict[str, str] = {}
    for site in among:
        asked = sites.start(name, model, to=[site], expects=OPAQUE, scalars=scalars, optional=True)
        sound, _ = judge(list(asked), lambda update: _verify_texts(update, gives), sites.refuse)
        if sound:
            return sound[0]
        reasons |= asked.absent
    why = "; ".join(f"{site}: {reason}" for site, reason in reasons.items())
    raise JobFailed(f"no site that has the job's secret key did task {name!r} ({why})")


def _verify_texts(update: Update, names: Sequence[str]) -> None:
    """Raise UpdateRefused if one of these texts of bytes is not there."""
    wrong = [name for name in names if not _is_text(update.params.get(name))]
    if wrong:
        raise UpdateRefused(f"{update.site} sent no bytes as {wrong[0]!r}, which the exchange of keys takes")


def _is_text(array: NDArray[np.generic] | None) -> bool:
    return array is not None and array.dtype == np.uint8 and array.ndim == 1


def _text(update: Update, name: str) -> str:
    return np.asarray(update.params.get(name, np.empty(0)), np.uint8).tobytes().hex()
