# SPDX-License-Identifier: Apache-2.0
"""FLContext: named properties that FLARE hands to every component.

Only code written for FLARE sees one: flprov itself passes values, not contexts. A property is
*private* (this process only) or public, and *sticky* (in every context of the run from now on) or
only in this context.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flprov.flare.apis.fl_constant import ReservedKey

if TYPE_CHECKING:
    from flprov.flare.apis.signal import Signal

_log = logging.getLogger("FLContext")


@dataclass(frozen=True)
class _Prop:
    value: Any  # what a job puts there
    private: bool
    sticky: bool

    @property
    def nature(self) -> str:
        return f"{'private' if self.private else 'public'} and {'sticky' if self.sticky else 'not sticky'}"


class FLContext:
    """Properties, by key."""

    def __init__(self) -> None:
        self._own: dict[str, _Prop] = {}
        self._shared: dict[str, _Prop] = {}
        self._lock = threading.RLock()  # events are fired from the thread of an abort, too

    def set_prop(self, key: str, value: Any, private: bool = True, sticky: bool = True) -> bool:  # noqa: ANN401
        """Set a property. False, with a warning in the log, when it is there with another nature.

        Raises:
            ValueError: the key is no text.
        """
        if not isinstance(key, str):
            raise ValueError(f"the key of a property must be a text, not {key!r}")
        new = _Prop(value, private, sticky)
        with self._lock:
            for old in (self._own.get(key), self._shared.get(key) if sticky else None):
                if old is not None and old.nature != new.nature:
                    _log.warning("property %r is %s; it cannot become %s", key, old.nature, new.nature)
                    return False
            (self._shared if sticky else self._own)[key] = new
        return True

    def put(self, key: str, value: Any, private: bool, sticky: bool) -> None:  # noqa: ANN401
        """Set a property of this context whatever it was before."""
        self._own[key] = _Prop(value, private, sticky)

    def get_prop(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """The value of a property, or `default`."""
        found = self._find(key)
        return default if found is None else found.value

    def get_prop_detail(self, key: str) -> dict[str, Any] | None:
        """Value and nature of a property, or None."""
        found = self._find(key)
        if found is None:
            return None
        return {"value": found.value, "private": found.private, "sticky": found.sticky}

    def get_prop_keys(self) -> list[str]:
        """The keys of all properties."""
        return list(self._shared | self._own)

    def public_key_exists(self, key: str) -> bool:
        """Whether there is such a property and it is public."""
        found = self._find(key)
        return found is not None and not found.private

    def get_all_public_props(self) -> dict[str, Any]:
        """The public properties."""
        return {key: prop.value for key, prop in (self._shared | self._own).items() if not prop.private}

    def remove_prop(self, key: str, force_removal: bool = False) -> None:
        """Take a property out of this context; reserved ones (`__...`) only by force."""
        if force_removal or not key.startswith("__"):
            self._own.pop(key, None)
            self._shared.pop(key, None)

    def set_custom_prop(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Set a property among those that nobody else uses."""
        props = self.get_prop(ReservedKey.CUSTOM_PROPS) or {}
        self.set_prop(ReservedKey.CUSTOM_PROPS, props, private=True, sticky=False)
        props[key] = value

    def get_custom_prop(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """One of those."""
        return (self.get_prop(ReservedKey.CUSTOM_PROPS) or {}).get(key, default)

    def get_engine(self, default: Any = None) -> Any:  # noqa: ANN401
        """What finds components and fires events."""
        return self.get_prop(ReservedKey.ENGINE, default)

    def get_workspace(self) -> Any:  # noqa: ANN401
        """The folders of this run."""
        return self.get_engine().get_workspace()

    def get_job_id(self, default: Any = None) -> Any:  # noqa: ANN401
        """The id of the job."""
        return self.get_prop(ReservedKey.RUN_NUM, default)

    def get_identity_name(self, default: str = "") -> str:
        """The name of this site, or of the server."""
        return str(self.get_prop(ReservedKey.IDENTITY_NAME, default))

    def get_run_abort_signal(self) -> Signal | None:
        """Triggered when the job is being stopped."""
        found: Signal | None = self.get_prop(ReservedKey.RUN_ABORT_SIGNAL)
        return found

    def set_peer_context(self, ctx: FLContext) -> None:
        """Remember the context of whoever sent the current task or result."""
        self.put(ReservedKey.PEER_CTX, ctx, private=True, sticky=False)

    def get_peer_context(self) -> FLContext | None:
        """The context of whoever sent the current task or result."""
        found: FLContext | None = self.get_prop(ReservedKey.PEER_CTX)
        return found

    def sync_sticky(self) -> None:
        """Nothing: sticky properties are always in step."""

    def clone(self) -> FLContext:
        """Another context of the same run with the same properties."""
        made = FLContext()
        made._own, made._shared = dict(self._own), self._shared
        return made

    def __enter__(self) -> FLContext:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __str__(self) -> str:
        return " ".join(f"{key}: {type(prop.value)}" for key, prop in (self._shared | self._own).items())

    def _find(self, key: str) -> _Prop | None:
        with self._lock:
            own = self._own.get(key)
            if own is not None and not own.sticky:
                return own
            return self._shared.get(key, own)


class FLContextManager:
    """Makes the contexts of one run; sticky properties are common to them."""

    def __init__(self, engine: Any = None, identity_name: str = "", job_id: str = "") -> None:  # noqa: ANN401
        self.engine = engine
        self.identity_name = identity_name
        self.job_id = job_id
        self._shared: dict[str, _Prop] = {}

    def new_context(self) -> FLContext:
        """A context with the sticky properties, the engine, the job's id and our name."""
        made = FLContext()
        made._shared = self._shared
        made.put(ReservedKey.ENGINE, self.engine, private=True, sticky=False)
        made.put(ReservedKey.RUN_NUM, self.job_id, private=False, sticky=False)
        made.put(ReservedKey.CURRENT_JOB_ID, self.job_id, private=False, sticky=False)
        made.put(ReservedKey.IDENTITY_NAME, self.identity_name, private=False, sticky=False)
        return made
