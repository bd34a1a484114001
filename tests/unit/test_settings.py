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
        ({"limits": {"emails": "x"}}, "a max must be a whole number >= 0"),
        ({"limits": {"emails": None}}, "leave unlimited limits out"),
        ({"limits": {"emails": 1, "queue:emails": 2}}, "is given twice"),
        ({"limits": {"nope:x": 1}}, "unknown scope 'nope'"),
        ({"redis_url": "amqp://"}, "global_concurrency_redis_url='amqp://"),
        ({"redis_options": 3}, "must be a mapping of options"),
        ({"key_prefix": "a b"}, "global_concurrency_key_prefix='a b': must be 1 to 64"),
        ({"heartbeat_interval": 0}, "must be a number of seconds >= 0.1"),
        ({"heartbeat_timeout": 9}, ">= 2 x global_concurrency_heartbeat_interval (5), so at least 10"),
        ({"heartbeat_timeout": True}, "global_concurrency_heartbeat_timeout=True"),
        ({"commit_interval": -1}, "global_concurrency_commit_interval=-1"),
        ({"commit_interval": 5}, "below global_concurrency_heartbeat_interval"),
        ({"on_redis_error": "x"}, "must be 'wait' or 'run'"),
        ({"on_lease_lost": "x"}, "must be 'continue' or 'terminate'"),
        ({"heartbeat": 3}, "there is no such setting"),
        ({"enabled": "false"}, "global_concurrency_enabled='false': must be True or False"),
        ({"enabled": 0}, "global_concurrency_enabled=0: must be True or False"),
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
    ("broker", "backend", "where", "source"),
    [
        ("redis://a/1", None, "a:6379", "broker_url"),
        ("amqp://a", "redis://b/2", "b:6379", "result_backend"),
        ("amqp://a;redis://c", None, "c:6379", "broker_url"),
        ("redis+socket:///tmp/r.sock", None, "/tmp/r.sock", "broker_url"),
    ],
)
def test_the_redis_is_the_broker_if_that_is_one_else_the_result_backend(broker, backend, where, source):
    made = Celery("proj", broker=broker, backend=backend, set_as_current=False)
    settings = Settings.from_app(made)
    assert ([str(server) for server in settings.location.servers], settings.redis_source) == ([where], source)


def test_with_no_redis_anywhere_the_message_names_the_setting():
    made = Celery("proj", broker="amqp://", set_as_current=False)
    with pytest.raises(SettingError, match="global_concurrency_redis_url is not set"):
        Settings.from_app(made).check_usable()


def test_a_password_is_never_shown():
    made = app(global_concurrency_redis_url="valkey://user:hunter2@host/1")
    settings = Settings.from_app(made)
    assert settings.location.node.options["password"] == "hunter2"
    assert settings.safe_url == "valkey://user:**@host/1"
    assert "hunter2" not in repr(settings)


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


def module(**values: object) -> type:
    """A settings module, as Django's is."""
    return type("settings", (), {"SECRET_KEY": "x", "INSTALLED_APPS": [], **values})


def configured(namespace: str | None, **values: object) -> Celery:
    made = Celery("proj", set_as_current=False, broker="redis://")
    made.config_from_object(module(**values), namespace=namespace)
    return made


TWO = {
    "CELERY_GLOBAL_CONCURRENCY_LIMITS": {"emails": 1},
    "CELERY_GLOBAL_CONCURRENCY_WAIT_WARNING": 7,
    "OTHER_GLOBAL_CONCURRENCY_LIMITS": {"reports": 2},
    "OTHER_GLOBAL_CONCURRENCY_HEARTBEAT_INTERVAL": 2.0,
}


def test_two_apps_with_two_namespaces_in_one_module_each_see_their_own_settings():
    first, second = (Settings.from_app(configured(namespace, **TWO)) for namespace in ("CELERY", "OTHER"))
    assert (first.limits, first.wait_warning, first.heartbeat_interval) == ({"queue:emails": 1}, 7.0, 5.0)
    assert (second.limits, second.wait_warning, second.heartbeat_interval) == ({"queue:reports": 2}, 60.0, 2.0)
    assert not first.misspelt
    assert not second.misspelt


