"""What can go wrong before a test has run."""

from __future__ import annotations


class ConformanceError(Exception):
    """The suites can't be run; the message says why, and what to do."""
