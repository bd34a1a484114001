"""The cluster tests' app, with a task that stays in a state which those don't need."""

from __future__ import annotations

from tests.cluster.app import app, tell


@app.task(bind=True)
def again(self, number: int) -> None:
    """Fail, and ask to be run again in five minutes."""
    tell("s", number, "again")
    raise self.retry(countdown=300)
