"""URLs of the coordination Redis: what is understood, what is refused, and that no password is ever shown."""

from __future__ import annotations

import pytest
from celery import Celery
from kombu.transport.redis import Channel as RedisChannel
from redis.connection import SSLConnection

from celery_gconc import SettingError
from celery_gconc.connection.client import connect
from celery_gconc.connection.location import Location, read
from celery_gconc.connection.urls import masked
from celery_gconc.protocol.store import Store
from celery_gconc.settings import Settings

SECRETS = ("hunter2", "hunter3")


def settings(url: str | None, *, broker: str = "amqp://", **options: object) -> Settings:
    app = Celery("proj", broker=broker, set_as_current=False)
    app.conf.update(global_concurrency_redis_url=url, global_concurrency_redis_options=options)
    return Settings.from_app(app)


def hosts(location: Location) -> list[str]:
    return [str(server) for server in location.servers]


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://a:1;sentinel://b:2/3?master_name=m",
        "sentinel://a:1/3;sentinel://b:2?master_name=m",
        "sentinel://a:1,b:2/3?master_name=m",
        "sentinel://a:1;b:2/3?master_name=m",
        "sentinel://a:1 , b:2/3?master_name=m",
    ],
)
def test_sentinels_are_written_as_kombu_does_or_with_commas(url):
    location = read(url, {})
    assert (location.kind, hosts(location), location.master_name, location.database) == (
        "sentinel",
        ["a:1", "b:2"],
        "m",
        3,
    )
    assert location.node.at(("::1", 6379)).options == {"host": "::1", "port": 6379, "db": 3}


def test_password_and_parameters_of_a_group_go_to_each_node():
    location = read("sentinel://me:p%40ss@a;sentinel://me:p%40ss@b?master_name=m&socket_timeout=2", {"ssl": True})
    assert hosts(location) == ["a:26379", "b:26379"]
    node = location.node.at(("c", 7))
    assert node.connection_class is SSLConnection
    assert node.options == {"host": "c", "port": 7, "username": "me", "password": "p@ss", "socket_timeout": 2.0}
    assert all(not server.options.get("password") for server in location.servers), "that of Redis isn't the Sentinels'"


def test_a_cluster_is_named_by_some_of_its_nodes():
    assert hosts(read("rediscluster://a,b:7001/0", {})) == ["a:6379", "b:7001"]
    assert read("redisclusters://a", {}).node.connection_class is SSLConnection


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis//localhost", "unknown scheme"),
        ("http://x:hunter2@a", "unknown scheme"),
        ("redis://:hunter2@a:port", "host and port can't be read"),
        ("redis://:hunter2/@a", "host and port can't be read"),
        ("redis://:hunter2#@a", "write '#' as %23"),
        ("redis://:hunter2@a;amqp://:hunter3@b", "unknown scheme"),
        ("redis://:hunter2@a/x", "the database must be a number"),
        ("rediss://:hunter2@a?ssl_cert_reqs=hunter3", "ssl_cert_reqs must be none, optional or required"),
        ("redis://:hunter2@a?credential_provider=nowhere.hunters", "credential_provider: No module named 'nowhere'"),
        ("redis://a?socket_timeout=hunter2", "a query parameter has an invalid value"),
        ("sentinel://:hunter2", "a port must be a number"),
        ("sentinel://:hunter2@", "no host"),
        ("sentinel://:hunter2@a:x", "a port must be a number"),
        ("sentinel://:hunter2@a;redis://b", "every part must be a sentinel:// URL"),
        ("sentinel://:hunter2@a;sentinel://:hunter3@b", "more than one user and password"),
        ("sentinel://:hunter2@a/1;sentinel://b/2", "more than one database"),
        ("sentinel://:hunter2@a/x", "the database must be a number"),
        ("sentinel://:hunter2@a;b", "a sentinel:// URL needs ?master_name="),
        ("rediscluster://:hunter2@a/1", "a Redis Cluster only has database 0"),
        ("rediscluster://:hunter2@a?master_name=m", "master_name is for sentinel:// URLs only"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line_with_the_key_and_the_rule_and_no_password(url, why):
    with pytest.raises(SettingError) as refused:
        settings(url)
    said = str(refused.value)
    assert why in said
    assert "global_concurrency_redis_url=" in said
    assert "a redis://, rediss://, valkey://, unix://, sentinel:// or rediscluster:// URL" in said
    assert not any(secret in said for secret in SECRETS)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:hunter2@a/1", "redis://:**@a/1"),
        ("redis://hunter2@a/1", "redis://**@a/1"),
        ("rediss://me:hunter2@a:1/1?ssl_cert_reqs=none&db=2", "rediss://me:**@a:1/1?db=2"),
        ("redis://a?password=hunter2", "redis://a"),
        ("redis://:hunter2@a:1/1;rediss://:hunter3@b", "redis://:**@a:1/1;rediss://:**@b"),
        ("redis+socket:///tmp/r.sock?virtual_host=3&password=x", "redis+socket:///tmp/r.sock?virtual_host=3"),
        ("rediss://a?ssl_password=hunter2&ssl_keyfile=k&credential_provider=x.Y", "rediss://a"),
        ("unix://me:hunter2@/tmp/r.sock?db=1", "unix://me:**@/tmp/r.sock?db=1"),
        (
            "sentinel://:hunter2@a:1;sentinel://:hunter2@b/3?master_name=m&password=hunter3",
            "sentinel://:**@a:1,b:26379/3?master_name=m",
        ),
        ("rediscluster://me:hunter2@a,[::1]:7", "rediscluster://me:**@a:6379,[::1]:7"),
        ("sentinel://:hunter2@a;sentinel://:hunter3@b", "sentinel://..."),
        ("hunter2", "..."),
    ],
)
def test_a_url_is_shown_without_any_password(url, shown):
    assert masked(url) == shown


