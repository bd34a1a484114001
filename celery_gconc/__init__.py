"""Global concurrency limits for Celery: at most N tasks at once, over all workers, changed while they run."""

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
from celery_gconc.operations.operations import Operations
from celery_gconc.permit import TaskPermit, current_permit
from celery_gconc.protocol.status import (
    Change,
    Found,
    Histogram,
    Holding,
    LimitStatus,
    LimitTotals,
    Purged,
    Sample,
    SessionStatus,
    Status,
    Totals,
    Value,
    Waiting,
)
from celery_gconc.version import __version__ as __version__

__all__ = [
    "Change",
    "Found",
    "GlobalConcurrency",
    "GlobalConcurrencyError",
    "Histogram",
    "Holding",
    "LimitError",
    "LimitStatus",
    "LimitTotals",
    "Operations",
    "Purged",
    "Sample",
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
    "Waiting",
    "current_permit",
]
