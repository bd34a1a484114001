"""An app whose task writes to a store, one at a time, and says by which permit it writes."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from celery_gconc import GlobalConcurrency, current_permit

url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("fencing", broker=url, backend=url)
app.conf.broker_connection_retry_on_startup = True
app.conf.global_concurrency_limits = {"task:fencing.write": 1}
# A worker that doesn't answer for two seconds loses its permits: short, so that the example is.
app.conf.global_concurrency_heartbeat_interval = 0.5
app.conf.global_concurrency_heartbeat_timeout = 2.0
gconc = GlobalConcurrency(app)

#: Where the task writes: here a hash in Redis. In SQL it is an UPDATE with ``WHERE number < :number``.
STORE = "fencing:store"

#: Write, unless a greater number has written before. Returns whether it wrote.
#: (The numbers are compared as text, by length first: they are greater than what a Lua number can tell apart.)
WRITE = """
local before, number = redis.call('HGET', KEYS[1], 'number') or '', ARGV[1]
if #before > #number or #before == #number and before > number then return 0 end
redis.call('HSET', KEYS[1], 'number', number, 'value', ARGV[2])
return 1
"""


@app.task(name="fencing.write")
def write(value: str, seconds: float) -> bool:
    """Think for a while, then write. Returns whether the store took it."""
    permit = current_permit()
    assert permit is not None, "this task has a limit"
    with redis.Redis.from_url(url) as store:
        store.hset("fencing:writers", value, f"{os.getpid()} {os.getppid()} {permit.number}")
        time.sleep(seconds)
        return bool(store.eval(WRITE, 1, STORE, permit.number, value))
