"""The cluster tests' app where kombu takes any RabbitMQ for one of version 4: each consumer has a prefetch of its own.

So it is in kombu from 5.7 on (``Transport.qos_semantics_matches_spec``). RabbitMQ of any version does as it is told
by ``basic.qos``; what only 4 could show is what else changed there.
"""

from __future__ import annotations

from kombu.transport.pyamqp import Transport

from tests.cluster.app import app

Transport.qos_semantics_matches_spec = lambda _transport, _connection: True

__all__ = ["app"]
