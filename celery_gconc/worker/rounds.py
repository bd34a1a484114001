"""Looks after the requests that a worker holds and has not started, a few at a time however many there are.

    Dispatcher (add, remove) -> Rounds -> Gate.sweep (who has expired or been revoked, whose turn it is)

Thread: any adds and removes; the one that may start requests asks.

What has an end of its own, or is revoked by id, is found at once; all else (revokes by a stamped header, messages that
the broker must hear of again) comes round in turn.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any

from celery.worker import state

from celery_gconc.worker.run import Run

#: How many requests at least have their turn in one call.
MIN_TURN = 128


class Rounds:
    """One worker's. What is looked at in turn is numbered, and a round is over the numbers of a moment.

    So what comes and goes costs no lock: each step of it changes one entry of a dict, or reads all of its keys at once
    (with and without the interpreter's lock: either is one step).
    """

    def __init__(self) -> None:
        #: All of them, by an identity; and of this round those whose turn is still to come, the next of them last.
        self._runs: dict[int, Run] = {}
        self._turns: list[int] = []
        #: For who expires.
        self._lock = threading.Lock()
        #: Who expires within the second that ends then (Unix time), and those seconds as a heap.
        self._expiring: dict[int, set[Run]] = {}
        self._seconds: list[int] = []
        #: The newest entry of Celery's set of revoked ids that was looked at.
        self._newest: Any = None
        #: Revoked before they came to the gate. Appended to by any thread.
        self._late: list[Run] = []

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """A request is held."""
        request = run.request
        self._runs[id(run)] = run
        if request.expires is not None:
            with self._lock:
                self._expire(run, _second(request.expires))
        if request.id in state.revoked:  # while it waited for its ETA, or its rate
            self._late.append(run)

    def remove(self, run: Run) -> None:
        """It is held no more, or starts."""
        self._runs.pop(id(run), None)
        if self._expiring and (expires := run.request.expires) is not None:
            with self._lock:
                runs = self._expiring.get(_second(expires))
                if runs is not None:
                    runs.discard(run)

    def clear(self) -> None:
        """Nothing is held any more."""
        self._runs.clear()
        with self._lock:
            self._expiring.clear()
            self._seconds.clear()
        self._late.clear()

    def ended(self) -> list[Run]:
        """Who has expired, or been revoked by its id, since the last call."""
        found, self._late = self._late, []
        moment = time.time()
        with self._lock:
            while self._seconds and self._seconds[0] <= moment:
                found += self._expiring.pop(heapq.heappop(self._seconds), ())
        for task_id in self._newly_revoked():
            request = state.requests.get(task_id)
            run = Run.of(request) if request is not None else None
            if run is not None:
                found.append(run)
        return found

    def next(self, rounds: float) -> list[Run]:
        """Whose turn it is, where all are to have one within that number of calls."""
        # Who comes in the middle of a round has no turn before the next, so each round takes half of the calls.
        count = max(int(2 * len(self._runs) / max(rounds, 1.0)) + 1, MIN_TURN)
        turn: list[Run] = []
        if not self._turns:
            self._turns = list(self._runs)[::-1]
        while self._turns and len(turn) < count:
            run = self._runs.get(self._turns.pop())
            if run is not None:
                turn.append(run)
        return turn

    def _expire(self, run: Run, second: int) -> None:
        runs = self._expiring.get(second)
        if runs is None:
            runs = self._expiring[second] = set()
            heapq.heappush(self._seconds, second)
        runs.add(run)

    def _newly_revoked(self) -> list[str]:
        # celery 5.4-5.7: LimitedSet says nothing of its order but by sorting all; its newest entry is its dict's last.
        revoked: Any = state.revoked
        found: list[str] = []
        newest = None
        try:
            for entry in reversed(revoked._data.values()):
                if entry is self._newest:
                    break
                newest = newest or entry
                found.append(entry[-1])
        except RuntimeError:  # changed by another thread meanwhile: next time
            return []
        self._newest = newest or self._newest
        return found


def _second(expires: Any) -> int:
    return int(expires.timestamp()) + 1
