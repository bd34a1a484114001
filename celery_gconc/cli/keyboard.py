"""The keys that are pressed at a terminal, one by one and unseen; the terminal is given back as it was."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Protocol

#: What a terminal sends for the keys that aren't one character.
SEQUENCES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b[H": "home", b"\x1b[F": "end",
}  # fmt: skip

#: How long, in seconds, the rest of a sequence may take after its first byte.
SEQUENCE_SECONDS = 0.05

#: What comes from the console of Windows before the code of a key that is no character, and those codes.
PREFIXES, CODES = ("\0", "\xe0"), {"H": "up", "P": "down", "G": "home", "O": "end"}

#: How often, in seconds, the console of Windows is asked whether a key was pressed.
CONSOLE_SECONDS = 0.05


class Keyboard(Protocol):
    """Where keys come from."""

    def wake(self) -> None:
        """Have :meth:`read` return. Any thread may call it."""

    def read(self, seconds: float) -> list[str]:
        """The keys pressed by now, waiting for at most *seconds* for one, or for :meth:`wake`.

        Raises:
            EOFError: the terminal is gone.
        """


def keyboard() -> AbstractContextManager[Keyboard]:
    """Take the keys of the terminal at stdin. Whatever ends the block, the terminal is as before."""
    try:
        import termios  # noqa: F401
    except ImportError:
        import msvcrt  # Windows

        return nullcontext(ConsoleKeyboard(msvcrt.kbhit, msvcrt.getwch))  # type: ignore[attr-defined]
    return _terminal()


class ConsoleKeyboard:
    """Reads the keys of a console of Windows, where nothing else can be waited for beside them."""

    def __init__(self, has_key: Callable[[], bool], next_key: Callable[[], str]) -> None:
        self._has_key, self._next_key = has_key, next_key
        self._waked = threading.Event()

    def wake(self) -> None:
        """Have :meth:`read` return. Any thread may call it."""
        self._waked.set()

    def read(self, seconds: float) -> list[str]:
        """The keys pressed by now, waiting for at most *seconds* for one, or for :meth:`wake`."""
        ends = time.monotonic() + seconds
        while not self._has_key() and time.monotonic() < ends:
            if self._waked.wait(CONSOLE_SECONDS):
                break
        self._waked.clear()
        keys = []
        while self._has_key():
            key = self._next_key()
            if key == "\x03":  # Ctrl-C, pressed in the middle of a read
                raise KeyboardInterrupt
            keys.append(CODES.get(self._next_key(), "") if key in PREFIXES else key)
        return keys


class TerminalKeyboard:
    """Reads keys while it is open, and can be woken by other threads and by a change of the terminal's size."""

    def __init__(self, descriptor: int, wakes: int, waked: int) -> None:
        self._descriptor, self._wakes, self._waked = descriptor, wakes, waked
        self._ending: BaseException | None = None

    def end(self, ending: BaseException) -> None:
        """Have :meth:`read` raise *ending*. A signal handler may call it.

        What a handler raises itself is lost where Python ignores exceptions: in a finalizer, for one.
        """
        self._ending = ending
        self.wake()

    def wake(self) -> None:
        """Have :meth:`read` return. Any thread, or a signal handler, may call it."""
        try:
            os.write(self._wakes, b"!")
        except (BlockingIOError, OSError):  # full: it wakes already; closed: nobody reads
            return

    def read(self, seconds: float) -> list[str]:
        """The keys pressed by now, waiting for at most *seconds* for one, or for :meth:`wake`.

        Raises:
            EOFError: the terminal is gone.
            BaseException: what :meth:`end` was given.
        """
        ready, _, _ = select.select([self._descriptor, self._waked], [], [], seconds)
        if self._waked in ready:
            os.read(self._waked, 4096)
        if self._ending is not None:
            raise self._ending
        if self._descriptor not in ready:
            return []
        told = os.read(self._descriptor, 1024)
        if not told:
            raise EOFError
        while told in (b"\x1b", b"\x1b[", b"\x1bO"):  # a sequence may come in parts
            if not select.select([self._descriptor], [], [], SEQUENCE_SECONDS)[0]:
                break
            told += os.read(self._descriptor, 1024)
        return list(keys_of(told))


def keys_of(told: bytes) -> Iterator[str]:
    """The keys that a terminal's bytes mean: characters, and the names in :data:`SEQUENCES`."""
    while told:
        name = next((name for sequence, name in SEQUENCES.items() if told.startswith(sequence)), None)
        if name is not None:
            yield name
            told = told[3:]
        else:
            yield chr(told[0])
            told = told[1:]


@contextmanager
def _terminal() -> Iterator[Keyboard]:
    """A terminal of a POSIX system.

    Ctrl-C is a KeyboardInterrupt, and SIGTERM an exit by the ordinary way (code 143), so that they restore it, too.
    Ctrl-Z does nothing.
    """
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    waked, wakes = os.pipe()
    os.set_blocking(wakes, False)
    keys = TerminalKeyboard(descriptor, wakes, waked)

    def resized(number: int, frame: FrameType | None) -> None:
        keys.wake()

    def interrupted(number: int, frame: FrameType | None) -> None:
        keys.end(KeyboardInterrupt())

    def ended(number: int, frame: FrameType | None) -> None:
        keys.end(SystemExit(128 + number))

    handlers = {number: signal.signal(number, handler) for number, handler in (
        (signal.SIGWINCH, resized), (signal.SIGINT, interrupted), (signal.SIGTERM, ended), (signal.SIGHUP, ended),
        (signal.SIGTSTP, signal.SIG_IGN),
    )}  # fmt: skip
    try:
        tty.setcbreak(descriptor)
        yield keys
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(wakes)
        os.close(waked)
