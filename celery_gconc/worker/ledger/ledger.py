"""The permits of this session, kept in memory: what it holds, what it asks for, and what Redis is still to be told.

    gate -> Ledger -> link -> Redis;  Redis -> link -> Ledger -> gate

Everything here is behind one lock and does no I/O, so that the worker's event loop never waits for Redis: the
gate takes and returns permits, the link carries the differences away and brings grants back.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import chain, islice, repeat
from typing import Generic, Protocol, TypeVar

from celery_gconc.clock import now
from celery_gconc.limits.claims import Limits
from celery_gconc.limits.table import LimitTable
from celery_gconc.protocol.messages import Ask, Grant, Held, Notice, Sync, Synced
from celery_gconc.worker.ledger.lines import Group, Line
from celery_gconc.worker.ledger.moves import Answer, Moves
from celery_gconc.worker.ledger.outbox import Outbox
from celery_gconc.worker.ledger.permit import Permit

#: How long, in seconds, a permit is kept with no task for it (never while another session waits for it).
IDLE_SECONDS = 0.1

#: How long, in seconds, what nobody waits for may wait for company on its way to Redis: asks that no slot is free
#: for (sent with their age, so they lose no place), permits that were idle.
LAZY_SECONDS = 0.02

#: The same for what matters to others, but less than the start of a task here.
SOON_SECONDS = 0.001

#: The same for which queues messages are taken of.
TAKES_SECONDS = 1.0

#: From how many places in its line on a session may tell Redis of further ones lazily.
MANY_ASKED = 4

#: Most places that a session takes in one line.
MOST_ASKED = 32

#: From how many kinds of requests on those are forgotten of which none waits.
MOST_GROUPS = 1000


class Pool(Protocol):
    """What the ledger asks of the worker's pool."""

    @property
    def startable(self) -> int:
        """How many tasks it may run at once now."""

    @property
    def growth(self) -> int | None:
        """By how many slots it may still grow without being told to; None where it doesn't."""


class Bell(Protocol):
    """What the ledger rings when there is something to carry to Redis."""

    def ring(self) -> None:
        """Wake the link. Never waits."""


class Holder(Protocol):
    """A request as the ledger sees it: it waits for a permit, or runs."""

    #: The names of limits that could cover it, and those that did when it came here, or was taken out.
    names: Limits
    limits: Limits
    #: Its permit, if it has one. None where it runs uncovered, or unlimited while Redis is away.
    permit: Permit | None
    #: When it reached its gate, and when it went to the pool with a permit (0.0: it didn't), by :func:`now`.
    arrived: float
    granted: float
    #: The queue that its message came from, if that is known, and whether it may go back for others to take.
    queue: str | None
    may_move: bool

    @property
    def task_id(self) -> str:
        """The id of its task."""

    @property
    def task(self) -> str:
        """The name of its task."""


R = TypeVar("R", bound=Holder)


@dataclass(frozen=True, slots=True)
class Queued(Generic[R]):
    """One set of limits for which requests wait here: how many, and the first of them."""

    limits: Limits
    count: int
    first: R