def test_a_faulty_setting_of_another_namespace_stops_nothing():
    values = {"OTHER_GLOBAL_CONCURRENCY_LIMITS": 3, "OTHER_GLOBAL_CONCURRENCY_NOPE": 1, "OTHER_BROKER_URL": "redis://"}
    assert Settings.from_app(configured("CELERY", **values)).limits == {}
    with pytest.raises(SettingError, match="OTHER_GLOBAL_CONCURRENCY_NOPE=1"):
        Settings.from_app(configured("OTHER", **values))


FOREIGN = {
    "MYAPP_GLOBAL_CONCURRENCY_BUDGET": 3,
    "MYAPP_GLOBAL_CONCURRENCY_LIMITS": 3,
    "MYAPP_GLOBAL_CONCURRENCY_HEARTBEAT_INTERVAL": "daily",
    "A_GLOBAL_CONCURRENCY_KEY_PREFIX": "a b",
    "THIRDPARTY_global_concurrency_url": "redis://:secret@elsewhere",
    "CONCURRENCY": 4,
    "GLOBAL_SETTINGS": {},
}


@pytest.mark.parametrize("namespace", ["CELERY", "celery", "Proj_Celery", None])
def test_a_foreign_setting_that_ends_in_a_name_like_ours_stops_nothing_and_stays_as_it_is(namespace):
    made = configured(namespace, **FOREIGN)
    GlobalConcurrency(made)
    settings = Settings.from_app(made)
    assert (settings.limits, settings.misspelt) == ({}, ())
    assert type(made.conf["THIRDPARTY_global_concurrency_url"]) is str


@pytest.mark.parametrize("namespace", ["CELERY", "CELERY_", "celery", "Proj", None])
def test_a_setting_is_found_in_the_namespace_as_celery_spells_it(namespace):
    stem = (namespace or "").rstrip("_")
    key = f"{stem}_global_concurrency_limits" if stem else "global_concurrency_limits"
    made = configured(namespace, **{key.upper() if stem.isupper() else key.lower(): {"emails": 1}})
    assert Settings.from_app(made).limits == {"queue:emails": 1}


@pytest.mark.parametrize("key", ["GLOBAL_CONCURRENCY_LIMITS", "CELERY_GLOBAL_CONCURRENCY_LIMITS"])
def test_without_a_namespace_the_spelling_of_celerys_old_settings_is_found_too(key):
    assert Settings.from_app(configured(None, **{key: {"emails": 1}})).limits == {"queue:emails": 1}
    assert Settings.from_app(app(**{key: {"emails": 1}})).limits == {"queue:emails": 1}


def test_what_is_set_on_the_app_itself_wins_over_its_module():
    made = configured("CELERY", CELERY_GLOBAL_CONCURRENCY_REDIS_URL="redis://:secret@old", **TWO)
    GlobalConcurrency(made)
    assert str(Settings.from_app(made).location.node) == "old:6379"
    made.conf.global_concurrency_redis_url = "redis://new"
    made.conf.update(global_concurrency_limits={"emails": 5})
    settings = Settings.from_app(made)
    assert (str(settings.location.node), settings.limits) == ("new:6379", {"queue:emails": 5})


def test_settings_of_a_module_that_the_environment_names_are_found(tmp_path, monkeypatch):
    (tmp_path / "named_by_environment.py").write_text("global_concurrency_limits = {'emails': 9}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PROJ_CONFIG", "named_by_environment")
    made = Celery("proj", set_as_current=False, broker="redis://")
    made.config_from_envvar("PROJ_CONFIG")
    GlobalConcurrency(made)
    assert Settings.from_app(made).limits == {"queue:emails": 9}


