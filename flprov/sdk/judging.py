# SPDX-License-Identifier: Apache-2.0
"""Updates that only the workflow itself can judge: the bad ones are refused, and the round goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Tensors, Update
from flprov.sdk.sites import Sites
from flprov.wire import dtype_name


def judge(
    updates: Iterable[Update], verify: Callable[[Update], object], refuse: Callable[[Update, str], None]
) -> tuple[list[Update], list[str]]:
    """The updates that `verify` accepts; for the others it raises UpdateRefused.

    Returns:
        These updates, and why each of the others was refused.
    """
    sound, reasons = [], []
    for update in updates:
        try:
            verify(update)
        except UpdateRefused as error:
            refuse(update, str(error))
            reasons.append(str(error))
        else:
            sound.append(update)
    return sound, reasons


def keep_sound(
    sites: Sites, updates: Sequence[Update], verify: Callable[[Update], object], *, hint: str = ""
) -> list[Update]:
    """The updates that `verify` accepts, as in `judge`; the sites of the others are absent.

    Raises:
        JobFailed: there is none; it says why the first one was refused.
    """
    sound, reasons = judge(updates, verify, sites.refuse)
    if not sound:
        raise JobFailed(
            f"no update of this round can be used: {reasons[0] if reasons else 'there is none'}",
            hint=hint or None,
        )
    return sound


def keep_alike(sites: Sites, updates: Sequence[Update], model: Tensors) -> list[Update]:
    """The updates with the tensors that most of them have; of as many, those of the first site.

    That is for weights that no `model` has asked for: of others the runtime has seen to it.
    """
    if model:
        return list(updates)
    forms = {update.site: _form(update) for update in updates}
    wanted = Counter(forms.values()).most_common(1)[0][0]

    def verify(update: Update) -> None:
        own = forms[update.site]
        for name, what in sorted(wanted - own):
            raise UpdateRefused(f"{update.site} has no tensor {name!r} of {what}, which most sites have")
        for name, what in sorted(own - wanted):
            raise UpdateRefused(f"{update.site} has a tensor {name!r} of {what}, which most sites have not")

    return keep_sound(sites, updates, verify)


def _form(update: Update) -> frozenset[tuple[str, str]]:
    """The names of its tensors, and what each of them is."""
    return frozenset(
        (name, f"{dtype_name(array.dtype)}{list(array.shape)}") for name, array in update.params.items()
    )
