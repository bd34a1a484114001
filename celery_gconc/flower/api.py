"""``/api/gconc``: the limits as JSON, and changes of them, by the rules of Flower's own API.

GET   [?limit=emails&limit=...]                   all limits and workers; of those named, holders and waiters too
POST  action=set limit=emails max=8 [reason=...] [duration=7200]      likewise pause; resume and reset take a limit
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flower.api import BaseApiHandler
from tornado import web
from tornado.routing import URLSpec

from celery_gconc.errors import GlobalConcurrencyError, LimitError
from celery_gconc.flower.access import (
    READ_ONLY,
    answer_with_error,
    answer_with_snapshot,
    is_read_only,
    refuse_other_sites,
    user_of,
)
from celery_gconc.flower.snapshots import SnapshotCache
from celery_gconc.limits.name import shown
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import Change, as_json

#: What may be done with a limit, and what each takes.
ACTIONS: Mapping[str, tuple[Callable[..., Change], frozenset[str]]] = {
    "set": (Operations.set, frozenset({"max", "reason", "duration"})),
    "pause": (Operations.pause, frozenset({"reason", "duration"})),
    "resume": (Operations.resume, frozenset()),
    "reset": (Operations.reset, frozenset()),
}


class ApiHandler(BaseApiHandler):
    """Flower's base class asks for the login (401 without, unless FLOWER_UNAUTHENTICATED_API) and checks XSRF."""

    def initialize(self, cache: SnapshotCache) -> None:
        """Take what :func:`route` gives."""
        self.cache = cache

    @web.authenticated
    async def get(self) -> None:
        """Tell what holds now."""
        await answer_with_snapshot(self, self.cache)

    @web.authenticated
    async def post(self) -> None:
        """Make a change, in the name of the user who is logged in."""
        refuse_other_sites(self)
        if is_read_only(self):
            self.set_status(403)
            self.write({"error": READ_ONLY})
            return
        try:
            change = await self.cache.change(_change_of(self._asked(), by=user_of(self)))
        except GlobalConcurrencyError as exc:
            answer_with_error(self, exc)
        else:
            self.write({"message": str(change), "change": as_json(change)})

    def _asked(self) -> dict[str, Any]:
        """What the request asks for: a JSON object, or the fields of a form or of the URL, as in Flower's own API."""
        if self.request.headers.get("Content-Type", "").startswith("application/json"):
            try:
                asked = json.loads(self.request.body)
            except ValueError as exc:  # or no UTF-8
                raise LimitError(f"the request body is not JSON: {exc}") from None
            if not isinstance(asked, dict):
                raise LimitError("the request body is JSON, but not an object")
            return asked
        # (not `get_argument`: Flower's escapes HTML in what it returns)
        return {name: self.get_arguments(name)[-1] for name in self.request.arguments}


def route(cache: SnapshotCache) -> URLSpec:
    """Where the API is."""
    return URLSpec(r"/api/gconc", ApiHandler, {"cache": cache})


def _change_of(asked: Mapping[str, Any], *, by: str) -> Callable[[Operations], Change]:
    """The change that is asked for. A field that is empty counts as not given.

    Raises:
        LimitError: something is asked for that can't be; limit, max and duration are checked when the change is made.
    """
    given = {name: value for name, value in asked.items() if value not in (None, "") and name != "_xsrf"}
    action, limit = given.pop("action", None), given.pop("limit", None)
    if not isinstance(action, str) or action not in ACTIONS:
        raise LimitError(f"action must be one of {', '.join(ACTIONS)}; got {shown(action)}")
    function, takes = ACTIONS[action]
    if unknown := sorted(given.keys() - takes):
        raise LimitError(f"{action} doesn't take {shown(unknown[0])}")
    if action == "set" and "max" not in given:
        raise LimitError("set takes a max: a whole number >= 0, or 'unlimited'")
    if not isinstance(given.get("reason", ""), str):
        raise LimitError(f"a reason must be text; got {shown(given['reason'])}")
    if "duration" in given:
        given["duration"] = _number(given["duration"])
    return lambda operations: function(operations, limit, **given, by=by)


def _number(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value  # the operation refuses it, with its rule