def test_the_master_s_name_may_stand_in_the_url_or_in_the_options():
    assert settings("sentinel://a?master_name=m").safe_url == "sentinel://a:26379?master_name=m"
    assert settings("sentinel://a", master_name="m").location.master_name == "m"


def inherited(broker: str, backend: str | None = None, **conf: object) -> Settings:
    app = Celery("proj", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf)
    return Settings.from_app(app)


@pytest.mark.parametrize(
    ("broker", "backend", "why"),
    [
        ("redis://:hunter2@a:port", None, "broker_url='redis://...': it can't be read: its host and port"),
        ("redis://:hunter2/@a", None, "broker_url='redis://...': it can't be read: its host and port"),
        ("redis://:hunter2@a/x", None, "broker_url='redis://:**@a/x': it can't be read: Database is int"),
        ("redis://:hunter2@a?nonsense=hunter3", None, "broker_url='redis://:**@a': it can't be read: "),
        ("sentinel://:hunter2@a", None, "its Sentinels need broker_transport_options={'master_name': ...}"),
        (
            "amqp://",
            "sentinel://:hunter2@a",
            "its Sentinels need result_backend_transport_options={'master_name': ...}",
        ),
        (
            "amqp://",
            "rediss://:hunter2@a",
            "result_backend='rediss://:**@a': it can't be read: A rediss:// URL must have",
        ),
        ("amqp://", "redis://:hunter2@a?ssl_cert_reqs=none", "result_backend='redis://:**@a': it can't be read: "),
    ],
)
def test_what_kombu_or_celery_cannot_read_is_refused_in_a_line_that_names_their_setting(broker, backend, why):
    with pytest.raises(SettingError) as refused:
        inherited(broker, backend)
    said = str(refused.value)
    assert why in said
    assert not any(secret in said for secret in SECRETS)
    assert "\n" not in said


def test_of_the_broker_is_taken_what_it_connects_with_and_nothing_of_its_own_work():
    options = {"visibility_timeout": 9, "socket_timeout": 99, "socket_keepalive": True, "retry_on_timeout": True}
    location = inherited("redis://me:p%40ss@a:1/2", broker_transport_options={**options, "client_name": "me"}).location
    of_server = {"host": "a", "port": 1, "db": 2, "username": "me", "password": "p@ss"}
    # kombu up to 5.5 has no client_name: what it doesn't connect with, we don't either.
    name = {"client_name": "me"} if "client_name" in RedisChannel.from_transport_options else {}
    assert location.node.options == {**of_server, "socket_keepalive": True, **name}


def test_the_tls_of_the_broker_is_inherited():
    ssl = {"ssl_cert_reqs": "required", "ssl_ca_certs": "ca.pem"}
    node = inherited("redis://a:1/2", broker_use_ssl=ssl).location.node
    assert node.connection_class is SSLConnection
    assert node.options["ssl_ca_certs"] == "ca.pem"


