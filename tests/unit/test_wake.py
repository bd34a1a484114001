"""The bell by which threads wake the one that sleeps in a selector."""

from __future__ import annotations

import os
import queue
import selectors
import threading
from collections.abc import Iterator

import pytest

from celery_gconc.worker.wake import Bell


@pytest.fixture
def bell() -> Iterator[Bell]:
    """A bell."""
    bell = Bell()
    yield bell
    bell.close()


def can_be_heard(bell: Bell) -> bool:
    """Whether a selector would return at once."""
    with selectors.DefaultSelector() as selector:
        selector.register(bell, selectors.EVENT_READ)
        return bool(selector.select(0))


def test_a_bell_that_was_rung_wakes_a_selector_until_it_is_heard(bell: Bell):
    assert not can_be_heard(bell)
    bell.ring()
    assert can_be_heard(bell)
    assert bell.hear()
    assert not can_be_heard(bell)


def test_a_bell_that_nobody_rang_is_not_heard(bell: Bell):
    assert not bell.hear()


def test_any_number_of_rings_is_heard_once(bell: Bell):
    for _ in range(1000):
        bell.ring()
    assert bell.hear()
    assert not bell.hear()


def test_a_bell_that_was_heard_can_be_rung_again(bell: Bell):
    for _ in range(3):
        bell.ring()
        assert bell.hear()


def test_nothing_that_was_written_before_a_ring_is_missed(bell: Bell):
    """Whatever the threads' order: a ring that sends nothing came before the hearer looked."""
    written, seen, last = [0, 0, 0], [0, 0, 0], 500
    answers: list[queue.SimpleQueue[int]] = [queue.SimpleQueue() for _ in written]

    def write(which: int) -> None:
        for number in range(1, last + 1):
            written[which] = number
            bell.ring()
            assert answers[which].get(timeout=30) == number

    writers = [threading.Thread(target=write, args=(which,), daemon=True) for which in range(len(written))]
    for writer in writers:
        writer.start()
    with selectors.DefaultSelector() as selector:
        selector.register(bell, selectors.EVENT_READ)
        while seen != [last] * 3:
            assert selector.select(timeout=10), f"asleep with {seen} seen of {written}"
            bell.hear()
            for which, number in enumerate(written):
                if seen[which] != number:
                    seen[which] = number
                    answers[which].put(number)
    for writer in writers:
        writer.join()


def test_ringing_a_closed_bell_does_nothing():
    bell = Bell()
    bell.close()
    bell.ring()
    assert not bell.hear()


def test_a_child_that_forgets_a_bell_has_none_of_its_sockets_open(bell: Bell):
    ends = [bell._heard.fileno(), bell._ringing.fileno()]
    bell.forget_in_child()
    for end in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)
