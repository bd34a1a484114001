"""Global concurrency limits for Celery: at most N tasks at once, over all workers, changed while they run."""

from .errors import (
    GlobalConcurrencyError,
    LimitError,
    SessionRefused,
    SettingError,
    StoreRefused,
    StoreUnavailable,
    StoreUnusable,
)
from .extension import GlobalConcurrency
from .operations import Operations
from .permit import TaskPermit, current_permit
from .status import (
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
from .version import __version__ as __version__

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
