"""What a judge reads off the evidence: which limits there are, whose session a record is, what covers the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from celery.states import FAILURE, REVOKED, SUCCESS

from celery_gconc.brokers.backlog import Message
from celery_gconc.diagnosis.evidence import Evidence, Line
from celery_gconc.diagnosis.explanation import Explanation, TaskState
from celery_gconc.limits.claims import Limits
from celery_gconc.operations.wording import all_of, count_of, since, span, unix_time, why_closed
from celery_gconc.protocol.status import LimitStatus, SessionStatus, Whereabouts

#: What the result backend calls a task that has come to its end.
ENDS = (SUCCESS, FAILURE, REVOKED)

#: How many queues are named.
MAX_QUEUES = 10


class Facts:
    """One round of evidence, and what follows from it. Reads nothing but the evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.limits: Mapping[str, LimitStatus] = {limit.limit: limit for limit in evidence.status}
        #: The time by Redis' clock: Unix time in seconds.
        self.now = evidence.status.at
        self.sessions: Mapping[str, SessionStatus] = {one.session: one for one in evidence.status.sessions}

    @cached_property
    def longest_lease(self) -> float:
        """The longest lease of any session, in seconds: a limit that begins is settled by its end."""
        return max((one.timeout for one in self.sessions.values()), default=0.0)

    @cached_property
    def present(self) -> Mapping[str, str]:
        """The session of each node's present process: others of that node belong to former ones."""
        return {one.node: one.session for one in sorted(self.sessions.values(), key=lambda one: one.since)}

    @property
    def trouble(self) -> str:
        """Why neither the queues nor the workers could be asked."""
        return self.evidence.broker_trouble or self.evidence.told.trouble

    @cached_property
    def task(self) -> str | None:
        """The registered name of the task, from whoever knows it."""
        evidence, message = self.evidence, self.evidence.search.message
        names: list[Any] = [found.task for found in evidence.found]
        names += [info.get("name") for _, info in evidence.told.state.values()]
        names += [answer.get("task") for answer in evidence.told.own.values()]
        names += [message.task if message else None, evidence.after.task]
        return next((str(name) for name in names if name), None)

    def say(
        self,
        state: TaskState,
        answer: str,
        *,
        node: str | None = None,
        task: str | None = None,
        limits: Limits = (),
        seconds: float | None = None,
    ) -> Explanation:
        """An explanation of this task."""
        return Explanation(
            self.evidence.task_id, state, answer, task=task or self.task, node=node, limits=limits, seconds=seconds
        )

    # -- Records in Redis --------------------------------------------------------------------------------

    def is_former(self, found: Whereabouts) -> bool:
        """Whether the process that had it is gone: its worker was started anew."""
        return self.present.get(found.node, found.session) != found.session

    def has_ended_since(self, found: Whereabouts) -> bool:
        """Whether the task ended after Redis heard that it waits or runs."""
        result = self.evidence.after
        if result.state not in ENDS:
            return False
        done = unix_time(result.done or "")
        return done is None or done >= self.now - found.seconds

    # -- Limits ------------------------------------------------------------------------------------------

    @cached_property
    def covering(self) -> Limits:
        """The limits in force that would cover its message, as far as this app knows the task."""
        known = [self.limits[name] for name in self.evidence.candidates if name in self.limits]
        return tuple(limit.limit for limit in known if limit.max is not None or limit.paused)

    def line(self, limit: str) -> Line:
        """Who holds a limit, who stands in its line, what ended under it lately."""
        return self.evidence.lines.get(limit) or Line()

    def expected_wait(self, limit: LimitStatus, position: int) -> float | None:
        """About how long, in seconds, a position in line waits: as long as recent tasks took, divided by the max."""
        if limit.paused or limit.settling or not limit.max:
            return None
        samples = self.line(limit.limit).recent
        weight = sum(sample.weight for sample in samples)
        held = sum(sample.held * sample.weight for sample in samples)
        return position * held / weight / limit.max if weight else None

    # -- Queues and the broker ---------------------------------------------------------------------------

    def why_queued(self, message: Message) -> tuple[str, LimitStatus | None]:
        """Why a message is still in its queue, and the limit that keeps it there, if one does."""
        closed = [limit for name in self.covering if (limit := self.limits[name]).is_closed]
        reads, is_read = self.who_reads(message.queue)
        if not closed:
            return reads, None
        limit = min(closed, key=lambda limit: limit.limit != f"queue:{message.queue}")
        why = why_closed(limit, self.now, self.longest_lease)
        return why if is_read else f"{why}, and {reads}", limit

    def who_reads(self, queue: str) -> tuple[str, bool]:
        """Which workers consume a queue, and whether any does, as far as they answer."""
        told = self.evidence.told
        if told.trouble:
            return "workers could not be asked", False
        readers = sorted(node for node, names in told.queues.items() if queue in names)
        if readers:
            return self._readers(readers), True
        silent = sorted(self.present.keys() - told.nodes)
        lives = f" ({all_of(silent)} {'is' if len(silent) == 1 else 'are'} alive according to Redis)" if silent else ""
        nobody = f"no worker that answers consumes {queue}" if told.nodes else "no worker answers"
        return nobody + lives, False

    def _readers(self, readers: Sequence[str]) -> str:
        verb, have = ("consumes", "has") if len(readers) == 1 else ("consume", "have")
        rooms = [session.room for session in self.evidence.status.sessions if session.node in readers]
        busy = f", and {have} no free slot" if len(rooms) >= len(readers) and not any(rooms) else ""
        return f"{all_of(readers)} {verb} that queue{busy}"

    def may_be_in(self) -> str:
        """Where its message may be, with a broker that doesn't tell."""
        search = self.evidence.search
        holding = sorted((queue, count) for queue, count in search.counts.items() if count)
        if not holding or (search.can_look and search.is_complete):
            return ""
        named = ", or in ".join(
            f"{queue}, which holds {count_of(count, 'message')}" for queue, count in holding[:MAX_QUEUES]
        )
        return f" It may be in queue {named}."

    def when_redelivered(self, message: Message) -> str:
        """When the broker gives up waiting for the acknowledgement of a message that a worker has taken."""
        if message.returns_at is None:
            return "after its visibility_timeout"
        return f"in about {span(max(message.returns_at - self.now, 0.0))} (visibility_timeout)"

    def taken_ago(self, message: Message) -> str:
        """How long ago a worker took a message, where that is known."""
        return "" if message.taken_at is None else f" {span(since(message.taken_at, self.now))} ago"
