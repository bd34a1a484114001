"""What a session and Redis say to each other when it is opened: the request and its reply, encoded and decoded.

Open -> Opened (lua/session/open.lua), or what it is configured with is unknown there (configurations.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_gconc.protocol.configurations import digest_of
from celery_gconc.protocol.messages import text_of

#: How many of a worker's queues Redis is told of.
MAX_QUEUES = 100


@dataclass(frozen=True, slots=True)
class Former:
    """What a session knows of the one that it replaces: its worker lived before."""

    #: Its id, and ids under which a new one was opened without hearing of it.
    sessions: Sequence[str]
    epoch: str
    #: The end of its lease, in ms on the lease clock.
    lease: int = 0
    #: The newest version of which it was told the whole limit table, when that was (by Redis' clock, in ms), and what
    #: operators had set by then.
    version: int = 0
    told_at: int = 0
    overrides: Mapping[str, str] = field(default_factory=dict)
    #: The longest lease that any session could have, as it was last told, in seconds.
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class Open:
    """A session begins, with what it is configured with and what it runs already; see ``lua/session/open.lua``."""

    session: str
    #: Its heartbeat settings, in seconds.
    interval: float
    timeout: float
    #: Facts about its worker.
    info: Mapping[str, Any]
    config: Mapping[str, int]
    room: int
    #: How many units of each limit its tasks use.
    units: Mapping[str, int] = field(default_factory=dict)
    running: str = "[]"
    #: The fencing number of its last grant.
    fence: int = 0
    former: Former = Former((), "")
    queues: Sequence[str] = ()
    #: Whether the server is one of several that the worker may be at.
    several: bool = False

    def encode(self) -> dict[str, Any]:
        """As the script takes it."""
        return {
            "session": self.session,
            "old": list(self.former.sessions),
            "known": self.former.epoch,
            "lease": self.former.lease,
            "longest": int(self.former.longest * 1000),
            "newest": self.former.version,
            "interval": int(self.interval * 1000),
            "timeout": int(self.timeout * 1000),
            "info": dict(self.info),
            "queues": [text_of(queue) for queue in sorted(self.queues)[:MAX_QUEUES]],
            "config": digest_of(self.config),
            "room": self.room,
            "units": dict(self.units),
            "running": self.running,
            "fence": self.fence,
            "several": self.several,
        }


@dataclass(frozen=True, slots=True)
class Stranger:
    """A session of another app, or at another broker, in the same namespace."""

    app: str
    node: str
    broker: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A session was opened."""

    epoch: str
    #: The newest version of the limit table; syncs tell what is in it.
    version: int
    #: The end of the lease, in ms on the lease clock.
    lease: int = 0
    #: The longest lease that any session may have, in seconds.
    longest: float = 0.0
    #: For how many seconds nothing is granted yet, as sessions may live that Redis doesn't know of.
    shut: float = 0.0
    #: Whether that is because data was lost, and not because the namespace is new.
    lost: bool = False
    #: Whether the lease of the session that it replaces had run out.
    lapsed: bool = False
    #: Whether scripts can read the server's id, and so see that the server was restarted or replaced.
    identified: bool = True
    #: One session of each app, or broker, that shares no queue with this one.
    strangers: tuple[Stranger, ...] = ()

    @classmethod
    def decode(cls, reply: Mapping[str, Any]) -> Opened:
        """Read the script's reply."""
        return cls(
            epoch=reply["epoch"],
            version=int(reply["version"]),
            lease=int(reply["lease"]),
            longest=reply["longest"] / 1000,
            shut=(reply["shut"] or 0) / 1000,
            lost=reply["lost"],
            lapsed=reply["lapsed"],
            identified=reply["identified"],
            strangers=tuple(Stranger(**item) for item in reply["strangers"] or ()),
        )
