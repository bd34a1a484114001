"""Where a task is, judged from the evidence alone: one function for each answer, which gives None where it isn't so.

Pure: nothing here asks anybody anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from celery.states import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS

from celery_gconc.brokers.backlog import Message
from celery_gconc.diagnosis.evidence import Evidence
from celery_gconc.diagnosis.explanation import NOT_STARTED, Explanation, TaskState
from celery_gconc.diagnosis.facts import ENDS, Facts
from celery_gconc.diagnosis.waits import Wait, waits, with_line
from celery_gconc.limits.claims import Limits
from celery_gconc.operations.wording import all_of, count_of, since, span, unix_time

Judge = Callable[[Facts], Explanation | None]


def judge(evidence: Evidence) -> Explanation:
    """The first judge that can tell, else that nobody knows the task; with what is known whatever the answer."""
    facts = Facts(evidence)
    found = next((answer for look in JUDGES if (answer := look(facts)) is not None), None)
    return _complete(facts, found or _unknown(facts))


def just_ended(facts: Facts) -> Explanation | None:
    """Its result came while everybody was asked."""
    before, after = facts.evidence.before.state, facts.evidence.after.state
    return ended(facts) if before != after and after in ENDS else None


def running(facts: Facts) -> Explanation | None:
    """A worker says that it runs."""
    told = facts.evidence.told
    for node, answer in told.own.items():
        limits = tuple(answer.get("limits") or ())
        is_in_pool = bool(limits) or told.state.get(node, ("",))[0] != "reserved"
        if answer.get("state") == "running" and is_in_pool:
            return _runs(facts, node, limits)
    for node, (state, info) in told.state.items():
        if state == "active":
            return _runs(facts, node, (), info.get("name"))
    return None


def waiting_in_worker(facts: Facts) -> Explanation | None:
    """A worker says that it waits there: for a permit, or for a slot."""
    told = facts.evidence.told
    for node, answer in told.own.items():
        if answer.get("state") in ("parked", "waits for a slot"):
            found = next((one for one in facts.evidence.found if one.node == node and one.is_waiting), None)
            limits = tuple(answer.get("limits") or (found.limits if found else ()))
            wait = Wait(node, limits, found, float(answer.get("waited") or 0.0), int(answer.get("ahead") or 0))
            return waits(facts, wait, has_slot=answer["state"] == "parked")
    for node, (state, info) in told.state.items():
        if state in ("reserved", "ready"):
            text = f"It is waiting for a free slot on {node}, which has fetched it: all slots are busy."
            return facts.say(TaskState.WAITING_FOR_SLOT, text, node=node, task=info.get("name"))
    return None


def held_back(facts: Facts) -> Explanation | None:
    """A worker holds it back: until its ETA, or because of the task's rate limit."""
    told, message = facts.evidence.told, facts.evidence.search.message
    etas = {node: str(answer.get("eta")) for node, answer in told.own.items() if answer.get("state") == "scheduled"}
    for node, eta in {**told.scheduled, **etas}.items():
        return _scheduled(facts, node, eta)
    for node, (state, info) in told.state.items():
        if state == "scheduled":
            return _scheduled(facts, node, (message.eta if message else None) or "", info.get("name"))
    for node, answer in told.own.items():
        if answer.get("state") == "rate limited":
            rate = f" ({answer['rate']})" if answer.get("rate") else ""
            text = f"It is held back on {node} by its task's rate_limit{rate}, not by a concurrency limit."
            return facts.say(TaskState.RATE_LIMITED, text, node=node, task=answer.get("task"))
    return None


def queued(facts: Facts) -> Explanation | None:
    """Its message is in its queue."""
    search, message = facts.evidence.search, facts.evidence.search.message
    if message is None or message.position is None:
        return None
    length = max(search.counts.get(message.queue, 0), message.position)
    why, limit = facts.why_queued(message)
    text = f"No worker has taken it yet: it is message {message.position} of {length} in queue {message.queue}; {why}."
    made = replace(
        facts.say(TaskState.QUEUED, text, task=message.task, limits=facts.covering),
        queue=message.queue,
        queue_position=message.position,
        queue_length=length,
        details=tuple(_queue_notes(facts, message)),
    )
    if limit is None:
        return made
    before = message.position + limit.waiting + limit.parked - limit.at_broker
    return with_line(facts, made, limit, facts.expected_wait(limit, before))


