"""A TCP proxy between workers and their broker, to lose the broker and bring it back while the broker itself lives."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

#: How long, in seconds, the proxy's thread may take to notice that it is to end.
TICK = 0.05


class Proxy:
    """Forwards a port of its own to *target*. One thread; the other methods are for the test's."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener: socket.socket | None = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        with self._lock:
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            while self._peers:
                self._drop(next(iter(self._peers)))

    def restore(self) -> None:
        """Take connections again, on the same port."""
        with self._lock:
            self._listener = self._listen(self.port)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def close(self) -> None:
        """End for good."""
        self.cut()
        self._is_closed = True
        self._thread.join(5)
        self._selector.close()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=64)

    def _run(self) -> None:
        while not self._is_closed:
            for key, _ in self._selector.select(TICK):
                with self._lock:
                    self._handle(key.fileobj)  # type: ignore[arg-type]

    def _handle(self, ready: socket.socket) -> None:
        if ready is self._listener:
            self._accept(ready)
        elif ready in self._peers:  # else it was dropped meanwhile
            try:
                data = ready.recv(65536)
                if data:
                    self._peers[ready].sendall(data)
            except OSError:
                data = b""
            if not data:
                self._drop(ready)

    def _accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.close()
            return
        for end, other in ((near, far), (far, near)):
            end.settimeout(5)
            self._peers[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._peers[end]):
            del self._peers[one]
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
