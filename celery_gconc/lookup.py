"""Which keys of an app's configuration are ours: those that Celery itself would look up for it.

An app whose configuration has a namespace (``namespace="CELERY"``) sees the whole module: Django's own settings, those
of other packages, and those of another app with another namespace. Only ``CELERY_GLOBAL_CONCURRENCY_*`` are meant for
it, and what is set on ``app.conf`` itself, in lower case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from celery import Celery
from celery.app.defaults import SETTING_KEYS
from celery.utils.collections import ConfigurationView
from kombu.utils.functional import maybe_evaluate

PREFIX = "global_concurrency_"

#: What may stand before it, in capitals, where the app has no namespace: nothing, or what Celery's own settings had
#: before them up to version 3, and may still have (celery 5.4-5.7: ``app.defaults.OLD_NS``).
_OLD_BEGINNINGS = (PREFIX.upper(), "CELERY_" + PREFIX.upper())

#: How alike a key has to be to one of ours to be taken for a misspelling of it, and a namespace to the app's.
_LIKELY, _LIKELY_NAMESPACE = 0.9, 0.75

#: By how many characters it may be longer or shorter.
_MOST_MORE = 2


def pending(app: Celery) -> ConfigurationView:
    """What was assigned to ``app.conf`` so far, without loading the configuration.

    (celery 5.4-5.7: there is no public way to look at it.)
    """
    return ConfigurationView(getattr(app, "_preconf", {}), prefix=app.namespace)  # type: ignore[attr-defined]


def given(conf: Any, names: Collection[str]) -> dict[str, Any]:
    """What the configuration says of the settings *names* (without their prefix). One that is None is left out."""
    values: dict[str, Any] = {}
    for name in names:
        # First what was set on app.conf itself, as the docs have it: a URL that was hidden stands there as well.
        value = maybe_evaluate(conf.changes.get(PREFIX + name))
        if value is None:
            value = conf.first(PREFIX + name, *(() if conf.prefix else _old(name)))
        if value is not None:
            values[name] = value
    return values


def own_keys(conf: Any) -> Iterator[tuple[str, str]]:
    """Each key that begins as this app's settings of ours do, and the setting's name without the prefix."""
    beginnings = _beginnings(conf)
    for key in _keys(conf):
        beginning = next((one for one in beginnings if key.startswith(one)), None)
        if beginning is not None:
            yield key, key[len(beginning) :].lower()


def closest(name: str, names: Collection[str]) -> str | None:
    """The setting that may be meant by a name that is none."""
    return next(iter(get_close_matches(name, names, 1)), None)


def likely_meant(conf: Any, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Each key that isn't this app's setting, and is likely meant to be; and as what it would be read.

    A foreign key may well end in a name like ours: what stands before it says whose it is.
    """
    own = {key for key, _ in own_keys(conf)}
    spellings = [spelling for beginning in _beginnings(conf) for spelling in _spelled(beginning, names)]
    keys = _keys(conf)
    for key in keys:
        if key in own or not ("global" in key.lower() or "concurrency" in key.lower()):
            continue
        before, exact = _foreign_part(key, names)
        if exact:
            if not before or _is_likely_namespace(before, conf.prefix or "", keys):
                yield key, _as_read(conf, exact)
        elif (meant := _alike(key, spellings)) is not None:
            yield key, meant


# -- Parts -----------------------------------------------------------------------------------------------------------


def _keys(conf: Any) -> list[str]:
    return [key for key in conf if isinstance(key, str)]


def _beginnings(conf: Any) -> list[str]:
    # celery 5.4-5.7: all spellings of a key that a configuration looks up, the first first; there is no public way.
    found = list(dict.fromkeys(conf._to_keys(PREFIX)))
    return found if conf.prefix else [*found, *_OLD_BEGINNINGS]


def _old(name: str) -> list[str]:
    return [beginning + name.upper() for beginning in _OLD_BEGINNINGS]


def _spelled(beginning: str, names: Collection[str]) -> list[str]:
    return [beginning + (name.upper() if beginning.isupper() else name) for name in names]


def _as_read(conf: Any, name: str) -> str:
    return str(conf._to_keys(PREFIX + name)[0])


def _foreign_part(key: str, names: Collection[str]) -> tuple[str, str]:
    """What stands before the name of a setting of ours, and that name; empty where the key doesn't end in one."""
    lower = key.lower()
    for name in names:
        if lower.endswith(PREFIX + name):
            return key[: -len(PREFIX + name)], name
    return "", ""


def _is_likely_namespace(before: str, prefix: str, keys: list[str]) -> bool:
    """Whether what stands before is likely meant to be this app's namespace: alike, and nobody else's."""
    alike = SequenceMatcher(None, before.lower(), prefix.lower()).ratio()
    is_used = any(key.startswith(before) and key[len(before) :].lower() in SETTING_KEYS for key in keys)
    return before.lower() == prefix.lower() or (alike >= _LIKELY_NAMESPACE and not is_used)


def _alike(key: str, spellings: list[str]) -> str | None:
    near = [one for one in spellings if abs(len(one) - len(key)) <= _MOST_MORE]
    near.sort(key=lambda one: one.isupper() != key.isupper())  # of two that differ by case only
    in_lower_case = [one.lower() for one in near]
    found = get_close_matches(key.lower(), in_lower_case, 1, _LIKELY)
    return near[in_lower_case.index(found[0])] if found else None
