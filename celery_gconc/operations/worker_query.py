"""Asks all workers several things at once, through Celery's remote control, with or without this package in them.

explain, doctor -> ask -> broadcast -> each worker's answer
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from celery_gconc.brokers.backlog import CONNECT_SECONDS, BrokerUnavailable, BrokerView
from celery_gconc.clock import now

#: How long, in seconds, workers have for their answers if nothing else is said: as in Celery's own commands.
ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """A command of Celery's remote control that gives an answer. Without a destination all workers are asked."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    destination: tuple[str, ...] = ()


#: What each worker has answered, by its node name.
Answers = dict[str, Any]


class WorkerQuery:
    """Questions that are asked at the same time, from when this is made; several surveys may be under way."""

    def __init__(self, app: Celery, questions: Sequence[Question], timeout: float = ANSWER_SECONDS) -> None:
        self._patience = timeout + 2 * CONNECT_SECONDS
        self._askers = [_Asker(app, question, timeout) for question in questions]
        for asker in self._askers:
            asker.start()

    def answers(self) -> list[Answers]:
        """What each question gave within the time: at once where all that it was sent to have answered.

        No worker, no answer: that is no error. An error that a worker answers is left out.

        Raises:
            BrokerUnavailable: the broker can't be reached, or doesn't answer.
        """
        ends = now() + self._patience
        for asker in self._askers:
            asker.join(max(ends - now(), 0.0))
        if (error := next((asker.error for asker in self._askers if asker.error is not None), None)) is not None:
            raise error
        if any(asker.is_alive() for asker in self._askers):
            raise BrokerUnavailable(f"the broker did not answer within {self._patience:g} s")
        return [asker.answers for asker in self._askers]


def ask(app: Celery, questions: Sequence[Question], timeout: float = ANSWER_SECONDS) -> list[Answers]:
    """Ask, and wait for the answers; see :class:`WorkerQuery`."""
    return WorkerQuery(app, questions, timeout).answers()


class _Asker(threading.Thread):
    """One question, on a connection of its own. A daemon: a broker that hangs doesn't keep the process."""

    def __init__(self, app: Celery, question: Question, timeout: float) -> None:
        super().__init__(daemon=True, name=f"gconc-ask-{question.command}")
        self._app, self._question, self._timeout = app, question, timeout
        self.answers: Answers = {}
        self.error: BrokerUnavailable | None = None

    def run(self) -> None:
        question = self._question
        with BrokerView(self._app) as broker:
            try:
                replies = self._app.control.broadcast(
                    question.command,
                    arguments=dict(question.arguments),
                    destination=list(question.destination) or None,
                    limit=len(question.destination) or None,
                    reply=True,
                    timeout=self._timeout,
                    connection=broker.connect(),
                )
            except BrokerUnavailable as exc:
                self.error = exc
            except Exception as exc:  # noqa: BLE001 - whatever a transport raises where it has no remote control
                self.error = BrokerUnavailable(f"workers can't be asked through this broker: {type(exc).__name__}")
            else:
                answers = {node: answer for reply in replies or () for node, answer in reply.items()}
                self.answers = {node: answer for node, answer in answers.items() if not _is_error(answer)}


def _is_error(answer: Any) -> bool:
    return isinstance(answer, dict) and set(answer) == {"error"}
