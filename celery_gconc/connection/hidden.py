"""The URL of the coordination Redis, in an app's configuration: it is there, and shows no password."""

from __future__ import annotations

import re
from collections import UserString
from typing import Any

from celery_gconc.connection.urls import without_secrets
from celery_gconc.lookup import PREFIX, own_keys

#: The coordination Redis, in whatever namespace: another app's URL is nothing to show either.
_URL_KEY = re.compile(rf"(?i)(?:^|_){PREFIX}redis_url$")


class HiddenURL(UserString):
    """A URL that shows no password in ``inspect conf`` and ``celery report``: they show its repr.

    (celery 5.4-5.7: both censor by the key's name, and leave a string as it is; of other values they show the repr.)
    """

    def __repr__(self) -> str:
        return without_secrets(self.data)


def hide_url(conf: Any) -> None:
    """Have the configuration show no password of ours."""
    own = {key for key, _ in own_keys(conf)}
    for key in list(conf):
        if key in own or (isinstance(key, str) and _URL_KEY.search(key)):
            value = conf[key]
            if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
                value = ";".join(value)  # alternatives
            if isinstance(value, str) and "://" in value:
                conf[key] = HiddenURL(value)
