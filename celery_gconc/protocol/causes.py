"""Why a call to the coordination Redis failed: from what it raised, and where that doesn't say, by asking.

An exception -> Causes -> StoreUnavailable, or StoreUnusable where waiting doesn't help
"""

from __future__ import annotations

from contextlib import suppress

from redis.exceptions import RedisError

from celery_gconc.clock import now
from celery_gconc.connection.client import Client
from celery_gconc.connection.contact import look
from celery_gconc.connection.failures import Failure, Names, failure_of, is_about_rights, is_dumb, names_for
from celery_gconc.errors import StoreUnavailable, StoreUnusable
from celery_gconc.protocol.keys import Keys
from celery_gconc.protocol.rights import OPTIONAL, missing_rights

#: For how long, in seconds, what was found to listen there is believed while what fails stays the same.
LOOK_SECONDS = 60.0


class Causes:
    """Of one store."""

    def __init__(self, client: Client, keys: Keys, names: Names) -> None:
        self._client, self._keys, self._names = client, keys, names
        self._has_served = False
        #: What was found when it was last looked who listens there; what had been said; until when that is believed.
        self._looked: tuple[Failure | None, str, float] = (None, "", 0.0)

    def served(self) -> None:
        """A call went well: so it is a Redis, and spoken to rightly."""
        self._has_served = True

    def error_of(self, exc: Exception) -> StoreUnavailable:
        """The error to raise for one of redis-py's or the system's."""
        return _error(self._explained(exc))

    def check_rights(self) -> tuple[str, ...]:
        """Try each right that a worker needs, and return what it will not see for the lack of others, in sentences.

        Raises:
            StoreUnusable: something is missing; the message names all of it.
            RedisError, OSError: Redis can't be reached.
        """
        missing = missing_rights(self._client, self._keys)
        if (failure := missing.failure(self._names)) is not None:
            raise _error(failure)
        return missing.unseen(OPTIONAL)

    def _explained(self, exc: Exception) -> Failure:
        failure = failure_of(exc, self._names)
        if is_about_rights(exc):
            with suppress(RedisError, OSError):
                return missing_rights(self._client, self._keys).failure(self._names) or failure
        elif not failure.is_permanent and is_dumb(exc) and not self._has_served:
            found, said, ends = self._looked
            if said != failure.said or now() > ends:
                server = self._client.asked(exc)
                found = look(server, names_for(exc, self._names)) if server is not None else None
                self._looked = found, failure.said, now() + LOOK_SECONDS
            return found or failure
        return failure


def _error(failure: Failure) -> StoreUnavailable:
    return (StoreUnusable if failure.is_permanent else StoreUnavailable)(str(failure))
