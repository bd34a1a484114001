"""The signals of celery-gconc, sent in the worker's main process as Celery's own are: ``permit_granted.connect(...)``.

A receiver is called on the thread on which the event happens: the consumer's thread, one of the pool's
(``permit_granted`` and ``permit_released`` in the threads and green pools), or the one that talks to Redis
(``permit_released`` if a child was killed). It must be quick and must not block, because every other task
has to wait for it. An exception that it raises is logged and ignored. Without receivers, a signal costs nothing.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = ["lease_lost", "limit_changed", "permit_granted", "permit_released", "permit_waiting"]

#: A task waits for a permit, as its limits have no room. Sender: the task's name.
permit_waiting = Signal(name="permit_waiting", providing_args=["task_id", "limits", "headers"])

#: A task got its permit and goes to the pool. Sender: the task's name. ``waited`` in seconds.
permit_granted = Signal(name="permit_granted", providing_args=["task_id", "limits", "waited", "headers"])

#: A task has ended, or won't run, and its permit is free. Sender: the task's name. ``held`` in seconds.
permit_released = Signal(name="permit_released", providing_args=["task_id", "limits", "held"])

#: The session was closed while its worker was alive: tasks that it runs may not be counted. Sender: the session's id.
lease_lost = Signal(name="lease_lost", providing_args=["running"])

#: The value that applies to a limit has changed, and this worker has heard of it. Sender: the limit's name. ``max``
#: and ``was`` are None if it is unlimited, and 0 while it is paused.
limit_changed = Signal(name="limit_changed", providing_args=["max", "was"])
