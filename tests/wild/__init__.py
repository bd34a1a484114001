"""What Celery apps in the wild look like: each connection, platform, pool, test recipe and deploy, run for real.

Every test has a ``wild`` marker, its area and the case in few words: docs/explanation/compatibility.md has them in a
table (``python -m tests.compatibility``).
"""

from __future__ import annotations

#: The tables of the page, in their order, by the word in the marker.
AREAS = {
    "connections": "Connections",
    "platforms": "Platforms",
    "pools": "Pools",
    "recipes": "Test suites and switched off",
    "workers": "What workers do",
    "deploys": "Deploys",
}