def test_our_options_win_over_what_is_inherited():
    ours = {"password": "hunter3", "socket_timeout": 3.0, "db": 5, "global_keyprefix": "ours:", "ssl_cert_reqs": "none"}
    theirs = {"broker_transport_options": {"global_keyprefix": "theirs:"}, "global_concurrency_redis_options": ours}
    settings = inherited("redis://:hunter2@a", **theirs)
    node = settings.location.node
    assert [node.options[name] for name in ("password", "socket_timeout", "db")] == ["hunter3", 3.0, 5]
    assert (node.connection_class, settings.namespace) == (SSLConnection, "ours:{gconc}")


def test_sentinels_are_inherited_with_their_options_and_ours_win():
    theirs = {"master_name": "m", "sentinel_kwargs": {"password": "hunter2"}}
    broker = "sentinel://:hunter3@a:1;sentinel://:hunter3@b:2/3"
    location = inherited(broker, broker_transport_options=theirs).location
    assert (location.kind, hosts(location), location.master_name) == ("sentinel", ["a:1", "b:2"], "m")
    assert [server.options["password"] for server in location.servers] == ["hunter2", "hunter2"]
    assert location.node.options["password"] == "hunter3"
    ours = {"global_concurrency_redis_options": {"master_name": "n", "sentinel_kwargs": {"username": "u"}}}
    location = inherited(broker, broker_transport_options=theirs, **ours).location
    assert location.master_name == "n"
    assert [server.options.get("username") for server in location.servers] == ["u", "u"]
    assert inherited(broker, **ours).location.master_name == "n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"connection_pool": 1}, "connection_pool is not supported"),
        ({"ssl_cert_reqs": "maybe"}, "ssl_cert_reqs must be none, optional or required"),
        ({"credential_provider": "nowhere.hunters"}, "credential_provider: No module named 'nowhere'"),
    ],
)
def test_an_option_that_cannot_be_taken_is_refused_with_a_line_that_names_it(options, why):
    with pytest.raises(SettingError, match=f"^global_concurrency_redis_options: {why}"):
        inherited("redis://a", global_concurrency_redis_options=options)
    with pytest.raises(SettingError, match=why):
        settings("redis://a", **options)


@pytest.mark.parametrize("url", ["redis://a", "sentinel://a?master_name=m", "rediscluster://a", "unix:///tmp/s"])
def test_an_option_that_the_client_does_not_know_is_refused_before_it_connects(url):
    with pytest.raises(SettingError, match=r"global_concurrency_redis_options: .*nonsense"):
        connect(read(url, {"nonsense": 1}), "{gconc}:x", 1.0)
    connect(read(url, {"socket_timeout": 1, "health_check_interval": 10}), "{gconc}:x", 1.0)


def test_options_of_sentinels_and_tls_are_taken_and_nothing_is_connected():
    options = {"master_name": "m", "sentinel_kwargs": {"password": "hunter2"}, "ssl": True, "ssl_cert_reqs": "none"}
    connect(read("sentinel://a", options), "{gconc}:x", 1.0).close()


@pytest.mark.parametrize(
    ("url", "options", "channels"),
    [
        ("redis://h", {}, "{gconc}:v2:notices:0:"),
        ("redis://h/0", {"db": 3}, "{gconc}:v2:notices:0:"),
        ("redis://h/5", {}, "{gconc}:v2:notices:5:"),
        ("redis://h?db=6", {}, "{gconc}:v2:notices:6:"),
        ("redis://h", {"db": 3}, "{gconc}:v2:notices:3:"),
        ("unix:///tmp/s?db=2", {}, "{gconc}:v2:notices:2:"),
        ("redis+socket:///tmp/s?virtual_host=3", {}, "{gconc}:v2:notices:3:"),
        ("redis://h/5", {"global_keyprefix": "shop:"}, "shop:{gconc}:v2:notices:5:"),
        ("sentinel://h/4?master_name=m", {}, "{gconc}:v2:notices:4:"),
        ("rediscluster://h", {}, "{gconc}:v2:notices:0:"),
    ],
)
def test_each_database_has_channels_of_its_own_for_they_are_shared_by_all_of_a_server(url, options, channels):
    assert Store(url, "gconc", options).keys.channels() == channels