def as_redis_has_it(facts: Facts) -> Explanation | None:
    """A worker that gives no answer runs it, or has it wait, as it has last said to Redis."""
    for found in sorted(facts.evidence.found, key=lambda one: one.is_waiting):
        if found.node in facts.evidence.told.own or facts.is_former(found) or facts.has_ended_since(found):
            continue
        wait = Wait(found.node, found.limits, found, found.seconds, 0)
        made = (
            waits(facts, wait, has_slot=found.room > 0)
            if found.is_waiting
            else _runs(facts, found.node, found.limits, found.task)
        )
        note = f"{made.node} did not answer; this is what it last reported to Redis."
        return replace(made, details=(*made.details, note))
    return None


def ended(facts: Facts) -> Explanation | None:
    """The result backend says that it has ended."""
    result = facts.evidence.after
    done = f" at {result.done}" if result.done else ""
    if result.state == SUCCESS:
        return facts.say(TaskState.SUCCEEDED, f"It succeeded{done}.")
    if result.state == FAILURE:
        return facts.say(TaskState.FAILED, f"It failed{done}" + (f": {result.value}." if result.value else "."))
    if result.state == REVOKED:
        ways = {"expired": "It expired before it started", "terminated": "It was terminated while it ran"}
        word = next((word for word in ways if word in result.value), "")
        return facts.say(TaskState.REVOKED, f"{ways.get(word, 'It was revoked before it started')}{done}.")
    return None


def in_redis_only(facts: Facts) -> Explanation | None:
    """Redis has a permit or a waiter for it that its worker, which answers, knows nothing of (any more)."""
    for found in facts.evidence.found:
        if not facts.is_former(found):
            what = "let go of it" if found.is_waiting else "finished it"
            text = f"Its worker {found.node} has just {what}; Redis has not heard of that yet."
            return facts.say(TaskState.OTHER, text, node=found.node)
    return None


def taken(facts: Facts) -> Explanation | None:
    """A worker has taken its message from a Redis broker, and none says that it has it."""
    message = facts.evidence.search.message
    if message is None or message.position is not None or facts.evidence.after.state == STARTED:
        return None
    rate = facts.evidence.rate_limit
    held_back = f" It may be held back there by its task's rate_limit ({rate})." if rate is not None else ""
    text = (
        f"A worker took it from queue {message.queue}{facts.taken_ago(message)}, and no worker that answers has it."
        f"{held_back} If that worker is gone, the broker redelivers it {facts.when_redelivered(message)}."
    )
    made = facts.say(TaskState.TAKEN, text, task=message.task, limits=facts.covering)
    return replace(made, queue=message.queue)


def revoked_only(facts: Facts) -> Explanation | None:
    """Workers have noted that it is revoked, and it is nowhere."""
    if not facts.evidence.told.revoked:
        return None
    nodes = all_of(sorted(facts.evidence.told.revoked))
    text = f"It is revoked, according to {nodes}; a worker that takes it will discard it.{facts.may_be_in()}"
    return facts.say(TaskState.REVOKED, text)


def in_result_only(facts: Facts) -> Explanation | None:
    """The result backend alone knows of it."""
    state = facts.evidence.after.state
    if state in (None, PENDING):
        return None
    if state == RETRY:
        return facts.say(TaskState.RETRYING, "It failed and will be retried, but no worker that answers has it.")
    if state == STARTED:
        text = (
            "The result backend says that it has started, but no worker that answers has it: its worker is gone, or "
            "too busy to answer (a solo worker is while a task runs)."
        )
        if (message := facts.evidence.search.message) is not None:
            text += f" If it is gone, the broker redelivers the task {facts.when_redelivered(message)}."
        return facts.say(TaskState.OTHER, text)
    return facts.say(TaskState.OTHER, f"The result backend says that it is {state}; nobody else knows of it.")


#: From the end of a task's way to its beginning, as evidence is gathered the other way: what a later station says is
#: newer. Workers' own words come before what they last said to Redis, and that before the traces that a task leaves.
JUDGES: tuple[Judge, ...] = (
    just_ended,
    running,
    waiting_in_worker,
    held_back,
    queued,
    as_redis_has_it,
    ended,
    in_redis_only,
    taken,
    revoked_only,
    in_result_only,
)


