"""Who follows the tutorial by its text alone gets what it shows, to the letter, on a fresh machine's tools.

Two things are put in place of what the page says: a free port, and what the page itself says to install until there is
a release. What may be otherwise in the outputs is in ``walk.py``.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import unavailable
from tests.kit.servers import ROOT, NoRedisBinary, free_port, redis_binary
from tests.kit.tiers import starts

from .walk import is_shown, steps, walk

PAGE = ROOT / "docs" / "tutorial" / "first-limit.md"

#: Settings of pip. (An option that says "no" is set by saying no.)
PIP = {"PIP_NO_COMPILE": "no", "PIP_DISABLE_PIP_VERSION_CHECK": "yes"}

#: What stands on the page for a checkout's path.
CHECKOUT = "pip install <path to the checkout>"


@pytest.fixture
@starts("process")
def environ(tmp_path: Path) -> dict[str, str]:
    """What a new shell has: nothing of the virtual environment that the tests run in.

    pip is not to compile what it installs: Python compiles what it imports, which is a third of it.
    """
    try:
        binary = redis_binary()
    except NoRedisBinary as exc:
        unavailable(str(exc))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "redis-server").symlink_to(binary)
    path = [str(tools), str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    ours = ("VIRTUAL_ENV", "PYTHON", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTEST", "COV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": os.pathsep.join(path), "LANG": "C.UTF-8", **PIP}


@pytest.mark.takes_long(40)
@pytest.mark.timeout(300)
def test_who_follows_the_tutorial_gets_what_it_shows(environ: dict[str, str], tmp_path: Path) -> None:
    page, port = PAGE.read_text(encoding="utf-8"), free_port()
    assert f"`{CHECKOUT}`" in page
    page = page.replace("pip install celery-gconc\n", CHECKOUT.replace("<path to the checkout>", f"'{ROOT}'") + "\n")
    page = page.replace("6390", str(port))
    home = tmp_path / "home"
    home.mkdir()
    with walk(home, environ) as walker:
        assert walker.follow(page) >= 30
    assert list(home.iterdir()) == [], "the folder is all that is left, and it was deleted"
    left = [p for p in psutil.process_iter(["cmdline", "cwd"]) if str(home) in f"{p.info['cmdline']} {p.info['cwd']}"]
    assert left == []


def test_every_block_of_the_tutorial_is_one_that_a_walk_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(steps(page)) == len(re.findall(r"^```\w+$", page, re.MULTILINE))
    assert {step.kind for step in steps(page)} == {"console", "python", "text"}


#: What is shown of a max that was lowered; two of the tasks may just have ended.
CONTINUE = "e: now 2\n4 running tasks continue, 26 are waiting; no tasks will start until 3 have finished."


@pytest.mark.parametrize(
    ("shown", "output", "expected"),
    [
        ("e: was 2, now 4", "e: was 2, now 4", True),
        ("e: was 2, now 4", "e: was 2, now 5", False),
        ("emails 2/2 16 2.7 s full", "emails   2/2  9 410 ms\nfull", True),
        ("emails 2/2 16 2.7 s full", "emails   3/2  9 410 ms full", False),
        ("(2 of 2 running)", "(1 of 2 running)", True),
        ("(2 of 2 running)", "(2 of 3 running)", False),
        ("-> a: OK\n   x\n-> b: OK\n   x", "-> b: OK\n  x\n-> a: OK\n  x\n", True),
        ("-> a: OK\n   x\n-> b: OK\n   x", "-> a: OK\n  x\n", False),
        ("no worker is alive", "a worker is alive", False),
        (CONTINUE, CONTINUE.replace("4", "3").replace("3 have", "2 have"), True),
        (CONTINUE, "e: now 2\n2 of 2 running, 24 waiting.", True),
        (CONTINUE, "e: now 2\n24 waiting.", False),
    ],
)
def test_what_a_page_shows_is_compared_word_by_word(shown: str, output: str, expected: bool) -> None:
    assert is_shown(shown, output) is expected
