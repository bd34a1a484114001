"""The wheel is complete: what is tested here from a checkout is what users get."""

from __future__ import annotations

from pathlib import Path

import celery_gconc
from celery_gconc.protocol.store import SCRIPTS

PACKAGE = Path(celery_gconc.__file__).parent


def test_the_wheel_takes_the_whole_package_folder():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["celery_gconc"]' in text
    assert "exclude" not in text.split("[tool.hatch.build.targets.wheel]")[1].split("[tool.")[0]


def test_every_script_that_the_store_registers_is_a_file_with_a_header():
    scripts = {path.stem for path in (PACKAGE / "protocol" / "lua").rglob("*.lua")}
    assert scripts == {"core", *(name for names in SCRIPTS.values() for name in names)}
    for path in PACKAGE.rglob("*.lua"):
        header = path.read_text(encoding="utf-8").split("\n\n")[0]
        assert "-- Guarantee:" in path.read_text(encoding="utf-8"), path
        assert header.startswith("-- "), path
    assert (PACKAGE / "py.typed").exists()
