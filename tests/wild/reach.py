"""Whether an app's own settings lead to its coordination Redis."""

from __future__ import annotations

from celery import Celery

from celery_gconc import GlobalConcurrency


def works(app: Celery) -> None:
    """A limit that is set is there: so what is written and what is read are the same."""
    gconc = GlobalConcurrency(app)
    try:
        gconc.set("emails", 7)
        assert gconc.get("emails") == 7
        gconc.reset("emails")
    finally:
        gconc.close()
