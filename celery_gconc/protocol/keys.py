"""Every key and channel that celery-gconc uses in Redis, made here and nowhere else.

The number of keys is fixed, whatever the number of limits: a limit is a *member* of sorted sets that are
ordered by name (score 0), so a limit with no holder, no waiter and no override leaves nothing behind, and all
keys can be declared to Redis (one hash slot, no key made inside a script).
"""

from __future__ import annotations

import zlib

from celery_gconc.connection.location import namespace

#: A changed meaning of any key takes a new number, so that old and new workers never share a key.
SCHEMA = "v2"

#: Name and content of each key, in the order in which every script gets them as KEYS.
KEYSPACE: dict[str, str] = {
    "meta": "hash: epoch, server_id of the server that it began on, epoch_began (lease clock, ms), clock: the lease "
    "clock (ms), time of its last step (ms) and of the last that was held back (held), version of the limit table, "
    "overrides_version: that of what operators set, last ticket and fencing number, least interval and longest lease "
    "of a live session (ms), heard: the longest lease of before the epoch (ms), closed_until: when grants go on after "
    "a loss of data (lost: 1 where it is known to be one), served_to: the last limit whose line was served since then, "
    "while others are left, all_settle: the version that every session is to state by before anything is granted, "
    "told: the version that all sessions were told of, shard: the next channel to be told of a newer one, untold: how "
    "many are to be, heavy: 1 once a want was for more than one unit of a limit, next_override_end (ms), totals_at: "
    "how far totals were looked through for limits that are no more, and while an audit adds up a sum in "
    "several scripts audit (of what), audited_to (the last part) and audited (the sum so far)",
    "sessions": "zset: session id, by the end of its lease on the lease clock (ms)",
    "session": "hash: <session>:<field>: info, config, interval and timeout (ms), queues, room, granted, sync, "
    "offered, takes, growth, idle, over",
    "stated": "zset: session id, by the version of the limit table that it last went by when it stated what it runs",
    "heartbeats": "zset by name: interval US <ms> US <session> and timeout US <ms> US <session> of each live session",
    "units": "hash: <limit> US <session> to how many units of the limit the session has",
    "held": "hash: limit to how many units of it all sessions have",
    "idle": "hash: <limit> US <session> to how many of the units no task used, as of its last statement, less those "
    "that it gave back since",
    "sums": "hash: <limit> US waiting, <limit> US idle, <limit> US parked: how many requests wait or are parked, and "
    "units are idle, under a limit; US <session>: how many requests of a session wait; <limit> US broker: how many "
    "messages wait at the broker, and when that was counted (lease clock, ms)",
    "parked": "zset by name: <session> US <limit> US <how many requests of the session are parked for it>",
    "holders": "zset by name: <limit> US <session> and US <session> US <limit>, for each that has units",
    "grants": "zset by name: <session>:<number of the grant>:<JSON: what it brought, and for which task>, until a "
    "statement of the session that knows of it",
    "running": "hash: session to the time (ms) of its last statement, and what it ran under limits then (JSON)",
    "wants": "hash: <session>:<number of a set of claims> to what waits there for all of it (JSON)",
    "roll": "zset by name: the fields of wants",
    "waiters": "zset by name: <limit> US <arrival of its first request, us on the lease clock> US <session>:<set>",
    "turns": "zset by name, as waiters: those whose turn may come",
    "aside": "zset by name: <session> US <limit> US <arrival> US <session>:<set> of the other waiters: each was "
    "offered its units while its session had no room, which has not been heard of since",
    "reserved": "zset by name, as waiters: units are held back for a want that missed its turn too often",
    "todo": "zset: limits in whose lines a script has left something to do to the next",
    "max": "hash: limit to the max that holds now (0 while paused); unlimited ones are absent",
    "configured": "zset by name: <limit> US <max> US <digest> for each value of a configuration, and US <digest> US "
    "<limit> US <max>; the digest of a configuration is <number of its values>-<hash>",
    "uses": "zset by name: <digest> US <session> for each session and what it is configured with",
    "unused": "zset: digest of a configuration, by when its values go if no session uses it (lease clock, ms)",
    "overrides": "hash: limit to what an operator set at run time (JSON: max, set, pause; the last two: by, at, "
    "reason, ends)",
    "ends": "zset: limit, by when what was set for a time first ends there (wall time, ms)",
    "versions": "zset: limit, by the version of the limit table with which its max, or what operators set, last "
    "changed",
    "gone": "zset: those of versions for which nothing holds any more, until every session goes by a later table",
    "settling": "zset: limit, by the table version with which it began; no grants until every session has stated what "
    "it runs",
    "contended": "hash: limit to the one session that waits for it, or * for several",
    "changes": "hash: <limit> US <kind> to the last change (JSON: ticket, was, now, at, epoch), kept for an hour",
    "changed": "zset: the fields of changes, by wall time (ms), to drop them after that hour",
    "totals": "hash: limit to its counters and histograms (JSON), and under an empty name those of the namespace; "
    "deleted 30 days after the last change",
    "recent": "stream: one entry for each heartbeat in which tasks had ended: a sample of them by limit (JSON); "
    "deleted 15 minutes after the last",
    "hungry": "zset by name: <limit> US <units, twelve digits> US <since, us on the lease clock> US <session> and US "
    "<session> US <limit> US <units> US <since> US <wanted>, for each session that would read more of a limit's queue",
    "takers": "zset by name: <digest of the broker> US <queue> US <session> for each queue that a session takes",
    "apps": "zset by name: app US <app> US <broker> US <session>, and queue US <broker> US <queue> US <app> US "
    "<session> for each queue that a session began with",
}


#: What follows the prefix in the name of each notice channel, and in those that many sessions listen to.
NOTICES, TABLE = "notices", "table"

#: How many of those there are; each session listens to one.
SHARDS = 128


class Keys:
    """The keys of one namespace: ``{prefix}:v2:<name>``, after the prefix of the app's own keys if it has one."""

    __slots__ = ("_channels", "namespace", "prefix")

    def __init__(self, prefix: str, database: int = 0, keyprefix: str = "") -> None:
        self.namespace = namespace(keyprefix, prefix)
        self.prefix = f"{self.namespace}:{SCHEMA}:"
        # Channels, unlike keys, are shared by all databases of a server.
        self._channels = f"{self.prefix}{NOTICES}:{database}:"

    def all(self) -> list[str]:
        """Every key, in the order of :data:`KEYSPACE`."""
        return [self.prefix + name for name in KEYSPACE]

    def key(self, name: str) -> str:
        """The key of one entry of :data:`KEYSPACE`."""
        assert name in KEYSPACE, name
        return self.prefix + name

    def channels(self) -> str:
        """What every notice channel begins with; scripts append the session id."""
        return self._channels

    def channel(self, session: str) -> str:
        """The pub/sub channel on which a session is told of its grants and recalls."""
        return self.channels() + session

    def table_channel(self, session: str) -> str:
        """The channel on which a session, and some of the others, are told of new versions of the limit table."""
        return f"{self.channels()}{TABLE}:{zlib.crc32(session.encode()) % SHARDS}"

    def lease_channel(self, session: str, timeout: float) -> str:
        """Nothing is told here: who listens shows a Redis that has lost its data how long its lease is (in s)."""
        return f"{self.channels()}{int(timeout * 1000)}:{session}"
