"""Global concurrency limits for Celery: at most N tasks at once, over all workers, changed while they run."""

from .errors import (
    GlobalConcurrencyError,
    LimitError,
    SessionRefused,
    SettingError,
    StoreRefused,
    StoreUnavailable,
)
from .extension import GlobalConcurrency
from .permit import TaskPermit, current_permit
from .status import Change, LimitStatus, SessionStatus, Status, Value

__version__ = "0.1.0"

__all__ = [
    "Change",
    "GlobalConcurrency",
    "GlobalConcurrencyError",
    "LimitError",
    "LimitStatus",
    "SessionRefused",
    "SessionStatus",
    "SettingError",
    "Status",
    "StoreRefused",
    "StoreUnavailable",
    "TaskPermit",
    "Value",
    "current_permit",
]
