"""Who speaks to Redis for the session: one thread at a time, and where there is an event loop, mostly that.

    HubStarter -> Speaker -> Session.send, Session.receive, Notices;  what the loop can't do now -> bell -> Link

Thread: the one that runs the event loop.

Another thread would have to be woken for each grant, and then wake the loop, which costs both of them more than what
they have to do. So the loop itself writes what is due and reads what has come; it never waits. The link's thread does
what needs waiting (to open a session, to connect, heartbeats, calls of others), and all of it while the loop stands
still or is late.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from celery_gconc.clock import now
from celery_gconc.errors import StoreUnavailable
from celery_gconc.worker.session.link import LOOP_PATIENCE, Link
from celery_gconc.worker.turns import Turns
from celery_gconc.worker.wake import Bell


class Speaker:
    """One worker's, where it has an event loop."""

    def __init__(self, link: Link, bell: Bell, turns: Turns) -> None:
        self._session, self._notices = link.session, link.notices
        #: Whoever has it may use the session, the notices and their connections. The loop never waits for it.
        self._floor = link.floor
        #: Wakes the link's thread.
        self._bell = bell
        self._turns = turns
        #: Whether there is more to say than what is under way.
        self._has_more = False
        #: That of the connection by which the last was said: the next mostly takes the same.
        self._socket: socket.socket | None = None

    def speak(self) -> float | None:
        """Say what is due. Return in how many seconds to come again; None: what else there is needs the link's thread.

        That thread comes later than the loop is to, in case that it doesn't.
        """
        if not self._floor.acquire(blocking=False):
            self._bell.ring()
            return None
        try:
            session, moment = self._session, now()
            if session.awaited is not None:
                self._has_more = True
                return None
            if (sent := session.send(moment)) is not None:
                self._socket = sent.socket
                return None
            delay = session.due_in(moment)
            if delay is None or moment + delay + LOOP_PATIENCE < session.comes_at:
                self._bell.ring()
            return delay
        finally:
            self._floor.release()

    def hear_answer(self) -> None:
        """Take in the answer to what was said, if it has come."""
        if not self._floor.acquire(blocking=False):
            return  # the link's thread is at it
        try:
            awaited = self._session.awaited
            if awaited is None or not awaited.is_answered():
                return
            self._session.receive()
            if self._session.needs_link:
                self._bell.ring()
            if self._has_more:
                self._has_more = False
                self._turns.speak()
        finally:
            self._floor.release()

    def hear_notices(self) -> None:
        """Take in what Redis has said unasked."""
        if not self._floor.acquire(blocking=False):
            return
        try:
            self._notices.read()
            if self._notices.has_more:
                self._turns.speak()
        except StoreUnavailable:
            self._notices.close()  # the link's thread listens anew, and says what is the matter
            self._bell.ring()
        finally:
            self._floor.release()

    # -- What the loop waits for -------------------------------------------------------------------------

    def sockets(self) -> dict[int, tuple[socket.socket, Callable[[], None]]]:
        """What can be read when there is something to hear, by its descriptor; each with what is to be called then."""
        heard = ((self._socket, self.hear_answer), (self._notices.socket, self.hear_notices))
        # The link's thread may close one at any time.
        return {fd: (one, hear) for one, hear in heard if one is not None and (fd := one.fileno()) >= 0}

    def take_over(self) -> None:
        """The loop waits for notices now: the link's thread need not."""
        if self._notices.is_selected and self._floor.acquire(blocking=False):
            self._notices.hand_over()
            self._floor.release()

    def stop(self) -> None:
        """The loop ends, or hears nothing for a while: the link's thread does everything."""
        self._turns.speaks = False
        self._bell.ring()