@pytest.mark.parametrize(
    ("namespace", "key", "meant"),
    [
        ("CELERY", "CELERY_GLOBAL_CONCURRENCY_REDISURL", "CELERY_GLOBAL_CONCURRENCY_REDIS_URL"),
        ("CELERY", "CELERY_GLOBAL_CONCURRENCY_ENABLE", "CELERY_GLOBAL_CONCURRENCY_ENABLED"),
        (None, "global_concurrency_limit", "global_concurrency_limits"),
        (None, "GLOBAL_CONCURRENCY_LIMIT", "GLOBAL_CONCURRENCY_LIMITS"),
    ],
)
def test_an_unknown_setting_of_this_app_is_refused_with_the_one_that_is_meant(namespace, key, meant):
    with pytest.raises(SettingError, match=f"^{key}=.*there is no such setting; did you mean {meant}"):
        Settings.from_app(configured(namespace, **{key: {}}))


@pytest.mark.parametrize(
    ("namespace", "key", "meant"),
    [
        ("CELERY", "CELERY_GLOBAL_CONCURENCY_LIMITS", "CELERY_GLOBAL_CONCURRENCY_LIMITS"),
        ("CELERY", "CELERY_GLOABL_CONCURRENCY_REDIS_URL", "CELERY_GLOBAL_CONCURRENCY_REDIS_URL"),
        ("CELERY", "CELERYGLOBAL_CONCURRENCY_LIMITS", "CELERY_GLOBAL_CONCURRENCY_LIMITS"),
        ("CELERY", "CELREY_GLOBAL_CONCURRENCY_LIMITS", "CELERY_GLOBAL_CONCURRENCY_LIMITS"),
        ("CELERY", "GLOBAL_CONCURRENCY_LIMITS", "CELERY_GLOBAL_CONCURRENCY_LIMITS"),
        ("CELERY", "celery_global_concurrency_limits", "CELERY_GLOBAL_CONCURRENCY_LIMITS"),
        (None, "global_concurency_limits", "global_concurrency_limits"),
        (None, "Global_Concurrency_Limits", "global_concurrency_limits"),
        (None, "GLOBAL_CONCURENCY_ENABLED", "GLOBAL_CONCURRENCY_ENABLED"),
    ],
)
def test_a_likely_misspelling_elsewhere_is_told_with_what_is_meant(namespace, key, meant):
    assert Settings.from_app(configured(namespace, **{key: {}})).misspelt == ((key, meant),)


def test_a_namespace_that_is_alike_and_in_use_is_no_misspelling():
    values = {"CELERY2_BROKER_URL": "redis://", "CELERY2_GLOBAL_CONCURRENCY_LIMITS": {"emails": 2}}
    assert Settings.from_app(configured("CELERY", **values)).misspelt == ()
    assert Settings.from_app(configured("CELERY2", **values)).limits == {"queue:emails": 2}


def test_what_is_set_before_the_configuration_is_loaded_is_checked_by_its_own_namespace():
    made = Celery("proj", set_as_current=False, namespace="CELERY", broker="redis://")
    made.conf["CELERY_GLOBAL_CONCURRENCY_LIMITS"] = {"emails": "x"}
    made.conf["MYAPP_GLOBAL_CONCURRENCY_LIMITS"] = "x"
    with pytest.raises(SettingError, match="a max must be a whole number"):
        GlobalConcurrency(made)
    made.conf["CELERY_GLOBAL_CONCURRENCY_LIMITS"] = {"emails": 1}
    GlobalConcurrency(made)
    assert not made.configured


def test_switched_off_nothing_else_is_looked_at():
    made = app(global_concurrency_enabled=False, global_concurrency_limits="faulty", global_concurrency_nope=1)
    GlobalConcurrency(made)
    assert Settings.from_app(made).enabled is False


@pytest.mark.parametrize("ask", ["status", "configured", "totals"])
def test_switched_off_the_api_says_so(ask):
    gconc = GlobalConcurrency(app(global_concurrency_enabled=False, global_concurrency_limits={"emails": 1}))
    if ask == "configured":
        assert "queue:emails" not in gconc.configured()
        return
    with pytest.raises(SettingError, match="switched off: global_concurrency_enabled is False"):
        getattr(gconc, ask)()
