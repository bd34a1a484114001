"""Follows a page by its text alone, at terminals of its own: files, commands and what these print.

A block in a ``console`` fence is typed. Where the paragraph before it says "in a new terminal", that is a new
terminal, in which its last command is left running; where it says "Ctrl-C", those are interrupted first. A ``python``
fence is written to the file that its paragraph names. A ``text`` fence is what the commands before it print, or soon
print where they go on; commands that only look are typed again until it is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.kit.servers import wait_until

#: How long, in seconds, a command may take, and what a page shows may be in coming.
PATIENCE = 120

#: How long, in seconds, what a terminal runs may take to end after Ctrl-C: its workers end their tasks.
GOODBYE = 30

#: Lines and columns of the terminals.
SIZE = (50, 100)

#: Commands that only look.
LOOKS = re.compile(r"celery .* (gconc (status|holders|waiting|explain)|inspect) ?|promtool query ")

#: Of what a page shows, what may be otherwise: a number with its unit, ids, and the machine. Numbers after these words
#: stand as they are, and so do those beside a slash (``2/4``).
NUMBER = re.compile(r"(?<![\w/.-])\d+(?:\.\d+)?(?: (?:ms|s|min|h)\b)?(?![\w/])")
AS_IT_STANDS = re.compile(r"\b(?:was|is|now|to|max|most|allows|configured:) $")
OF_THE_MAX = re.compile(r"(?<= of )\d+(?= running)")

#: What a page says before a block for which a terminal is opened.
NEW_TERMINAL = re.compile(r"\bin (?:a new|another new|its own) terminal", re.IGNORECASE)
FREE = {
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": r"[0-9a-f-]{36}",
    r"\b[0-9a-f]{16}\b": r"[0-9a-f]{16}",
    # With its date, where that isn't today's in the shell's time zone.
    r"\b\d\d:\d\d:\d\d UTC\b": r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d \S+",
    r"\b(?:you|ops)@(?:vm|host)\b": rf"\S+@{re.escape(socket.gethostname())}",
    r"\b(?:vm|host)\b": re.escape(socket.gethostname()),
    # Whether tasks have just ended, and the next ones are yet to start.
    r"\b\d+ running tasks continue, \d+ are waiting; no tasks will start until \d+ have finished\.": (
        r"(?:\d+ running tasks continue, \d+ are waiting; no tasks will start until \d+ ha(?:s|ve) finished\."
        r"|\d+ of \d+ running, \d+ waiting\.)"
    ),
    # Which of the two workers has a permit is nobody's promise.
    r"(?<= )(?:one|two)(?=@vm\n|@vm$)": r"\w+",
}


@dataclass(frozen=True)
class Step:
    """A block of a page: its kind, its text, and the paragraph before it."""

    kind: str
    text: str
    said: str


def steps(page: str) -> list[Step]:
    """The blocks of a page, in order."""
    found, said = [], ""
    for part in re.split(r"^(```\w+\n.*?^```)$", page, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("```"):
            kind, _, text = part[3:-3].partition("\n")
            found.append(Step(kind, text, said))
        else:
            said = part.strip().rpartition("\n\n")[2] or said
    return found


def pattern(shown: str) -> re.Pattern[str]:
    """What a page shows, as a pattern that its words match wherever lines are broken."""
    shown = shown.strip()
    pieces: list[str] = []
    free = re.compile("|".join(f"({piece})" for piece in (*FREE, NUMBER.pattern)))
    patterns = [*FREE.values(), r"\d+(?:\.\d+)?(?: (?:ms|s|min|h))?"]
    at = 0
    for found in free.finditer(shown):
        pieces.append(re.escape(shown[at : found.start()]))
        number = found.lastindex or 0
        stands = number == len(patterns) and (
            AS_IT_STANDS.search(shown[: found.start()]) or OF_THE_MAX.match(shown, found.start())
        )
        pieces.append(re.escape(found[0]) if stands else patterns[number - 1])
        at = found.end()
    text = "".join([*pieces, re.escape(shown[at:])])
    return re.compile(r"\s+".join(re.split(r"(?:\\?\s)+", text)))


def is_shown(shown: str, output: str) -> bool:
    """Whether output has what a page shows: all of it in one piece, but the replies of workers in any order."""
    replies = re.split(r"^(?=-> )", shown, flags=re.MULTILINE)
    return all(pattern(reply).search(output) for reply in replies if reply.strip())


class Terminal:
    """A shell whose output goes to a terminal, and which can be left with a command running."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=folder, env={**env, "TERM": "xterm"}, stdin=subprocess.PIPE,
            stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._master, self._read, self._typed = master, bytearray(), 0
        #: The line that was typed last.
        self.last = ""
        self._reader = threading.Thread(target=self._go_on_reading, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that was printed, without colours."""
        text = bytes(self._read).decode(errors="replace").replace("\r\n", "\n")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def type(self, line: str) -> str:
        """Type a line, wait until it is done, and return what it printed; AssertionError where it fails."""
        before = len(self.output)
        done = self.leave(line)
        wait_until(lambda: done.search(self.output), PATIENCE, f"{line!r} has ended: {self.output[before:]}")
        ended = done.search(self.output)
        assert ended is not None
        printed = self.output[before : ended.start()]
        assert ended[1] == "0", f"{line!r} ended with {ended[1]}:\n{printed}"
        return printed

    def leave(self, line: str) -> re.Pattern[str]:
        """Type a line and return at once, with the pattern of what shows its end."""
        self._typed += 1
        self.last = line
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\nprintf '@%s:%s@\\n' {self._typed} $?\n".encode())
        self._process.stdin.flush()
        return re.compile(rf"@{self._typed}:(\d+)@\n")

    def interrupt(self) -> None:
        """Ctrl-C, and leave."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until what was interrupted has ended; it is an error if it doesn't."""
        self._process.wait(GOODBYE)

    def end(self) -> None:
        """End all that still runs in it, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(GOODBYE)
        os.close(self._master)

    def _go_on_reading(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the last process that had the terminal has ended
            while some := os.read(self._master, 65536):
                self._read += some


class Walk:
    """Someone who follows a page in a folder."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self._env = folder, env
        self._first = Terminal(folder, env)
        self._others: list[Terminal] = []
        self._typed, self._printed = "", ""
        #: All that the first terminal has shown.
        self.told = ""
        self._last = self._first

    def follow(self, page: str) -> int:
        """Do what each block of the page says; returns how many of them."""
        done = steps(page)
        for step in done:
            {"console": self._type, "python": self._write, "text": self._read}[step.kind](step)
        return len(done)

    def _type(self, step: Step) -> None:
        if "Ctrl-C" in step.said:
            self.interrupt()
        *before, last = step.text.strip().split("\n")
        if NEW_TERMINAL.search(step.said):
            self._last = Terminal(self.folder, self._env)
            self._others.append(self._last)
            for line in before:
                self._last.type(line)
            self._last.leave(last)
        else:
            self._last = self._first
            self._printed, self._typed = "".join(map(self._type_or_look, (*before, last))), last

    def _type_or_look(self, line: str) -> str:
        """Type a line; again where it only looks at what isn't there yet."""
        if not LOOKS.match(line):
            return self.type(line)
        errors = [""]

        def looked() -> tuple[str] | None:
            try:
                return (self.type(line),)
            except AssertionError as exc:
                errors.append(str(exc))
                return None

        try:
            (printed,) = wait_until(looked, PATIENCE, f"{line!r} succeeds")
        except AssertionError as exc:
            raise AssertionError(f"{exc}; {errors[-1]}") from None
        return str(printed)

    def _write(self, step: Step) -> None:
        name = re.search(r"Write `([\w.]+)`", step.said)
        assert name, step.said
        where = Path(self._first.type("pwd").strip())
        (where / name[1]).write_text(step.text)

    def _read(self, step: Step) -> None:
        def has_come() -> bool:
            if self._last is not self._first:
                return is_shown(step.text, self._last.output)
            if not is_shown(step.text, self._printed) and LOOKS.match(self._typed):
                self.type(self._typed)
            return is_shown(step.text, self._printed)

        if self._last is self._first and not LOOKS.match(self._typed):
            assert has_come(), f"{self._typed!r} printed\n{self._printed}\nand the page shows\n{step.text}"
            return
        try:
            wait_until(has_come, PATIENCE, "what the page shows")
        except AssertionError:
            printed = self._printed if self._last is self._first else self._last.output
            raise AssertionError(f"printed at last:\n{printed}\nand the page shows\n{step.text}") from None

    def interrupt(self) -> None:
        """Ctrl-C in the terminals of their own, at once but for a Redis, which the others need till they have ended."""
        for is_redis in (False, True):
            terminals = [each for each in self._others if each.last.startswith("redis-server") == is_redis]
            for terminal in terminals:
                terminal.interrupt()
            for terminal in terminals:
                terminal.wait()

    def type(self, line: str) -> str:
        """Type a line more in the first terminal, and return what it printed."""
        self._typed, self._printed = line, self._first.type(line)
        self.told += self._printed
        return self._printed

    @contextlib.contextmanager
    def beside(self, command: str, *before: str) -> Iterator[Terminal]:
        """Have a command run in a terminal of its own for the time of the block."""
        terminal = Terminal(self.folder, self._env)
        try:
            for line in before:
                terminal.type(line)
            terminal.leave(command)
            yield terminal
        finally:
            terminal.end()

    def end(self) -> None:
        """End all that still runs."""
        for terminal in (*self._others, self._first):
            terminal.end()


@contextlib.contextmanager
def walk(folder: Path, env: Mapping[str, str]) -> Iterator[Walk]:
    """Someone who follows a page; what they started ends with it."""
    walker = Walk(folder, env)
    try:
        yield walker
    finally:
        walker.end()
