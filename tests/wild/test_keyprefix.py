"""The prefix of all that an app has in its Redis is part of our namespace: keys and channels begin with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from redis.crc import key_slot

from celery_gconc import GlobalConcurrency, SettingError
from celery_gconc.protocol.keys import Keys
from celery_gconc.settings import Settings
from tests.kit.keys import key
from tests.kit.servers import ROOT, RedisServer, redis_server
from tests.kit.tiers import starts

#: The rights of a worker whose broker is Redis too: those of security.md, but for keys and channels.
COMMANDS = [
    word
    for line in re.findall(r"^ACL SETUSER .*$", (ROOT / "docs/explanation/security.md").read_text(), re.MULTILINE)
    for word in line.split()
    if word[0] in "+-"
]


@pytest.fixture(scope="module")
@starts("redis")
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        client.flushall()
        client.execute_command("ACL", "LOG", "RESET")
        yield client


def app_of(broker: str, backend: str | None = None, **conf: object) -> Celery:
    made = Celery("wild", broker=broker, backend=backend, set_as_current=False)
    made.conf.update(conf)
    return made


def keys_of(app: Celery) -> tuple[str, str]:
    """What the keys of an app begin with, by its settings and by Redis' own word."""
    gconc = GlobalConcurrency(app)
    try:
        gconc.set("emails", 3)
        return Settings.from_app(app).namespace, gconc.status().namespace
    finally:
        gconc.close()


@pytest.mark.wild("deploys", "global_keyprefix of the broker, and an ACL user with ~shop:* &shop:*")
def test_a_user_that_may_touch_nothing_but_its_prefix_runs_workers_and_commands(
    server: RedisServer, admin: redis.Redis, make_cluster
):
    admin.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">pw", "~shop:*", "&shop:*", *COMMANDS)
    cluster = make_cluster(
        broker=server.url.replace("://", "://shop:pw@"),
        broker_transport_options={"global_keyprefix": "shop:"},
        worker_enable_remote_control=False,  # for its PSUBSCRIBE Redis wants the very channel among the user's rights
        global_concurrency_limits={"emails": 2},
        global_concurrency_heartbeat_interval=0.5,
        global_concurrency_heartbeat_timeout=3,
    )
    workers = [cluster.spawn(name, pool="threads", concurrency=3) for name in "ab"]
    cluster.ready()
    cluster.send("nap", 12, 0.05)
    cluster.done(12)
    assert cluster.oracle.peak() == 2
    told = cluster.celery("gconc", "status", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["namespace"] == "shop:{gconc}"
    assert len(found["sessions"]) == 2
    assert cluster.celery("gconc", "set", "emails", "5").returncode == 0
    assert "namespace shop:{gconc}" in workers[0].output()
    assert admin.execute_command("PUBSUB", "CHANNELS", "shop:" + key("notices:*"))
    assert not [channel for channel in admin.execute_command("PUBSUB", "CHANNELS") if not channel.startswith("shop:")]
    assert not [key for key in admin.keys("*") if not key.startswith("shop:")]
    assert [entry["object"] for entry in admin.execute_command("ACL", "LOG")] == []


@pytest.mark.wild("deploys", "two environments in one database, each with its global_keyprefix")
def test_two_environments_in_one_database_share_no_limit(server: RedisServer, admin: redis.Redis):
    apps = [
        app_of(server.url, broker_transport_options={"global_keyprefix": prefix}) for prefix in ("prod:", "staging:")
    ]
    production, staging = (GlobalConcurrency(app) for app in apps)
    production.set("emails", 3)
    assert (production.get("emails"), staging.get("emails")) == (3, None)
    assert {key.partition("v2:")[0] for key in admin.keys("*")} == {"prod:{gconc}:"}
    production.close()
    staging.close()


@pytest.mark.wild("deploys", "global_keyprefix of the result backend")
@pytest.mark.parametrize("prefix", ["prod:", "prod", "prod_", "{prod}:"])
def test_the_prefix_of_the_result_backend_is_written_as_celery_writes_it(
    server: RedisServer, admin: redis.Redis, prefix: str
):
    app = app_of("memory://", server.url, result_backend_transport_options={"global_keyprefix": prefix})
    begins, told = keys_of(app)
    app.backend.store_result("an-id", 1, "SUCCESS")
    [result] = admin.keys("*celery-task-meta-*")
    assert begins == told == result.removesuffix("celery-task-meta-an-id") + "{gconc}"
    assert all(key.startswith(begins) for key in admin.keys("*gconc*"))


def test_with_a_url_of_our_own_only_a_prefix_of_our_own_counts(server: RedisServer, admin: redis.Redis):
    theirs = {"broker_transport_options": {"global_keyprefix": "shop:"}}
    ours = {"global_concurrency_redis_url": server.url}
    assert keys_of(app_of(server.url, **theirs, **ours)) == ("{gconc}", "{gconc}")
    options = {"global_concurrency_redis_options": {"global_keyprefix": "limits:"}}
    assert keys_of(app_of(server.url, **theirs, **ours, **options)) == ("limits:{gconc}", "limits:{gconc}")
    assert keys_of(app_of(server.url, **theirs, **options))[0] == "limits:{gconc}", "what ours say wins"


@pytest.mark.parametrize(
    ("prefix", "tag"),
    [
        ("", "gconc"),
        ("prod:", "gconc"),
        ("{prod}:", "prod"),
        ("a{prod}b{staging}:", "prod"),
        ("a}b:", "gconc"),
        ("a{b:", "b:{gconc"),
    ],
)
def test_all_keys_of_a_namespace_have_one_slot_by_the_first_braces(prefix: str, tag: str):
    assert {key_slot(key.encode()) for key in Keys("gconc", 0, prefix).all()} == {key_slot(tag.encode())}


def test_a_prefix_that_leaves_no_hash_tag_is_refused_in_a_cluster_only():
    conf = {"global_concurrency_redis_options": {"global_keyprefix": "a{}:"}}
    Settings.from_app(app_of("memory://", global_concurrency_redis_url="redis://h", **conf))
    with pytest.raises(SettingError, match=r"'global_keyprefix': 'a\{\}:'\}: in a Redis Cluster"):
        Settings.from_app(app_of("memory://", global_concurrency_redis_url="rediscluster://h", **conf))
