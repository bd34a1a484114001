"""Costly things that the tests of a module share: each is made when it is first asked for, and put right in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """One thing, as *make* makes it. Where *settle* can't put it right, after a test that failed, it is made anew."""

    def __init__(self, make: Callable[[], AbstractContextManager[T]], settle: Callable[[T], object]) -> None:
        self._make, self._settle = make, settle
        self._stack = ExitStack()
        self._made: T | None = None

    def get(self) -> T:
        """The thing, as good as new."""
        if self._made is not None:
            try:
                self._settle(self._made)
            except Exception:  # whatever the test before has left behind
                self.close()
        if self._made is None:
            self._made = self._stack.enter_context(self._make())
        return self._made

    def close(self) -> None:
        """End it."""
        self._made = None
        self._stack.close()
