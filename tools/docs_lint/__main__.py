"""Print one line for each fault. Exit code 1: there is one."""

from __future__ import annotations

import sys

from . import forge, prose, reference, shell


def main() -> int:
    """Run all checks; returns the exit code."""
    found = {fault for part in (reference, prose, shell, forge) for fault in part.faults()}
    for fault in sorted(found, key=lambda fault: (fault.path, fault.line, fault.text)):
        print(fault)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
