"""The queues of the cluster tests' app: default routing, a custom key, a topic exchange, an alias, and special ones."""

from __future__ import annotations

from copy import deepcopy

from kombu import Exchange, Queue
from kombu.common import Broadcast

QUEUES = [
    Queue("celery", Exchange("celery", type="direct"), routing_key="celery"),
    Queue("emails", Exchange("emails", type="direct"), routing_key="emails"),
    Queue("other", Exchange("other", type="direct"), routing_key="other"),
    Queue("custom", Exchange("shared", type="direct"), routing_key="some.key"),
    Queue("topics", Exchange("news", type="topic"), routing_key="news.#"),
    Queue("mail.out", Exchange("mail.out", type="direct"), routing_key="mail.out", alias="mail"),
]


def _quorum(name: str, **arguments: object) -> Queue:
    return Queue(name, Exchange(name), routing_key=name, queue_arguments={"x-queue-type": "quorum", **arguments})


#: Queues that an app has only where its test asks for them (``Cluster.special``): one quorum queue among the queues
#: of an app makes the prefetch of all its workers static.
SPECIAL = {
    "sports": Queue("sports", Exchange("news", type="topic"), routing_key="news.sports"),
    "fan": Queue("fan", Exchange("fan", type="fanout")),
    "reload": Broadcast("reload"),
    "mine": Queue("", Exchange("mine", type="fanout"), alias="mine", exclusive=True),
    "expiring": Queue("expiring", Exchange("expiring"), routing_key="expiring"),
    "expiring-quorum": _quorum("expiring-quorum"),
    "fading": _quorum("fading"),
    "quorum": _quorum("quorum"),
    "strict": _quorum("strict", **{"x-delivery-limit": 4}),
    "tight": _quorum("tight", **{"x-delivery-limit": 2}),
    "single": Queue(
        "single", Exchange("single"), routing_key="single", queue_arguments={"x-single-active-consumer": True}
    ),
}


def with_special(names: str) -> list[Queue]:
    """The queues of every app, and the special ones of these names (with commas between).

    Copies: an app with ``task_queue_max_priority`` writes it into its queues.
    """
    return [deepcopy(queue) for queue in (*QUEUES, *(SPECIAL[name] for name in names.split(",") if name))]
