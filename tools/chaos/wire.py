"""A TCP proxy that can cut, silence or delay what passes it."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress

#: How long, in seconds, the thread sleeps at most.
TICK = 0.05


class Wire:
    """Forwards a port of its own to *target*. One thread; the other methods are for the run's."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._late: deque[tuple[float, socket.socket, bytes]] = deque()
        self._lock = threading.Lock()
        self._delay = 0.0
        self._silent = self._closed = False
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()

    def cut(self, *, refuse: bool = True) -> None:
        """Close every connection, and (unless told otherwise) refuse new ones until :meth:`heal`."""
        with self._lock:
            if refuse and self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            while self._peers:
                self._drop(next(iter(self._peers)))

    def silence(self) -> None:
        """Pass nothing on, and close nothing: as where packets are dropped without a word."""
        self._silent = True

    def delay(self, seconds: float) -> None:
        """Pass everything on *seconds* later, each way."""
        self._delay = seconds

    def heal(self) -> None:
        """As at the beginning."""
        with self._lock:
            self._silent, self._delay = False, 0.0
            if self._listener is None:
                self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
                self._selector.register(self._listener, selectors.EVENT_READ)

    def close(self) -> None:
        """End for good."""
        self.cut()
        self._closed = True
        self._thread.join(5)
        self._selector.close()

    def _run(self) -> None:
        while not self._closed:
            if self._silent:
                time.sleep(TICK)
                continue
            wait = TICK
            with self._lock:
                while self._late and self._late[0][0] <= time.monotonic():
                    _, end, data = self._late.popleft()
                    self._send(end, data)
                if self._late:
                    wait = min(wait, max(self._late[0][0] - time.monotonic(), 0))
            for key, _ in self._selector.select(wait):
                with self._lock:
                    self._handle(key.fileobj)  # type: ignore[arg-type]

    def _handle(self, ready: socket.socket) -> None:
        if ready is self._listener:
            self._accept(ready)
        elif ready in self._peers:  # else it was dropped meanwhile
            try:
                data = ready.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._drop(ready)
            elif self._delay or self._late:
                self._late.append((time.monotonic() + self._delay, self._peers[ready], data))
            else:
                self._send(self._peers[ready], data)

    def _send(self, end: socket.socket, data: bytes) -> None:
        if end in self._peers:
            try:
                end.sendall(data)
            except OSError:
                self._drop(end)

    def _accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=2)
        except OSError:
            near.close()
            return
        for end, other in ((near, far), (far, near)):
            end.settimeout(2)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._peers[end]):
            del self._peers[one]
            with suppress(KeyError):
                self._selector.unregister(one)
            one.close()
