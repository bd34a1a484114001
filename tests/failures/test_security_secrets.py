"""No password is shown: by a worker's log, by Celery's commands, in Redis, in errors, nor by our objects."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
import redis
from celery import Celery
from celery.worker.control import conf as inspect_conf

from celery_gconc import GlobalConcurrency
from celery_gconc.errors import GlobalConcurrencyError, SettingError
from celery_gconc.protocol.store import Store
from celery_gconc.settings import Settings
from tests.kit.keys import key
from tests.kit.servers import redis_server, wait_until
from tests.kit.workers import Cluster

PASSWORD = "UnMiStAkAbLe"

#: URLs with it wherever one may stand; the last two as people write them who don't know of %2F.
URLS = [
    f"redis://:{PASSWORD}@host/0",
    f"redis://user:{PASSWORD}@host:6379/0",
    f"rediss://user:a{PASSWORD}b@host:6379/0?ssl_cert_reqs=none",
    f"redis://host:6379/0?password={PASSWORD}",
    f"unix://user:{PASSWORD}@/tmp/redis.sock",
    f"redis://user:a@{PASSWORD}@host:6379/0",
    f"redis://user:{PASSWORD}/;#?@host:6379/0",
    f"redis://user:x/{PASSWORD}@host:6379/0",
]


class Shown:
    """The app of a worker, as ``inspect conf`` sees it."""

    def __init__(self, app: Celery) -> None:
        self.app = app


def everything_shown(app: Celery) -> str:
    """What Celery shows of an app's configuration."""
    return "\n".join((json.dumps(inspect_conf(Shown(app))), app.bugreport(), app.conf.humanize(), repr(app.conf)))


@pytest.mark.process  # Celery's bugreport asks `file` of the interpreter
@pytest.mark.parametrize("url", URLS)
def test_what_shows_the_configuration_shows_no_password_of_the_url(url: str):
    app = Celery("x", broker="memory://", set_as_current=False)
    app.conf.global_concurrency_redis_url = url
    try:
        GlobalConcurrency(app)
        settings = Settings.from_app(app)
        assert PASSWORD in settings.location.node.options["password"]
        assert PASSWORD not in repr(settings) + settings.safe_url + repr(Store.from_settings(settings))
    except SettingError as exc:
        assert PASSWORD not in str(exc)
        assert url in URLS[-2:]
    assert PASSWORD not in everything_shown(app).replace(repr(app.conf), "")


@pytest.mark.process
def test_nor_does_it_where_the_setting_stands_in_a_namespace():
    class Django:
        CELERY_BROKER_URL = "memory://"
        CELERY_GLOBAL_CONCURRENCY_REDIS_URL = f"redis://:{PASSWORD}@host/0"
        CELERY_GLOBAL_CONCURRENCY_REDIS_OPTIONS = MappingProxyType({"password": PASSWORD, "username": "someone"})

    app = Celery("x", set_as_current=False)
    app.config_from_object(Django, namespace="CELERY")
    GlobalConcurrency(app)
    shown = "\n".join((json.dumps(inspect_conf(Shown(app))), app.bugreport()))
    assert PASSWORD not in shown and "someone" in shown
    assert PASSWORD in Settings.from_app(app).location.node.options["password"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"redis_ulr": f"redis://:{PASSWORD}@host"},
        {"redis_password": PASSWORD},
        {"redis_options": PASSWORD},
        {"redis_options": [PASSWORD]},
        {"redis_url": f"http://:{PASSWORD}@host"},
        {"redis_url": f"redis://user:{PASSWORD}/x@host"},
        {"redis_url": [f"http://:{PASSWORD}@host"]},
        {"redis_url": [f"redis://:{PASSWORD}@host", 3]},
    ],
    ids=str,
)
def test_an_error_in_the_settings_shows_no_password(wrong: dict[str, Any]):
    app = Celery("x", broker="memory://", set_as_current=False)
    app.conf.update({f"global_concurrency_{name}": value for name, value in wrong.items()})
    with pytest.raises(SettingError) as refused:
        GlobalConcurrency(app)
        Settings.from_app(app)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("where", ["url", "options"])
def test_an_error_of_the_store_shows_no_password(redis_url: str, where: str):
    url = redis_url.replace("://", f"://someone:{PASSWORD}@") if where == "url" else redis_url
    options = {} if where == "url" else {"username": "someone", "password": PASSWORD}
    for address in (url, url.replace("127.0.0.1", "127.0.0.2"), url.partition("127.")[0] + "nowhere.invalid:1/0"):
        store = Store(address, "gconc", options)
        with pytest.raises(GlobalConcurrencyError) as failed:
            store.ticket()
        cause = failed.value.__cause__
        assert PASSWORD not in f"{failed.value!r} {failed.value} {cause!r} {cause} {store!r} {store._client!r}"
        store.close()


def test_no_output_of_workers_and_commands_has_a_password_in_it(make_cluster, oracle_url: str):
    with redis_server() as server, redis.Redis(port=server.port) as admin:
        admin.acl_setuser(
            "someone", enabled=True, passwords=[f"+{PASSWORD}"], categories=["+@all"], keys="*", channels="*"
        )
        url = f"redis://someone:{PASSWORD}@127.0.0.1:{server.port}/0"
        cluster: Cluster = make_cluster(
            broker=url,
            global_concurrency_redis_url=url,
            global_concurrency_redis_options={"client_name": "gconc", "password": PASSWORD},
            global_concurrency_limits={"emails": 1},
            global_concurrency_heartbeat_interval=0.5,
            global_concurrency_heartbeat_timeout=3,
        )
        cluster.redis = url
        worker = cluster.spawn("a", concurrency=1, options=("-l", "DEBUG"))
        cluster.ready(worker)
        outputs = [
            cluster.celery(*command, timeout=60)
            for command in (
                ("inspect", "conf"), ("inspect", "stats"), ("inspect", "global_concurrency"), ("report",),
                ("control", "set_global_concurrency", "emails", "2"),
            )
        ]  # fmt: skip
        for output in outputs:
            assert output.returncode == 0, output.stderr
        assert "someone" in outputs[0].stdout, "so this is where it would be"
        kept = str(admin.hgetall(key("session")))
        assert "someone" in kept
        admin.acl_setuser("someone", passwords=[f"-{PASSWORD}", "+another"])
        for client in admin.client_list():
            if client["user"] == "someone":
                admin.client_kill_filter(_id=client["id"])
        wait_until(
            lambda: "rejects the user or the password" in worker.output(), what="the worker says that Redis refuses it"
        )
        cannot = cluster.celery("control", "set_global_concurrency", "emails", "3", timeout=60)
        worker.kill()
        shown = worker.output() + kept + "".join(o.stdout + o.stderr for o in (*outputs, cannot))
        assert PASSWORD not in shown, shown[max(shown.index(PASSWORD) - 300, 0) : shown.index(PASSWORD) + 50]


def test_a_worker_that_may_not_start_says_why_without_the_password(make_cluster):
    cluster: Cluster = make_cluster(global_concurrency_redis_url=f"redis://:{PASSWORD}/@127.0.0.1:1/0")
    worker = cluster.spawn("a")
    assert worker.process.wait(30) != 0
    assert "global_concurrency_redis_url" in worker.output() and "Traceback" not in worker.output()
    assert PASSWORD not in worker.output()
