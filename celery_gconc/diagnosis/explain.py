"""Why a task isn't running: one sentence, judged from all that is known of it.

Evidence (broker, workers, Redis, result backend) -> judge -> Explanation
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from celery.states import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS

from celery_gconc.brokers.backlog import Message
from celery_gconc.diagnosis.evidence import Evidence, gather
from celery_gconc.limits.claims import Limits, TaskOption, candidates
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.survey import ANSWER_SECONDS
from celery_gconc.operations.wording import all_of, count_of, is_closed, nth, since, span, unix_time, why_closed
from celery_gconc.protocol.status import Found, Holding, LimitStatus

#: How many holders of a limit are named, and how many queues.
MOST_HOLDERS, MOST_QUEUES = 5, 10

#: Of how many seconds recent durations are taken.
RECENT_SECONDS = 600.0

#: Answers that may only seem so while a task moves on.
_UNSURE = ("taken", "retrying", "other", "unknown")

#: Where a revoked task stays until its worker comes to it.
_NOT_STARTED = ("waiting", "parked", "waiting for a slot", "scheduled", "rate limited")

#: What the result backend calls a task that has come to its end.
_ENDS = (SUCCESS, FAILURE, REVOKED)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a task is and why. ``answer`` says it in words; times in seconds."""

    task_id: str
    #: ``running``, ``waiting``, ``parked``, ``waiting for a slot``, ``scheduled``, ``rate limited``, ``queued``,
    #: ``taken``, ``succeeded``, ``failed``, ``revoked``, ``retrying``, ``other`` or ``unknown``.
    state: str
    answer: str
    task: str | None = None
    #: The worker that has it.
    node: str | None = None
    #: The limits that cover it, as far as that is known.
    limits: Limits = ()
    #: The limit that it waits for, its place in that line, and who holds that limit.
    line: str | None = None
    place: int | None = None
    holders: tuple[Holding, ...] = ()
    #: For how long it has waited, or run.
    seconds: float | None = None
    #: About how much longer it waits, from the durations of the last minutes; None where that isn't known.
    expected_wait: float | None = None
    #: The queue in which its message stands, its place there, and how many messages that queue holds.
    queue: str | None = None
    queue_place: int | None = None
    queue_length: int | None = None
    #: What the result backend says.
    result: str | None = None
    details: tuple[str, ...] = ()


def explain(
    operations: Operations, task_id: str, *, queues: Iterable[str] = (), timeout: float = ANSWER_SECONDS
) -> Explanation:
    """Say where a task is and why it isn't running. A task that nobody knows is an answer, too.

    *queues*: more queues to look in. Workers have *timeout* seconds for their answers. Everything is asked once more
    where the answers don't fit together, as they may while a task moves on.

    Raises:
        StoreUnavailable: the coordination Redis can't be reached.
    """
    names = tuple(queues)
    found = judge(operations, gather(operations, task_id, names, timeout))
    if found.state in _UNSURE:
        found = judge(operations, gather(operations, task_id, names, timeout))
    return found


def judge(operations: Operations, evidence: Evidence) -> Explanation:
    """The first that can tell, from the end of a task's way to its beginning."""
    case = _Case(operations, evidence)
    has_just_ended = evidence.before.state != evidence.after.state and evidence.after.state in _ENDS
    judges: Sequence[Callable[[], Explanation | None]] = (
        *((case.ended,) if has_just_ended else ()),
        case.running,
        case.waiting,
        case.held_back,
        case.queued,
        case.as_redis_has_it,
        case.ended,
        case.in_redis_only,
        case.taken,
        case.revoked_only,
        case.in_result_only,
    )
    found = next((explanation for look in judges if (explanation := look()) is not None), None)
    return case.complete(found or case.unknown())


