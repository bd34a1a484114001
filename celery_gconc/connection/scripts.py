"""The texts of Lua scripts, from the ``lua`` folders of the packages that they belong to."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def lua(package: str, *names: str) -> str:
    """The text of one script of a package, or of several as one: what comes first is known to what follows."""
    folder = resources.files(package)
    return "\n".join(folder.joinpath(f"lua/{name}.lua").read_text(encoding="utf-8") for name in names)
