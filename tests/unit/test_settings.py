"""Settings: their rules, where the Redis comes from, and what reading them must not do."""

from __future__ import annotations

import pytest
from celery import Celery

from celery_gconc import GlobalConcurrency, SettingError
from celery_gconc.settings import SETTINGS, Settings


def app(**conf: object) -> Celery:
    made = Celery("proj", broker="redis://localhost:6379/0", set_as_current=False)
    made.conf.update(conf)
    return made


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"limits": [1]}, "global_concurrency_limits=[1]: must be a mapping"),
        ({"limits": {"emails": "x"}}, "a max is a whole number >= 0"),
        ({"limits": {"emails": None}}, "leave an unlimited one out"),
        ({"limits": {"emails": 1, "queue:emails": 2}}, "is given twice"),
        ({"limits": {"nope:x": 1}}, "unknown scope 'nope'"),
        ({"redis_url": "amqp://"}, "global_concurrency_redis_url='amqp://"),
        ({"redis_options": 3}, "must be a mapping of options"),
        ({"key_prefix": "a b"}, "global_concurrency_key_prefix='a b': must be 1 to 64"),
        ({"heartbeat_interval": 0}, "must be seconds, a number >= 0.1"),
        ({"heartbeat_timeout": 9}, "at least 2 x global_concurrency_heartbeat_interval (5), that is 10"),
        ({"heartbeat_timeout": True}, "global_concurrency_heartbeat_timeout=True"),
        ({"commit_interval": -1}, "global_concurrency_commit_interval=-1"),
        ({"commit_interval": 5}, "below global_concurrency_heartbeat_interval"),
        ({"on_redis_error": "x"}, "must be 'wait' or 'run'"),
        ({"on_lease_lost": "x"}, "must be 'continue' or 'terminate'"),
        ({"heartbeat": 3}, "there is no such setting"),
    ],
)
def test_a_wrong_setting_is_refused_with_key_value_and_rule(conf, said):
    with pytest.raises(SettingError) as refused:
        GlobalConcurrency(app(**{f"global_concurrency_{key}": value for key, value in conf.items()}))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_lease_of_less_than_three_heartbeats_is_warned_about():
    assert Settings.from_app(app(global_concurrency_heartbeat_timeout=12)).warnings
    assert not Settings.from_app(app(global_concurrency_heartbeat_timeout=15)).warnings


def test_the_defaults_are_valid():
    settings = Settings.from_app(app())
    assert settings.heartbeat_interval == SETTINGS["heartbeat_interval"].default
    assert settings.inherited_url is True


@pytest.mark.parametrize(
    ("broker", "backend", "url", "source"),
    [
        ("redis://a/1", None, "redis://a/1", "broker_url"),
        ("amqp://a", "rediss://b/2", "rediss://b/2", "result_backend"),
        ("amqp://a;redis://c", None, "redis://c", "broker_url"),
        ("redis+socket:///tmp/r.sock", None, "unix:///tmp/r.sock", "broker_url"),
    ],
)
def test_the_redis_is_the_broker_if_that_is_one_else_the_result_backend(broker, backend, url, source):
    made = Celery("proj", broker=broker, backend=backend, set_as_current=False)
    settings = Settings.from_app(made)
    assert (settings.redis_url, settings.redis_source) == (url, source)


def test_with_no_redis_anywhere_the_message_names_the_setting():
    made = Celery("proj", broker="amqp://", set_as_current=False)
    with pytest.raises(SettingError, match="global_concurrency_redis_url is not set"):
        Settings.from_app(made)


def test_a_password_is_never_shown():
    made = app(global_concurrency_redis_url="valkey://user:hunter2@host/1")
    settings = Settings.from_app(made)
    assert settings.redis_url.startswith("redis://user:hunter2@")
    assert "hunter2" not in settings.safe_url


def test_django_style_settings_with_a_namespace_are_read():
    class Django:
        CELERY_BROKER_URL = "redis://x"
        CELERY_GLOBAL_CONCURRENCY_LIMITS = {"emails": 3}  # noqa: RUF012
        CELERY_GLOBAL_CONCURRENCY_HEARTBEAT_INTERVAL = 2.0

    made = Celery("proj", set_as_current=False)
    made.config_from_object(Django, namespace="CELERY")
    GlobalConcurrency(made)
    settings = Settings.from_app(made)
    assert settings.limits == {"queue:emails": 3}
    assert settings.heartbeat_interval == 2.0


def test_installing_does_not_load_the_configuration_so_that_later_receivers_still_hear_of_it():
    made = app()
    GlobalConcurrency(made)
    heard = []
    made.on_after_configure.connect(lambda **_: heard.append(1), weak=False)
    assert made.conf.task_default_queue == "celery"
    assert heard == [1]
