"""``python -m examples.demo``: exit code 0 if the limit held, 1 if not, 2 if the demo could not be run."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from . import interruption
from .problem import Problem


def main() -> int:
    """Run the demo, write its picture, tell the outcome."""
    arguments = _parser().parse_args()
    interruption.note_signals()
    try:
        return _demo(arguments.picture, arguments.hold)
    except Problem as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: interrupted; everything it started has ended", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Three workers, one limit: changed while they run, and one worker killed.",
        epilog="Starts a Redis of its own, or uses the one that the environment variable REDIS_URL names.",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("demo-output/timeline.svg"),
        metavar="PATH",
        help="where to write the timeline (default: %(default)s)",
    )
    parser.add_argument(
        "--hold",
        type=float,
        metavar="SECONDS",
        help="how long to show each limit (default: 3.5, for half a minute in all)",
    )
    return parser


def _demo(picture: Path, hold: float | None) -> int:
    try:
        import redis

        from celery_gconc import GlobalConcurrencyError

        from . import screen
        from .picture import draw
        from .run import HOLD, run
    except ImportError as exc:
        raise Problem(f"{exc.name} is missing: pip install 'celery-gconc[demo]'") from exc
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        if picture.is_dir() or not os.access(picture.parent, os.W_OK):
            raise Problem(f"can't write the picture to {picture}")
    except OSError as exc:
        raise Problem(f"can't write the picture to {picture}: {exc.strerror}") from exc

    view = screen.open_screen()
    try:
        timeline = run(view, HOLD if hold is None else hold)
    except (redis.RedisError, GlobalConcurrencyError) as exc:
        raise Problem(f"lost the Redis: {exc}") from exc
    finally:
        view.close()
    picture.write_text(draw(timeline), encoding="utf-8")
    print(f"\n{screen.summary(timeline)}\npicture: {picture}\n\n{screen.verdict(timeline)}")
    return 1 if timeline.excesses or timeline.recovery is None else 0


if __name__ == "__main__":
    code = main()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(code)
