"""What can go wrong, one class for each thing a caller would treat differently.

The docstring of a class is its default message.  HTTP appears nowhere here:
`handlers/errors.py` holds the one table from these classes to status codes.
"""

from __future__ import annotations

from typing import ClassVar


class EntrepotError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().split("\n")[0])


# --- what a request can be told -------------------------------------------------


class Invalid(EntrepotError):
    """The request is malformed."""


class Unrecordable(Invalid):
    """It holds characters or numbers that cannot be recorded."""


class NotFound(EntrepotError):
    """There is no such thing, or none that the caller may know of."""


class Forbidden(EntrepotError):
    """The caller may not do this."""


class Unauthenticated(EntrepotError):
    """The request carries no valid identity."""


class Conflict(EntrepotError):
    """The request does not fit the state the thing is in."""


class Gone(EntrepotError):
    """The thing vanished while the request was being served."""


class TooLarge(EntrepotError):
    """The data or the request exceeds a limit."""


class OverQuota(TooLarge):
    """A quota would be exceeded."""

    def __init__(self, resource: str, limit: int, usage: int, delta: int) -> None:
        super().__init__(f"Resource {resource} is over limit of {limit} due to current usage {usage} and delta {delta}")
        self.resource, self.limit, self.usage, self.delta = resource, limit, usage, delta


class UnacceptableData(EntrepotError):
    """The data is not what was declared, or is unsafe."""


class BadSignature(UnacceptableData):
    """The signature of the data cannot be verified."""


class PluginFailed(EntrepotError):
    """A plugin failed."""

    def __init__(self, plugin: str, reason: str) -> None:
        super().__init__(f"The plugin {plugin} failed: {reason}")
        self.plugin = plugin


class Unavailable(EntrepotError):
    """The service cannot answer right now; trying again later may help."""

    retry_after: ClassVar[int] = 2
    """Seconds after which a client may sensibly try again."""


class SourceFailed(EntrepotError):
    """The source could not be read."""


class Interrupted(SourceFailed):
    """The source broke off in the middle."""


# --- the log --------------------------------------------------------------------


class WrongExpectedVersion(EntrepotError):
    """The stream has moved on since it was read."""


class Fenced(EntrepotError):
    """The lease under which this was to be recorded belongs to someone else by now."""


class LeaseHeld(EntrepotError):
    """Somebody else holds the lease of this stream."""


class LogBroken(EntrepotError):
    """The log has a hole, a wrong order or a broken chain."""


class UnknownEvent(EntrepotError):
    """The log holds an event that this version does not know; a newer node wrote it."""


# --- stores ---------------------------------------------------------------------


class StoreError(EntrepotError):
    """A store failed."""

    def __init__(self, store: str, message: str | None = None) -> None:
        detail = message or (type(self).__doc__ or "").strip()
        super().__init__(f"store {store}: {detail}")
        self.store = store
        self.detail = detail


class BlobMissing(StoreError):
    """the object does not exist"""


class BlobExists(StoreError):
    """the name is taken"""


class BlobInUse(StoreError):
    """the object is in use and cannot be deleted"""


class StoreUnavailable(StoreError):
    """the store does not answer; trying again may help"""


class StoreFull(StoreError):
    """there is no space left"""


class StoreDenied(StoreError):
    """the service lacks permission"""


class StoreReadOnly(StoreError):
    """the store cannot be written"""


class Corrupt(StoreError):
    """the bytes differ from what was recorded"""


# --- starting -------------------------------------------------------------------


class ConfigError(EntrepotError):
    """The configuration is wrong."""


class SchemaTooNew(EntrepotError):
    """The database was migrated by a newer version of the service."""
