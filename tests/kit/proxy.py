"""A TCP proxy between workers and a server: it can be cut, slow, or silent, while the server itself lives."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

#: How long, in seconds, the proxy's thread may take to notice that it is to end, or that it is healed.
TICK = 0.05

#: How many of the first bytes of a connection are kept, to tell connections apart.
KEPT = 1 << 20

#: The two directions: what workers say to the server, and what it says to them.
TO_SERVER, TO_WORKERS = "to server", "to workers"
BOTH = frozenset((TO_SERVER, TO_WORKERS))


@dataclass(eq=False)
class _Flow:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    direction: str
    #: What has come and is not passed on, each with the time at which it is due; empty at the source's end.
    held: deque[tuple[float, bytes]] = field(default_factory=deque)
    #: Nothing is passed on any more, whatever heals.
    is_stranded: bool = False
    #: The first that came.
    first: bytes = b""


class Proxy:
    """Forwards a port of its own to *target*. One thread; the other methods are for the test's."""

    def __init__(self, target: int) -> None:
        self.target = target
        #: When each connection was asked for, by :func:`time.monotonic`; not those that :meth:`cut` refuses.
        self.attempts: list[float] = []
        self._listener: socket.socket | None = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._flows: dict[socket.socket, _Flow] = {}
        self._delay = 0.0
        self._silent: frozenset[str] = frozenset()
        self._plugs: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        with self._lock:
            self._stop_listening()
            self._hang_up()

    def hang_up(self) -> None:
        """Close every connection; new ones come about."""
        with self._lock:
            self._hang_up()

    def restore(self) -> None:
        """Take connections again, on the same port."""
        with self._lock:
            self._restore()

    def delay(self, seconds: float) -> None:
        """Pass each chunk on so much later, in either direction, the end of a connection too."""
        with self._lock:
            self._delay = seconds

    def silence(self, directions: frozenset[str] = BOTH) -> None:
        """Take everything, new connections too, and pass nothing on: no byte, and no end of a connection."""
        with self._lock:
            self._silent = directions

    def vanish(self) -> None:
        """Be silent, and let no new connection come about, as where all packets are dropped."""
        with self._lock:
            self._silent = BOTH
            self._stop_listening()
            self._listener = self._listen(self.port, backlog=0)
            for _ in range(2):  # with one that nobody takes, Linux answers no further ones
                plug = socket.socket()
                plug.setblocking(False)
                plug.connect_ex(("127.0.0.1", self.port))
                self._plugs.append(plug)

    def strand(self, having: bytes = b"") -> int:
        """Silence those connections of now for good on which the workers have said this; return their number.

        As a firewall does that has forgotten them: neither side is told, and new connections work.
        """
        with self._lock:
            chosen = [f for f in self._flows.values() if f.direction == TO_SERVER and having in f.first]
            for flow in chosen:
                flow.is_stranded = self._flows[flow.sink].is_stranded = True
            return len(chosen)

    def heal(self) -> None:
        """Be neither slow nor silent any more; what was held back is passed on, as TCP would send it again."""
        with self._lock:
            if self._plugs:
                self._stop_listening()
                self._restore()
            self._delay, self._silent = 0.0, frozenset()
            for flow in self._flows.values():
                flow.held = deque((0.0, data) for _, data in flow.held)

    def close(self) -> None:
        """End for good."""
        self.cut()
        self._is_closed = True
        self._thread.join(5)
        self._selector.close()

    @staticmethod
    def _listen(port: int, backlog: int = 64) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=backlog)

    def _hang_up(self) -> None:
        while self._flows:
            self._drop(next(iter(self._flows)))

    def _restore(self) -> None:
        self._listener = self._listen(self.port)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _stop_listening(self) -> None:
        for plug in self._plugs:
            plug.close()
        self._plugs.clear()
        if self._listener is not None:
            with contextlib.suppress(KeyError):  # it had vanished
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _run(self) -> None:
        while not self._is_closed:
            for key, _ in self._selector.select(self._patience()):
                with self._lock:
                    self._handle(key.fileobj)  # type: ignore[arg-type]
            with self._lock:
                for flow in list(self._flows.values()):
                    self._pass_on(flow)

    def _patience(self) -> float:
        with self._lock:
            due = [flow.held[0][0] for flow in self._flows.values() if flow.held and not self._is_silent(flow)]
        return min(TICK, max(min(due) - time.monotonic(), 0)) if due else TICK

    def _is_silent(self, flow: _Flow) -> bool:
        return flow.is_stranded or flow.direction in self._silent

    def _handle(self, ready: socket.socket) -> None:
        if ready is self._listener:
            self._accept(ready)
        elif ready in self._flows:  # else it was dropped meanwhile
            flow = self._flows[ready]
            try:
                data = ready.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(ready)
            elif len(flow.first) < KEPT:
                flow.first += data
            flow.held.append((time.monotonic() + self._delay if self._delay else 0.0, data))
            self._pass_on(flow)

    def _pass_on(self, flow: _Flow) -> None:
        """Send what is due; at the source's end, close both sides."""
        while flow.held and flow.source in self._flows and not self._is_silent(flow):
            due, data = flow.held[0]
            if due > time.monotonic():
                return
            flow.held.popleft()
            try:
                flow.sink.sendall(data)
            except OSError:
                data = b""
            if not data:
                self._drop(flow.source)

    def _accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        self.attempts.append(time.monotonic())
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.close()
            return
        for end, other, direction in ((near, far, TO_SERVER), (far, near, TO_WORKERS)):
            end.settimeout(5)
            self._flows[end] = _Flow(end, other, direction)
            self._selector.register(end, selectors.EVENT_READ)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._flows[end].sink):
            del self._flows[one]
            with contextlib.suppress(KeyError):  # it had ended before
                self._selector.unregister(one)
            one.close()


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A proxy for the port *target*; it ends with the block."""
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
