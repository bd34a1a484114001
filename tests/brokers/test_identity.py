"""A broker is one and the same by whatever URL it is reached."""

from __future__ import annotations

from kombu import Connection

from celery_gconc.brokers.queues import identity_of


def test_a_broker_has_one_identity_by_whatever_url_it_is_reached(rabbitmq_process, redis_process):
    def identity(url: str, **options: object) -> str:
        with Connection(url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1)
            return identity_of(connection)

    rabbitmq, redis = rabbitmq_process.url.partition("://")[2], redis_process.url.removesuffix("/0").partition("://")[2]
    assert identity(f"amqp://{rabbitmq}") == identity(f"pyamqp://{rabbitmq}".rstrip("/") + "/%2F")
    assert identity(f"redis://{redis}") == identity(f"redis://{redis}/0")
    others = [identity(f"redis://{redis}/1"), identity(f"redis://{redis}", global_keyprefix="prod:")]
    assert len({identity(f"amqp://{rabbitmq}"), identity(f"redis://{redis}"), *others}) == 4
