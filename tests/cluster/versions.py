"""What of the tests the installed Celery can't run, for the matrix of versions."""

from __future__ import annotations

import celery
import pytest

_CELERY = tuple(int(part) for part in celery.__version__.split(".")[:2])

needs_quorum_queues = pytest.mark.skipif(_CELERY < (5, 5), reason="Celery before 5.5 can't consume quorum queues")
needs_soft_shutdown = pytest.mark.skipif(_CELERY < (5, 5), reason="Celery before 5.5 has no soft shutdown")
needs_restore_settings = pytest.mark.skipif(
    _CELERY < (5, 7), reason="kombu before 5.7 looks for what timed out every ten seconds, whatever is set"
)