class Ledger(Generic[R]):
    """Permits of one session at a time. Every public method takes the lock, but those named ``..._locked``."""

    def __init__(
        self,
        config: Mapping[str, int],
        *,
        pool: Pool,
        bell: Bell,
        margin: float = 0.0,
    ) -> None:
        self._lock = threading.RLock()
        #: What holds now: at first the worker's own configuration. Replaced with the lock, read without.
        self.table = LimitTable(config, version=-1)
        #: The session whose permits these are; empty before the first.
        self.session = ""
        #: The version that Redis has last told of; nothing is started by an older table.
        self._told_version = -1
        #: What that was when the last sync was made.
        self._told_before_sync = -1
        #: Requests handed to the pool and not ended, covered or not. In order of their start.
        self._running: dict[R, None] = {}
        #: Those of them that have a permit: no more than there are slots, but where a limit begins.
        self._covered: dict[R, None] = {}
        #: Those that may need one of just the limits that cover them now.
        self._unadopted: dict[R, None] = {}
        #: How many requests wait here, covered, or uncovered since the last look.
        self.waiting_count = 0
        #: How many free slots are for requests that no limit covers.
        self._reserved = 0
        self._pool = pool
        self._bell = bell
        #: For how many seconds before the lease's end nothing is started any more.
        self._margin = margin
        self._lines: dict[Limits, Line[R]] = {}
        #: What waits in them, by candidate limits; some of these may be empty.
        self._groups: dict[Limits, Group[R]] = {}
        self._most_groups = MOST_GROUPS
        self._outbox: Outbox[R] = Outbox()
        self._moves = Moves()
        self._granted = 0
        #: Limits that others wait for, and how many of our requests stand at the head of the line: for those a
        #: permit may be used again, for it would come back to us.
        self._contended: dict[str, int] = {}
        self._uncovered: list[Collection[R]] = []
        self._offered = False
        #: Room that Redis still believes this session to have.
        self._believed_room = 0
        #: Whether there was room at the last look, though Redis believes that there is none.
        self._is_room_untold = False
        self._watches_idle = False
        #: When the link, which was woken, comes by itself to tell Redis.
        self._woken_for: float | None = None
        self._is_finishing = False
        #: Whether the last sync was answered.
        self._is_trusted = False
        self._lease_ends = 0.0
        self._reuse_ends = 0.0

    # -- The gate's side ---------------------------------------------------------------------------------

    def wait(self, request: R) -> None:
        """Put a request in this session's line; :meth:`next` gives it when there is a permit for it.

        Where no limit covers it any more, :meth:`uncovered` gives it.
        """
        with self._lock:
            self.waiting_count += 1
            request.limits = self.table.covering(request.names)
            if not request.limits:
                self._uncovered.append((request,))
                return
            line = self._line_locked(request.limits)
            line.put(self._group_locked(request.names, line), request)
            if len(self._lines) > 1:
                self._recall_locked()  # what is idle for other sets of limits may be what this one waits for
            self._ask_locked(request.limits)
            self._wake_locked()

    def reserve(self, slots: int) -> None:
        """Keep so many of the free slots for requests that no limit covers."""
        with self._lock:
            self._reserved = slots

    def slots_changed(self) -> None:
        """Slots came or went: ask for what could start now, give back what can't."""
        with self._lock:
            if self.waiting_count:
                self._look_locked()
                self._wake_locked()

    def take(self, request: R) -> bool:
        """Give a request a spare permit, if there is one, a slot is free, and nobody waits for it here."""
        with self._lock:
            request.limits = self.table.covering(request.names)
            line = self._lines.get(request.limits)
            if line is None or line.waiting or not self._has_slot_locked():
                return False
            permit = self._usable_locked(line)
            if permit is None:
                return False
            self._give_locked(line, permit, request)
            return True

    def next(self, before: float | None = None) -> R | None:
        """Take the request out of its line that came first among those for which there is a permit now.

        None where there is none, no slot is free, or none came *before* that time.
        """
        with self._lock:
            if not self.waiting_count or not self._has_slot_locked():
                return None
            chosen: tuple[Line[R], Permit] | None = None
            for line in self._lines.values():
                if not line.spare or (first := line.first()) is None:
                    continue
                if (before is None or first.arrived < before) and (permit := self._usable_locked(line)) is not None:
                    chosen, before = (line, permit), first.arrived
            if chosen is None:
                return None
            line, permit = chosen
            request = line.pop()
            request.limits = line.limits
            self.waiting_count -= 1
            self._give_locked(line, permit, request)
            return request

    def leave(self, request: R) -> bool:
        """Take a request out of its line without a permit (revoked, expired). False where it had left before."""
        with self._lock:
            group = self._groups.get(request.names)
            if group is None or group.line is None or request not in group.waiting:
                return False
            line = group.line
            line.remove(group, request)
            request.limits = line.limits
            self.waiting_count -= 1
            self._ask_locked(line.limits)
            self._forget_locked(line.limits)
            self._wake_locked()
            return True

    def take_out(self, queues: Container[str], most: int) -> list[R]:
        """Take requests of these queues that may move out of their lines without permits; in order of arrival.

        Where there are more, the last of them: so those of the next call go back to their places before these.
        """
        with self._lock:
            # Those of one group have one queue: no other shares its candidates.
            movable = [group.movable for group in self._groups.values() if group.movable]
            ours = [reversed(runs) for runs in movable if next(reversed(runs)).queue in queues]
            last = merge(*ours, key=lambda request: request.arrived, reverse=True)
            found = list(islice(last, most))[::-1]
            for request in found:
                self.leave(request)
            return found

    def leave_all(self) -> list[R]:
        """Take every request out of its line, without a permit; in order of arrival."""
        with self._lock:
            left = sorted(self.waiting(), key=lambda request: request.arrived)
            self._clear_lines_locked()
            self._wake_locked()
            return left

    def is_waiting(self, request: R) -> bool:
        """Whether a request is in its line."""
        with self._lock:
            group = self._groups.get(request.names)
            return group is not None and request in group.waiting

    def waiting(self) -> list[R]:
        """Every request that waits here, by line. The only one of these methods that costs more with more of them."""
        with self._lock:
            return [request for group in self._groups.values() for request in group.waiting]

    def queued(self) -> list[Queued[R]]:
        """For which sets of limits requests wait here."""
        with self._lock:
            firsts = [(line, line.first()) for line in self._lines.values()]
            return [Queued(line.limits, line.waiting, first) for line, first in firsts if first is not None]

    def parked(self) -> dict[str, int]:
        """How many requests wait here that stand in no line in Redis, by limit: others of ours stand before them."""
        with self._lock:
            parked: dict[str, int] = {}
            for limits, line in self._lines.items():
                more = line.waiting - len(line.spare) - len(line.asked)
                for limit in limits if more > 0 else ():
                    parked[limit] = parked.get(limit, 0) + more
            return parked

    def running(self) -> list[R]:
        """Every request that was handed to the pool and has not ended, in order of their start."""
        with self._lock:
            return list(self._running)

    @property
    def running_count(self) -> int:
        """How many these are."""
        return len(self._running)

    def covered(self, ends_within: float | None = None) -> list[R]:
        """Those of them that have a permit; none where the lease ends no sooner than in so many seconds.

        A renewal of the lease comes before or after: either all of these run on the lease that ends, or none.
        """
        with self._lock:
            if ends_within is not None and self.lease_left() > ends_within:
                return []
            return list(self._covered)

    def stuck(self) -> int:
        """How many requests wait here that no further slot could start: their limits are full, as far as is known."""
        with self._lock:
            return self.waiting_count - sum(
                min(self._startable_locked(limits), line.waiting) for limits, line in self._lines.items()
            )

    def is_stuck(self, limits: Limits) -> bool:
        """Whether one more request under these limits would only add to the stuck ones."""
        with self._lock:
            line = self._lines.get(limits)
            if line is not None and line.waiting:
                return self._startable_locked(limits) <= line.waiting
            return self._left_locked(limits) <= 0

    def uncovered(self) -> list[R]:
        """Requests that waited here and that no limit covers any more, in order of arrival. Each is given once."""
        if not self._uncovered:
            return []
        with self._lock:
            groups, self._uncovered = self._uncovered, []
            self.waiting_count -= sum(map(len, groups))
        return sorted(chain(*groups), key=lambda request: request.arrived)

    def start_uncovered(self, request: R) -> bool:
        """A request that needs no permit goes to the pool. False where a limit covers it by now."""
        with self._lock:
            request.limits = self.table.covering(request.names)
            if request.limits:
                return False
            self._running[request] = None
            return True

    def start_unlimited(self, request: R) -> None:
        """A request goes to the pool without a permit, covered or not."""
        with self._lock:
            self._running[request] = self._unadopted[request] = None

    def ended(self, request: R) -> bool:
        """A request runs no more: its permit is free. False where it had ended before.

        Call :meth:`watch_idle` when the next has had its turn.
        """
        with self._lock:
            if request not in self._running:
                return False
            del self._running[request]
            self._covered.pop(request, None)
            if self._unadopted:
                self._unadopted.pop(request, None)
            permit, request.permit = request.permit, None
            if permit is None:
                return True
            if permit.may_pass_on and self._is_reusable_locked(permit.limits):
                permit.idle_since = now()
                line = self._line_locked(permit.limits)
                line.spare.append(permit)
                if line.waiting:
                    return True  # its slot and its permit go to the next of the line
            else:
                self._outbox.end(permit.number)
            if self.waiting_count:
                self._look_locked()
            if self.due_at is not None:
                self._wake_locked()
            return True

    def take_queues(self, source: str, queues: Sequence[str]) -> None:
        """Redis is to know which queues messages are taken of, and at which broker (a digest)."""
        with self._lock:
            if self._moves.take(source, queues):
                self._outbox.due(TAKES_SECONDS)
                self._wake_locked()

    def leave_queues(self, queues: Iterable[str]) -> None:
        """These queues are left alone from now on, and no others: Redis is asked whether others have room for them."""
        with self._lock:
            self._moves.leave(frozenset(queues))
            self._plan_moves_locked()
            self._wake_locked()

    def take_answer(self) -> Answer | None:
        """What Redis has said of queues whose messages find no slot here, or that are left alone. Each answer once."""
        with self._lock:
            return self._moves.take_answer()

    def tell_room(self) -> None:
        """Called every now and then: Redis is to hear of room that it doesn't know of, once it stays for a while."""
        with self._lock:
            was_untold = self._is_room_untold
            self._is_room_untold = self._believed_room <= 0 < self._room_locked()
            if was_untold and self._is_room_untold:
                self._outbox.due()
                self._wake_locked()

    def unused_slots(self) -> int:
        """How many slots are free that nothing of what waits here is to have; that should never last."""
        with self._lock:
            free = self._pool.startable - len(self._running)
            return free if self.waiting_count and free > 0 and self._room_locked() <= 0 else 0

    def watch_idle(self) -> None:
        """A permit that nobody took is watched from now on: it may be idle for a moment only."""
        if not self._watches_idle and self._lines:
            with self._lock:
                self._wake_locked()

    @property
    def holds_slot(self) -> bool:
        """Whether a free slot is to be kept for a moment: Redis would grant a permit if there were room."""
        return self._offered

    def is_contended(self, limits: Limits) -> bool:
        """Whether others wait for any of the limits."""
        return bool(self._contended) and any(limit in self._contended for limit in limits)

    def stop(self) -> None:
        """The worker stops: nothing waits here any more, and permits go back as soon as their tasks end."""
        with self._lock:
            self._is_finishing = True
            self._clear_lines_locked()
            for limits, line in list(self._lines.items()):
                for permit in line.spare:
                    self._outbox.end(permit.number)
                line.spare.clear()
                self._ask_locked(limits)
                self._forget_locked(limits)
            self._wake_locked()

    @property
    def due_at(self) -> float | None:
        """When there will be something to tell Redis, by :func:`~celery_gconc.clock.now`; None = nothing."""
        return self._outbox.due_at

    # -- The link's side ---------------------------------------------------------------------------------

    def retire_idle(self) -> float | None:
        """End permits that were spare for too long; return the seconds until the next would be."""
        with self._lock:
            soonest: float | None = None
            moment = now()
            for limits, line in list(self._lines.items()):
                for permit in list(line.spare):
                    left = permit.idle_since + IDLE_SECONDS - moment
                    if left > 0 and (permit.new or self._is_reusable_locked(limits)):
                        soonest = left if soonest is None else min(soonest, left)
                    else:
                        line.spare.remove(permit)
                        self._outbox.end(permit.number, LAZY_SECONDS)
                        self._ask_locked(limits)
                self._forget_locked(limits)
            self._watches_idle = soonest is not None
            return soonest

    def collect(self, epoch: str, number: int, *, confirmed: int, full: bool) -> Sync:
        """What to tell Redis now. Whatever it says is taken as told: after a failure call :meth:`sync_failed`."""
        with self._lock:
            full = full or self._outbox.needs_statement
            self._adopt_locked()
            self._believed_room = max(self._room_locked(), 0)
            self._told_before_sync = self._told_version
            news = self._outbox.take()
            self._woken_for = None
            if self._believed_room > 0:
                self._moves.caught_up()
            takes, weak = self._moves.say(self._lines.values())
            return Sync(
                session=self.session,
                epoch=epoch,
                number=number,
                confirmed=confirmed,
                granted=self._granted,
                room=self._believed_room,
                version=self.table.version,
                ended=() if full else news.ended,
                asks=self._asks_locked() if full else _asks(news.asks),
                held=self._held_locked() if full else [_statement(r.permit, r) for r in news.unstated if r.permit],
                interests=sorted(self._interests_locked()),
                full=full,
                source=self._moves.source,
                takes=takes,
                growth=self._pool.growth,
                weak=weak,
            )

    def sync_failed(self) -> None:
        """The last sync may not have arrived: the next one states everything."""
        with self._lock:
            self._outbox.needs_statement = True
            self._is_trusted = False
            self._moves.untold()
            self._outbox.due()

    def opened(self, session: str, table: Mapping[str, int], version: int, lease_ends: float) -> None:
        """A session was opened, with what :meth:`holdings` gave as its first grant.

        That may be more than a limit allows, so no permit is used again before the answer to the first sync.
        """
        with self._lock:
            self.session = session
            self._granted = 1
            self._contended = {}
            self._offered = False
            self._lease_ends, self._reuse_ends = lease_ends, 0.0
            self._outbox.needs_statement = True
            self._moves.untold()
            self._outbox.due()
            self._set_table_locked(table, version)
            self._believed_room = 0
            for limits in [key for key, line in self._lines.items() if line.waiting]:
                self._ask_locked(limits)  # what was asked for under an earlier session is void

    def holdings(self) -> tuple[list[Held], int]:
        """What runs under limits, and the table version that this goes by. Spare permits are void."""
        with self._lock:
            for limits, line in list(self._lines.items()):
                line.spare.clear()
                line.asked.clear()
                self._forget_locked(limits)
            self._adopt_locked()
            self._outbox.forget()
            return self._held_locked(), self.table.version

    def apply(self, reply: Synced, lease_ends: float, reuse_ends: float) -> bool:
        """Take in the answer to a sync. Times by :func:`now`. Return whether the gate may have something to do."""
        with self._lock:
            self._lease_ends, self._reuse_ends = lease_ends, reuse_ends
            self._grant_locked(reply.grants)
            self._contended = dict(reply.contended)
            self._recall_locked()
            if self._told_version == self._told_before_sync:
                self._told_version = reply.version  # asked after it was told, Redis says what it is
            was_trusted = self._is_trusted
            self._is_trusted = True
            # The end of an offer is news as well: a slot was kept for it, and others may wait for that.
            is_offer_news = reply.offer != self._offered and (not reply.offer or self._pool.growth is not None)
            self._offered = reply.offer
            if reply.table is not None:
                self._set_table_locked(reply.table, reply.version)
            is_answer = self._moves.hear(reply.elsewhere)
            self._plan_moves_locked()
            return bool(reply.grants) or reply.table is not None or not was_trusted or is_offer_news or is_answer

    def notice(self, notice: Notice) -> bool:
        """Take in what Redis told unasked. Return whether the gate may have something to do."""
        with self._lock:
            numbers = [grant.grant for grant in notice.grants]
            if numbers and (
                numbers[0] > self._granted + 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers)))
            ):
                self._outbox.due()  # one was lost on the way (or made up): the answer to a sync brings all
            else:
                self._grant_locked(notice.grants)
            self._contended.update(notice.contended)
            self._recall_locked()
            self._offered = self._offered or notice.offer
            if notice.offer and self._room_locked() > 0:
                self._outbox.due()
            self._plan_moves_locked()
            if notice.version is not None and notice.version != self.table.version:
                self._told_version = notice.version
                self._outbox.due()
            return bool(notice.grants) or (notice.offer and self._pool.growth is not None)

    def covering(self, names: Limits) -> Limits:
        """Those of the names that are limits now."""
        return self.table.covering(names)

    def freeze(self) -> None:
        """Before a fork: nothing changes until :meth:`thaw`, so that the child has a whole ledger and a free lock."""
        self._lock.acquire()

    def thaw(self) -> None:
        """After a fork, on both sides of it, on the thread that forked."""
        self._lock.release()

    def lease_left(self) -> float:
        """Seconds for which this session may still trust its lease."""
        return self._lease_ends - now()

    # -- With the lock held ------------------------------------------------------------------------------

    def _line_locked(self, limits: Limits) -> Line[R]:
        line = self._lines.get(limits)
        if line is None:
            line = self._lines[limits] = Line(limits)
        return line

    def _group_locked(self, names: Limits, line: Line[R]) -> Group[R]:
        group = self._groups.get(names)
        if group is None:
            if len(self._groups) >= self._most_groups:
                self._groups = {name: one for name, one in self._groups.items() if one.waiting}
                self._most_groups = max(2 * len(self._groups), MOST_GROUPS)
            group = self._groups[names] = Group(names)
        if group.line is not line:
            line.join(group)  # nothing waits in it, or it had gone there with the table
        return group

    def _forget_locked(self, limits: Limits) -> None:
        line = self._lines[limits]
        if not (line.waiting or line.asked or line.spare):
            del self._lines[limits]

    def _clear_lines_locked(self) -> None:
        for group in self._groups.values():
            if group.line is not None:
                group.line.part(group)
        self._groups.clear()
        self.waiting_count = sum(map(len, self._uncovered))
        for limits in list(self._lines):
            self._ask_locked(limits)
            self._forget_locked(limits)

    def _is_reusable_locked(self, limits: Limits) -> bool:
        """Whether a permit may pass from one task of this session to the next without Redis."""
        if self._is_finishing or now() >= self._reuse_ends:
            return False
        line = self._lines.get(limits)
        if len(self._lines) > 1 and self._is_before_locked(limits, line.first() if line is not None else None):
            return False
        if not self._contended:
            return True
        if line is None or not line.waiting:
            return not self.is_contended(limits)
        return all(self._contended.get(limit, 1) > 0 for limit in limits)

    def _is_before_locked(self, limits: Limits, request: R | None) -> bool:
        """Whether one of ours under another set that shares a limit with this one came before *request* (or waits).

        Then the permit goes back: Redis knows in whose line each stands, and gives it to the first.
        """
        return any(
            request is None or first.arrived < request.arrived
            for line in self._sharing_locked(limits)
            if (first := line.first()) is not None
        )

    def _shares_locked(self, limits: Limits) -> bool:
        return len(self._lines) > 1 and any(self._sharing_locked(limits))

    def _sharing_locked(self, limits: Limits) -> Iterator[Line[R]]:
        """Our other lines in which somebody waits, and that share a limit with this set."""
        for other, line in self._lines.items():
            if line.waiting and other != limits and not set(limits).isdisjoint(other):
                yield line

    @property
    def free_slots(self) -> int:
        """How many tasks the pool could start now."""
        return self._pool.startable - len(self._running)

    def _has_slot_locked(self) -> bool:
        return self._pool.startable > len(self._running)

    def _usable_locked(self, line: Line[R]) -> Permit | None:
        if not line.spare or now() >= self._lease_ends - self._margin or self._told_version > self.table.version:
            return None
        for permit in reversed(line.spare):
            if permit.new or self._is_reusable_locked(permit.limits):
                return permit
        return None

    def _give_locked(self, line: Line[R], permit: Permit, request: R) -> None:
        line.spare.remove(permit)
        permit.step += not permit.new
        if not permit.new and (self.is_contended(permit.limits) or self._shares_locked(permit.limits)):
            for limit in permit.limits:
                if limit in self._contended:
                    self._contended[limit] -= 1
            # What was asked for this request is no longer needed, and the next one has an age of its own. Its task goes
            # to the pool first.
            if line.asked:
                self._outbox.withdraw(line.asked.popleft(), delay=LAZY_SECONDS)
        permit.new = False
        request.permit = permit
        self._running[request] = self._covered[request] = None
        self._ask_locked(permit.limits)

    def _recall_locked(self) -> None:
        for limits, line in self._lines.items():
            if line.spare and not self._is_reusable_locked(limits):
                for permit in [p for p in line.spare if not p.new]:
                    line.spare.remove(permit)
                    self._outbox.end(permit.number)

    def _return_new_locked(self) -> None:
        """Give back grants that find no slot. Asked for again when there is one, their age keeps their place."""
        for limits, line in self._lines.items():
            for permit in [p for p in line.spare if p.new]:
                line.spare.remove(permit)
                self._outbox.end(permit.number)
            self._ask_locked(limits)

    def _interests_locked(self) -> set[str]:
        interests = set(self._contended)
        interests.update(*self._lines)
        for request in self._covered:
            if request.permit is not None:
                interests.update(request.permit.limits)
        return interests

    def _room_locked(self) -> int:
        """How many more grants could be started this instant: what is granted and not started yet is taken off."""
        free = self._pool.startable - len(self._running) - self._new_permits_locked()
        if free > self._reserved:
            return free - self._reserved
        # Redis has a place for a request of ours: the next slot is kept for it, for the round trip to say so.
        return 1 if self._offered and free > 0 else 0

    def _plan_moves_locked(self) -> None:
        """Redis has a place for a request of ours, and there is no slot: ask who else has one, if it stays so."""
        if self._room_locked() > 0:
            self._moves.caught_up()
        elif self._offered:
            self._moves.missed()
        delay = self._moves.due_in(self._lines.values())
        if delay is not None:
            self._outbox.due(delay)

    def _look_locked(self) -> None:
        room = self._room_locked()
        if room > 0:
            self._moves.caught_up()
        if not self._has_slot_locked():
            self._return_new_locked()
        for limits in [key for key, line in self._lines.items() if line.waiting]:
            self._ask_locked(limits)
        if room > self._believed_room and any(x.asked for x in self._lines.values()):
            self._outbox.due()

    def _left_locked(self, limits: Limits) -> int:
        """How many more could run here under these limits, if nothing else ran under them anywhere."""
        running = [run.permit.limits for run in self._covered if run.permit is not None]
        return min(self.table.get(limit, 0) - sum(limit in held for held in running) for limit in limits)

    def _startable_locked(self, limits: Limits) -> int:
        """How many requests of a line a further slot each would start."""
        if self._offered:  # Redis has a place for one of ours; it may have as many as the max allows
            return max(self._left_locked(limits), 0)
        return len(self._lines[limits].spare)

    def _ask_locked(self, limits: Limits) -> None:
        """Ask for as many permits as could be used now; where others wait, for all, so that each has its place."""
        line = self._lines[limits]
        lacking = line.waiting - len(line.spare)
        room = self._room_locked()
        # One even without room: so Redis knows to offer a place as soon as there is one.
        is_contended = self.is_contended(limits)
        most = MOST_ASKED if is_contended else max(room, 1)
        wanted = min(lacking, max(most, len(line.asked)))
        # Behind one of ours that stands in the line already, or others', there is no hurry: the age keeps the place.
        if room <= 0 or len(line.asked) >= MANY_ASKED:
            delay = LAZY_SECONDS
        else:
            delay = SOON_SECONDS if is_contended or line.asked else 0.0
        if len(line.asked) < wanted:
            for request in islice(line.after(len(line.asked)), wanted - len(line.asked)):
                line.asked.append(self._outbox.ask(limits, request, delay))
        while len(line.asked) > max(wanted, 0):
            self._outbox.withdraw(line.asked.pop())

    def _wake_locked(self) -> None:
        """Have the link look: something is due, or a permit has begun to be idle and must be watched."""
        if self.due_at is None:
            if self._watches_idle or not any(line.spare for line in self._lines.values()):
                return
            self._watches_idle = True
        elif self._woken_for is not None and self.due_at >= self._woken_for:
            return  # it comes by itself
        self._woken_for = self.due_at
        self._bell.ring()

    def _grant_locked(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            if grant.grant <= self._granted:
                continue
            self._granted = grant.grant
            self._believed_room -= 1
            limits = self._outbox.granted(grant.number)
            line = self._lines.get(limits) if limits is not None else None
            if line is not None and self._answer_locked(line, grant.number):
                line.spare.append(
                    Permit(grant.number, line.limits, True, idle_since=now(), fence=grant.fence, granted_at=grant.at)
                )
            else:
                self._outbox.end(grant.number)  # asked for and withdrawn since

    def _answer_locked(self, line: Line[R], number: int) -> bool:
        """Whether a grant is of use: it answers one of our asks, or one whose withdrawal Redis hasn't heard of."""
        if number in line.asked:
            line.asked.remove(number)
            self._outbox.answered(number)
            return True
        if line.asked and self._outbox.take_back(number):
            self._outbox.withdraw(line.asked.popleft())
            return True
        return False

    def _new_permits_locked(self) -> int:
        return sum(permit.new for line in self._lines.values() for permit in line.spare)

    def _set_table_locked(self, table: Mapping[str, int], version: int) -> None:
        """Another table holds: what waits here goes by it at once, what runs is stated with the next sync."""
        self.table = LimitTable(table, version)
        self._told_version = version
        self._outbox.due()
        for request in self._running:
            limits = self.table.covering(request.names)
            if limits != request.limits:
                request.limits = limits
                self._unadopted[request] = None
        changed: dict[Limits, None] = {}
        for group in list(self._groups.values()):
            limits, line = self.table.covering(group.names), group.line
            if not group.waiting or line is None or line.limits == limits:
                continue
            line.part(group)
            changed[line.limits] = None
            if limits:
                self._line_locked(limits).join(group)
                changed[limits] = None
            else:
                self._uncovered.append(group.waiting)
                del self._groups[group.names]
        for limits in changed:
            self._ask_locked(limits)
            self._forget_locked(limits)

    def _adopt_locked(self) -> None:
        """Give each running request a permit of just the limits that cover it now."""
        unadopted, self._unadopted = self._unadopted, {}
        for request in unadopted:
            permit = request.permit
            if not request.limits or (permit is not None and permit.limits == request.limits):
                continue  # covered by none (any more: then what it holds ends with it), or by just these
            if permit is None:
                request.permit = Permit(self._outbox.new_number(), request.limits)
                self._covered[request] = None
            else:
                permit.limits = request.limits
            self._outbox.state(request)

    def _held_locked(self) -> list[Held]:
        held = [_statement(r.permit, r) for r in self._covered if r.permit is not None]
        held += [_statement(p) for line in self._lines.values() for p in line.spare]
        return held

    def _asks_locked(self) -> list[Ask]:
        moment = now()
        asks = []
        for limits, line in self._lines.items():
            if not line.asked or not line.waiting:
                continue
            # In the moment before a spare permit is used, its request is the last one's too.
            *_, last = islice(line.after(0), len(line.spare) + len(line.asked))
            requests = chain(line.after(len(line.spare)), repeat(last))
            for number, request in zip(line.asked, requests, strict=False):
                asks.append(Ask(number, limits, moment - request.arrived, request.task_id, request.task))
        return asks


def _asks(asks: Iterable[tuple[int, Limits, Holder]]) -> list[Ask]:
    moment = now()
    return [
        Ask(number, limits, moment - request.arrived, request.task_id, request.task) for number, limits, request in asks
    ]


def _statement(permit: Permit, request: Holder | None = None) -> Held:
    if request is None:
        return Held(permit.number, permit.limits, idle=True, fence=permit.fence)
    age = now() - request.granted if request.granted else 0.0
    return Held(permit.number, permit.limits, request.task_id, request.task, fence=permit.fence, age=age)
