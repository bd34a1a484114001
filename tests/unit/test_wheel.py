"""The wheel is complete: what is tested here from a checkout is what users get."""

from __future__ import annotations

from pathlib import Path

import celery_gconc
from celery_gconc.protocol.scripts import SCRIPTS

PACKAGE = Path(celery_gconc.__file__).parent


def test_the_wheel_takes_the_whole_package_folder():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["celery_gconc"]' in text
    assert "exclude" not in text.split("[tool.hatch.build.targets.wheel]")[1].split("[tool.")[0]


def test_every_script_that_the_store_registers_is_a_file_with_a_header():
    scripts = {f"{path.parent.name}/{path.stem}" for path in (PACKAGE / "protocol/lua").rglob("*.lua")}
    scripts = {name for name in scripts if not name.startswith("core/")}
    assert scripts == set(SCRIPTS.values())
    for path in PACKAGE.rglob("*.lua"):
        header = path.read_text(encoding="utf-8").partition("\nlocal ")[0]
        assert header.startswith("-- uses: "), path
        assert path.parent.name == "core" or "-- Guarantee:" in header, path
    assert (PACKAGE / "py.typed").exists()
