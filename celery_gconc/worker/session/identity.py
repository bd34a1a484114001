"""What a session says of its worker when it is opened: who it is, what it is configured with, what it consumes.

Thread: made on the consumer's; the link's reads.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import celery

from celery_gconc.connection.urls import without_secrets
from celery_gconc.version import __version__

#: How many characters of the broker's address are said.
MAX_ADDRESS = 500


@dataclass(frozen=True, slots=True)
class Identity:
    """One worker's, for its life."""

    #: Facts that people are shown: node, pid, pool, versions, app, broker.
    info: Mapping[str, Any]
    #: The limits that it is configured with.
    config: Mapping[str, int]
    app: celery.Celery

    @classmethod
    def of(cls, consumer: Any, pool: str, config: Mapping[str, int]) -> Identity:
        """That of the worker whose *consumer* this is, with the name of its *pool*."""
        app: celery.Celery = consumer.app
        info = {
            "node": consumer.hostname,
            "pid": os.getpid(),
            "pool": pool,
            "version": __version__,
            "celery": celery.__version__,
            "python": platform.python_version(),
            "app": app.main or "",
            "broker": without_secrets(app.conf.broker_url or "")[:MAX_ADDRESS],
        }
        return cls(info, config, app)

    @property
    def queues(self) -> list[str]:
        """The queues that its operator has it consume at this moment."""
        return list(self.app.amqp.queues.consume_from)
