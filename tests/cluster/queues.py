"""The queues of the cluster tests' app: default routing, a custom key, a topic exchange, an alias."""

from __future__ import annotations

from kombu import Exchange, Queue

QUEUES = [
    Queue("celery", Exchange("celery", type="direct"), routing_key="celery"),
    Queue("emails", Exchange("emails", type="direct"), routing_key="emails"),
    Queue("other", Exchange("other", type="direct"), routing_key="other"),
    Queue("custom", Exchange("shared", type="direct"), routing_key="some.key"),
    Queue("topics", Exchange("news", type="topic"), routing_key="news.#"),
    Queue("mail.out", Exchange("mail.out", type="direct"), routing_key="mail.out", alias="mail"),
]
