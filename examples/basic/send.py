"""Send 20 tasks, wait for their results, and print how many ran at most at once."""

from __future__ import annotations

from collections.abc import Iterable

from celery import group

from .app import email, report, sync

#: How long to wait for the results, in seconds.
PATIENCE = 60


def main() -> None:
    """Mix three tasks, 20 in all; each returns when it began and ended."""
    tasks = [email] * 12 + [sync] * 5 + [report] * 3
    sent = group(task.s(number) for number, task in enumerate(tasks)).apply_async()
    print(f"sent {len(tasks)} tasks; waiting for workers to run them")
    times = sent.get(timeout=PATIENCE)
    print(f"{len(times)} tasks ran, at most {most_at_once(times)} at once (queue:emails allows 4)")
    for task, limit in ((sync, 2), (report, 1)):
        of_task = [time for time, sent_as in zip(times, tasks, strict=True) if sent_as is task]
        most = most_at_once(of_task)
        print(f"  of {task.name}: {len(of_task)} ran, at most {most} at once (task:{task.name} allows {limit})")


def most_at_once(times: Iterable[tuple[float, float]]) -> int:
    """The most of these (begin, end) stretches that overlap at one instant."""
    steps = sorted(step for began, ended in times for step in ((began, 1), (ended, -1)))
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


if __name__ == "__main__":
    main()