def _unknown(facts: Facts) -> Explanation:
    """Nobody knows it: say who was asked."""
    search, told, after = facts.evidence.search, facts.evidence.told, facts.evidence.after
    asked = ["Redis"]
    if not facts.trouble:
        asked.append(count_of(len(told.nodes), "worker") if told.nodes else "workers (none answered)")
        asked.append(count_of(len(search.counts), "queue") + ("" if search.is_complete else " (a part of them)"))
    if after.state is not None:
        asked.append("the result backend")
    hints = ["It may have ended long ago (its result was ignored or has expired), or it was never sent."]
    if search.can_look:
        hints.append("Use --queue NAME to search a queue that neither this app nor its workers know.")
    if after.state is None:
        hints.append(f"Its result is unknown: {after.trouble}.")
    made = Explanation(facts.evidence.task_id, TaskState.UNKNOWN, f"Not found. Searched: {all_of(asked)}.")
    return replace(made, details=tuple(hints))


def _complete(facts: Facts, explanation: Explanation) -> Explanation:
    """Add what is known whatever the answer: where it may be, its copies, and what could not be asked."""
    evidence, notes = facts.evidence, list(explanation.details)
    result, answer, state = evidence.after.state, explanation.answer, explanation.state
    if state in (TaskState.UNKNOWN, TaskState.OTHER, TaskState.RETRYING):
        answer += facts.may_be_in()
    elif result in (*ENDS, RETRY) and state not in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.REVOKED):
        run = "" if result == REVOKED else ", from an earlier run"
        notes.append(f"The result backend has {result}{run}.")
    if facts.trouble:
        notes.append(f"Neither the queues nor the workers could be asked: {facts.trouble}.")
    if evidence.told.revoked and state in NOT_STARTED:
        answer += " It is revoked: its worker will discard it when its turn comes."
    return replace(explanation, answer=answer, result=result, details=(*notes, *_copies(facts, explanation)))


def _copies(facts: Facts, explanation: Explanation) -> list[str]:
    """Other deliveries of its message that have, or had, a permit or a position in line."""
    notes = []
    if sum(not found.is_waiting and not facts.is_former(found) for found in facts.evidence.found) > 1:
        notes.append("It is running more than once: its message was delivered again.")
    is_running, is_stale = explanation.state == TaskState.RUNNING, explanation.state == TaskState.OTHER
    for found in facts.evidence.found:
        session = facts.sessions.get(found.session)
        has = "stands in line" if found.is_waiting else "counts as running"
        if facts.is_former(found):
            left = f", in {span(session.lease)}" if session is not None else ""
            notes.append(f"It still {has} for an earlier process of {found.node} until that one's lease ends{left}.")
        elif (found.node, found.is_waiting) != (explanation.node, not is_running) and not is_stale:
            notes.append(f"It also {has} on {found.node}, by another delivery of its message.")
    return notes


def _runs(facts: Facts, node: str, limits: Limits, task: str | None = None) -> Explanation:
    found = next((one for one in facts.evidence.found if one.node == node and not one.is_waiting), None)
    begun = facts.evidence.told.state.get(node, ("", {}))[1].get("time_start")
    seconds = found.seconds if found else since(begun, facts.now) if begun else None
    text = f"It has been running on {node} for {span(seconds)}" if seconds is not None else f"It is running on {node}"
    text += f", with a permit for {all_of(limits)}." if limits else "; no limit covers it."
    return facts.say(TaskState.RUNNING, text, node=node, limits=limits, seconds=seconds, task=task)


def _scheduled(facts: Facts, node: str, eta: str, task: str | None = None) -> Explanation:
    left = (unix_time(eta) or 0.0) - facts.now
    when = (f", {eta}" if eta else "") + (f", {span(left)} from now" if left > 0 else "")
    text = f"It is held back on {node} until its ETA or countdown{when}."
    return facts.say(TaskState.SCHEDULED, text, node=node, task=task)


def _queue_notes(facts: Facts, message: Message) -> list[str]:
    notes = []
    if facts.evidence.told.revoked or facts.evidence.after.state == REVOKED:
        notes.append("It is revoked: a worker that takes it will discard it.")
    expires = unix_time(message.expires or "")
    if expires is not None and expires <= facts.now:
        notes.append(f"It expired at {message.expires}: a worker that takes it will discard it.")
    if message.eta:
        notes.append(f"It must not start before {message.eta}.")
    if message.retries:
        notes.append(f"It is retry {message.retries} of the task.")
    return notes
