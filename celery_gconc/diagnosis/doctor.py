"""Says what is wrong, or may go wrong, with the limits of a namespace, and what to do about it.

examine -> look (all I/O) -> Look -> checks (pure) -> findings
"""

from __future__ import annotations

from celery_gconc.diagnosis.checks import limits, servers, workers
from celery_gconc.diagnosis.finding import SEVERITIES, Finding
from celery_gconc.diagnosis.look import look
from celery_gconc.operations.operations import Operations
from celery_gconc.operations.worker_query import ANSWER_SECONDS

CHECKS = (*workers.CHECKS, *servers.CHECKS, *limits.CHECKS)


def examine(operations: Operations, timeout: float = ANSWER_SECONDS) -> tuple[Finding, ...]:
    """Look at everything once; the worst findings come first. Nothing is changed.

    Workers have *timeout* seconds for their answers.

    Raises:
        StoreUnavailable: the coordination Redis can't be reached.
        SettingError: a setting breaks its rule.
    """
    found = look(operations, timeout)
    findings = [finding for check in CHECKS for finding in check(found)]
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
