"""Keeps what the link holds out of forked processes: its ledger's lock, its sockets, its descriptors of children.

Thread: whichever forks.
"""

from __future__ import annotations

import os
import threading
import warnings
from weakref import WeakSet

from celery_gconc.worker.session.link import Link

_links: WeakSet[Link] = WeakSet()

#: ``still``: those that stand still for the fork that is under way on this thread. Others may be about to fork too.
_fork = threading.local()

_are_hooks_installed = False


def keep_out_of_children(link: Link) -> None:
    """Have forked processes share nothing with *link* for as long as it lives; one set of hooks for the process."""
    global _are_hooks_installed
    if not hasattr(os, "register_at_fork"):  # Windows, where nothing forks
        return
    _links.add(link)
    if _are_hooks_installed:
        return
    _are_hooks_installed = True
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
    # Python 3.12 and later warn at every fork of a process with threads. billiard's child goes on to its own code,
    # which uses nothing of ours (the hooks above see to that), so the warning is silenced there, and only there.
    warnings.filterwarnings(
        "ignore", message=r".*multi-threaded, use of fork", category=DeprecationWarning, module=r"billiard\."
    )


def _before() -> None:
    _fork.still = list(_links)
    for link in _fork.still:
        link.freeze()


def _after_in_parent() -> None:
    for link in _fork.still:
        link.thaw()
    _fork.still = []


def _after_in_child() -> None:
    for link in _fork.still:
        link.thaw()
        link.forget_in_child()
    _fork.still = []
    _links.clear()
