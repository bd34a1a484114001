"""What the runs said: read from pytest's XML, counted, and compared."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: Outcomes from best to worst: a test that is told of twice (its call and its teardown) counts as the worse.
ORDER = ("passed", "xfailed", "skipped", "failed", "error")

#: This many failures in one handful of tests, which all passed without celery-gconc, are not told from chance by
#: running each alone.
MANY = 3

BAD = {"failed", "error", "missing"}


@dataclass(frozen=True)
class Outcome:
    """How one test ended."""

    status: str
    seconds: float = 0.0
    message: str = ""

    @property
    def reason(self) -> str:
        """The class of a failure: the exception's name, or the first words."""
        return self.first_line.split(":")[0][:80]

    @property
    def first_line(self) -> str:
        """What it said first."""
        return self.message.strip().splitlines()[0] if self.message.strip() else self.status


@dataclass
class Run:
    """One suite on one broker in one mode."""

    suite: str
    broker: str
    mode: str
    folder: Path
    info: dict[str, object] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def count(self) -> Counter[str]:
        """How many tests ended in which way."""
        return Counter(outcome.status for outcome in self.outcomes.values())

    @property
    def subset(self) -> bool:
        """Whether it is of a few tests of each kind only."""
        return "--subset" in self.command

    @property
    def command(self) -> str:
        """What ran it."""
        return str(self.info["command"])

    @property
    def seconds(self) -> float:
        """How long it took."""
        return float(str(self.info["seconds"]))

    @property
    def marks(self) -> int:
        """How many processes had celery-gconc installed."""
        path = self.folder / "marks"
        return len(path.read_text().split()) if path.exists() else 0

    def save(self) -> None:
        """Write what the XML doesn't hold."""
        (self.folder / "run.json").write_text(json.dumps(self.info, indent=1) + "\n")


@dataclass(frozen=True)
class Alone:
    """How often a test passed when it was run alone."""

    passed: int
    runs: int


@dataclass(frozen=True)
class Difference:
    """A test that didn't pass with celery-gconc as it does without."""

    test: str
    plain: str
    with_us: str
    reason: str
    alone_plain: Alone
    alone_with_us: Alone
    #: How many tests failed in the same handful, it included.
    together: int = 1

    @property
    def breakage(self) -> bool:
        """Whether it fails with celery-gconc, also alone, and passes without; or where many failed in a row."""
        fails_alone = self.alone_with_us.passed < self.alone_with_us.runs
        return (fails_alone and self.alone_plain.passed == self.alone_plain.runs) or self.hung

    @property
    def hung(self) -> bool:
        """Whether it passed in the whole run without celery-gconc, and failed with others: a worker that stands still.

        Such a thing needs not happen again when the test is run alone, and is no chance either.
        """
        return self.plain == "passed" and self.together >= MANY

    @property
    def verdict(self) -> str:
        """The same in words."""
        if self.hung:
            return f"failed with {self.together - 1} others in a row: a worker stood still"
        if self.breakage:
            return "fails with celery-gconc"
        if self.alone_with_us.passed == self.alone_with_us.runs:
            return "passed when run alone"
        return "fails without celery-gconc too"


def load(folder: Path) -> Run | None:
    """A run that was finished, from its folder; None if there is none."""
    try:
        info = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        return None
    run = Run(info["suite"], info["broker"], info["mode"], folder, info)
    for test in info["tests"]:
        run.outcomes[test] = Outcome("missing")
    for path in sorted(folder.glob("*.xml")):
        run.outcomes.update(read(path))
    return run


def read(path: Path) -> dict[str, Outcome]:
    """The outcomes in one XML file of pytest (family xunit1), by node id."""
    found: dict[str, Outcome] = {}
    try:
        root = ET.parse(path).getroot()  # pytest wrote it just now
    except (ET.ParseError, FileNotFoundError):
        return {}
    for case in root.iter("testcase"):
        test, outcome = _node_id(case), _outcome(case)
        if test not in found or ORDER.index(found[test].status) < ORDER.index(outcome.status):
            found[test] = outcome
    return found


def differences(plain: Run, other: Run) -> list[str]:
    """The tests that don't pass in *other*, if they passed in *plain* or weren't run there."""
    return [
        test for test, outcome in other.outcomes.items()
        if outcome.status in BAD and plain.outcomes.get(test, Outcome("unknown")).status not in {"skipped", "xfailed"}
    ]  # fmt: skip


def lost(plain: Run, other: Run) -> list[str]:
    """The tests that passed in *plain* and were skipped in *other*, or not run: not one may hide that way."""
    return [
        test for test, outcome in plain.outcomes.items()
        if outcome.status == "passed" and other.outcomes.get(test, Outcome("missing")).status in {"skipped", "missing"}
    ]  # fmt: skip


def save_differences(folder: Path, found: list[Difference]) -> None:
    """Keep what the re-runs said beside the run that made them necessary."""
    (folder / "differences.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


def load_differences(folder: Path) -> list[Difference]:
    """What :func:`save_differences` kept."""
    path = folder / "differences.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    for each in found:
        for mode in ("alone_plain", "alone_with_us"):
            each[mode] = Alone(**each[mode])
    return [Difference(**each) for each in found]


def _node_id(case: ET.Element) -> str:
    file, classname = case.get("file") or "", case.get("classname") or ""
    module = file.removesuffix(".py").replace("/", ".")
    classes = [name for name in classname.removeprefix(module).split(".") if name]
    return "::".join([file, *classes, case.get("name") or ""])


def _outcome(case: ET.Element) -> Outcome:
    seconds = float(case.get("time") or 0)
    for kind, child in _children(case):
        return Outcome(kind, seconds, f"{child.get('message') or ''}\n{child.text or ''}")
    return Outcome("passed", seconds)


def _children(case: ET.Element) -> Iterator[tuple[str, ET.Element]]:
    for child in case:
        if child.tag == "skipped":
            yield ("xfailed" if child.get("type") == "pytest.xfail" else "skipped"), child
        elif child.tag in {"failure", "error"}:
            yield ("failed" if child.tag == "failure" else "error"), child
