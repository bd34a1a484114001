"""Global concurrency limits for Celery: run at most N tasks at once across all workers; change N while they run."""

from celery_gconc.errors import (
    GlobalConcurrencyError,
    LimitError,
    SessionRefused,
    SettingError,
    StoreRefused,
    StoreUnavailable,
    StoreUnusable,
)
from celery_gconc.extension import GlobalConcurrency
from celery_gconc.limits.rules import Mark
from celery_gconc.operations.operations import Operations
from celery_gconc.permit import TaskPermit, current_permit
from celery_gconc.protocol.status import (
    Change,
    EndedTask,
    Histogram,
    Holder,
    LimitStatus,
    LimitTotals,
    Overview,
    Purged,
    SessionStatus,
    Status,
    Totals,
    Value,
    Waiter,
    Whereabouts,
)
from celery_gconc.version import __version__ as __version__

__all__ = [
    "Change",
    "EndedTask",
    "GlobalConcurrency",
    "GlobalConcurrencyError",
    "Histogram",
    "Holder",
    "LimitError",
    "LimitStatus",
    "LimitTotals",
    "Mark",
    "Operations",
    "Overview",
    "Purged",
    "SessionRefused",
    "SessionStatus",
    "SettingError",
    "Status",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnusable",
    "TaskPermit",
    "Totals",
    "Value",
    "Waiter",
    "Whereabouts",
    "current_permit",
]
