"""Ways in which a Redis that was well can fall ill, and get well again by itself or by an operator's hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis

from tests.failures.kit import Coordination
from tests.kit.proxy import Proxy
from tests.kit.servers import free_port, wait_until

#: The password that workers give where they need one. It must never be seen in what they say.
SECRET = "open-sesame"

#: As long as it takes to look at everything, and more, in milliseconds.
LONG = 60_000

#: Keys that take a Redis that is told to load slowly half a minute.
MANY = {f"filler:{number}": "x" * 200 for number in range(3000)}


@dataclass
class Patient:
    """A Redis, the proxy before it, and a connection of the operator that is there before it falls ill."""

    redis: Coordination
    proxy: Proxy
    operator: redis.Redis

    def do(self, *command: object) -> object:
        """What the operator does."""
        return self.operator.execute_command(*command)

    @property
    def url(self) -> str:
        """Where workers find it: behind the proxy."""
        address = f":{SECRET}@127.0.0.1:{self.proxy.port}/0"
        if self.proxy.target == self.redis.port:
            return f"redis://{address}"
        return f"rediss://{address}?ssl_ca_certs={self.redis.folder}/ca.pem"

    def dismiss(self) -> None:
        """End every connection but the operator's."""
        for kind in ("normal", "pubsub"):
            self.do("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


Step = Callable[[Patient], object]


@dataclass(frozen=True)
class Ill:
    """One ill, and its cure."""

    #: What a worker says that starts now.
    says: str
    breaks: Step
    heals: Step
    #: Options of the Redis from its start on, and what else is to be done before workers come.
    server: tuple[str, ...] = ()
    prepare: Step = bool
    has_password: bool = False
    #: Whether it lasts until somebody changes something, so that workers say so as soon as they know.
    lasts: bool = False
    #: Whether workers reach it by TLS.
    has_tls: bool = False
    #: Whether a shell reaches it all the same: a command gets to a worker, and that one doesn't know what became of it.
    is_well_for_shells: bool = False


def commands(*lines: str) -> Step:
    """Give these commands, one after the other."""
    return lambda patient: [patient.do(*line.split()) for line in lines]


def both(*steps: Step) -> Step:
    """One step after the other."""
    return lambda patient: [step(patient) for step in steps]


def _show(name: str) -> Step:
    """Have it show this certificate."""
    files = f"tls-cert-file {{0}}/{name}.pem tls-key-file {{0}}/{name}.key"
    return lambda patient: patient.do("CONFIG", "SET", *files.format(patient.redis.folder).split())


def _keep_busy(patient: Patient) -> None:
    """Send a script that doesn't end, and don't wait for its answer."""
    patient.operator.connection.send_command("EVAL", "while true do end", 0)
    wait_until(lambda: "busy running a script" in _error(patient), what="Redis says that it is busy")


def _start_loading(patient: Patient) -> None:
    patient.do("SAVE")
    patient.redis.kill()
    patient.redis.start(
        "--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024", answers=False
    )  # fmt: skip
    wait_until(lambda: _error(patient).startswith("Redis is loading"), what="Redis is loading")


def _error(patient: Patient) -> str:
    try:
        patient.redis.do("GET", "x")
    except redis.RedisError as exc:
        return str(exc)
    return ""


def _is_well(patient: Patient) -> None:
    wait_until(patient.redis.answers, what="Redis answers")


def ordered(says: str, *breaks: str, heals: str, **more: bool) -> Ill:
    """An ill that commands bring about, and the last one cures."""
    return Ill(says, commands(*breaks), commands(heals), **more)


def of_the_network(breaks: Callable[[Proxy], object]) -> Ill:
    """An ill of the way to it."""
    return Ill("Timeout", lambda patient: breaks(patient.proxy), lambda patient: patient.proxy.heal())


#: A master that nobody plays.
_NOBODY = free_port()

ILLS = {
    "down": Ill(
        "Connection",
        breaks=lambda patient: patient.redis.kill(),
        heals=lambda patient: patient.redis.start("--appendonly", "yes", "--appendfsync", "always"),
        server=("--appendonly", "yes", "--appendfsync", "always"),
    ),
    "frozen": Ill(
        "Timeout",
        breaks=lambda patient: patient.redis.freeze(),
        heals=lambda patient: patient.redis.thaw(),
    ),
    "paused": ordered("Timeout", f"CLIENT PAUSE {LONG} WRITE", heals="CLIENT UNPAUSE"),
    "slow": of_the_network(lambda way: way.delay(2.0)),
    "silent": of_the_network(lambda way: way.silence()),
    "unreachable": of_the_network(lambda way: way.vanish()),
    "deaf": of_the_network(lambda way: way.silence(frozenset({"to workers"}))),
    "read-only": ordered("read only replica", f"REPLICAOF 127.0.0.1 {_NOBODY}", heals="REPLICAOF NO ONE"),
    "masterdown": ordered(
        "MASTER is down",
        "CONFIG SET replica-serve-stale-data no",
        f"REPLICAOF 127.0.0.1 {_NOBODY}",
        heals="REPLICAOF NO ONE",
    ),
    "loading": Ill(
        "loading",
        prepare=both(commands("CONFIG SET rdbcompression no"), lambda patient: patient.operator.mset(MANY)),
        breaks=_start_loading,
        heals=both(commands("CONFIG SET key-load-delay 0"), _is_well),
    ),
    "full": ordered("maxmemory", "CONFIG SET maxmemory 1", heals="CONFIG SET maxmemory 0"),
    "password": Ill(
        "invalid username-password",
        prepare=commands(f"CONFIG SET requirepass {SECRET}"),
        breaks=both(commands("CONFIG SET requirepass another"), Patient.dismiss),
        heals=commands(f"CONFIG SET requirepass {SECRET}"),
        has_password=True,
        lasts=True,
    ),
    "certificate": Ill(
        "CERTIFICATE_VERIFY_FAILED",
        breaks=both(_show("other"), Patient.dismiss),
        heals=both(_show("server"), Patient.dismiss),
        lasts=True,
        has_tls=True,
    ),
    "no-scripts": ordered(
        "ACL SETUSER default +evalsha", "ACL SETUSER default -evalsha", heals="ACL SETUSER default +evalsha", lasts=True
    ),
    "no-channels": ordered(
        "ACL SETUSER default &{gconc}:v2:notices:*",
        "ACL SETUSER default resetchannels",
        heals="ACL SETUSER default allchannels",
        lasts=True,
        is_well_for_shells=True,
    ),
    "busy": Ill(
        "busy running a script",
        prepare=commands("CONFIG SET busy-reply-threshold 100"),
        breaks=_keep_busy,
        heals=lambda patient: patient.redis.do("SCRIPT", "KILL"),
    ),
    "no-replicas": ordered(
        "Not enough good replicas", "CONFIG SET min-replicas-to-write 1", heals="CONFIG SET min-replicas-to-write 0"
    ),
    "crowded": Ill(
        "max number of clients",
        breaks=both(commands("CONFIG SET maxclients 1"), Patient.dismiss),
        heals=commands("CONFIG SET maxclients 1000"),
    ),
}
