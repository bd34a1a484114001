"""What Celery apps in the wild look like: each connection, platform, pool, test recipe and deploy, run for real.

A ``wild`` marker has a test's area and its case in few words: docs/explanation/compatibility.md has them in a table
(``python -m tests.compatibility``). Tests without one show a detail of another's case.
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