class _Case:
    """One round of evidence, and a judge for each place where a task can be: it gives None where it is not there."""

    def __init__(self, operations: Operations, evidence: Evidence) -> None:
        self.operations, self.evidence = operations, evidence
        self.limits = {limit.limit: limit for limit in evidence.status}
        self.now = evidence.status.at
        self.sessions = {session.session: session for session in evidence.status.sessions}
        #: The longest lease of any session (s): limits that begin settle by its end.
        self.longest_lease = max((one.timeout for one in self.sessions.values()), default=0.0)
        #: The session of each node's present process: others of that node belong to former ones.
        self.present = {one.node: one.session for one in sorted(self.sessions.values(), key=lambda one: one.since)}

    def running(self) -> Explanation | None:
        """A worker says that it runs."""
        told = self.evidence.told
        for node, answer in told.own.items():
            limits = tuple(answer.get("limits") or ())
            is_in_pool = bool(limits) or told.state.get(node, ("",))[0] != "reserved"
            if answer.get("state") == "running" and is_in_pool:
                return self._runs(node, limits)
        for node, (state, info) in told.state.items():
            if state == "active":
                return self._runs(node, (), info.get("name"))
        return None

    def waiting(self) -> Explanation | None:
        """A worker says that it waits there: for a permit, or for a slot."""
        told = self.evidence.told
        for node, answer in told.own.items():
            if answer.get("state") in ("parked", "waits for a slot"):
                found = next((one for one in self.evidence.found if one.node == node and one.is_waiting), None)
                limits = tuple(answer.get("limits") or (found.limits if found else ()))
                wait = _Wait(node, limits, found, float(answer.get("waited") or 0.0), int(answer.get("ahead") or 0))
                return self._waits(wait, has_slot=answer["state"] == "parked")
        for node, (state, info) in told.state.items():
            if state in ("reserved", "ready"):
                text = f"It waits for a slot of its worker {node}, which has fetched it: all its slots are busy."
                return self._made("waiting for a slot", text, node=node, task=info.get("name"))
        return None

    def held_back(self) -> Explanation | None:
        """A worker holds it back: until its ETA, or because of the task's rate limit."""
        told = self.evidence.told
        etas = {node: str(answer.get("eta")) for node, answer in told.own.items() if answer.get("state") == "scheduled"}
        for node, eta in {**told.scheduled, **etas}.items():
            return self._scheduled(node, eta)
        for node, (state, info) in told.state.items():
            if state == "scheduled":
                message = self.evidence.search.message
                return self._scheduled(node, (message.eta if message else None) or "", info.get("name"))
        for node, answer in told.own.items():
            if answer.get("state") == "rate limited":
                rate = f" ({answer['rate']})" if answer.get("rate") else ""
                text = f"It is held back on {node} by the rate_limit of its task{rate}, not by a limit of concurrency."
                return self._made("rate limited", text, node=node, task=answer.get("task"))
        return None

    def queued(self) -> Explanation | None:
        """Its message is in its queue."""
        message = self.evidence.search.message
        if message is None or message.place is None:
            return None
        length = max(self.evidence.search.counts.get(message.queue, 0), message.place)
        place = "the next" if message.place == 1 else f"behind {message.place - 1}"
        why, limit = self._why_queued(message)
        held = count_of(length, "message")
        text = f"No worker has taken it yet: it is {place} of {held} in queue {message.queue}; {why}."
        made = replace(
            self._made("queued", text, task=message.task, limits=self._covering(message.task, message.queue)),
            queue=message.queue,
            queue_place=message.place,
            queue_length=length,
            details=tuple(self._queue_notes(message)),
        )
        if limit is None:
            return made
        return self._with_line(made, limit, self._expected(limit, message.place + limit.waiting + limit.parked))

    def as_redis_has_it(self) -> Explanation | None:
        """A worker that gives no answer runs it, or has it wait, as it has last told Redis."""
        for found in sorted(self.evidence.found, key=lambda one: one.is_waiting):
            if found.node in self.evidence.told.own or self._is_former(found) or self._has_ended_since(found):
                continue
            wait = _Wait(found.node, found.limits, found, found.seconds, 0)
            made = (
                self._waits(wait, has_slot=found.room > 0)
                if found.is_waiting
                else self._runs(found.node, found.limits, found.task)
            )
            note = f"{made.node} gave no answer: this is what it has last told Redis."
            return replace(made, details=(*made.details, note))
        return None

    def ended(self) -> Explanation | None:
        """The result backend says that it has ended."""
        result = self.evidence.after
        done = f" at {result.done}" if result.done else ""
        if result.state == SUCCESS:
            return self._made("succeeded", f"It has ended{done}, with success.")
        if result.state == FAILURE:
            return self._made("failed", f"It has failed{done}" + (f": {result.value}." if result.value else "."))
        if result.state == REVOKED:
            ways = {"expired": "It expired before it was started", "terminated": "It was terminated while it ran"}
            word = next((word for word in ways if word in result.value), "")
            return self._made("revoked", f"{ways.get(word, 'It was revoked before it was started')}{done}.")
        return None

    def in_redis_only(self) -> Explanation | None:
        """Redis has a permit or a place for it that its worker, which answers, knows nothing of (any more)."""
        for found in self.evidence.found:
            if self._is_former(found):
                continue
            what = "has just let go of it" if found.is_waiting else "has just ended it"
            return self._made("other", f"{found.node} {what}: Redis has not been told yet.", node=found.node)
        return None

    def taken(self) -> Explanation | None:
        """A worker has taken its message from a Redis broker, and none says that it has it."""
        message = self.evidence.search.message
        if message is None or message.place is not None or self.evidence.after.state == STARTED:
            return None
        ago = "" if message.taken_at is None else f" {span(since(message.taken_at, self.now))} ago"
        rate = getattr(self.operations.app.tasks.get(message.task or ""), "rate_limit", None)
        held_back = f"it may be held back there by the task's rate_limit ({rate}); " if rate is not None else ""
        text = (
            f"A worker took it from queue {message.queue}{ago}, and no worker that answers has it: {held_back}where "
            f"that worker is gone, the broker delivers it once more {self._when_returned(message)}."
        )
        limits = self._covering(message.task, message.queue)
        return replace(self._made("taken", text, task=message.task, limits=limits), queue=message.queue)

    def revoked_only(self) -> Explanation | None:
        """Workers have noted that it is revoked, and it is nowhere."""
        if not self.evidence.told.revoked:
            return None
        nodes = all_of(sorted(self.evidence.told.revoked))
        return self._made("revoked", f"It is revoked, as {nodes} noted: a worker that takes it will discard it.")

    def in_result_only(self) -> Explanation | None:
        """The result backend alone knows of it."""
        state = self.evidence.after.state
        if state in (None, PENDING):
            return None
        if state == RETRY:
            return self._made("retrying", "It has failed and is to be tried again, but no worker that answers has it.")
        if state == STARTED:
            text = (
                "It was started, says the result backend, but no worker that answers has it: its worker is too busy to "
                "answer (with the solo pool it is while a task runs), or gone."
            )
            if (message := self.evidence.search.message) is not None:
                text += f" If it is gone, the broker delivers the task once more {self._when_returned(message)}."
            return self._made("other", text)
        return self._made("other", f"Its state is {state}, says the result backend; nobody else knows of it.")

    def unknown(self) -> Explanation:
        """Nobody knows it: say who was asked."""
        search, told = self.evidence.search, self.evidence.told
        asked = ["Redis"]
        if not self._trouble:
            asked.append(count_of(len(told.nodes), "worker") if told.nodes else "workers (none answers)")
            asked.append(count_of(len(search.counts), "queue") + ("" if search.is_complete else " (a part of them)"))
        if self.evidence.after.state is not None:
            asked.append("the result backend")
        hints = ["It may have ended long ago, with a result that has expired or was ignored, or never have been sent."]
        if search.can_look:
            hints.append("--queue NAME looks in a queue that neither this app nor a worker names.")
        if self.evidence.after.state is None:
            hints.append(f"Of results nothing is known: {self.evidence.after.trouble}.")
        made = Explanation(self.evidence.task_id, "unknown", f"Nobody has it: asked were {all_of(asked)}.")
        return replace(made, details=tuple(hints))

    def complete(self, explanation: Explanation) -> Explanation:
        """Add what is known whatever the case, where it may be, and what could not be asked."""
        evidence, notes = self.evidence, list(explanation.details)
        result, answer = evidence.after.state, explanation.answer
        if explanation.state in ("unknown", "other", "retrying") or answer.startswith("It is revoked"):
            answer += self._may_be_in()
        elif result in (*_ENDS, RETRY) and explanation.state not in ("succeeded", "failed", "revoked"):
            run = "" if result == REVOKED else ", from an earlier run"
            notes.append(f"The result backend has {result}{run}.")
        if self._trouble:
            notes.append(f"Neither the queues nor the workers could be asked: {self._trouble}.")
        if evidence.told.revoked and explanation.state in _NOT_STARTED:
            answer += " It is revoked: its worker will discard it when its turn comes."
        notes += self._copies(explanation)
        return replace(explanation, answer=answer, result=result, details=tuple(notes))

    def _copies(self, explanation: Explanation) -> list[str]:
        """Other deliveries of its message that have, or had, a permit or a place in line."""
        notes = []
        if sum(not found.is_waiting and not self._is_former(found) for found in self.evidence.found) > 1:
            notes.append("It runs more than once: its message was delivered again.")
        for found in self.evidence.found:
            left = f", in {span(self.sessions[found.session].lease)}" if found.session in self.sessions else ""
            has = "has a place in line" if found.is_waiting else "counts as running"
            if self._is_former(found):
                notes.append(
                    f"It still {has} for a former process of {found.node}, until the lease of that one ends{left}."
                )
            elif (found.node, found.is_waiting) != (explanation.node, explanation.state != "running"):
                notes.append(f"It also {has} on {found.node}, by another delivery of its message.")
        return notes

    # -- Parts -------------------------------------------------------------------------------------------

    @property
    def _trouble(self) -> str:
        return self.evidence.broker_trouble or self.evidence.told.trouble

    def _made(
        self,
        state: str,
        answer: str,
        *,
        node: str | None = None,
        task: str | None = None,
        limits: Limits = (),
        seconds: float | None = None,
    ) -> Explanation:
        task = task or self._name()
        return Explanation(self.evidence.task_id, state, answer, task=task, node=node, limits=limits, seconds=seconds)

    def _name(self) -> str | None:
        evidence, message = self.evidence, self.evidence.search.message
        names: list[Any] = [found.task for found in evidence.found]
        names += [info.get("name") for _, info in evidence.told.state.values()]
        names += [answer.get("task") for answer in evidence.told.own.values()]
        names += [message.task if message else None, evidence.after.task]
        return next((str(name) for name in names if name), None)

    def _is_former(self, found: Found) -> bool:
        """Whether the process that had it is gone: its worker was started anew."""
        return self.present.get(found.node, found.session) != found.session

    def _has_ended_since(self, found: Found) -> bool:
        result = self.evidence.after
        if result.state not in _ENDS:
            return False
        done = unix_time(result.done or "")
        return done is None or done >= self.now - found.seconds

    def _runs(self, node: str, limits: Limits, task: str | None = None) -> Explanation:
        found = next((one for one in self.evidence.found if one.node == node and not one.is_waiting), None)
        begun = self.evidence.told.state.get(node, ("", {}))[1].get("time_start")
        seconds = found.seconds if found else since(begun, self.now) if begun else None
        text = f"It runs on {node}" + (f", for {span(seconds)} now" if seconds is not None else "")
        text += f", with a permit for {all_of(limits)}." if limits else "; no limit covers it."
        return self._made("running", text, node=node, limits=limits, seconds=seconds, task=task)

    def _scheduled(self, node: str, eta: str, task: str | None = None) -> Explanation:
        left = (unix_time(eta) or 0.0) - self.now
        when = (f" until {eta}" if eta else "") + (f", {span(left)} from now" if left > 0 else "")
        text = f"It is held back on {node} by its ETA or countdown{when}."
        return self._made("scheduled", text, node=node, task=task)

    def _waits(self, wait: _Wait, *, has_slot: bool) -> Explanation:
        full = self._what_is_full(wait)
        if full is None:
            return self._has_place(wait, has_slot=has_slot)
        why = why_closed(full, self.now, self.longest_lease)
        name, place = self._place(wait, full)
        if place is not None:
            line = "line" if name == full.limit else f"the line of {name}"
            text = f"It waits for a permit: {why}; it is {nth(place)} in {line}."
            made = replace(self._wait(wait, "waiting", text), place=place)
            expected = self._expected(full, place)
        else:
            behind = f"behind {count_of(wait.ahead, 'other')} of that worker" if wait.ahead else "not in line yet"
            text = f"It waits on {wait.node}, {behind}: {why}."
            made = self._wait(wait, "parked", text)
            expected = self._expected(full, max(full.waiting, wait.ahead) + 1)  # what others have parked isn't known
        notes = () if has_slot else (f"{wait.node} has no free slot either.",)
        return self._with_line(replace(made, details=notes), full, expected)

    def _place(self, wait: _Wait, full: LimitStatus) -> tuple[str, int | None]:
        """In which line it stands, and where. A request's first sync may be under way: then its worker's own order."""
        if wait.found is not None and wait.found.line is not None:
            return wait.found.line, wait.found.place
        in_line = [one for one in self.operations.waiting(full.limit) if one.node == wait.node]
        return full.limit, in_line[wait.ahead].place if wait.ahead < len(in_line) else None

    def _has_place(self, wait: _Wait, *, has_slot: bool) -> Explanation:
        """None of its limits keeps it waiting."""
        covered = f"{all_of(wait.limits)} {'has' if len(wait.limits) == 1 else 'have'} a place for it"
        if has_slot and wait.limits:
            text = f"Its turn has come: {covered}, and its permit is on the way to {wait.node}."
            return self._wait(wait, "waiting", text)
        behind = f", behind {count_of(wait.ahead, 'other')}" if wait.ahead else ""
        end = f"; {covered}." if wait.limits else "."
        text = f"It waits for a slot of its worker {wait.node}{behind}: all its slots are busy{end}"
        return self._wait(wait, "waiting for a slot", text)

    def _wait(self, wait: _Wait, state: str, text: str) -> Explanation:
        return self._made(state, text, node=wait.node, limits=wait.limits, seconds=wait.seconds)

    def _what_is_full(self, wait: _Wait) -> LimitStatus | None:
        """What keeps it waiting: a limit that is paused or has a max of 0, else the one in whose line it stands."""
        found = wait.found
        names = wait.limits if found is None else sorted(found.full, key=lambda name: name != found.line)
        known = [self.limits[name] for name in names if name in self.limits]
        full = [limit for limit in known if found is not None or is_closed(limit)]
        return min(full, key=lambda limit: not (limit.paused or limit.max == 0), default=None)

    def _with_line(self, made: Explanation, limit: LimitStatus, expected: float | None) -> Explanation:
        holders = self.operations.holders(limit.limit, MOST_HOLDERS) if limit.running else ()
        notes, answer = list(made.details), made.answer
        if made.seconds is not None:
            notes.append(f"It has waited for {span(made.seconds)}.")
        if holders:
            named = [
                f"{one.task}[{one.task_id}] on {one.node} for {span(since(one.since, self.now))}" for one in holders
            ]
            more = limit.running - len(holders)
            notes.append(f"{limit.limit} is held by {'; '.join(named)}{f'; and {more} more' if more > 0 else ''}.")
        if expected is not None:
            answer = f"{answer[:-1]}, and its turn comes in about {span(expected)}."
        return replace(
            made, answer=answer, line=limit.limit, holders=holders, expected_wait=expected, details=tuple(notes)
        )

    def _expected(self, limit: LimitStatus, place: int) -> float | None:
        """About how long the one at a place of a line waits: as long as recent tasks took, divided by the max."""
        if limit.paused or limit.settling or not limit.max:
            return None
        samples = self.operations.history(limit.limit, RECENT_SECONDS)
        weight = sum(sample.weight for sample in samples)
        held = sum(sample.held * sample.weight for sample in samples)
        return place * held / weight / limit.max if weight else None

    def _covering(self, task: str | None, queue: str) -> Limits:
        """The limits that would cover a task of that name from that queue, as far as this app knows the task."""
        if task is None:
            return ()
        option = TaskOption.parse(task, getattr(self.operations.app.tasks.get(task), "global_concurrency", None))
        known = [self.limits[name] for name in candidates(task, queue, option) if name in self.limits]
        return tuple(limit.limit for limit in known if limit.max is not None or limit.paused)

    def _when_returned(self, message: Message) -> str:
        """When the broker gives up waiting for the acknowledgement of a message that a worker has taken."""
        if message.returns_at is None:
            return "after its visibility_timeout"
        return f"in about {span(max(message.returns_at - self.now, 0.0))} (visibility_timeout)"

    def _why_queued(self, message: Message) -> tuple[str, LimitStatus | None]:
        """Why a message is still in its queue, and the limit that keeps it there, if one does."""
        closed = [self.limits[name] for name in self._covering(message.task, message.queue)]
        closed = [limit for limit in closed if is_closed(limit)]
        if not closed:
            return self._who_reads(message.queue)[0], None
        limit = min(closed, key=lambda limit: limit.limit != f"queue:{message.queue}")
        why = why_closed(limit, self.now, self.longest_lease)
        reads, is_read = self._who_reads(message.queue)
        return why if is_read else f"{why}; and {reads}", limit

    def _who_reads(self, queue: str) -> tuple[str, bool]:
        """Which workers consume a queue, and whether any does, as far as they answer."""
        told = self.evidence.told
        if told.trouble:
            return "workers could not be asked", False
        readers = sorted(node for node, names in told.queues.items() if queue in names)
        if not readers:
            silent = sorted(self.present.keys() - told.nodes)
            lives = f" ({all_of(silent)} {'lives' if len(silent) == 1 else 'live'}, says Redis)" if silent else ""
            nobody = f"no worker that answers consumes {queue}" if told.nodes else "no worker answers"
            return nobody + lives, False
        verb, have = ("consumes", "has") if len(readers) == 1 else ("consume", "have")
        rooms = [session.room for session in self.evidence.status.sessions if session.node in readers]
        busy = f", and {have} no free slot" if len(rooms) >= len(readers) and not any(rooms) else ""
        return f"{all_of(readers)} {verb} that queue{busy}", True

    def _queue_notes(self, message: Message) -> list[str]:
        notes = []
        if self.evidence.told.revoked or self.evidence.after.state == REVOKED:
            notes.append("It is revoked: a worker that takes it will discard it.")
        expires = unix_time(message.expires or "")
        if expires is not None and expires <= self.now:
            notes.append(f"It expired at {message.expires}: a worker that takes it will discard it.")
        if message.eta:
            notes.append(f"It is not to start before {message.eta}.")
        if message.retries:
            notes.append(f"It is retry {message.retries} of the task.")
        return notes

    def _may_be_in(self) -> str:
        """Where its message may be, with a broker that doesn't tell."""
        search = self.evidence.search
        holding = sorted((queue, count) for queue, count in search.counts.items() if count)
        if not holding or (search.can_look and search.is_complete):
            return ""
        named = ", or in ".join(
            f"{queue}, which holds {count_of(count, 'message')}" for queue, count in holding[:MOST_QUEUES]
        )
        return f" It may be in queue {named}."


@dataclass(frozen=True, slots=True)
class _Wait:
    """A request that waits in a worker: its limits, what Redis has of it, since when, and behind how many there."""

    node: str
    limits: Limits
    found: Found | None
    seconds: float
    ahead: int
