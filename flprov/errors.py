# SPDX-License-Identifier: Apache-2.0
"""The error tree and the exit codes.

    FlprovError                 1  failed
    ├── Misuse                  2  the request itself is wrong
    │   ├── ConfigError            a file that a person wrote has mistakes (all of them are listed)
    │   └── Conflict               the request contradicts what is already there
    ├── Refused                 3  somebody's rule says no
    │   ├── IdentityRefused        the certificate, its chain, its kind or its name
    │   │   └── SiteLocked         an admin has locked the site; it may be unlocked again
    │   ├── PermissionRefused      the role may not do this
    │   ├── PolicyRefused          the site's own policy
    │   ├── KitRefused             the kit does not match its manifest, or others can read its key
    │   ├── UpdateRefused          an update that does not fit its task
    │   ├── NoRoom                 there is not room enough for a job now
    │   └── ConfinementRefused     job code could not be confined here
    ├── Unavailable             4  a retry may help
    │   ├── ServerUnavailable      the server does not answer
    │   └── SiteUnavailable        the site is not connected
    ├── NotFound                5
    ├── TimedOut                6
    ├── LocalError              1  we, or this machine, broke it
    │   └── StateDamaged           a state folder that cannot be read as it should
    └── RemoteError             1  the other side broke it
        ├── ProtocolError          what arrived is not what the protocol says
        └── JobFailed              the job's own code failed

Each class also has a nature, which says whether to try again: only what is transient is retried.

`str(error)` is fit for a stranger: what was asked, what was found, no secret. The rest is
`__cause__`, for the log. `hint` is the next thing to type.
"""

from __future__ import annotations

import enum
import re


class ExitCode(enum.IntEnum):
    """What a command's exit status means. Stable; documented in docs/exit-codes.md."""

    DONE = 0
    FAILED = 1
    MISUSE = 2
    REFUSED = 3
    UNREACHABLE = 4
    NOT_FOUND = 5
    TIMED_OUT = 6
    ATTENTION = 7  # a plan with changes, something expires soon, a job that ended degraded


class Nature(enum.Enum):
    """What has to happen before it can work."""

    TRANSIENT = "transient"  # time: it is tried again by itself
    CONFIGURATION = "configuration"  # somebody changes the job, a file or the software
    IDENTITY = "identity"  # somebody with authority lets this party in, or gives it another certificate


class FlprovError(Exception):
    """Anything that flprov refuses or fails to do.

    Args:
        message: one sentence for a stranger: what was asked and what was found. No secret.
        hint: the next command to type or the thing to change, if there is one.
    """

    exit_code = ExitCode.FAILED
    nature = Nature.CONFIGURATION

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def code(self) -> str:
        """The stable name of this kind of error, e.g. `policy-refused`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()


class Misuse(FlprovError):
    """The request itself is wrong; repeating it will not help."""

    exit_code = ExitCode.MISUSE


class ConfigError(Misuse):
    """A file that a person wrote has mistakes. Every mistake is one line of `problems`."""

    def __init__(self, problems: list[str] | str, *, hint: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems), hint=hint)


class Conflict(Misuse):
    """The request contradicts what is already there, such as a token reused for another job."""


class Refused(FlprovError):
    """A rule says no; asking again will not help."""

    exit_code = ExitCode.REFUSED


class IdentityRefused(Refused):
    """A certificate, its chain, its kind or its name is not acceptable here."""

    nature = Nature.IDENTITY


class SiteLocked(IdentityRefused):
    """An admin has locked this site. It may be unlocked, so its agent goes on asking."""

    nature = Nature.TRANSIENT


class PermissionRefused(Refused):
    """The caller's role may not do this."""

    nature = Nature.IDENTITY


class PolicyRefused(Refused):
    """The site's own policy says no."""


class KitRefused(Refused):
    """A kit does not match its manifest, is readable by others, or is in use."""

    nature = Nature.IDENTITY


class UpdateRefused(Refused):
    """An update does not fit the task it answers."""


class NoRoom(Refused):
    """There is not room enough for a job here now; there may be, once somebody else has ended."""

    nature = Nature.TRANSIENT


class ConfinementRefused(Refused):
    """Job code cannot be confined on this machine and the policy does not waive it."""


class Unavailable(FlprovError):
    """The other side does not answer; a retry may help."""

    exit_code = ExitCode.UNREACHABLE
    nature = Nature.TRANSIENT


class ServerUnavailable(Unavailable):
    """The server does not answer."""


class SiteUnavailable(Unavailable):
    """The site is not connected."""


class NotFound(FlprovError):
    """No such thing."""

    exit_code = ExitCode.NOT_FOUND


class TimedOut(FlprovError):
    """What was waited for did not happen in the time that the caller gave."""

    exit_code = ExitCode.TIMED_OUT
    nature = Nature.TRANSIENT


class LocalError(FlprovError):
    """This machine or flprov itself broke it."""

    nature = Nature.TRANSIENT


class StateDamaged(LocalError):
    """A state folder that cannot be read as it should be."""

    nature = Nature.CONFIGURATION


class RemoteError(FlprovError):
    """The other side broke it: a full disk there, say. Time may heal it, as it may what is local."""

    nature = Nature.TRANSIENT


class ProtocolError(RemoteError):
    """What arrived is not what the protocol says."""

    nature = Nature.CONFIGURATION


class JobFailed(RemoteError):
    """The job's own code failed."""

    nature = Nature.CONFIGURATION


def _tree(root: type[FlprovError]) -> dict[str, type[FlprovError]]:
    found = {root("", hint=None).code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def error_class(code: str) -> type[FlprovError]:
    """The class whose `code` this is; FlprovError when it is none of ours."""
    return _tree(FlprovError).get(code, FlprovError)
