"""The Lua scripts of the coordination Redis: which there are, and what Python and Lua have to agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from celery_gconc.connection.scripts import assemble
from celery_gconc.limits.rules import MAX_VALUE
from celery_gconc.protocol.changes import LIMIT
from celery_gconc.protocol.configurations import PIECE
from celery_gconc.protocol.keys import KEYSPACE, SHARDS
from celery_gconc.protocol.messages import GRANT, ROW, RUN, WANT
from celery_gconc.settings import MAX_TIMEOUT

#: Each is a file in a folder of ``lua/``; the stores have a method for each.
SCRIPTS: Mapping[str, str] = {
    name: f"{folder}/{name}"
    for folder, names in {
        "session": ("open", "configure", "restore", "sync", "heartbeat", "record", "close"),
        "operator": (
            *("ticket", "change"),
            *("names", "status", "sessions", "configured", "holders", "waiting", "find", "recent", "totals", "audit"),
        ),
    }.items()
    for name in names
}

#: How often a want may miss its turn before units are held back for it.
TURNS = 3

#: Of how many limits one script takes units from sessions that end, and values that no session is configured with any
#: more, how many limits it lets settle, and five times how many turns it gives; the next scripts do the rest. (At 5 to
#: 10 us each, a turn at 40.)
WORK = 100

#: From how many sessions on that were told of a new limit table a script leaves the others to the next. (At 5 to
#: 10 us each.)
RECEIVERS = 64

#: How many things one script looks at for people who ask, about. (At 10 to 20 us each.)
LOOKS = 200

#: How many limits, sessions or requests a page has, about, that people are shown: each takes some ten steps.
PAGE = LOOKS // 8

#: The longest pause between two tries of a worker to reach Redis, in seconds.
LAST_RETRY = 1.5

#: What the scripts are told of Python's values, as ``constant.<name>``; times in ms.
CONSTANTS: Mapping[str, int] = {
    "KEYS": len(KEYSPACE),
    "TURNS": TURNS,
    "WORK": WORK,
    "LOOKS": LOOKS,
    "PIECE": PIECE,
    "SHARDS": SHARDS,
    "RECEIVERS": RECEIVERS,
    "MAX": MAX_VALUE,
    "MAX_TIMEOUT": int(MAX_TIMEOUT * 1000),
    "LAST_RETRY": int(LAST_RETRY * 1000),
}

#: Where in a row each field is.
ROWS: Mapping[str, tuple[str, ...]] = {"LIMIT": LIMIT, "GRANT": GRANT, "WANT": WANT, "ROW": ROW, "RUN": RUN}


def script(name: str) -> str:
    """The text of one of :data:`SCRIPTS`."""
    return assemble(__package__, SCRIPTS[name], head=_head(), first="epochs.begin()")


def _head() -> str:
    keys = (f"{name} = KEYS[{number}]" for number, name in enumerate(KEYSPACE, 1))
    constants = (f"{name} = {value}" for name, value in CONSTANTS.items())
    rows = (f"local {name} = {_offsets(row)}\n" for name, row in ROWS.items())
    return f"local call = redis.call\nlocal key = {_table(keys)}\nlocal constant = {_table(constants)}\n{''.join(rows)}"


def _offsets(row: tuple[str, ...]) -> str:
    return "{ " + ", ".join(f"{name} = {number}" for number, name in enumerate(row, 1)) + " }"


def _table(entries: Iterable[str]) -> str:
    return "{\n" + "".join(f"  {entry},\n" for entry in entries) + "}"
