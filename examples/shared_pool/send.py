"""Send 40 tasks over two queues, and print how many used each resource at most at once."""

from __future__ import annotations

import redis
from celery import group

from .app import import_rows, purge, reindex, report, url

#: How long to wait for the results, in seconds.
PATIENCE = 60


def main() -> None:
    """Mix four tasks; each returns how many used its resources at once."""
    with redis.Redis.from_url(url) as counter:
        counter.delete("shared_pool:db-writers", "shared_pool:search")
    tasks = [import_rows, purge, import_rows, reindex, report] * 8
    sent = group(task.s(number) for number, task in enumerate(tasks)).apply_async()
    print(f"sent {len(tasks)} tasks to two queues; waiting for workers to run them", flush=True)
    used = sent.get(timeout=PATIENCE)
    print(f"{len(used)} tasks ran")
    for name, limit in (("db-writers", 3), ("search", 1)):
        counts = [users[name] for users in used if name in users]
        print(f"  {len(counts)} used {name}, at most {max(counts)} at once (pool:{name} allows {limit})")


if __name__ == "__main__":
    main()
