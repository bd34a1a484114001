import json
import os
import time

import redis
from celery import shared_task


@shared_task(ignore_result=False)
def send(team, number, seconds):
    """Tell a Redis of the test's own when it starts and ends."""
    with redis.Redis.from_url(os.environ["MARKET_ORACLE"]) as oracle:
        for kind in "se":
            moment, micros = oracle.time()
            oracle.rpush("events", json.dumps([moment * 10**6 + micros, kind, number, team, os.getpid()]))
            if kind == "s":
                time.sleep(seconds)
    return number
