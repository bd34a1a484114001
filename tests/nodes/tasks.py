"""The tasks that the nodes run. They tell the oracle of ``tests.kit.workers`` what runs."""

from __future__ import annotations

import os
import time

import redis
from celery import shared_task

_TELL = """
local t = redis.call('TIME')
redis.call('RPUSH', 'events', cjson.encode({t[1] * 1000000 + t[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]}))
"""


@shared_task
def nap(number: int, seconds: float) -> int:
    """Sleep, and say when that began and ended."""
    with redis.Redis.from_url(os.environ["TEST_ORACLE"]) as oracle:
        oracle.eval(_TELL, 0, "s", number, "nap", os.getpid())
        time.sleep(seconds)
        oracle.eval(_TELL, 0, "e", number, "nap", os.getpid())
    return number
