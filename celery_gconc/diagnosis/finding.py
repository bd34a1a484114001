"""One thing that doctor found."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, INFO = "error", "warning", "info"

#: The worst first.
SEVERITIES = (ERROR, WARNING, INFO)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: how bad it is, what it is, and what to do."""

    #: ``error`` (limits don't hold, or tasks are stuck), ``warning`` (they may come to that) or ``info``.
    severity: str
    what: str
    todo: str

    @property
    def is_problem(self) -> bool:
        """Whether somebody has to do something."""
        return self.severity != INFO
