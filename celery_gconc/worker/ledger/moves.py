"""What waits here without a slot while another session could start it: what Redis is asked of it, and has answered.

    Permits (offers, room) -> Moves -> Sync.weak;  Synced.elsewhere -> Moves -> Gate (what goes back to its queue)

Thread: any, under the ledger's lock.

A request whose turn has come and that finds no slot within half a second is *weak*. Where another session takes
messages of its queue and has room, the message goes back to its position in the queue, and the worker leaves that queue
alone for a while. Where nobody has room it stays in this worker's line for slots, which it would lose by going.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from celery_gconc.clock import now
from celery_gconc.worker.ledger.lines import Line
from celery_gconc.worker.ledger.request import R

#: How long, in seconds, a request whose turn has come waits here for a slot before Redis is asked who else has one.
WEAK_SECONDS = 0.5

#: How long, in seconds, until Redis is asked again.
ASK_SECONDS = 1.0

#: Names that Redis' scripts don't take: they keep names apart by a control character. Such queues stay out of it.
UNFIT = re.compile(r"[\x00-\x1f\x7f]|^$|.{1000}", re.DOTALL)

#: How many requests of a line are looked at for queues that they came from.
LOOKED_AT = 256

#: How much earlier, in seconds, than planned a sync may be and still ask.
EARLY_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Answer:
    """What Redis said of queues."""

    asked: frozenset[str]
    #: Those of them that another session takes, and has room for.
    elsewhere: frozenset[str]


class Moves:
    """Owns which queues this worker takes messages of or leaves alone, what Redis is asked of them, and its answer."""

    def __init__(self) -> None:
        #: Which broker messages are taken from (a digest), and which queues of it.
        self.source = ""
        self.takes: tuple[str, ...] = ()
        #: Redis has heard of them.
        self._is_sent = True
        #: Since when there is something whose turn has come, and no slot.
        self._missed_at: float | None = None
        self._asked_at = 0.0
        #: The queues that are asked of in the sync under way.
        self._asking: frozenset[str] = frozenset()
        #: The queues that are left alone.
        self._left: frozenset[str] = frozenset()
        self._answer: Answer | None = None

    def take(self, source: str, queues: Sequence[str]) -> bool:
        """Say which queues messages are taken of; return whether that is news."""
        takes = tuple(queue for queue in queues if not UNFIT.search(queue))
        if (self.source, self.takes) == (source, takes):
            return False
        self.source, self.takes = source, takes
        self._is_sent = False
        return True

    def leave(self, queues: frozenset[str]) -> None:
        """These queues are left alone from now on, and no others."""
        self._left = queues

    def missed(self) -> None:
        """A turn has come, and there is no slot."""
        if self._missed_at is None:
            self._missed_at = now()

    def caught_up(self) -> None:
        """There is a slot."""
        self._missed_at = None

    def sync_failed(self) -> None:
        """What was said last may not have arrived."""
        self._is_sent = False

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to tell Redis, nor to ask it, while nothing waits here."""
        return self._is_sent and not self._left

    def due_in(self, lines: Iterable[Line[R]]) -> float | None:
        """In how many seconds to ask Redis; None where there is nothing to ask."""
        if self._missed_at is not None and any(self._weak(lines)):
            ask_at = max(self._missed_at + WEAK_SECONDS, self._asked_at + ASK_SECONDS)
        elif self._left:
            ask_at = self._asked_at + ASK_SECONDS
        else:
            return None
        return max(ask_at - now(), 0.0)

    def say(self, lines: Iterable[Line[R]]) -> tuple[tuple[str, ...] | None, list[tuple[int, list[str]]]]:
        """What the next sync says: the queues that are taken, where that is news; and what is weak."""
        takes, self._is_sent = None if self._is_sent else self.takes, True
        moment, weak = now() + EARLY_SECONDS, list[tuple[int, list[str]]]()
        if moment - self._asked_at >= ASK_SECONDS:
            if self._missed_at is not None and moment - self._missed_at >= WEAK_SECONDS:
                weak = list(self._weak(lines))
            if self._left:
                weak.append((0, sorted(self._left)))
            if weak:
                self._asked_at = moment
        self._asking = frozenset(queue for _, queues in weak for queue in queues)
        return takes, weak

    def hear(self, elsewhere: frozenset[str]) -> bool:
        """Take in the answer; return whether there was a question."""
        if not self._asking:
            return False
        self._answer, self._asking = Answer(self._asking, elsewhere), frozenset()
        return True

    def take_answer(self) -> Answer | None:
        """The last answer, once."""
        answer, self._answer = self._answer, None
        return answer

    def _weak(self, lines: Iterable[Line[R]]) -> Iterator[tuple[int, list[str]]]:
        for line in lines:
            if line.asked:
                first = line.some(0, LOOKED_AT)
                queues = {request.queue for request in first if request.may_move and request.queue is not None}
                queues.intersection_update(self.takes)
                if queues:
                    yield line.number, sorted(queues)
